"""The curves of a training so far, their downloads, and the end of its log."""

from typing import Any

import streamlit as st

from app.shared import jobs
from app.shared.text import CHART_CONFIG, download_button, file_name, images
from retmask.figures.training import BEHIND, LEARNING, training_curves
from retmask.runs.run import Run
from retmask.train.results import curves_csv, steps

HEALTHY = (
    "A healthy run: the margin rises and the loss falls below 0.69. The chosen reward often falls too, as long as the "
    "rejected one falls faster. An accuracy of 1 within few steps is usual on easy pairs, and says little by itself."
)


def section(run: Run) -> None:
    """The curves so far, their downloads, and the end of the log."""
    done = steps(run)
    if done:
        _charts(run, done, LEARNING, "curves")
        st.caption(HEALTHY)
        with st.expander("More curves", key="train_more"):
            _charts(run, done, BEHIND, "behind")
        if not run.is_active:
            _downloads(run, done)
    if run.status != "error":  # the log of one that failed stands with its last words
        jobs.log_end(run, "train")


def _charts(run: Run, done: list[dict[str, Any]], panels: tuple[str, ...], key: str) -> None:
    """Two columns of small charts, one below the other in a narrow window."""
    name = file_name(f"{run.id}-{key}")
    config = CHART_CONFIG | {"toImageButtonOptions": {"filename": name, "scale": 2}}
    with st.container(key=key):
        for i, column in enumerate(st.columns(2, gap="medium")):
            figure = training_curves(done, panels[i::2], columns=1)
            column.plotly_chart(figure, theme=None, config=config, key=f"train-{key}-{i}")


def _downloads(run: Run, done: list[dict[str, Any]]) -> None:
    """All curves as files, made when they are asked for."""
    name = file_name(run.id)
    with st.popover("Download the curves", icon=":material/download:", type="tertiary", key="train_downloads"):
        images(training_curves(done), f"{name}-curves")
        download_button("CSV", lambda: curves_csv(run).encode(), f"{name}-curves.csv", "text/csv")
