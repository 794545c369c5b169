"""The form that starts a training: on which pairs, with which settings, and what it would take.

The widgets of the settings are made from the fields of `DpoConfig`.
"""

import math
import shlex
from collections.abc import Mapping
from dataclasses import Field, asdict, fields
from typing import Any, NamedTuple

import state
import streamlit as st

from retmask.dpo import PRESETS, DpoConfig
from retmask.overview import when
from retmask.pairs import PAIRS, pairs_file
from retmask.runs import Run
from retmask.train import Preflight, new_train, train_command

ELSEWHERE = "another file"
OPEN = "train_form"  # whether the form is open, in the session
GIB = 2**30


class Wanted(NamedTuple):
    """A training as the form says it: what it is of, and the preset that its settings are told against."""

    model: str
    revision: str
    pairs: str
    any_pairs: bool
    preset: str
    config: DpoConfig

    @property
    def command(self) -> list[str]:
        """The command line that does the same."""
        out = train_command(self.model, self.pairs, self.config, self.preset)
        out += ["--revision", self.revision] if self.revision else []
        return out + ["--any-pairs"] * self.any_pairs


def open_or_close() -> None:
    """Open the form for pairs that another page has chosen, fold it away when a training has begun."""
    if state.value("train_pairs") != state.value("train_pairs_seen"):
        state.put("train_pairs_seen", state.value("train_pairs"))
        state.put(OPEN, True)
    if state.value("train_close"):
        state.put("train_close", False)
        state.put(OPEN, False)


def section(is_first: bool) -> None:
    """The form, folded away once there is a training to look at."""
    box = st.expander("New training", expanded=is_first, key=OPEN, on_change="rerun", icon=":material/add:")
    if box.open:
        with box:
            _form()


def start_from(run: Run) -> None:
    """Open the form with the settings of a run. ValueError or TypeError for a record that holds none."""
    record = run.record
    known, command = record["config"], record.get("command", [])
    values = asdict(DpoConfig.from_record(known))
    preset = command[command.index("--preset") + 1] if "--preset" in command else next(iter(PRESETS))
    parents = [name for name in run.parents if name in _offered()]
    state.fill(
        train_pairs=parents[0] if parents else ELSEWHERE,
        train_file=str(known["pairs"]),
        train_model=str(known["model"]),
        train_revision=str(known["revision"]),
        train_preset=preset if preset in PRESETS else next(iter(PRESETS)),
        **{_name(field): field.type(values[field.name]) for field in fields(DpoConfig)},
    )
    state.put("train_model_of", parents[0] if parents else ELSEWHERE)
    state.put(OPEN, True)


def _form() -> None:
    pairs = _pairs()
    model, revision, any_pairs = _model(pairs)
    preset = _preset()
    values = _settings()
    _changed(values, preset)
    try:
        config = _config(values)
        if not pairs:
            raise ValueError("choose the pairs to train on, or name their file")
        pairs_file(pairs)
        if not model:
            raise ValueError("name the model to train: a folder with its files, or its id on the Hub")
        wanted = Wanted(model, revision, pairs, any_pairs, preset, config)
    except ValueError as error:
        st.error(state.sentence(error))
        _buttons(None)
        return
    st.caption("The command that does the same:")
    st.code(shlex.join(wanted.command), language="bash", wrap_lines=True)
    _held()
    _buttons(wanted)
    if state.value("train_asked") == wanted:
        _check(wanted)


def _offered() -> dict[str, str]:
    """The runs that have made pairs, newest first: their ids with what is to be known of them."""
    return {run.id: _label(run) for run in Run.all("pairs") if (run.path / PAIRS).is_file() and run.record.get("kept")}


def _label(run: Run) -> str:
    record = run.record
    going = " so far" if run.status in ("queued", "started") else ""
    model = record.get("config", {}).get("model", "")
    return f"{record['kept']:,} pairs{going} · {model} · {when(str(record.get('created', '')))} · {run.id}"


def _pairs() -> str:
    """The run or the file with the pairs."""
    offered = _offered()
    first = next(iter(offered), ELSEWHERE)
    chosen = str(state.value("train_pairs", first))
    if chosen not in (*offered, ELSEWHERE):  # a folder, or deleted since
        state.fill(train_pairs=ELSEWHERE, train_file=chosen) if "/" in chosen else state.fill(train_pairs=first)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        picked = st.selectbox(
            "Pairs", [*offered, ELSEWHERE], format_func=lambda name: offered.get(name, name), width=620,
            **state.kept("train_pairs", first),
        )  # fmt: skip
        if picked != ELSEWHERE:
            return str(picked)
        path = st.text_input(
            "File", placeholder="folder/pairs.jsonl", width=380, **state.kept("train_file", ""),
            help="a .jsonl file in TRL's preference format (prompt, chosen, rejected), or a folder of `retmask pairs`",
        )  # fmt: skip
    return path.strip()


def _model(pairs: str) -> tuple[str, str, bool]:
    """The model's name, its revision, and whether pairs of another model may be used."""
    made = _made_with(pairs)
    if state.value("train_model_of") != pairs:  # other pairs, other model
        state.put("train_model_of", pairs)
        if made.get("model"):
            state.fill(train_model=str(made["model"]), train_revision=str(made.get("revision") or ""))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        model = st.text_input(
            "Model", placeholder="folder or Hub id", width=380, **state.kept("train_model", ""),
            help="the one that made the pairs: DPO wants a model's own answers",
        )  # fmt: skip
        revision = st.text_input(
            "Revision", placeholder="the newest", width=150, **state.kept("train_revision", ""),
            help="branch, tag or commit of a Hub model",
        )  # fmt: skip
        differs = bool(made.get("model")) and model.strip() != made["model"]
        other = differs and st.toggle("Use another model's pairs", **state.kept("train_any_pairs", False))
    if made.get("adapter"):
        st.warning(
            state.sentence(f"The pairs were made with the adapter {made['adapter']}; training begins without it")
        )
    return model.strip(), revision.strip(), bool(other)


