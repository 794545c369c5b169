"""The dose curve on the page: start it, watch its points come, look at it."""

import math
import shlex
from typing import Any

import streamlit as st

from app.shared import form, jobs, maps, mask_editor, session
from app.shared.models import ModelRef
from app.shared.text import draw_figure, sentence
from retmask.compare.dose import DOSE, KS, DoseSettings, read_points
from retmask.figures.masking import dose_curve
from retmask.figures.rows import dose_rows
from retmask.files import number
from retmask.heads.grid import Grid
from retmask.runs import overview
from retmask.runs.run import Run

NAMES = jobs.Names("dose_curve", "This curve", "Its points are kept.")
RANGES = (
    ("dose_random_seeds", "the number of random draws", 0, 100),
    ("dose_trials", "the number of trials", 1, 10_000),
    ("dose_context_tokens", "the length in tokens", 256, 2**20),
)


def section(shown: maps.HeadMap, ref: ModelRef | None, grid: Grid) -> None:
    """The curves that have been measured for the map's model, and the form for another."""
    st.subheader("Dose curve", anchor=False, divider="gray")
    st.caption(
        "Recall and perplexity against the number of masked heads: the best heads of the map, and as many random ones. "
        "On needles, depths and a haystack that the map was not made with."
    )
    runs = [run for run in Run.all("dose") if run.config.get("scores") == shown.argument]
    if runs:
        _curve(runs)
    with st.expander("Measure a curve" if runs else "Measure the first curve", expanded=not runs, key="dose_form"):
        _form(shown, ref, grid)


def _form(shown: maps.HeadMap, ref: ModelRef | None, grid: Grid) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        few = ",".join(str(k) for k in KS if k <= grid.size // 2)
        ks = st.text_input("Masked heads", **session.kept("dose_ks", few))
        values = _values()
    try:
        wrong = session.out_of_range(*RANGES)
        if wrong:
            raise ValueError(wrong)
        config = _config(ref, ks, scores=shown.argument, **values)
    except ValueError as error:
        st.error(sentence(error))
        st.button("Start", disabled=True, key="dose_start")
        return
    n = len(config.points(grid))
    takes = _takes(shown, config, n)
    st.caption(
        f"{n} points{takes}. They go on without this page, and each is kept when it is done. The same as a command:"
    )
    st.code(shlex.join(config.command), language="bash", wrap_lines=True)
    st.button("Start", type="primary", key="dose_start", **jobs.starting(DOSE, config, "dose"))
    session.show_said("dose")


def _values() -> dict[str, Any]:
    """The widgets of the other settings, and what they hold, by name."""
    looks: dict[str, dict[str, Any]] = {
        "random_seeds": {"label": "Random draws of each", "width": 170},
        "trials": {"label": "Trials a point", "width": 140},
        "context_tokens": {"label": "Length in tokens", "step": 128},
        "layer_matched": {"label": "Same layers"},
        "exclude": {
            "label": "Never drawn",
            "placeholder": "retrieval heads",
            "width": 150,
            "help": mask_editor.EXCLUDE,
        },
    }
    return {name: form.widget(DoseSettings, name, "dose", **look) for name, look in looks.items()}


def _takes(shown: maps.HeadMap, config: DoseSettings, n: int) -> str:
    """How long so many points may take, by the last thing this machine has done with the model; empty where unknown."""
    done = (run for run in Run.all("dose") if run.status == "success" and run.config.get("model") == config.model)
    last, tokens = next(done, None), 0.0
    if last:
        size = (number(last.config.get(name)) for name in ("trials", "context_tokens"))
        tokens = math.prod(size, start=float(len(read_points(last.path))))
    elif shown.run and jobs.ours(shown.run) and shown.run.status == "success":
        last, tokens = shown.run, float(sum(trial.context_tokens for trial in shown.trials))
    seconds = overview.summary(last).seconds if last else None
    if not seconds or not tokens:
        return ""
    return f", about {overview.duration(seconds / tokens * n * config.trials * config.context_tokens)}"


def _config(ref: ModelRef | None, ks: str, **values: Any) -> DoseSettings:
    """The settings. ValueError, one sentence, for what cannot be."""
    if ref is None:
        raise ValueError("the model is missing: name its folder or its Hub id above")
    parts = [part for part in ks.replace(",", " ").split() if part]
    if not parts or not all(part.isdecimal() for part in parts):
        raise ValueError(f"{ks!r} is not a list of numbers of heads: write 1,2,4")
    config = DoseSettings(**ref.settings, ks=tuple(map(int, parts)), **values)
    config.tasks()
    return config


def _curve(runs: list[Run]) -> None:
    """One of the curves, with what became of its run."""
    newest = runs[0].reference
    picked, then = session.DOSE_RUN.get()
    by_name = {run.reference: run for run in runs} if then == newest else {}  # a new run is shown at once
    run = by_name.get(picked, runs[0])
    jobs.run_picker("Curve", runs, run, lambda name: session.DOSE_RUN.put((name, newest)), _facts)
    jobs.status_block(run, NAMES)
    points = read_points(run.path)
    if points:
        rows = dose_rows(points)
        draw_figure(dose_curve(points), f"dose-{run.id}", lambda: rows, key="chart-dose")
        over = rows[0]["over"]
        bars = f"too few for intervals, {over}" if rows[0]["low"] is None else f"bars are 95 % intervals over {over}"
        st.caption(
            f"{points[0]['trials']} trials a point; {bars}; the band goes from the least to the most of the random "
            "draws."
        )
    with st.expander("How this curve was made"):
        st.code(run.command, language="bash", wrap_lines=True)
        st.code(str(run.path), language=None, wrap_lines=True)


def _facts(run: Run) -> list[str]:
    return [f"{run.config.get('trials')} trials of {run.config.get('context_tokens')} tokens"]
