"""The Families page: score sets side by side, how few heads hold each, and whether two of them name the same heads."""

from collections.abc import Callable, Hashable, Sequence
from html import escape
from typing import Any, TypeVar

import plotly.graph_objects as go
import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.families import agreement, gains, sets
from app.families.sets import Shown
from app.shared import readers, session
from app.shared.figure import CHART_CONFIG, downloads, draw_figure
from app.shared.text import guarded, sentence
from retmask.families.concentration import depth_profile
from retmask.figures.concentration import (
    DASHES,
    FIGURES,
    SERIES,
    depth_profiles,
    figure_dots,
    lorenz_curves,
    rank_curves,
)
from retmask.figures.maps import small_multiples
from retmask.figures.rows import Row
from retmask.heads.detectors import DETECTORS
from retmask.heads.scores import THRESHOLD

VIEWS = ["Concentration", "Maps", "Depth", "Gain", "Agreement"]
T = TypeVar("T")
DEPTHS = 10  # parts of the depth
FEW = 4  # sets with warnings that are shown unasked
COPIES = "trials differ in their scores"  # in the warning of a set whose trials are mostly copies
WIDE = 3  # digits of a number
LONG = 30  # characters of a name that fit into its column in one line
STROKES = {"solid": "solid", "dash": "dashed", "dot": "dotted", "dashdot": "double"}  # in CSS


def page(on_heads: StreamlitPage) -> None:
    """Draw the page; `on_heads` is where heads are selected."""
    st.header("Families", anchor=False)
    st.caption("In which models do few heads hold the retrieval, and do two score sets name the same heads?")
    shown = sets.section()
    if shown:
        _table(shown)
        _figures(shown, on_heads)


@st.fragment
@guarded
def _figures(shown: Sequence[Shown], on_heads: StreamlitPage) -> None:
    """One of the views: what a click draws anew, and nothing else."""
    kept = session.kept("families_view", VIEWS[0])
    view = st.segmented_control("Figures", VIEWS, required=True, label_visibility="collapsed", **kept) or VIEWS[0]
    drawn: dict[str, Callable[[], None]] = {
        "Concentration": lambda: _concentration(shown),
        "Maps": lambda: _maps(shown),
        "Depth": lambda: _depth(shown),
        "Gain": lambda: gains.section(),
        "Agreement": lambda: agreement.section(shown, on_heads),
    }
    drawn[view]()


def _table(shown: Sequence[Shown]) -> None:
    """A row a set: what it is, and in figures with their intervals how few heads hold it."""
    line = st.container(horizontal=True, vertical_alignment="bottom")
    with line:
        st.number_input(
            "Threshold", step=0.05, format="%g", width=150, **session.kept("sets_threshold", THRESHOLD),
            help="a head whose mean score is at least this is counted; 0.1 is usual for copied needle tokens",
        )  # fmt: skip
        with st.popover("What the detectors measure", icon=":material/info:", type="tertiary", key="detectors"):
            _definitions({one.set.counting for one in shown})
    if wrong := sets.wrong_threshold():
        st.error(f"{sentence(wrong)} Until then it is {THRESHOLD:g}.")
    threshold = sets.threshold()
    with st.spinner("Working out intervals…"):
        rows = _rows(shown, threshold)
    with line:
        downloads(None, "score-sets", lambda: rows)
    columns = _columns(threshold)
    st.dataframe(
        {name: [say(row) for row in rows] for name, (say, _) in columns.items()},
        column_config={name: config for name, (_, config) in columns.items()},
        hide_index=True, height="content", key="table-sets",
        row_height=54 if any(len(str(row["label"])) > LONG for row in rows) else None,  # two lines of a name
    )  # fmt: skip
    st.caption(
        "In brackets: the trials whose scores differ from each other's, and 95 % bootstrap intervals, drawn over "
        "needles with all their trials; of a file that does not say its needles, over the trials that differ."
    )
    _warnings(shown)


def _rows(shown: Sequence[Shown], threshold: float) -> list[Row]:
    """One row of figures a set, under its name on this page."""
    return [readers.set_row(one.name, one.stamp, one.set, threshold) | {"label": one.label} for one in shown]


