"""The dose curve on the page: start it, watch its points come, look at it."""

import math

import streamlit as st

from app.shared import jobs, maps, session
from app.shared.form import Form, show_command
from app.shared.models import ModelRef
from app.shared.text import draw_figure, sentence
from retmask.compare.dose import DOSE, KS, DoseSettings, read_points
from retmask.figures.masking import dose_curve
from retmask.figures.rows import dose_rows
from retmask.files import number
from retmask.heads.grid import Grid
from retmask.runs import overview
from retmask.runs.run import Run
from retmask.runs.settings import text

NAMES = jobs.Names("dose_curve", "This curve", "Its points are kept.")
FORM = Form(DoseSettings, "dose", apart=("model", "scores", "revision", "adapter"))  # these are the map's


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
    values = FORM.widgets(ks=text(tuple(k for k in KS if k <= grid.size // 2)))
    try:
        if ref is None:
            raise ValueError("the model is missing: name its folder or its Hub id above")
        config = FORM.settings(values, scores=shown.argument, **ref.settings)
        config.tasks()
        n = len(config.points(grid))
    except (ValueError, OSError) as error:
        st.error(sentence(error))
        st.button("Start", icon=":material/play_arrow:", disabled=True, key="dose_start")
        return
    takes = _takes(shown, config, n)
    show_command(config, f"{n} points{takes}. They go on without this page, and each is kept when it is done.")
    st.button(
        "Start", icon=":material/play_arrow:", type="primary", key="dose_start", **jobs.starting(DOSE, config, "dose")
    )
    session.show_said("dose")


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
