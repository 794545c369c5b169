"""The form that starts a training: on which pairs, with which settings, and what it would take."""

import shlex
from collections.abc import Mapping
from typing import Any

import streamlit as st

from app.compare import comparison
from app.shared import address, jobs, models, readers, session
from app.shared.text import sentence
from app.train import settings as train_settings
from retmask.files import number
from retmask.pairs.files import pairs_file, read_rows
from retmask.pairs.pair import PAIRS
from retmask.runs.overview import duration, when
from retmask.runs.run import Run, run_path
from retmask.runs.settings import from_record
from retmask.train.job import TRAIN
from retmask.train.preflight import Preflight
from retmask.train.settings import TrainSettings

ELSEWHERE = "another file"
NO_PAIRS = "choose the pairs to train on, or name their file"
NO_MODEL = "name the model to train: a folder with its files, or its id on the Hub"
OPEN = "train_form"  # whether the form is open, in the session
GIB = 2**30


def open_or_close() -> None:
    """Open the form for pairs that the address or another page has chosen, fold it away when a training has begun."""
    if not session.value("train_visited"):
        session.put("train_visited", True)
        if address.place("pairs") and not address.place("train"):
            session.put(OPEN, True)
    if session.value("train_pairs") != session.value("train_pairs_seen"):
        session.put("train_pairs_seen", session.value("train_pairs"))
        session.put(OPEN, True)
    if session.value("train_close"):
        session.put("train_close", False)
        session.put(OPEN, False)


def section(is_first: bool) -> None:
    """The form, folded away once there is a training to look at."""
    box = st.expander("New training", expanded=is_first, key=OPEN, on_change="rerun", icon=":material/add:")
    if box.open:
        with box:
            _form()


def start_from(run: Run) -> None:
    """Open the form with the settings of a run. ValueError, TypeError or KeyError for a record that holds none."""
    known, command = run.config, shlex.split(run.command)
    preset = command[command.index("--preset") + 1] if "--preset" in command[:-1] else train_settings.USUAL
    settings = from_record(TrainSettings, known)
    train_settings.fill(preset, settings)
    parents = [name for name in run.parents if name in _offered()]
    session.fill(
        train_pairs=parents[0] if parents else ELSEWHERE,
        train_file=str(known["pairs"]),
        train_model=str(known["model"]),
        train_revision=str(known["revision"]),
        train_any_pairs=settings.any_pairs or "--any-pairs" in command,  # before it was a setting
    )
    session.put("train_model_of", parents[0] if parents else str(known["pairs"]))
    session.put(OPEN, True)


def _form() -> None:
    pairs = _pairs()
    model, revision, any_pairs = _model(pairs)
    preset = train_settings.preset()
    values = train_settings.widgets()
    train_settings.changed(values, preset)
    wanted = None
    try:
        what = {"model": model, "pairs": pairs, "revision": revision, "any_pairs": any_pairs}
        settings = train_settings.config(values, **what)
        if pairs:
            pairs_file(pairs)
        if pairs and model:
            wanted = settings
        else:
            st.info(sentence(NO_MODEL if pairs else NO_PAIRS))
    except ValueError as error:
        st.error(sentence(error))
    if wanted is None:
        _buttons(None)
        return
    st.caption("The command that does the same:")
    st.code(shlex.join(wanted.command), language="bash", wrap_lines=True)
    _held()
    _buttons(wanted)
    if session.value("train_asked") == wanted:
        _check(wanted)


def _offered() -> dict[str, str]:
    """The runs that are over and have made pairs, newest first: their ids with what is to be known of them."""
    over = (run for run in Run.all("pairs") if run.status not in ("queued", "started"))
    return {run.id: _label(run, count) for run in over if (count := _count(run))}


def _count(run: Run) -> int:
    """How many pairs a run has kept; one that was cancelled or failed need not have recorded it."""
    file = run.path / PAIRS
    if not file.is_file() or not file.stat().st_size:
        return 0
    return int(number(run.record.get("kept"))) or len(file.read_bytes().splitlines())


