"""RetMask Workbench: find the attention heads that copy from the context, mask them, train on the contrast.

What a script starts from:

- `load(name)`: a `LensModel`, from a built-in name, a Hub id, a folder or a .gguf file;
- `detect(model)`: the `HeadScores` of its heads; `read_scores(source)`: those in a file, of a run or a built-in model;
- `HeadMask`: which heads are scaled, and by how much, on a `Grid` of `HeadId`;
- `compare(model, prompt, mask)`: a `Comparison`, the answers unmasked and masked, and which heads copied what;
- `NeedleTask`, `known_needle(name)`: a fact hidden in a long text, and the question for it.

Each is imported when it is asked for, so that reading a score file never waits for torch. All else is imported from
its room.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

# Where `kernels` is installed transformers fetches compiled code from the Hub unasked (flash attention, gpt-oss): for
# this process it is not installed. That is the one door: pip and the code of model folders are not called at all.
sys.modules["kernels"] = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from retmask.compare import compare
    from retmask.compare.comparison import Comparison
    from retmask.detect import detect
    from retmask.heads.grid import Grid, HeadId
    from retmask.heads.masks import HeadMask
    from retmask.heads.scores import HeadScores
    from retmask.heads.sets import read_scores
    from retmask.model.lens import LensModel
    from retmask.model.loading import load
    from retmask.text.needle import NeedleTask, known_needle

# OpenMP's threads spin while they wait, and two processes with torch on one machine then starve each other. A thousand
# turns cost 3 % alone and let the other in (analyses/two_at_once.py). It is read once, when torch loads: so it stands
# here, before any import of ours, and child processes inherit it. What a person has set holds.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = "1000"

__version__ = "0.7.0"
__all__ = ["Comparison", "Grid", "HeadId", "HeadMask", "HeadScores", "LensModel", "NeedleTask", "__version__"]
__all__ += ["compare", "detect", "known_needle", "load", "read_scores"]
_MODULES = {
    "retmask": "compare detect",  # rooms that can be called
    "retmask.compare.comparison": "Comparison",
    "retmask.heads.grid": "Grid HeadId",
    "retmask.heads.masks": "HeadMask",
    "retmask.heads.scores": "HeadScores",
    "retmask.heads.sets": "read_scores",
    "retmask.model.lens": "LensModel",
    "retmask.model.loading": "load",
    "retmask.text.needle": "NeedleTask known_needle",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}


def callable_room(name: str, function: Callable[..., Any]) -> None:
    """Let a room be called as its function: once anything imports from it, it stands in `retmask` under that name."""
    namespace = {"__call__": staticmethod(function), "__signature__": signature(function)}
    sys.modules[name].__class__ = type("CallableRoom", (ModuleType,), namespace)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'retmask' has no attribute {name!r}")
    home = _HOMES[name]
    return import_module(f"retmask.{name}") if home == "retmask" else getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
