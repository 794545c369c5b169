"""Where two answers of a comparison part, what was lost and added, and how likely each found the other's words."""

import streamlit as st

from app.compare.answer_html import token_html
from app.compare.comparison import LiveComparison
from app.shared.text import draw_figure, in_one
from retmask.compare.comparison import Comparison, first_divergence
from retmask.figures.masking import logprob_lines
from retmask.figures.rows import logprob_rows

LEGEND = "Words that were <del>lost</del> and <ins>added</ins>:"


def section(live: LiveComparison, done: Comparison) -> None:
    """The first column against another one, and one text under the models of the others."""
    names = [column.name for column in done.columns]
    if len(names) < 2:
        st.caption("Differences need two columns: switch on another one and run again.")
        return
    second = names[1]
    if len(names) > 2:
        second = st.segmented_control(
            f"Compare {names[0]} with", names[1:], required=True, key=f"other-{'-'.join(names)}", default=names[1]
        )
    _texts(done, 0, names.index(second or names[1]))
    _likelihood(live, done, names)


def _texts(done: Comparison, first: int, second: int) -> None:
    """Two answers in one text, and the first token at which they part."""
    st.html(f'<div class="said">{_parting(done, first, second)} {LEGEND}</div>')
    st.html(in_one(done.text(first), done.text(second)))


def _parting(done: Comparison, first: int, second: int) -> str:
    step = first_divergence(done.token_ids[first], done.token_ids[second])
    if step is None:
        return "The two answers are the same."
    tokens = [token_html(done.tokens[column], step) for column in (first, second)]
    names = [done.columns[column].name for column in (first, second)]
    return f"They part at token {step + 1:,}: {tokens[0]} {names[0]}, {tokens[1]} {names[1]}."


def _likelihood(live: LiveComparison, done: Comparison, names: list[str]) -> None:
    """One text's log-probabilities under every column's model."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("**How likely each model finds the words of**")
        text = st.segmented_control(
            "Words of",
            names,
            required=True,
            default=names[0],
            key=f"text-{'-'.join(names)}",
            label_visibility="collapsed",
        )
    own = names.index(text or names[0])
    if not done.token_ids[own]:
        st.caption("This answer is empty.")
        return
    forced = done.forced[own]
    others = {name: forced[i].logprobs for i, name in enumerate(names) if i != own}
    kl = {name: forced[i].kl for i, name in enumerate(names) if i != own}
    tokens = done.tokens[own]
    draw_figure(
        logprob_lines(forced[own].logprobs, others, tokens, kl),
        f"{live.model}-{names[own]}-logprobs",
        lambda: logprob_rows(forced[own].logprobs, others, tokens, kl),
        key="chart-logprobs",
    )
    means = [f"{name} {sum(values) / len(values):.3f}" for name, values in kl.items()]
    st.caption(f"Mean divergence from the model that wrote it, in nats a token: {', '.join(means)}.")