def _label(run: Run, count: int) -> str:
    """A run's name for people."""
    made = when(str(run.record.get("created", "")))
    return f"{count:,} pair{'s' * (count != 1)} · {run.config.get('model', '')} · {made} · {run.id}"


def _pairs() -> str:
    """The run or the file with the pairs. The address names the run that is shown, and none for a file."""
    offered = _offered()
    _take_address(offered)
    first = next(iter(offered), ELSEWHERE)
    chosen = str(session.value("train_pairs", first))
    if chosen not in (*offered, ELSEWHERE):  # a folder, or deleted since, or it goes on again
        session.fill(train_pairs=ELSEWHERE, train_file=_path(chosen))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        picked = st.selectbox(
            "Pairs", [*offered, ELSEWHERE], format_func=lambda name: offered.get(name, name), width=820,
            **session.kept("train_pairs", first),
        )  # fmt: skip
        session.put("train_pairs_seen", picked)
        _into_address(str(picked))
        if picked != ELSEWHERE:
            return str(picked)
        path = st.text_input(
            "File", placeholder="folder/pairs.jsonl", width=380, **session.kept("train_file", ""),
            help="a .jsonl or .json file in TRL's preference format (prompt, chosen, rejected) or LLaMA-Factory's, or "
            "a folder of `retmask pairs`",
        )  # fmt: skip
    st.file_uploader(
        "or drop one here", type=["jsonl", "json"], key="train_upload", max_upload_size=readers.MOST_UPLOAD,
        on_change=_uploaded,
    )  # fmt: skip
    said = session.said("train_upload")
    if said:
        st.error(said)
    return path.strip()


def _uploaded() -> None:
    """Keep a file of pairs that was dropped and put its path into the field."""
    file = session.value("train_upload")
    if file is None:
        return
    try:
        session.fill(train_file=str(readers.keep_upload(file.name, file.getvalue(), "pairs", read_rows)))
    except (ValueError, OSError) as error:
        session.say(sentence(error), "train_upload")


def _take_address(offered: Mapping[str, str]) -> None:
    """Choose the pairs that the address names, where it names others than when this was drawn last."""
    name = address.place("pairs")
    if not name or name == session.value("train_pairs_in_address"):
        return
    session.put("train_pairs_in_address", name)
    if name in offered:
        session.fill(train_pairs=name)
    else:
        session.fill(train_pairs=ELSEWHERE, train_file=_path(name))


def _into_address(picked: str) -> None:
    """Let the address name the run with the pairs; for a file it stays as it is, if it means that file."""
    name = address.place("pairs")
    kept = name if session.value("train_file") == _path(name) else ""
    wanted = kept if picked == ELSEWHERE else picked
    session.put("train_pairs_in_address", wanted)
    if wanted != name:
        address.go_to(pairs=wanted or None, gate=None)


def _path(name: str) -> str:
    """The folder of the run of that name; what can be no run's name as it is."""
    try:
        return str(run_path(name))
    except ValueError:
        return name


def _model(pairs: str) -> tuple[str, str, bool]:
    """The model's name, its revision, and whether pairs of another model may be used."""
    made = _made_with(pairs)
    if session.value("train_model_of") != pairs:  # other pairs, other model
        session.put("train_model_of", pairs)
        session.fill(train_any_pairs=False)
        if made.get("model"):
            session.fill(train_model=str(made["model"]), train_revision=str(made.get("revision") or ""))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        model = st.text_input(
            "Model", placeholder="folder or Hub id", width=380, **session.kept("train_model", ""),
            help="the one that made the pairs: DPO wants a model's own answers",
        )  # fmt: skip
        revision = st.text_input(
            "Revision", placeholder="the newest", width=150, **session.kept("train_revision", ""),
            help="branch, tag or commit of a Hub model",
        )  # fmt: skip
        differs = bool(made.get("model")) and model.strip() != made["model"]
        other = differs and st.toggle("Use another model's pairs", **session.kept("train_any_pairs", False))
    if made.get("adapter"):
        st.warning(sentence(f"The pairs were made with the adapter {made['adapter']}; training begins without it"))
    return model.strip(), revision.strip(), bool(other)