def _made_with(pairs: str) -> Mapping[str, Any]:
    """The settings of the run that made the pairs; empty where there is none."""
    try:
        config = Run(pairs_file(pairs).parent).record.get("config") if pairs else None
    except ValueError:
        return {}
    return config if isinstance(config, dict) else {}


def _preset() -> str:
    preset = st.segmented_control(
        "Preset", list(PRESETS), required=True, **(state.kept("train_preset", "laptop") | {"on_change": _take_preset})
    )
    st.caption(f"{preset or 'laptop'}: {PRESETS[preset or 'laptop'].says}")
    return preset or "laptop"


def _take_preset(*_: Any) -> None:
    """Put the settings of the preset that is chosen now into the widgets."""
    preset = str(state.value("shown_train_preset") or state.value("train_preset", "laptop"))
    state.fill(train_preset=preset, **_preset_values(preset))


def _preset_values(preset: str) -> dict[str, Any]:
    values = asdict(DpoConfig.preset(preset))
    return {_name(field): values[field.name] for field in fields(DpoConfig)}


def _settings() -> dict[str, Any]:
    """A widget for every field of `DpoConfig`, those for experts folded away; what they hold."""
    everyday = [field for field in fields(DpoConfig) if not field.metadata.get("expert")]
    expert = [field for field in fields(DpoConfig) if field.metadata.get("expert")]
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

    Limits are told and not enforced here: what is outside them is told in a sentence by `DpoConfig`.
    """
    label, says = _words(field.name).capitalize(), field.metadata["help"] + _range(field.metadata)
    kept = state.kept(_name(field), getattr(DpoConfig.preset("laptop"), field.name))
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


def _config(values: Mapping[str, Any]) -> DpoConfig:
    """The settings. ValueError, one sentence, for what cannot be."""
    for name, value in values.items():
        if value is None:
            raise ValueError(f"{_words(name)} is empty: give a number")
    return DpoConfig(**values)


def _changed(values: Mapping[str, Any], preset: str) -> None:
    """What differs from the preset, in a line, with the way back."""
    usual = asdict(DpoConfig.preset(preset))
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
    return state.sentence(text)[:-1]


def _held() -> None:
    """The model that the app itself has in memory, if there is one, and the way to let it go."""
    held = state.held()
    if held is None:
        return
    name, size = held
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            state.sentence(f"The app holds the model {name} in memory, which takes {size / GIB:.1f} GiB"),
            width="content",
        )
        st.button("Unload it", type="tertiary", key="train_unload", on_click=state.unload, icon=":material/memory:")


def _buttons(wanted: Wanted | None) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Start", type="primary", key="train_start", disabled=wanted is None, icon=":material/play_arrow:",
            on_click=_ask, args=(wanted, True),
        )  # fmt: skip
        st.button(
            "Check", key="train_check", disabled=wanted is None, help="what it would take; Start looks too",
            on_click=_ask, args=(wanted, False),
        )  # fmt: skip


def _ask(wanted: Wanted, start: bool) -> None:
    state.put("train_asked", wanted)
    state.put("train_begin", start)


def _check(wanted: Wanted) -> None:
    """What a training would take; where Start asked for it and nothing is against it, begin it."""
    try:
        with st.spinner("Looking at pairs and model…"):
            found = state.preflight(
                wanted.model, wanted.pairs, state.file_stamp(pairs_file(wanted.pairs)), wanted.config, wanted.revision
            )
        _takes(found)
        if state.value("train_begin") and not found.problems:
            _start(wanted)
    except (ValueError, OSError) as error:
        st.error(state.sentence(error))
    state.put("train_begin", False)


def _takes(found: Preflight) -> None:
    """A pre-flight in figures, and what speaks against it."""
    figures = {
        "Steps": f"{found.steps:,}",
        "Pairs to train on": f"{found.pairs:,}",
        "Held out": f"{found.held_out:,}",
        "Longest, tokens": f"{found.longest:,}",
        "Cut by max length": f"{found.cut:.0%}".replace("%", " %"),
        "Memory, of free": f"{found.needed / GIB:.1f} of {found.free / GIB:.1f} GiB",
        "Disk, of free": f"{found.disk_needed / GIB:.2f} of {found.disk_free / GIB:.0f} GiB",
    }
    with st.container(horizontal=True, gap="medium", key="train_takes"):
        for name, figure in figures.items():
            st.metric(name, figure, width="content")
    for words in found.problems:
        st.error(state.sentence(words))
    for words in found.warnings:
        st.warning(state.sentence(words))
    if not found.problems and not found.warnings:
        st.caption("Nothing speaks against it.")


def _start(wanted: Wanted) -> None:
    """Begin the training and look at it. A second click, before the page knew of the first, looks at the first's."""
    last = state.value("train_last")
    if not (last and last[0] == wanted and Run(last[1]).status in ("queued", "started")):
        run = new_train(
            wanted.model, wanted.pairs, wanted.config, revision=wanted.revision, any_pairs=wanted.any_pairs,
            command=wanted.command,
        )  # fmt: skip
        run.spawn()
        state.put("train_last", (wanted, run.path))
        state.go_to(train=run.id)
    state.put("train_asked", None)
    state.put("train_close", True)
    st.rerun()
