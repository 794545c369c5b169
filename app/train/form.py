"""The form that starts a training: on which pairs, with which settings; what it would take is looked at first."""

import shlex
from typing import Any

import streamlit as st

from app.shared import address, jobs, readers, session
from app.shared.form import show_command
from app.shared.text import sentence
from app.train import pairs, preflight
from app.train.pairs import FORM
from retmask.pairs.files import pairs_file
from retmask.runs.run import Run
from retmask.runs.settings import USUAL, from_record
from retmask.train.job import TRAIN
from retmask.train.settings import PRESETS, TrainSettings

NO_PAIRS = "choose the pairs to train on, or name their file"
NO_MODEL = "name the model to train: a folder with its files, or its id on the Hub"


def open_or_close() -> None:
    """Open the form for pairs that the address or another page has chosen, fold it away when a training has begun."""
    if not session.TRAIN_VISITED.get():
        session.TRAIN_VISITED.put(True)
        if address.place("pairs") and not address.place("train"):
            session.TRAIN_FORM.put(True)
    if session.TRAIN_PAIRS.get() != session.TRAIN_PAIRS_SEEN.get():
        session.TRAIN_PAIRS_SEEN.put(session.TRAIN_PAIRS.get())
        session.TRAIN_FORM.put(True)
    if session.TRAIN_CLOSE.get():
        session.TRAIN_CLOSE.put(False)
        session.TRAIN_FORM.put(False)


def section(is_first: bool) -> None:
    """The form, folded away once there is a training to look at."""
    box = st.expander(
        "New training", expanded=is_first, key=session.TRAIN_FORM.name, on_change="rerun", icon=":material/add:"
    )
    if box.open:
        with box:
            _form()


def start_from(run: Run) -> None:
    """Open the form with the settings of a run. ValueError, TypeError or KeyError for a record that holds none."""
    settings, command = from_record(TrainSettings, run.config), shlex.split(run.command)
    preset = command[command.index("--preset") + 1] if "--preset" in command[:-1] else USUAL
    parents = [name for name in run.parents if name in pairs.offered()]
    FORM.fill(
        settings,
        preset=preset if preset in PRESETS else USUAL,
        pairs=parents[0] if parents else pairs.ELSEWHERE,
        file=settings.pairs,
        any_pairs=settings.any_pairs or "--any-pairs" in command,  # before it was a setting
    )
    session.TRAIN_MODEL_OF.put(parents[0] if parents else settings.pairs)
    session.TRAIN_FORM.put(True)


def _form() -> None:
    chosen = pairs.chosen()
    preset = FORM.preset()
    values = FORM.widgets()
    FORM.changed(values, preset)
    settings = None
    try:
        settings = FORM.settings(values, **chosen)
        if settings.pairs:
            pairs_file(settings.pairs)
    except ValueError as error:
        st.error(sentence(error))
        settings = None
    if settings and not (settings.pairs and settings.model):
        st.info(sentence(NO_MODEL if settings.pairs else NO_PAIRS))
        settings = None
    if settings is None:
        _buttons(None)
        return
    show_command(settings)
    preflight.held_model()
    _buttons(settings)
    if session.TRAIN_ASKED.get() == settings:
        _check(settings)


def _buttons(settings: TrainSettings | None) -> None:
    off, says = settings is None, "what it would take; Start looks too"
    start: dict[str, Any] = {"icon": ":material/play_arrow:", "type": "primary"}
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Start", key="train_start", disabled=off, on_click=_ask, args=(settings, True), **start)
        st.button("Check", key="train_check", disabled=off, on_click=_ask, args=(settings, False), help=says)


def _ask(settings: TrainSettings, start: bool) -> None:
    readers.preflight.clear()  # what is free may have changed
    session.TRAIN_ASKED.put(settings)
    session.TRAIN_BEGIN.put(start)


def _check(settings: TrainSettings) -> None:
    """What a training would take; where Start asked for it and nothing is against it, begin it.

    Start asks once: a drawing that another click interrupts must not begin a training minutes later.
    """
    begins = session.TRAIN_BEGIN.get()
    session.TRAIN_BEGIN.put(False)
    try:
        with st.spinner("Looking at pairs and model…"):
            needs = readers.preflight(settings, readers.file_stamp(pairs_file(settings.pairs)))
        preflight.section(needs)
        if begins and not needs.problems:
            _start(settings)
    except (ValueError, OSError) as error:
        st.error(sentence(error))


def _start(settings: TrainSettings) -> None:
    """Begin the training and look at it."""
    with st.spinner("Starting…"):
        run = jobs.start(TRAIN, settings)
    address.go_to(train=run.id)
    session.TRAIN_ASKED.put(None)
    session.TRAIN_CLOSE.put(True)
    st.rerun()
