"""The figures of score sets: curves of concentration and depth, and the maps themselves, small."""

from collections.abc import Callable, Hashable, Sequence
from html import escape
from typing import TypeVar

import plotly.graph_objects as go
import streamlit as st

from app.families import sets
from app.families.gains import figure_of
from app.families.sets import Shown
from app.families.table import figure_rows
from app.shared import session
from app.shared.text import CHART_CONFIG, downloads, draw_figure
from retmask.families.concentration import depth_profile
from retmask.figures.concentration import DASHES, depth_profiles, figure_dots, lorenz_curves, rank_curves
from retmask.figures.maps import small_multiples
from retmask.figures.rows import Row
from retmask.figures.style import SERIES

T = TypeVar("T")
DEPTHS = 10  # parts of the depth
STROKES = {"solid": "solid", "dash": "dashed", "dot": "dotted", "dashdot": "double"}  # in CSS
LEGEND = "display: flex; flex-wrap: wrap; gap: 0.2rem 1.4rem; font-size: 0.85rem;"


def concentration(shown: Sequence[Shown]) -> None:
    """Lorenz and rank curves beside each other, and one of the figures with its intervals."""
    means = {each.label: each.set.scores.mean for each in shown}
    threshold = sets.threshold()
    relative = st.toggle("Ranks in % of the heads", **session.kept("ranks_relative", True))
    _legend(shown)
    with st.container(key="beside"):
        left, right = st.columns(2, gap="medium")
        with left:
            st.markdown("**How few heads hold the scores**")
            _curves(shown, "lorenz", lambda: lorenz_curves(means), curve_rows)
        with right:
            st.markdown("**Scores by rank**")
            ranks = (relative, threshold)
            _curves(shown, "ranks", lambda: rank_curves(means, relative, threshold), curve_rows, *ranks)
    name = figure_of("concentration_figure", "gini")
    rows = figure_rows(shown)
    draw_figure(figure_dots(rows, name), f"sets-{name}", lambda: rows, key="chart-dots")


def maps(shown: Sequence[Shown]) -> None:
    """The maps, small."""
    common = len({each.set.counting for each in shown}) == 1
    if common:
        common = st.toggle("One colour scale for all", **session.kept("maps_common", True))
    else:
        st.caption("These sets count in different ways, so each map has a colour scale of its own.")
    scores = {each.label: each.set.scores for each in shown}
    figure = _kept(shown, "maps", lambda: small_multiples(scores, common), common)
    with st.container(key="wide_maps"):
        draw_figure(figure, "maps", lambda: curve_rows(shown), key="chart-maps")


def depth(shown: Sequence[Shown]) -> None:
    """The parts of the depth that hold the scores."""
    _legend(shown)
    means = {each.label: each.set.scores.mean for each in shown}
    _curves(shown, "depth", lambda: depth_profiles(means, DEPTHS), depth_rows)


def with_scores(shown: Sequence[Shown]) -> list[Shown]:
    """The sets that are more than a list; it is said where others are left out, or all are."""
    scored = [each for each in shown if not each.set.ranking]
    if not scored:
        st.info("Lists of heads have no scores to draw: choose a map or a detection as well.")
    elif len(scored) < len(shown):
        st.caption("Lists of heads have no scores, and are left out here.")
    return scored


def _legend(shown: Sequence[Shown]) -> None:
    """The colours of the sets, once for all curves of a view."""
    lines = []
    for number, each in enumerate(shown):
        color = SERIES[number % len(SERIES)]
        dash = STROKES[DASHES[number // len(SERIES) % len(DASHES)]]
        line = f'<span style="border-top: 3px {dash} {color}; width: 1.6rem; flex: none;"></span>'
        label = f'<span style="overflow-wrap: anywhere;">{escape(each.label)}</span>'
        lines.append(f'<div style="display: flex; align-items: center; gap: 0.4rem;">{line}{label}</div>')
    st.html(f'<div style="{LEGEND}">{"".join(lines)}</div>')


def _curves(
    shown: Sequence[Shown],
    name: str,
    make: Callable[[], go.Figure],
    rows: Callable[[Sequence[Shown]], list[Row]],
    *settings: Hashable,
) -> None:
    """Curves without a legend of their own, which a narrow column has no room for; the PNG has it."""

    def both() -> tuple[go.Figure, go.Figure]:
        figure = make()
        return figure, go.Figure(figure).update_layout(showlegend=False, height=330, margin_b=48)

    figure, drawn = _kept(shown, name, both, *settings)
    st.plotly_chart(drawn, theme=None, config=CHART_CONFIG, key=f"chart-set-{name}")
    downloads(figure, f"sets-{name}", lambda: rows(shown))


def _kept(shown: Sequence[Shown], name: str, make: Callable[[], T], *settings: Hashable) -> T:
    """What `make` makes of these sets, kept until they or the settings change: large figures take their time."""
    stamps = tuple((each.name, each.label, each.stamp) for each in shown)
    return session.remembered(f"figure-{name}", (stamps, *settings), make)


def curve_rows(shown: Sequence[Shown]) -> list[Row]:
    """One row a head of each set, best first: its rank, also as a share (0-1) of all heads, and its mean."""
    return [
        {
            "set": each.label,
            "rank": rank,
            "rank_share": round(rank / each.set.scores.grid.size, 6),
            "name": str(head),
            "layer": head.layer,
            "head": head.head,
            "mean": round(float(each.set.scores.mean[head]), 6),
        }
        for each in shown
        for rank, head in enumerate(each.set.scores.top(each.set.scores.grid.size), start=1)
    ]


def depth_rows(shown: Sequence[Shown]) -> list[Row]:
    """One row for each part of the depth of each set: where it lies (0-1), and its share of the sum (0-1)."""
    return [
        {"set": each.label, "from": part / DEPTHS, "to": (part + 1) / DEPTHS, "share": round(float(share), 6)}
        for each in shown
        for part, share in enumerate(depth_profile(each.set.scores.mean, DEPTHS))
    ]
