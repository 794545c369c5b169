"""Two score sets closely on the Families page: which heads both name, what differs, and what their masks do."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.families import masks
from app.families.matrix import MEASURES
from app.families.sets import Shown
from app.shared import selection, session
from app.shared.text import OUTLINED, draw_figure, sentence, trials_of
from retmask.families.agreement import Agreement, on_one_grid, set_agreement
from retmask.families.difference import difference
from retmask.figures import style
from retmask.figures.agreement import overlap_map
from retmask.figures.maps import difference_map
from retmask.figures.rows import Row, difference_rows
from retmask.heads.formats import Level
from retmask.heads.grid import Grid, HeadId
from retmask.heads.scores import HeadScores
from retmask.heads.sets import strangers

VIEWS = ["Best heads", "Differences"]


class Two(NamedTuple):
    """Two sets, the scores of both on one grid, and how many of their heads are the best."""

    set_a: Shown
    set_b: Shown
    first: HeadScores
    second: HeadScores
    k: int

    @property
    def level(self) -> Level:
        """Whether their heads are query heads or key/value heads."""
        return self.set_a.set.level

    @property
    def has_no_grid(self) -> bool:
        """Whether both are lists, and nothing says their model's grid."""
        return self.set_a.set.grid is None and self.set_b.set.grid is None


def section(shown: Sequence[Shown], k: int | None, on_heads: StreamlitPage, first_two: tuple[int, int]) -> None:
    """Two of the sets: how far they agree, which heads are whose, what differs, and what their masks do."""
    st.subheader("Two sets closely", anchor=False, divider="gray")
    with st.container(key="closely"):
        left, right = st.columns(2, gap="medium")
        with left:
            set_a = choice("Set A", "agree_a", shown, first_two[0])
        with right:
            set_b = choice("Set B", "agree_b", shown, first_two[1])
    if set_a is set_b:
        st.info("A and B are the same set: choose another for one of them.")
        return
    try:
        agreed = set_agreement(set_a.set, set_b.set, k)
    except ValueError as error:
        st.warning(f"These two cannot be compared head by head: {sentence(error)}")
        return
    _alike(agreed)
    if strangers(set_a.set, set_b.set):
        st.caption(
            "The two are of models with different names. Heads of the same place are the same head only where one "
            "model was made from the other."
        )
    two = Two(set_a, set_b, *on_one_grid(set_a.set, set_b.set), agreed.k)
    _heads(two, on_heads)
    masks.behaviour(set_a, set_b, (two.first.top(two.k), two.second.top(two.k)))


def choice(title: str, place: str, shown: Sequence[Shown], default: int) -> Shown:
    """The set that is picked there; the session keeps it for as long as it is on the page."""
    sets = {each.name: each for each in shown}
    names, key = list(sets), f"shown_{place}"
    kept = session.value(place)
    session.put(key, kept if kept in sets else names[min(default, len(names) - 1)])
    labels = {name: each.label for name, each in sets.items()}
    picked = st.selectbox(
        title, names, key=key, format_func=lambda name: labels.get(name, name), on_change=_pick, args=(place, key)
    )
    return sets[picked or names[0]]


def _pick(place: str, key: str) -> None:
    session.put(place, session.value(key))


def _alike(agreed: Agreement) -> None:
    """How far two sets agree, in figures."""
    chance = f"; chance gives {style.percent(round(agreed.k / agreed.n_heads, 3))}" if agreed.n_heads else ""
    shared = round(agreed.overlap * agreed.k, 6)  # without what dividing by k leaves
    about = "" if shared.is_integer() else "about "
    figures = [
        ("Spearman", "–" if agreed.spearman is None else f"{agreed.spearman:.3f}", MEASURES["Spearman"][1]),
        ("Jaccard", f"{agreed.jaccard:.2f}", MEASURES["Jaccard"][1]),
        ("Overlap", f"{agreed.overlap:.2f}", f"{MEASURES['Overlap'][1]}{chance}"),
        ("Shared", f"{about}{round(shared)} of {agreed.k}", "heads that are among the best of both"),
    ]
    with st.container(horizontal=True, gap="medium"):
        for name, value, hint in figures:
            st.metric(name, value, help=hint, width="content")


def _heads(two: Two, on_heads: StreamlitPage) -> None:
    """The best heads of two sets on a map and as lists, or the map of what differs."""
    name = f"{two.set_a.label}-and-{two.set_b.label}"
    listed = two.set_a.set.ranking or two.set_b.set.ranking
    views = VIEWS[:1] if listed else VIEWS
    if listed and session.value("agree_view", VIEWS[0]) != VIEWS[0]:
        session.fill(agree_view=VIEWS[0])
    with st.container(key="beside"):
        left, right = st.columns([11, 9], gap="medium")
        with left:
            kept = session.kept("agree_view", VIEWS[0])
            view = st.segmented_control("View of two", views, required=True, label_visibility="collapsed", **kept)
            if two.has_no_grid:
                st.caption("Both are lists, and their model's grid is not known: there is no map to draw.")
            elif view == VIEWS[1]:
                _differences(two, name)
            else:
                figure = overlap_map(two.first, two.second, f"A {two.set_a.label}", f"B {two.set_b.label}", two.k)
                draw_figure(figure, f"{name}-best", lambda: _best_rows(two), key="chart-overlap")
        with right:
            _ties(two)
            _lists(two)
            _select(two, on_heads)