def _made_with(pairs: str) -> Mapping[str, Any]:
    """The settings of the run that made the pairs; empty where there is none."""
    try:
        return Run(pairs_file(pairs).parent).config if pairs else {}
    except ValueError:
        return {}


def _held() -> None:
    """The model that the app itself has in memory, if there is one, and the way to let it go."""
    held = models.held()
    if held is None:
        return
    name, size = held
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            sentence(f"The app holds the model {name} in memory, which takes {size / GIB:.1f} GiB"),
            width="content",
        )
        st.button("Unload it", type="tertiary", key="train_unload", on_click=_unload, icon=":material/memory:")


def _unload() -> None:
    """Let go of the models in memory, and of what counted it as taken."""
    comparison.stop()
    models.unload()
    readers.preflight.clear()


def _buttons(wanted: TrainSettings | None) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Start", type="primary", key="train_start", disabled=wanted is None, icon=":material/play_arrow:",
            on_click=_ask, args=(wanted, True),
        )  # fmt: skip
        st.button(
            "Check", key="train_check", disabled=wanted is None, help="what it would take; Start looks too",
            on_click=_ask, args=(wanted, False),
        )  # fmt: skip


def _ask(wanted: TrainSettings, start: bool) -> None:
    readers.preflight.clear()  # what is free may have changed
    session.put("train_asked", wanted)
    session.put("train_begin", start)


def _check(wanted: TrainSettings) -> None:
    """What a training would take; where Start asked for it and nothing is against it, begin it.

    Start asks once: a drawing that another click interrupts must not begin a training minutes later.
    """
    begins = session.value("train_begin")
    session.put("train_begin", False)
    try:
        with st.spinner("Looking at pairs and model…"):
            found = readers.preflight(wanted, readers.file_stamp(pairs_file(wanted.pairs)))
        _takes(found)
        if begins and not found.problems:
            _start(wanted)
    except (ValueError, OSError) as error:
        st.error(sentence(error))


def _takes(found: Preflight) -> None:
    """A pre-flight in figures, and what speaks against it."""
    figures = {
        "Steps": f"{found.steps:,}",
        "Pairs to train on": f"{found.pairs:,}",
        "Held out": f"{found.held_out:,}",
        **({"Left out": f"{len(found.left_out):,}"} if found.left_out else {}),
        "Numbers trained": f"{found.trained:,}",
        "Longest, tokens": f"{found.longest:,}",
        "Cut by max length": f"{found.cut:.0%}".replace("%", " %"),
        **({"Time, about": duration(found.seconds)} if found.seconds else {}),
        "Memory, of free": f"{found.needed / GIB:.1f} of {found.free / GIB:.1f} GiB",
        "Disk, of free": f"{found.disk_needed / GIB:.2f} of {found.disk_free / GIB:.0f} GiB",
    }
    with st.container(horizontal=True, gap="medium", key="train_takes"):
        for name, figure in figures.items():
            st.metric(name, figure, width="content")
    for words in found.problems:
        st.error(sentence(words))
    for words in found.warnings:
        st.warning(sentence(words))
    if not found.problems and not found.warnings:
        st.caption("Nothing speaks against it.")


def _start(wanted: TrainSettings) -> None:
    """Begin the training and look at it."""
    with st.spinner("Starting…"):
        run = jobs.start(TRAIN, wanted)
    address.go_to(train=run.id)
    session.put("train_asked", None)
    session.put("train_close", True)
    st.rerun()
