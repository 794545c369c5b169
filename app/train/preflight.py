"""What a training would take, in figures, and what speaks against it; the model that takes memory here already."""

import streamlit as st

from app.shared import models, readers
from app.shared.text import sentence
from retmask.runs.overview import duration
from retmask.train.preflight import Preflight

GIB = 2**30


def section(needs: Preflight) -> None:
    """A pre-flight in figures, and what speaks against it."""
    figures = {
        "Steps": f"{needs.steps:,}",
        "Pairs to train on": f"{needs.pairs:,}",
        "Held out": f"{needs.held_out:,}",
        **({"Left out": f"{len(needs.left_out):,}"} if needs.left_out else {}),
        "Numbers trained": f"{needs.trained:,}",
        "Longest, tokens": f"{needs.longest:,}",
        "Cut by max length": f"{needs.cut:.0%}".replace("%", " %"),
        **({"Time, about": duration(needs.seconds)} if needs.seconds else {}),
        "Memory, of free": f"{needs.needed / GIB:.1f} of {needs.free / GIB:.1f} GiB",
        "Disk, of free": f"{needs.disk_needed / GIB:.2f} of {needs.disk_free / GIB:.0f} GiB",
    }
    with st.container(horizontal=True, gap="medium", key="train_takes"):
        for name, figure in figures.items():
            st.metric(name, figure, width="content")
    for problem in needs.problems:
        st.error(sentence(problem))
    for warning in needs.warnings:
        st.warning(sentence(warning))
    if not needs.problems and not needs.warnings:
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
