"""How far score sets agree on the Families page: every two of them in a matrix, two closely, one by its trials."""

from collections.abc import Sequence

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.families import matrix, sets, trials, two_sets
from app.families.sets import Shown
from app.shared import session
from app.shared.text import draw_figure, sentence
from retmask.families.agreement import Agreement, Agreements, every_two, set_agreement
from retmask.figures.rows import pair_rows
from retmask.heads.sets import STRANGERS, strangers


def section(shown: Sequence[Shown], on_heads: StreamlitPage) -> None:
    """The matrix of all pairs, two sets closely, and one detection by its trials."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kept = session.kept("agree_measure", "Overlap")
        measure = st.segmented_control("Agreement as", list(matrix.MEASURES), required=True, **kept) or "Overlap"
        k = _size(shown)
    st.caption(matrix.sentence(measure))
    if len(shown) > 1:
        agreements = _all(shown, measure, k)
        two_sets.section(shown, k, on_heads, _alike(shown, agreements))
    else:
        st.info("Choose a second score set above to see how far the two agree.")
    trials.section(shown, measure, k)


def _size(shown: Sequence[Shown]) -> int | None:
    """How many of the best heads count, None for the best 5 % of each grid."""
    most = max((each.set.grid.size for each in shown if each.set.grid), default=1000)
    says, kept = "how many heads of each set are its best; empty: 5 % of its grid", session.kept("agree_k", None)
    picked = st.number_input("Best heads (k)", step=1, placeholder="5 % of all", width=160, help=says, **kept)
    wrong = picked is not None and session.out_of_range(("agree_k", "the number of best heads", 1, most))
    if wrong:
        st.error(f"{sentence(wrong)} Until then it is 5 % of all.")
    return int(picked) if picked and not wrong else None


def _all(shown: Sequence[Shown], measure: str, k: int | None) -> Agreements:
    """The agreement of every two sets, drawn, and why it is not told of some."""
    stamps = tuple((each.name, each.stamp) for each in shown)
    agreements = session.remembered("agreement", (stamps, k), lambda: _pairs(shown, k))
    labels = [each.label for each in shown]
    figure = matrix.figure(labels, agreements, measure)
    with st.container(key="wide_all"):
        draw_figure(figure, "agreement", lambda: pair_rows(labels, agreements), key="chart-agreement")
    compared = [pair for pair, agreed in agreements.items() if isinstance(agreed, Agreement)]
    if any(strangers(shown[i].set, shown[j].set) for i, j in compared):
        st.caption(STRANGERS)
    if k and all(k <= each.set.grid.size for each in shown if each.set.grid):  # the command refuses more than there are
        st.code(sets.command(shown, k), language="bash", wrap_lines=True)
    reasons = {pair: reason for pair, reason in agreements.items() if isinstance(reason, str)}
    if reasons:
        n = len(reasons)
        with st.expander(f"{n} pair{'s' * (n > 1)} of sets cannot be compared head by head", key="agree_why"):
            rows = [{"one": labels[i], "other": labels[j], "why": why} for (i, j), why in reasons.items()]
            config = {name: st.column_config.TextColumn(width=220) for name in ("one", "other")}
            st.dataframe(rows, column_config=config, hide_index=True, key="table-why")
    return agreements


def _alike(shown: Sequence[Shown], agreements: Agreements) -> tuple[int, int]:
    """The first two sets that can be compared, of one model if there are such."""
    compared = [pair for pair, agreed in agreements.items() if not isinstance(agreed, str)] or [(0, 1)]
    return next((pair for pair in compared if len({shown[place].set.model for place in pair}) == 1), compared[0])


def _pairs(shown: Sequence[Shown], k: int | None) -> Agreements:
    return every_two([each.set for each in shown], lambda first, second: set_agreement(first, second, k))
