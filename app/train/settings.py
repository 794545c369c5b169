"""The settings of a training as widgets, what differs from a preset, and the way back to it."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import streamlit as st

from app.shared import form, session
from app.shared.text import sentence
from retmask.runs.settings import USUAL, from_preset
from retmask.train.settings import PRESETS, TrainSettings

PLACE = "train"
CHOSEN = ("model", "pairs", "any_pairs", "revision")  # what the form asks for before: it is of no preset


def preset() -> str:
    """The preset that is chosen, with what it is for."""
    kept = session.kept("train_preset", USUAL, then=_take_preset)
    picked = st.segmented_control("Preset", list(PRESETS), required=True, **kept) or USUAL
    st.caption(f"{picked}: {PRESETS[picked].says}")
    return picked


def _take_preset() -> None:
    """Put the settings of the preset that is chosen now into the widgets."""
    picked = str(session.value("train_preset") or USUAL)
    session.fill(**{form.key(PLACE, name): value for name, value in _of(picked).items()})


def _of(preset: str) -> dict[str, Any]:
    """What a preset sets."""
    settings = from_preset(TrainSettings, preset, model="", pairs="")
    return {field.name: getattr(settings, field.name) for field in fields(settings) if field.name not in CHOSEN}


def widgets() -> dict[str, Any]:
    """A widget for every field of `TrainSettings` that a preset sets, those for experts folded away; what they hold."""
    usual = from_preset(TrainSettings, USUAL, model="", pairs="")
    offered = [field for field in fields(usual) if field.name not in CHOSEN]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        everyday = [field.name for field in offered if not field.metadata.get("expert")]
        values = {name: form.widget(usual, name, PLACE) for name in everyday}
    with st.expander("More settings", key="train_expert"), st.container(horizontal=True, vertical_alignment="bottom"):
        return values | {
            field.name: form.widget(usual, field.name, PLACE) for field in offered if field.name not in values
        }


def changed(values: Mapping[str, Any], preset: str) -> None:
    """What differs from the preset, in a line, with the way back."""
    usual = _of(preset)
    changes = [
        f"{form.words(name)} **{_text(value)}** (not {_text(usual[name])})"
        for name, value in values.items()
        if value != usual[name]
    ]
    if changes:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f":orange[Changed against {preset}:] {', '.join(changes)}", width="content")
            st.button("Back to the preset", type="tertiary", key="train_reset", on_click=_take_preset)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    text = f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value or "–")
    return sentence(text)[:-1]
