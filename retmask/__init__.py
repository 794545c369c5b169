"""RetMask Workbench: find the attention heads that copy from the context, mask them, train on the contrast.

`retmask.load(name)` gives a `LensModel`; everything else is imported from its module, so that reading a
score file never waits for torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retmask.loading import load
    from retmask.model import LensModel

__version__ = "0.4.0"
__all__ = ["LensModel", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from retmask import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'retmask' has no attribute {name!r}")
