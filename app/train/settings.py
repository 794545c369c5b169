"""The settings of a training as widgets, made from the fields of `TrainSettings`, and what differs from a preset."""

import math
from collections.abc import Mapping
from dataclasses import Field, asdict, fields
from typing import Any

import streamlit as st

from app.shared import session
from app.shared.text import sentence
from retmask.runs.settings import USUAL, from_preset
from retmask.train.settings import PRESETS, TrainSettings

NOT_HERE = ("model", "pairs", "any_pairs", "revision")  # the form asks for these itself: they are of no preset
FIELDS = tuple(field for field in fields(TrainSettings) if field.name not in NOT_HERE)


def _of(preset: str) -> TrainSettings:
    """The settings of a preset, of no model yet."""
    return from_preset(TrainSettings, preset, model="", pairs="")


def preset() -> str:
    """The preset that is chosen, with what it is for."""
    kept = session.kept("train_preset", USUAL, then=_take_preset)
    picked = st.segmented_control("Preset", list(PRESETS), required=True, **kept) or USUAL
    st.caption(f"{picked}: {PRESETS[picked].says}")
    return picked


def _take_preset() -> None:
    """Put the settings of the preset that is chosen now into the widgets."""
    picked = str(session.value("train_preset") or USUAL)
    fill(picked, _of(picked))


def fill(preset: str, config: TrainSettings) -> None:
    """Put settings into the widgets, to be told against a preset."""
    values = asdict(config)
    session.fill(
        train_preset=preset if preset in PRESETS else USUAL,
        **{_name(field): field.type(values[field.name]) for field in FIELDS},
    )


def widgets() -> dict[str, Any]:
    """A widget for every field of `TrainSettings`, those for experts folded away; what they hold."""
    everyday = [field for field in FIELDS if not field.metadata.get("expert")]
    expert = [field for field in FIELDS if field.metadata.get("expert")]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        values = {field.name: setting(field) for field in everyday}
    with (
        st.expander("More settings", key="train_expert"),
        st.container(horizontal=True, vertical_alignment="bottom"),
    ):
        values |= {field.name: setting(field) for field in expert}
    return values


def setting(field: "Field[Any]") -> Any:
    """The widget for a field, made from its type, its default and its limits; what it holds.

    Limits are told and not enforced here: what is outside them is told in a sentence by `TrainSettings`.
    """
    label, says = _words(field.name).capitalize(), field.metadata["help"] + _range(field.metadata)
    kept = session.kept(_name(field), getattr(_of(USUAL), field.name))
    if "choices" in field.metadata:
        choices = list(field.metadata["choices"])
        return st.selectbox(label, choices, format_func=lambda c: c or "by default", help=says, width=150, **kept)
    if field.type is bool:
        return st.toggle(label, help=says, **kept)
    if field.type is str:
        return st.text_input(label, help=says, width=310, **kept)
    if field.type is int:
        return st.number_input(label, step=1, help=says, width=150, **kept)
    return st.number_input(label, step=_stride(field), format="%g", help=says, width=150, **kept)


def _name(field: "Field[Any]") -> str:
    """Under which name the session keeps a setting."""
    return f"dpo_{field.name}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _range(limits: Mapping[str, Any]) -> str:
    if "min" not in limits:
        return ""
    low, high = (f"{value:,}" if isinstance(value, int) else f"{value:g}" for value in (limits["min"], limits["max"]))
    return f"; from {low} to {high}"


def _stride(field: "Field[Any]") -> float:
    """By how much a click on + changes a number: a power of ten that suits its usual value and leaves room above."""
    usual, most = field.default or 1.0, field.metadata["max"]
    room = [value for value in (usual, most - field.default) if value > 0]
    return float(10.0 ** math.floor(math.log10(min(room) * (1 if field.default else 0.5))))


def config(values: Mapping[str, Any], **what: Any) -> TrainSettings:
    """The settings of a training of `what`. ValueError, one sentence, for what cannot be."""
    for name, value in values.items():
        if value is None:
            raise ValueError(f"{_words(name)} is empty: give a number")
    return TrainSettings(**values, **what)


def changed(values: Mapping[str, Any], preset: str) -> None:
    """What differs from the preset, in a line, with the way back."""
    usual = asdict(_of(preset))
    changes = [
        f"{_words(name)} **{_said(values[name])}** (not {_said(usual[name])})"
        for name in values
        if values[name] != usual[name]
    ]
    if changes:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f":orange[Changed against {preset}:] {', '.join(changes)}", width="content")
            st.button("Back to the preset", type="tertiary", key="train_reset", on_click=_take_preset)


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    text = f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value or "–")
    return sentence(text)[:-1]
