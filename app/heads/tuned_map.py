"""What moved: the map of a fine-tuned model beside that of the model before."""

from dataclasses import replace

import streamlit as st

from app.shared import jobs, maps, models, selection, session
from app.shared.maps import HeadMap
from app.shared.models import Tuned
from app.shared.text import OUTLINED, downloads, draw_figure, file_name, sentence, trials_of
from retmask.compare.trace import jaccard
from retmask.detect.job import DETECT, DetectSettings
from retmask.families.difference import difference
from retmask.figures import style
from retmask.figures.maps import difference_map
from retmask.figures.rows import Row, difference_rows
from retmask.heads.intervals import span
from retmask.heads.scores import TOP_SHARE, HeadScores, spearman
from retmask.runs.run import Run
from retmask.runs.settings import from_record

ASKED = ("counting", "scored", "template", "haystack")  # what a trial is besides its needle, length and depth


def section(base: maps.HeadMap, before: HeadScores, shown: maps.HeadMap, after: HeadScores) -> None:
    """The map of differences, how alike the two maps are in all, and the heads that moved most."""
    moved = session.remembered("moved", (before, after), lambda: difference(before, after))
    st.caption(f"{sentence(f'{shown.model} minus {base.model}')[:-1]}, {_compared(base, shown)}")
    st.caption(trials_of(moved))
    rows = difference_rows(moved)
    name = f"{base.model}-moved"
    with st.container(key="beside"):
        left, right = st.columns([11, 9], gap="medium")
        with right:
            _alike(moved.before, moved.after)
            _table(rows[:OUTLINED])
            downloads(None, file_name(f"{name}-heads"), lambda: rows)
        with left:
            st.caption("Green heads copy more of the needle after fine-tuning, purple ones less.")
            draw_figure(difference_map(moved, OUTLINED), name, lambda: rows, key="chart-moved")


def _compared(base: maps.HeadMap, shown: maps.HeadMap) -> str:
    """Which map it is compared with, and whether the trials of both were asked and scored alike."""
    says = f'from the map "{sentence(maps.label(base.source))[:-1]}".'
    if any(base.record.get(name) != shown.record.get(name) for name in ASKED):
        says += " :orange[The two were asked or scored otherwise, so part of what moved is not from the fine-tuning.]"
    return says


def _alike(before: HeadScores, after: HeadScores) -> None:
    """How alike the two maps are, in two figures."""
    correlation = spearman(before.mean, after.mean)
    top = [frozenset(scores.top_share()) for scores in (before, after)]
    left, middle, right = st.columns(3, gap="small")
    both, rank = "heads that are among the best on both maps", "rank correlation of all heads' mean scores; 1: the same"
    left.metric("Spearman", "–" if correlation is None else f"{correlation:.3f}", help=f"{rank} order")
    middle.metric(f"Same top {style.percent(TOP_SHARE)}", f"{len(top[0] & top[1])} of {len(top[0])}", help=both)
    either = "of the best 5 % of heads: those on both maps of those on either"
    right.metric("Jaccard", f"{jaccard(*top):.2f}", help=either)


def _table(rows: list[Row]) -> None:
    st.markdown("**The heads that moved most**")
    column, mean = st.column_config, "mean score in the paired trials"
    cells = {name: [row[name] for row in rows] for name in ("change", "before", "after")}
    cells["head"] = [row["name"] for row in rows]
    cells["95 % interval"] = [span(row["low"], row["high"], "+.3f") for row in rows]
    cells["rank"] = [f"{row['before_rank']} → {row['after_rank']}" for row in rows]
    columns = {
        "head": column.TextColumn("head", width=58),
        "change": column.NumberColumn("change", width=62, format="%+.3f"),
        "95 % interval": column.TextColumn("95 % interval", width=126, help="of the change"),
        "before": column.NumberColumn("before", width=62, format="%.3f", help=mean),
        "after": column.NumberColumn("after", width=62, format="%.3f", help=mean),
        "rank": column.TextColumn("rank", width=66),
    }
    st.dataframe({name: cells[name] for name in columns}, column_config=columns, hide_index=True, key="table-moved")


def detection(shown: HeadMap) -> None:
    """The way from a map to that of the tuned model: its own map, or the detection that makes it."""
    tuned = models.tuned_for(shown.ref)
    config = _config(tuned, shown) if tuned and shown.scores else None
    if tuned is None or config is None:
        return
    done = _map_of(config)
    if done:
        label, icon = "Map of the tuned model", ":material/model_training:"
        st.button(label, icon=icon, key="tuned_map", on_click=selection.choose, args=(done.id,))
    else:
        label, icon = "Detect on the tuned model", ":material/radar:"
        says = f"the same trials with {tuned}; then this page shows what moved"
        st.button(label, icon=icon, key="tuned_detect", on_click=_detect, args=(config,), help=says)
    session.show_said("tuned_map")


def _config(tuned: Tuned, shown: HeadMap) -> DetectSettings | None:
    """The detection that made a map, of the tuned model; None where the map does not say how it was made."""
    try:
        config = from_record(DetectSettings, shown.record["config"])
    except (KeyError, TypeError, ValueError):
        return None
    return replace(config, **tuned.ref.settings)


def _map_of(config: DetectSettings) -> Run | None:
    """The newest detection with these settings that goes on or is done."""
    return next((run for run in DETECT.alike(config) if run.is_active or run.status == "success"), None)


def _detect(config: DetectSettings) -> None:
    if run := jobs.begin(DETECT, config, "tuned_map"):
        selection.choose(run.id)
