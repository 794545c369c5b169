"""Run-time checks of the arrays' axes that signatures state: jaxtyping's hook calls this for every function of retmask.

A signature without an array is left to mypy: what a person types in is checked by the code itself, in a sentence.
"""

from collections.abc import Callable
from inspect import isclass
from typing import Any, TypeVar, get_args

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

_F = TypeVar("_F", bound=Callable[..., Any])
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as mypy has it


def checked(function: _F) -> _F:
    """The function, which refuses arrays of other axes or types than it states; itself where it states none.

    Only its arrays are looked at: from Python 3.12 on a module's layers are no attributes to a check of a protocol.
    """
    arrays = {name: hint for name, hint in getattr(function, "__annotations__", {}).items() if _states_axes(hint)}
    if not arrays:
        return function
    function.__annotations__ = arrays
    return _check(function)


def _states_axes(annotation: Any) -> bool:
    if isclass(annotation) and issubclass(annotation, AbstractArray):
        return True
    return any(map(_states_axes, get_args(annotation)))