def _differences(two: Two, name: str) -> None:
    moved = session.remembered("agree_moved", two[2:4], lambda: difference(two.first, two.second))
    st.caption(f"B minus A: green heads score higher in B, purple ones in A. {trials_of(moved)}")
    if two.first.counting != two.second.counting:
        st.caption(
            ":orange[The two count in different ways, so the size of a difference means little: compare the order.]"
        )
    figure = difference_map(moved, OUTLINED)
    draw_figure(figure, f"{name}-differences", lambda: difference_rows(moved), key="chart-differences")


def _tops(two: Two) -> dict[str, list[HeadId]]:
    """The best heads by whose they are, best first."""
    of_a, of_b = two.first.top(two.k), two.second.top(two.k)
    return {
        "Only A": [head for head in of_a if head not in of_b],
        "Both": [head for head in of_a if head in of_b],
        "Only B": [head for head in of_b if head not in of_a],
    }


def _best_rows(two: Two) -> list[Row]:
    """One row for each head that is among the best of either."""
    return [
        {
            "name": _name(head, two.level),
            "layer": head.layer,
            "head": head.head,
            "among the best of": whose,
            "mean_a": round(float(two.first.mean[head]), 6),
            "rank_a": int(two.first.rank[head]),
            "mean_b": round(float(two.second.mean[head]), 6),
            "rank_b": int(two.second.rank[head]),
        }
        for whose, heads in _tops(two).items()
        for head in heads
    ]


def _ties(two: Two) -> None:
    """How many heads share the score at the cut of a set, where not all of them are among its best."""
    for letter, scores in (("A", two.first), ("B", two.second)):
        means = np.round(scores.mean, 12)  # as `agreement` tells ties
        ranked = means[tuple(scores.order.T)]
        if 0 < two.k < len(ranked) and ranked[two.k - 1] == ranked[two.k]:
            n = int((means == ranked[two.k]).sum())
            st.caption(f"{n} heads of {letter} share the score at the cut; those named are the first of them by layer.")


def _lists(two: Two) -> None:
    """The names of the best heads, by whose they are."""
    kind = "key/value head" if two.level == "kv" else "head"
    for whose, heads in _tops(two).items():
        st.markdown(f"**{whose}**, {len(heads)} {kind}{'s' * (len(heads) != 1)}")
        if heads:
            long = len(heads) > 60
            names = ", ".join(_name(head, two.level) for head in heads)
            st.code(names, language=None, wrap_lines=True, height=120 if long else "content")


def _name(head: HeadId, level: Level) -> str:
    """A head's name; that of a key/value head is none that a mask would take for a query head."""
    return f"L{head.layer} KV{head.head}" if level == "kv" else str(head)


def _select(two: Two, on_heads: StreamlitPage) -> None:
    """Buttons that select these heads on the Heads page, where its map has their grid."""
    if two.level == "kv":
        st.caption("These are key/value heads: query heads alone are selected on Heads.")
        return
    if two.has_no_grid:
        st.caption("Both are lists, and their model's grid is not known, so they cannot be selected on Heads.")
        return
    grid, here = two.first.grid, _open_grid()
    if here is None or here[:2] != grid[:2]:
        st.caption("The map that is open on Heads has another grid. To select these heads, open one of the two there.")
        with st.container(horizontal=True):
            for letter, shown in (("A", two.set_a), ("B", two.set_b)):
                if not shown.set.ranking and shown.set.level == "query":
                    _open(letter, shown)
        return
    n = len(selection.mask(here))
    st.markdown(f"**Select on Heads** ({n} selected there now)")
    ways: dict[str, Sequence[HeadId]] = {"A's heads": two.first.top(two.k), "B's heads": two.second.top(two.k)}
    with st.container(horizontal=True, vertical_alignment="center"):
        for text, heads in {**ways, **_tops(two)}.items():
            st.button(
                text, key=f"agree_select_{text}", on_click=selection.select, args=(heads, here), disabled=not heads
            )
        st.page_link(on_heads, label="See them on Heads", icon=":material/grid_on:", width="content")


def _open(letter: str, shown: Shown) -> None:
    """The button that opens a set on Heads; the sidebar, which names what is open there, is drawn anew with it."""
    if st.button(f"Open {letter} on Heads", key=f"agree_open_{letter}", icon=":material/grid_on:"):
        selection.choose(shown.name)
        st.rerun(scope="app")


def _open_grid() -> Grid | None:
    """The grid of the map that is open on Heads, None where there is none."""
    try:
        return selection.current_map().grid
    except ValueError:
        return None
