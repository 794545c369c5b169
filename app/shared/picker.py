"""Runs to choose from: what a name in the address means, what a run is called, and the box that offers several."""

from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st

from app.shared import session
from retmask.runs.overview import model_of
from retmask.runs.run import Run

_STANDS = {"queued": "waiting", "started": "running", "cancelled": "stopped", "error": "failed"}


def find(name: str, kind: str) -> Run:
    """The run of that kind by its id, or in that folder. ValueError, one sentence, for what is none."""
    run = Run.find(name)
    if run.record.get("kind") != kind:
        raise ValueError(f"{name} is a run of another kind: choose one of `retmask {kind}`")
    return run


def label(run: Run, *facts: str) -> str:
    """A run for people: its name, its model where that does not say it, facts, and how it stands if not finished."""
    model, status = Path(model_of(run.record)).name, run.status
    stands = [_STANDS[status]] if status in _STANDS else []
    return " · ".join([run.reference, *([model] if model and model not in run.id else []), *facts, *stands])


def section(
    title: str,
    runs: Sequence[Run],
    chosen: Run | None,
    choose: Callable[[str], None],
    facts: Callable[[Run], Sequence[str]] = lambda run: (),
) -> None:
    """The runs to choose from. Streamlit tells choices by their labels: where these change, it is another widget."""
    labels = {run.reference: label(run, *facts(run)) for run in runs}
    names = list(labels)
    key = f"{title}-{chosen.reference if chosen else ''}-{hash(tuple(labels.values()))}"
    at = names.index(chosen.reference) if chosen else None
    changed = session.newest(title, key, lambda name: choose(name) if name in labels else None)
    st.selectbox(title, names, at, key=key, format_func=lambda name: labels[name], width=560, on_change=changed)
