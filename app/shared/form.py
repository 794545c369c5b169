"""A form made from settings: a widget for a field, by its type, default, choices and limits; the session keeps it.

Limits are told and not enforced: a browser leaves a number beyond them in the field and goes on with the one before.
What is outside them the settings themselves refuse, in a sentence.
"""

import math
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any

import streamlit as st

from app.shared import session


def widget(settings: Any, name: str, place: str, **look: Any) -> Any:
    """The widget of a setting under `place`, with what it holds; at first the value of `settings` (or of their class).

    `look` goes to the widget, such as another label or help.
    """
    field: Field[Any] = settings.__dataclass_fields__[name]
    known: dict[str, Any] = {
        "label": words(name).capitalize(),
        "help": field.metadata["help"] + _limits(field.metadata),
    }
    look = known | session.kept(key(place, name), getattr(settings, name)) | look
    if "choices" in field.metadata:
        choices = list(field.metadata["choices"])
        return st.selectbox(options=choices, format_func=lambda choice: choice or "by default", **{"width": 150} | look)
    if field.type is bool:
        return st.toggle(**look)
    if field.type is str:
        return st.text_input(**{"width": 310} | look).strip()
    steps = {"step": 1} if field.type is int else {"step": _stride(field), "format": "%g"}
    return st.number_input(**{"width": 150, **steps, **look})


def key(place: str, name: str) -> str:
    """Under which name the session keeps a setting."""
    return f"{place}_{name}"


def fill(settings: Any, place: str, **others: Any) -> None:
    """Put settings into their widgets; `others` are shown in place of what the settings say, or beside it."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    values |= {field.name: float(values[field.name]) for field in fields(settings) if field.type is float}
    session.fill(**{key(place, name): value for name, value in (values | others).items()})


def check_filled(values: Mapping[str, Any]) -> None:
    """ValueError, one sentence, where a field for a number is empty."""
    for name, value in values.items():
        if value is None:
            raise ValueError(f"{words(name)} is empty: give a number")


def words(name: str) -> str:
    """The name of a setting for people."""
    return name.replace("_", " ")


def _limits(marks: Mapping[str, Any]) -> str:
    if "min" not in marks:
        return ""
    low, high = (f"{value:,}" if isinstance(value, int) else f"{value:g}" for value in (marks["min"], marks["max"]))
    return f"; from {low} to {high}"


def _stride(field: "Field[Any]") -> float:
    """By how much a click on + changes a number: a power of ten that suits its usual value and leaves room above."""
    default: Any = field.default
    room = [value for value in (default or 1.0, field.metadata.get("max", math.inf) - default) if value > 0]
    return float(10.0 ** math.floor(math.log10(min(room) * (1 if default else 0.5))))
