"""The table of score sets: what each is, and in figures with their intervals how few heads hold it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import streamlit as st

from app.families import sets
from app.families.sets import Shown
from app.shared import readers, session
from app.shared.text import downloads, sentence
from retmask.figures.concentration import FIGURES
from retmask.figures.rows import Row
from retmask.heads.detectors import DETECTORS
from retmask.heads.scores import THRESHOLD

FEW = 4  # sets with warnings that are shown unasked
COPIES = "trials differ in their scores"  # in the warning of a set whose trials are mostly copies
LONG = 30  # characters of a name that fit into its column in one line
AT_LEAST = "a head whose mean score is at least this is counted; 0.1 is usual for copied needle tokens"


class Column(NamedTuple):
    """A figure of concentration in the table: its title, its digits, what it says; shares are in per cent."""

    title: str
    digits: int
    help: str


COLUMNS = {
    "above": Column("≥", 0, "heads with at least this mean score"),
    "gini": Column("Gini", 2, "0: all heads score the same; near 1: one head holds everything"),
    "hoyer": Column("Hoyer", 2, "0: all heads score the same; 1: one head holds everything (Hoyer 2004)"),
    "top_1pct_share": Column("top 1 %", 0, "the part of all scores that the best 1 % of heads hold"),
    "top_5pct_share": Column("top 5 %", 0, "the part of all scores that the best 5 % of heads hold"),
    "half_heads": Column("half in", 0, "the fewest heads that hold half of all scores"),
    "effective_heads": Column("effective", 0, "effective number of heads: exp of the entropy of the scores"),
}


def section(shown: Sequence[Shown]) -> None:
    """The threshold, the table, and what to know before its numbers are read."""
    line = st.container(horizontal=True, vertical_alignment="bottom")
    with line:
        threshold = session.SETS_THRESHOLD.kept()
        st.number_input("Threshold", step=0.05, format="%g", width=150, help=AT_LEAST, **threshold)
        with st.popover("What the detectors measure", icon=":material/info:", type="tertiary", key="detectors"):
            _definitions({each.set.counting for each in shown})
    if wrong := sets.wrong_threshold():
        st.error(f"{sentence(wrong)} Until then it is {THRESHOLD:g}.")
    with st.spinner("Working out intervals…"):
        rows = figure_rows(shown)
    with line:
        downloads(None, "score-sets", lambda: rows)
    is_long = any(len(str(row["label"])) > LONG for row in rows)
    high = 54 if is_long else None  # two lines of a name
    config = _config()
    st.dataframe(
        _values(rows), column_config=config, hide_index=True, height="content", row_height=high, key="sets-table"
    )
    st.caption(
        "Intervals are 95 % bootstrap intervals, drawn over needles with all their trials; of a file that does not say "
        "its needles, over the trials whose scores differ from each other's."
    )
    _warnings(shown)


def figure_rows(shown: Sequence[Shown]) -> list[Row]:
    """One row of figures a set, under its name on this page."""
    threshold = sets.threshold()
    return [readers.set_row(each.name, each.stamp, each.set, threshold) | {"label": each.label} for each in shown]


def _values(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """What stands in the columns: each figure as a number, and its interval as a text beside it."""
    values = {
        "set": [row["label"] for row in rows],
        "family": [row["family"] for row in rows],
        "grid": [_grid(row) for row in rows],
        "trials": [row["trials"] for row in rows],
        "over": [row["over"] or "–" for row in rows],
    }
    for name, column in COLUMNS.items():
        values[_title(name)] = [_share(name, row[name]) for row in rows]
        ends = [(row[f"{name}_low"], row[f"{name}_high"]) for row in rows]
        values[f"{_title(name)} 95 %"] = [_interval(name, low, high, column.digits) for low, high in ends]
    return values | {"distinct": [row["distinct"] for row in rows]}


def _config() -> dict[str, Any]:
    """How the columns are shown."""
    text, number = st.column_config.TextColumn, st.column_config.NumberColumn
    config: dict[str, Any] = {
        "set": text(width=205, pinned=True, help="model, detector, start of the run"),
        "family": text(width=58),
        "grid": text(width=66, help="layers x query heads, or key/value heads (KV)"),
        "trials": number(width=48, help="successful trials"),
        "distinct": number(width=60, help="trials whose scores differ from each other's"),
        "over": text(width=122, help="what the intervals are over, 3 at least"),
    }
    for name, column in COLUMNS.items():
        config[_title(name)] = number(
            width=max(52, 8 * len(column.title)), format=f"%.{column.digits}f", help=column.help
        )
        title = f"{_title(name)} 95 %"
        config[title] = text(width=max(74, 7 * len(title)), help=f"interval of {_title(name)}")
    return config


def _title(name: str) -> str:
    return f"≥ {sets.threshold():g}" if name == "above" else COLUMNS[name].title


def _share(name: str, value: float | None) -> float | None:
    """A figure as the table has it: a share in per cent."""
    return None if value is None else 100 * value if FIGURES[name].share else value


def _interval(name: str, low: float | None, high: float | None, digits: int) -> str:
    ends = [_share(name, end) for end in (low, high)]
    return "–".join(f"{end:.{digits}f}" for end in ends if end is not None)


def _grid(row: Row) -> str:
    if not row["grid"]:
        return "not known"
    return f"{row['grid']} KV" if row["level"] == "kv" else str(row["grid"])


def _warnings(shown: Sequence[Shown]) -> None:
    """What to know of the sets before their numbers are read, a line a set; of copied trials it is never folded."""
    copies = [f"{each.label}: {warning}" for each in shown for warning in each.set.warnings if COPIES in warning]
    if copies:
        st.warning("\n".join(f"- {sentence(line)}" for line in copies))
    others = {each.label: [warning for warning in each.set.warnings if COPIES not in warning] for each in shown}
    lines = [f"{label}: {'; '.join(warnings)}" for label, warnings in others.items() if warnings]
    if lines:
        n = len(lines)
        title = f"Before you read the numbers of {n} of these sets" if n > 1 else "Before you read the numbers"
        with st.expander(title, expanded=n <= FEW, icon=":material/warning:", key="set_warnings"):
            st.markdown("\n".join(f"- {sentence(line)}" for line in lines))


def _definitions(counted: set[str]) -> None:
    """What each detector measures, those of the sets on the page first."""
    for name in sorted(DETECTORS, key=lambda name: name not in counted):
        detector = DETECTORS[name]
        here = " (on this page)" if name in counted else ""
        st.markdown(f"**{detector.name}**: {detector.says}{here}  \n{detector.definition}")
        st.caption(detector.source)
