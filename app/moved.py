"""What moved: the map of a fine-tuned model beside that of the model before."""

import evidence
import maps
import state
import streamlit as st

from retmask import charts, style, tables
from retmask.scores import TOP_SHARE, HeadScores, spearman
from retmask.trace import jaccard

MOST = 10  # heads in the table, and outlined on the map


def section(base: maps.HeadMap, before: HeadScores, shown: maps.HeadMap, after: HeadScores) -> None:
    """The map of differences, how alike the two maps are in all, and the heads that moved most."""
    trials = f"{shown.model} ({after.n_trials} successful trials) minus {base.model} ({before.n_trials})"
    st.caption(f"{state.sentence(trials)[:-1]}, {_compared(base, shown)}")
    rows = tables.moved_rows(before, after)
    name = f"{base.model}-moved"
    with st.container(key="beside"):
        left, right = st.columns([11, 9], gap="medium")
        with right:
            _alike(before, after)
            _table(rows[:MOST])
            evidence.downloads(None, evidence.file_name(f"{name}-heads"), lambda: rows)
        with left:
            st.caption("Green heads copy more of the needle after fine-tuning, purple ones less; the ten that moved "
                       "most are outlined.")  # fmt: skip
            evidence.shown(charts.difference_map(before, after, MOST), name, lambda: rows, key="chart-moved")


def _compared(base: maps.HeadMap, shown: maps.HeadMap) -> str:
    """Which map it is compared with, and whether the trials of both are the same."""
    says = f"from the map «{state.sentence(maps.label(base.source))[:-1]}»."
    if not maps.same_trials(base.record, shown.record):
        says += " :orange[The two were measured on other trials, so part of what moved is not from the fine-tuning.]"
    return says


def _alike(before: HeadScores, after: HeadScores) -> None:
    """How alike the two maps are, in two figures."""
    correlation = spearman(before.mean, after.mean)
    top = [frozenset(scores.top_share()) for scores in (before, after)]
    figures = [
        ("Spearman", "–" if correlation is None else f"{correlation:.3f}",
         "rank correlation of all heads' mean scores; 1: the same order"),
        (f"Same top {style.percent(TOP_SHARE)}", f"{len(top[0] & top[1])} of {len(top[0])}",
         "heads that are among the best on both maps"),
        ("Jaccard", f"{jaccard(*top):.2f}", "of the best 5 % of heads: those on both maps of those on either"),
    ]  # fmt: skip
    for column, (name, value, hint) in zip(st.columns(3, gap="small"), figures, strict=True):
        column.metric(name, value, help=hint)


def _table(rows: list[tables.Row]) -> None:
    st.markdown("**The heads that moved most**")
    column = st.column_config
    interval = "mean score with its 95 % bootstrap interval"
    st.dataframe(
        {
            "head": [row["name"] for row in rows],
            "change": [row["change"] for row in rows],
            "before": [_interval(row, "before") for row in rows],
            "after": [_interval(row, "after") for row in rows],
            "rank": [f"{row['before_rank']} → {row['after_rank']}" for row in rows],
        },
        column_config={
            "head": column.TextColumn("head", width=58),
            "change": column.NumberColumn("change", width=62, format="%+.3f"),
            "before": column.TextColumn("before", width=126, help=interval),
            "after": column.TextColumn("after", width=126, help=interval),
            "rank": column.TextColumn("rank", width=66),
        },
        hide_index=True, key="table-moved",
    )  # fmt: skip


def _interval(row: tables.Row, when: str) -> str:
    return f"{row[when]:.3f} [{row[f'{when}_low']:.3f}, {row[f'{when}_high']:.3f}]"
