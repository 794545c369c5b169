"""The dose curve on the page: start it, watch its points come, look at it."""

import math
import shlex
from typing import Any

import streamlit as st

from app.heads import mask_editor
from app.shared import jobs, maps, session
from app.shared.figure import draw_figure
from app.shared.models import ModelRef
from app.shared.text import sentence
from retmask.compare.dose import DOSE, KS, DoseSettings, read_points
from retmask.figures.masking import dose_curve
from retmask.figures.rows import dose_rows
from retmask.files import number
from retmask.heads.grid import Grid
from retmask.runs import overview
from retmask.runs.run import Run

NAMES = jobs.Names("dose_curve", "This curve", "Its points are kept.")
RANGES = (
    ("dose_seeds", "the number of random draws", 0, 100),
    ("dose_trials", "the number of trials", 1, 10_000),
    ("dose_tokens", "the length in tokens", 256, 2**20),
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
    kept: dict[str, Any] = {"persist_state": "session"}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        ks = st.text_input("Masked heads", ",".join(str(k) for k in KS if k <= grid.size // 2), key="dose_ks", **kept)
        seeds = st.number_input("Random draws of each", value=5, step=1, key="dose_seeds", width=170, **kept)
        trials = st.number_input("Trials a point", value=24, step=1, key="dose_trials", width=140, **kept)
        tokens = st.number_input("Length in tokens", value=512, step=128, key="dose_tokens", width=150, **kept)
        says = "draw the random heads from the best heads' layers"
        matched = st.toggle("Same layers", key="dose_matched", help=says, **kept)
        drawn, says = "retrieval heads", mask_editor.EXCLUDE
        exclude = st.text_input("Never drawn", placeholder=drawn, key="dose_exclude", width=150, help=says, **kept)
    try:
        wrong = session.out_of_range(*RANGES)
        if wrong:
            raise ValueError(wrong)
        config = _config(ref, shown.argument, ks, int(seeds), matched, int(trials), int(tokens), exclude.strip())
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
    st.button("Start", type="primary", key="dose_start", on_click=_start, args=(config,))
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


def _config(
    ref: ModelRef | None, scores: str, ks: str, seeds: int, matched: bool, trials: int, tokens: int, exclude: str
) -> DoseSettings:
    """The settings. ValueError, one sentence, for what cannot be."""
    if ref is None:
        raise ValueError("the model is missing: name its folder or its Hub id above")
    parts = [part for part in ks.replace(",", " ").split() if part]
    if not parts or not all(part.isdecimal() for part in parts):
        raise ValueError(f"{ks!r} is not a list of numbers of heads: write 1,2,4")
    config = DoseSettings(
        **ref.settings,
        scores=scores,
        ks=tuple(map(int, parts)),
        random_seeds=seeds,
        layer_matched=matched,
        trials=trials,
        context_tokens=tokens,
        exclude=exclude,
    )
    config.tasks()
    return config


def _start(settings: DoseSettings) -> None:
    jobs.begin(DOSE, settings, "dose")


def _curve(runs: list[Run]) -> None:
    """One of the curves, with what became of its run."""
    names = {run.id: run for run in runs}
    key = f"dose_run-{len(runs)}"  # a new run is shown at once
    picked = st.selectbox("Curve", list(names), key=key, format_func=lambda id: _label(names[id]))
    run = names[picked or runs[0].id]
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


def _label(run: Run) -> str:
    when = overview.when(str(run.record.get("created", "")), seconds=True)[5:]
    config = run.config
    return f"{when} · {config.get('trials')} trials of {config.get('context_tokens')} tokens · {run.id}"
