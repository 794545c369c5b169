"""The form of a job, made from its settings: a widget for each, what they hold, what differs from a preset.

Limits are told and not enforced: a browser leaves a number beyond them in the field and goes on with the one before.
What is outside them the settings themselves refuse, in a sentence.
"""

import math
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, get_origin

import streamlit as st

from app.shared import readers, session
from app.shared.text import sentence
from retmask.runs.settings import USUAL, from_preset, label, limits, text, typed


@dataclass(frozen=True)
class Form:
    """Whose settings it asks for, under which name the session keeps them, and the preset at first, if they have any.

    `apart` are those that no preset changes: the page asks for them elsewhere, or with other words, or not at all.
    """

    cls: Any
    place: str
    apart: tuple[str, ...] = ()
    first: str = USUAL

    def widget(self, name: str, **look: Any) -> Any:
        """The widget of a setting, with what it holds; at first its default, or the `value` in `look`.

        The rest of `look` goes to the widget, such as another label, or `options` to choose from.
        """
        field: Field[Any] = self.cls.__dataclass_fields__[name]
        marks = field.metadata
        value = look.pop("value", self._values(self.first)[name])
        options = look.pop("options", marks.get("choices"))
        title = label(field)
        usual: dict[str, Any] = {"label": title[0].upper() + title[1:], "help": marks["help"] + _limits(marks)}
        look = usual | session.kept(self.key(name), value) | look
        if options and get_origin(field.type) is tuple:
            return st.multiselect(options=list(options), format_func=lambda one: _says(options, one), **look)
        if options:
            return st.selectbox(
                options=list(options),
                format_func=lambda one: _says(options, one),
                **{"width": _width(options)} | look,
            )
        if field.type is bool:
            return st.toggle(**look)
        if field.type in (int, float):
            step = {"step": _stride(field), "format": "%d" if field.type is int else "%g"}
            return st.number_input(**{"width": 150, **step, **look})
        return st.text_input(**{"width": 310, "placeholder": marks.get("example"), **look}).strip()

    def widgets(self, below: Any = st, **first: Any) -> dict[str, Any]:
        """A widget for every setting that is not asked for apart, those for experts folded away; what they hold.

        `first` are values at first in place of the defaults; what is folded away goes into the container `below`.
        """
        names = {field.name: field.metadata.get("expert", False) for field in self._fields}
        usual = self._values(self.first) | first
        with st.container(horizontal=True, vertical_alignment="bottom"):
            values = {name: self.widget(name, value=usual[name]) for name, expert in names.items() if not expert}
        folded = below.expander("More settings", key=self.key("expert"))
        with folded, st.container(horizontal=True, vertical_alignment="bottom"):
            return values | {name: self.widget(name, value=usual[name]) for name, expert in names.items() if expert}

    def preset(self) -> str:
        """The preset that is chosen, with what it is for; choosing one fills the widgets."""
        kept = session.kept(self.key("preset"), self.first, then=self._take_preset)
        picked = st.segmented_control("Preset", list(self.cls.presets), required=True, **kept) or self.first
        st.caption(f"{picked}: {self.cls.presets[picked].says}")
        return picked

    def changed(self, values: Mapping[str, Any], preset: str) -> None:
        """What differs from the preset, in a line, with the way back."""
        usual = self._values(preset)
        changes = [
            f"{label(field)} **{_text(values[field.name])}** (not {_text(usual[field.name])})"
            for field in self._fields
            if values[field.name] != usual[field.name]
        ]
        if changes:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f":orange[Changed against {preset}:] {', '.join(changes)}", width="content")
                key = self.key("reset")
                st.button("Back to the preset", type="tertiary", key=key, on_click=self._take_preset)

    def settings(self, values: Mapping[str, Any], **others: Any) -> Any:
        """The settings that widgets hold, and `others`. ValueError, one sentence, for what cannot be."""
        for name, value in values.items():
            field = self.cls.__dataclass_fields__[name]
            if value is None:
                raise ValueError(f"{label(field)} is empty: give a number")
            others[name] = typed(field, value, label(field))
        return self.cls(**others)

    def fill(self, settings: Any, **others: Any) -> None:
        """Put settings into their widgets; `others` are shown in place of what the settings say, or beside it."""
        values = {field.name: _shown(field, getattr(settings, field.name)) for field in fields(self.cls)}
        session.fill(**{self.key(name): value for name, value in (values | others).items()})

    def key(self, name: str) -> str:
        """Under which name the session keeps a setting."""
        return f"{self.place}_{name}"

    def held(self, name: str) -> str:
        """The text that the widget of a setting holds now, empty for none."""
        return str(session.value(self.key(name)) or "")

    @property
    def _fields(self) -> "list[Field[Any]]":
        return [field for field in fields(self.cls) if field.name not in self.apart]

    def _values(self, preset: str) -> dict[str, Any]:
        """What the widgets show of a preset, or by default where there are none."""
        empty = {field.name: "" for field in fields(self.cls) if field.default is MISSING}
        usual = from_preset(self.cls, preset, **empty) if hasattr(self.cls, "presets") else self.cls
        return {field.name: _shown(field, getattr(usual, field.name, "")) for field in fields(self.cls)}

    def _take_preset(self) -> None:
        """Put the settings of the preset that is chosen now into the widgets."""
        usual = self._values(str(session.value(self.key("preset")) or self.first))
        session.fill(**{self.key(field.name): usual[field.name] for field in self._fields})


def show_command(settings: Any, says: str = "") -> None:
    """The command that does what the settings say, after what is to be said of it."""
    st.caption(f"{says} The command that does the same:".strip())
    command = shlex.join(settings.command)
    height: Any = 160 if len(command) > 600 else "content"
    st.code(command, language="bash", wrap_lines=True, height=height)


def show_memory(model: str, context_tokens: int, key: str) -> None:
    """Whether a model and a context fit into memory, when it is asked for: it takes some seconds the first time."""
    if not st.toggle("Check that it fits into memory", key=key):
        return
    try:
        with st.spinner("Looking at the model's size…"):
            fits, says = readers.memory(model, context_tokens)
    except (ValueError, OSError) as error:
        st.error(sentence(error))
        return
    (st.success if fits else st.warning)(sentence(says))


def _shown(field: "Field[Any]", value: Any) -> Any:
    """A value as its widget holds it."""
    if isinstance(value, tuple):
        return list(value) if "choices" in field.metadata else text(value)
    return float(value) if field.type is float else value


def _says(options: Any, one: str) -> str:
    """What is shown of a choice."""
    means = options.get(one, "") if isinstance(options, Mapping) else ""
    return (f"{one}: {means}" if means else one) or "by default"


def _width(options: Any) -> int:
    """How many pixels wide a box is that shows each of these choices whole."""
    if not isinstance(options, Mapping):
        return 150
    return 310 if max(len(_says(options, name)) for name in options) <= 44 else 470


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    number = f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value or "–")
    return sentence(number)[:-1]


def _limits(marks: Mapping[str, Any]) -> str:
    return f"; from {limits(marks)}".replace(" or more", " up") if "min" in marks else ""


def _stride(field: "Field[Any]") -> float:
    """By how much a click on + changes a number: what suits its usual value and leaves room above."""
    default: Any = field.default
    if field.type is int:
        return 1 if default < 64 else int(2 ** (default.bit_length() - 3))
    room = [value for value in (default or 1.0, field.metadata.get("max", math.inf) - default) if value > 0]
    return float(10.0 ** math.floor(math.log10(min(room) * (1 if default else 0.5))))
