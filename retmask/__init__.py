"""RetMask Workbench: find the attention heads that copy from the context, mask them, train on the contrast.

`retmask.load(name)` gives a `LensModel`; everything else is imported from its module, so that reading a
score file never waits for torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retmask.model import LensModel, load

__version__ = "0.1.0"
__all__ = ["LensModel", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in ("load", "LensModel"):
        from retmask import model

        return getattr(model, name)
    raise AttributeError(f"module 'retmask' has no attribute {name!r}")