def _warnings(shown: Sequence[Shown]) -> None:
    """What to know of the sets before their numbers are read, a line a set; of copied trials it is never folded."""
    copies = [f"{one.label}: {said}" for one in shown for said in one.set.warnings if COPIES in said]
    if copies:
        st.warning("\n".join(f"- {sentence(line)}" for line in copies))
    others = {one.label: [said for said in one.set.warnings if COPIES not in said] for one in shown}
    lines = [f"{name}: {'; '.join(said)}" for name, said in others.items() if said]
    if lines:
        n = len(lines)
        words = f"Before you read the numbers of {n} of these sets" if n > 1 else "Before you read the numbers"
        with st.expander(words, expanded=n <= FEW, icon=":material/warning:", key="set_warnings"):
            st.markdown("\n".join(f"- {sentence(line)}" for line in lines))


def _definitions(counted: set[str]) -> None:
    """What each detector measures, those of the sets on the page first."""
    for name in sorted(DETECTORS, key=lambda name: name not in counted):
        known = DETECTORS[name]
        here = " (on this page)" if name in counted else ""
        st.markdown(f"**{known.name}**: {known.says}{here}  \n{known.definition}")
        st.caption(known.source)


def _columns(threshold: float) -> dict[str, tuple[Callable[[Row], Any], Any]]:
    """What stands in each column of the table, and how."""
    text = st.column_config.TextColumn
    return {
        "set": (lambda row: row["label"], text(width=205, pinned=True, help="model, detector, start of the run")),
        "family": (lambda row: row["family"], text(width=58)),
        "grid": (_grid, text(width=74, help="layers x query heads, or key/value heads (KV)")),
        "trials": (_trials, text(width=74, help="successful trials, in brackets those whose scores differ")),
        "over": (lambda row: row["over"] or "–", text(width=122, help="what the intervals are over, 3 at least")),
        f"≥ {threshold:g}": (_figure("above"), text(width=76, help="heads with at least this mean score")),
        "Gini": (_figure("gini", 2), text(width=98, help=HINTS["gini"])),
        "Hoyer": (_figure("hoyer", 2), text(width=98, help=HINTS["hoyer"])),
        "top 1 %": (_figure("top_1pct_share"), text(width=76, help=HINTS["top_1pct_share"])),
        "top 5 %": (_figure("top_5pct_share"), text(width=76, help=HINTS["top_5pct_share"])),
        "half in": (_figure("half_heads"), text(width=78, help=HINTS["half_heads"])),
        "effective": (_figure("effective_heads"), text(width=94, help=HINTS["effective_heads"])),
    }


HINTS = {
    "gini": "0: all heads score the same; near 1: one head holds everything",
    "hoyer": "0: all heads score the same; 1: one head holds everything (Hoyer 2004)",
    "top_1pct_share": "the part of all scores that the best 1 % of heads hold",
    "top_5pct_share": "the part of all scores that the best 5 % of heads hold",
    "half_heads": "the fewest heads that hold half of all scores",
    "effective_heads": "effective number of heads: exp of the entropy of the scores",
}


def _grid(row: Row) -> str:
    if not row["grid"]:
        return "not known"
    return f"{row['grid']} KV" if row["level"] == "kv" else str(row["grid"])


def _trials(row: Row) -> str:
    return "–" if row["trials"] is None else f"{_aligned(str(row['trials']))} ({row['distinct']})"


def _aligned(number: str) -> str:
    """A number with space before it: so texts stand and sort as their numbers do. Two spaces are about a digit wide."""
    return "  " * (WIDE - len(number)) + number


def _figure(name: str, digits: int = 0) -> Callable[[Row], str]:
    """What says a figure and its interval; shares in per cent. As texts they stand in the order of their numbers."""
    times = 100 if FIGURES[name].share else 1

    def said(value: float) -> str:
        return f"{times * value:.{digits}f}"

    def say(row: Row) -> str:
        value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
        if value is None:
            return "–"
        ends = "" if low is None or high is None else f" ({said(low)}–{said(high)})"
        return _aligned(said(value)) + ends

    return say


def _concentration(shown: Sequence[Shown]) -> None:
    """Lorenz and rank curves beside each other, and one of the figures with its intervals."""
    shown = _with_scores(shown)
    if not shown:
        return
    named = {one.label: one.set.scores.mean for one in shown}
    threshold = sets.threshold()
    relative = st.toggle("Ranks in % of the heads", **session.kept("ranks_relative", True))
    _legend(shown)
    with st.container(key="beside"):
        left, right = st.columns(2, gap="medium")
        with left:
            st.markdown("**How few heads hold the scores**")
            _curves(shown, "lorenz", lambda: lorenz_curves(named), lambda: curve_rows(shown))
        with right:
            st.markdown("**Scores by rank**")
            _curves(
                shown, "ranks", lambda: rank_curves(named, relative, threshold), lambda: curve_rows(shown),
                relative, threshold,
            )  # fmt: skip
    name = gains.figure_of("concentration_figure", "gini")
    rows = _rows(shown, threshold)
    draw_figure(figure_dots(rows, name), f"sets-{name}", lambda: rows, key="chart-dots")


