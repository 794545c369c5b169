"""Run-time checks of the arrays' axes that signatures state: jaxtyping's hook calls this for every function of retmask.

A signature without an array is left to mypy: what a person types in is checked by the code itself, in a sentence.
"""

import sys
from collections.abc import Callable
from functools import partial
from inspect import isclass
from types import SimpleNamespace
from typing import Any, TypeVar, get_args, get_type_hints

import jaxtyping
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


def _where_stated(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """jaxtyping's decorator for what states an array, and none for the rest.

    To wrap a function costs each call of it some ten microseconds, which a million small ones make the longest part of
    the tests.
    """

    def decorator(thing: Any, typechecker: Any) -> Any:
        names = vars(sys.modules[thing.__module__])
        hints = getattr(thing, "__annotations__", {}).values()
        is_stated = any(_states_axes(_resolved(hint, names)) for hint in hints)
        return jaxtyped(thing, typechecker=typechecker) if is_stated else thing

    return lambda *, typechecker: partial(decorator, typechecker=typechecker)


def _resolved(hint: Any, names: dict[str, Any]) -> Any:
    """The annotation without the strings in it; Any where they name what is imported for mypy alone."""
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"hint": hint}), names)["hint"]
    except Exception:
        return Any


jaxtyping.jaxtyped = _where_stated(jaxtyping.jaxtyped)
