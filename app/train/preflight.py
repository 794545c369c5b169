"""What a training would take, in figures, and what speaks against it; the model that takes memory here already."""

import streamlit as st

from app.shared import models, readers
from app.shared.text import sentence
from retmask.runs.overview import duration
from retmask.train.preflight import Preflight

GIB = 2**30


def section(found: Preflight) -> None:
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
    for problem in found.problems:
        st.error(sentence(problem))
    for warning in found.warnings:
        st.warning(sentence(warning))
    if not found.problems and not found.warnings:
        st.caption("Nothing speaks against it.")


def held_model() -> None:
    """The model that the app itself has in memory, if there is one, and the way to let it go."""
    held = models.held()
    if held is None:
        return
    name, size = held
    text = f"The app holds the model {name} in memory, which takes {size / GIB:.1f} GiB"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(sentence(text), width="content")
        st.button("Unload it", type="tertiary", key="train_unload", on_click=_unload, icon=":material/memory:")


def _unload() -> None:
    """Let go of the models in memory, and of what counted it as taken."""
    models.unload()
    readers.preflight.clear()
