"""The Families page: score sets side by side, how few heads hold each, and whether two of them name the same heads."""

from collections.abc import Sequence

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.families import agreement, curves, gains, sets, table
from app.families.sets import Shown
from app.shared import session
from app.shared.text import guarded

VIEWS = ["Concentration", "Maps", "Depth", "Gain", "Agreement"]
DRAWN = {"Concentration": curves.concentration, "Maps": curves.maps, "Depth": curves.depth}


def page(on_heads: StreamlitPage) -> None:
    """Draw the page; `on_heads` is where heads are selected."""
    st.header("Families", anchor=False)
    st.caption("In which models do few heads hold the retrieval, and do two score sets name the same heads?")
    shown = sets.section()
    if shown:
        table.section(shown)
        _figures(shown, on_heads)


@st.fragment
@guarded
def _figures(shown: Sequence[Shown], on_heads: StreamlitPage) -> None:
    """One of the views: what a click draws anew, and nothing else."""
    kept = session.kept("families_view", VIEWS[0])
    view = st.segmented_control("Figures", VIEWS, required=True, label_visibility="collapsed", **kept)
    if view == "Gain":
        gains.section()
    elif view == "Agreement":
        agreement.section(shown, on_heads)
    elif scored := curves.with_scores(shown):
        DRAWN[view](scored)
