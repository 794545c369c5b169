"""RetMask Workbench: find the attention heads that copy from the context, mask them, train on the contrast.

`retmask.load(name)` gives a `LensModel`; everything else is imported from its module, so that reading a
score file never waits for torch.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

# Where `kernels` is installed transformers fetches compiled code from the Hub unasked (flash attention, gpt-oss): for
# this process it is not installed. That is the one door: pip and the code of model folders are not called at all.
sys.modules["kernels"] = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from retmask.model.lens import LensModel
    from retmask.model.loading import load

# OpenMP's threads spin while they wait, and two processes with torch on one machine then starve each other. A thousand
# turns cost 3 % alone and let the other in (analyses/two_at_once.py). It is read once, when torch loads: so it stands
# here, before any import of ours, and child processes inherit it. What a person has set holds.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = "1000"

__version__ = "0.5.0"
__all__ = ["LensModel", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from retmask.model import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'retmask' has no attribute {name!r}")