def _with_scores(shown: Sequence[Shown]) -> list[Shown]:
    """The sets that are more than a list; it is said where others are left out, or all are."""
    scored = [one for one in shown if not one.set.ranking]
    if not scored:
        st.info("Lists of heads have no scores to draw: choose a map or a detection as well.")
    elif len(scored) < len(shown):
        st.caption("Lists of heads have no scores, and are left out here.")
    return scored


def _legend(shown: Sequence[Shown]) -> None:
    """The colours of the sets, once for all curves of a view."""
    lines = []
    for number, one in enumerate(shown):
        color = SERIES[number % len(SERIES)]
        dash = STROKES[DASHES[number // len(SERIES) % len(DASHES)]]
        line = f'<span style="border-top: 3px {dash} {color}; width: 1.6rem; flex: none;"></span>'
        words = f'<span style="overflow-wrap: anywhere;">{escape(one.label)}</span>'
        lines.append(f'<div style="display: flex; align-items: center; gap: 0.4rem;">{line}{words}</div>')
    st.html(
        f'<div style="display: flex; flex-wrap: wrap; gap: 0.2rem 1.4rem; font-size: 0.85rem;">{"".join(lines)}</div>'
    )


def _curves(
    shown: Sequence[Shown],
    name: str,
    make: Callable[[], go.Figure],
    rows: Callable[[], list[Row]],
    *settings: Hashable,
) -> None:
    """Curves without a legend of their own, which a narrow column has no room for; the PNG has it."""

    def both() -> tuple[go.Figure, go.Figure]:
        figure = make()
        return figure, go.Figure(figure).update_layout(showlegend=False, height=330, margin_b=48)

    figure, drawn = _kept(shown, name, both, *settings)
    st.plotly_chart(drawn, theme=None, config=CHART_CONFIG, key=f"chart-set-{name}")
    downloads(figure, f"sets-{name}", rows)


def _kept(shown: Sequence[Shown], name: str, make: Callable[[], T], *settings: Hashable) -> T:
    """What `make` makes of these sets, kept until they or the settings change: large figures take their time."""
    sets = tuple((one.name, one.label, one.stamp) for one in shown)
    return session.remembered(f"figure-{name}", (sets, *settings), make)


def _maps(shown: Sequence[Shown]) -> None:
    """The maps, small."""
    shown = _with_scores(shown)
    if not shown:
        return
    common = len({one.set.counting for one in shown}) == 1
    if common:
        common = st.toggle("One colour scale for all", **session.kept("maps_common", True))
    else:
        st.caption("These sets count in different ways, so each map has a colour scale of its own.")
    named = {one.label: one.set.scores for one in shown}
    figure = _kept(shown, "maps", lambda: small_multiples(named, common), common)
    with st.container(key="wide_maps"):
        draw_figure(figure, "maps", lambda: curve_rows(shown), key="chart-maps")


def _depth(shown: Sequence[Shown]) -> None:
    """The parts of the depth that hold the scores."""
    shown = _with_scores(shown)
    if not shown:
        return
    _legend(shown)
    named = {one.label: one.set.scores.mean for one in shown}
    _curves(shown, "depth", lambda: depth_profiles(named, DEPTHS), lambda: _depth_rows(shown))


def curve_rows(shown: Sequence[Shown]) -> list[Row]:
    """One row a head of each set, best first: its rank, also as a share (0-1) of all heads, and its mean."""
    return [
        {
            "set": one.label,
            "rank": rank,
            "rank_share": round(rank / one.set.scores.grid.size, 6),
            "name": str(head),
            "layer": head.layer,
            "head": head.head,
            "mean": round(float(one.set.scores.mean[head]), 6),
        }
        for one in shown
        for rank, head in enumerate(one.set.scores.top(one.set.scores.grid.size), start=1)
    ]


def _depth_rows(shown: Sequence[Shown]) -> list[Row]:
    """One row for each part of the depth of each set: where it lies (0-1), and its share of the sum (0-1)."""
    return [
        {"set": one.label, "from": part / DEPTHS, "to": (part + 1) / DEPTHS, "share": round(float(share), 6)}
        for one in shown
        for part, share in enumerate(depth_profile(one.set.scores.mean, DEPTHS))
    ]
