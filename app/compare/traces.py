"""The trace of an answer: which heads copied which of its tokens, and from where in the context."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import streamlit as st

from app.compare.answer_html import context_html, marked_html, source_html
from app.compare.comparison import LiveComparison
from app.shared import session
from app.shared.text import draw_figure, token_text, where_html
from retmask.compare.comparison import Comparison
from retmask.compare.trace import Trace
from retmask.figures.masking import trace_raster
from retmask.figures.rows import trace_rows
from retmask.heads.grid import HeadId

STATIC = 20  # heads of the fixed set that arXiv 2602.11162 compares with
MOST_SOURCES = 6
MEASURES = (
    "mean Jaccard index of the heads that copied a token and the selected heads, over tokens that were copied",
    f"the same with the best {STATIC} heads of the map (arXiv 2602.11162)",
    "mean Jaccard index of the heads that copied a token and those that copied the next (arXiv 2602.11162)",
    "of the heads' shares of all copies, in nats (arXiv 2602.11162); 0: one head copied everything",
    "exp of the entropy: as many heads with equal shares have the same entropy",
)


def section(live: LiveComparison, done: Comparison) -> None:
    """One answer's trace: its measures, all copies, and closely one token and one head."""
    names = [column.name for column in done.columns]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("**The answer of**")
        choice: dict[str, Any] = {"key": f"traced-{'-'.join(names)}", "label_visibility": "collapsed"}
        name = st.segmented_control("Answer", names, required=True, default=names[0], **choice)
    column = names.index(name or names[0])
    trace, tokens = done.traces[column], done.tokens[column]
    if not trace.copied:
        st.caption("No head copied any token of this answer from the prompt.")
        return
    if len(done.columns[column].mask):
        st.caption("Masked heads still look, and count here as copying; what they bring back is scaled or zeroed.")
    _measures(trace, live)
    step, head = _chosen(trace, set(live.scores.top(STATIC)))
    st.caption("A dot: the head copied the token. Selected heads are orange. Click a dot to see where it copied from.")
    key, answer = session.answering("trace", {}, lambda before, after: _picked(session.picked(before, after)))
    with st.container(key="trace"):
        draw_figure(
            trace_raster(trace, tokens, set(live.mask.heads), step, head, session.drawing()),
            f"{live.model}-{names[column]}-trace",
            lambda: trace_rows(trace, tokens),
            key=key,
            on_select=answer,
            selection_mode="points",
        )
    with st.container(key="closely"):
        left, right = st.columns(2, gap="medium")
        with left:
            _one_token(live, done, trace, tokens, step)
        with right:
            _one_head(trace, tokens, head, step)
    _context(live, done, trace, step, head)


def _measures(trace: Trace, live: LiveComparison) -> None:
    """How dynamic the heads are (arXiv 2602.11162), in figures."""
    masked, entropy = live.mask.heads, trace.entropy()
    values = {
        "Overlap with the mask": trace.overlap(masked) if masked else None,
        f"With the top {STATIC}": trace.overlap(live.scores.top(STATIC)),
        "Persistence": trace.persistence(),
        "Entropy": entropy,
        "Effective heads": None if entropy is None else math.exp(entropy),
    }
    with st.container(horizontal=True, gap="large"):
        for (name, value), hint in zip(values.items(), MEASURES, strict=True):
            shown = "–" if value is None else f"{value:.1f}" if value > 9 else f"{value:.2f}"
            st.metric(name, shown, help=hint, width="content")


def _picked(points: Sequence[tuple[int, ...]]) -> None:
    """A click on a dot looks at its token and at its head."""
    if points:
        step, layer, head = points[-1]
        look_at_copy(step, HeadId(layer, head))


def _chosen(trace: Trace, best: Collection[HeadId]) -> tuple[int, HeadId]:
    """The token and the head that are looked at: at first the head with the most copies, the token most copied.

    For a token heads of the map count first: a frequent word is copied by many heads that only look where it stood.
    """
    step, head = session.TRACE_STEP.get(), session.TRACE_HEAD.get()
    if step is None or step >= trace.n_steps:
        counts = [(len(heads & set(best)), len(heads)) for heads in map(trace.heads_at, range(trace.n_steps))]
        step = counts.index(max(counts))
    if head not in trace.copied:
        head = max(trace.copied, key=lambda head: len(trace.copied[head]))
    return step, head


def _one_token(live: LiveComparison, done: Comparison, trace: Trace, tokens: Sequence[str], step: int) -> None:
    """The heads that copied a token, with what stands round the positions they copied from."""
    kind = f"trace-step-{hash(tuple(tokens))}"  # of another answer it is another widget
    key, answer = session.answering(kind, step, lambda _, picked: look_at_copy(step=picked))
    texts = [f"{at + 1}. {token_text(token)}" for at, token in enumerate(tokens)]
    st.selectbox("Token", range(trace.n_steps), step, key=key, format_func=texts.__getitem__, on_change=answer)
    sources = list(trace.sources(step).items())
    if not sources:
        st.caption("No head copied this token from the prompt.")
    for position, heads in sources[:MOST_SOURCES]:
        st.html(source_html(live.tokenizer, done.prompt.token_ids, position, heads))
    if len(sources) > MOST_SOURCES:
        st.caption(f"and {len(sources) - MOST_SOURCES} more positions, each of no more heads than these")


def _one_head(trace: Trace, tokens: Sequence[str], head: HeadId, step: int) -> None:
    """All tokens of the answer that a head copied."""
    counts = {head: len(steps) for head, steps in trace.copied.items()}
    heads = sorted(counts, key=lambda head: (-counts[head], head))
    labels = {head: f"{head}, {n} token{'s' * (n != 1)}" for head, n in counts.items()}
    kind = f"trace-head-{hash(tuple(tokens))}"
    key, answer = session.answering(kind, head, lambda _, picked: look_at_copy(head=picked))
    st.selectbox("Head", heads, heads.index(head), key=key, format_func=labels.__getitem__, on_change=answer)
    copied = trace.copied[head]
    st.html(where_html(f"The answer, with what {head} copied marked"))
    st.html(marked_html(tokens, copied, {step} & set(copied)))


def _context(live: LiveComparison, done: Comparison, trace: Trace, step: int, head: HeadId) -> None:
    """The places in the prompt that were copied from."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("**Copied from the prompt by**")
        choice: dict[str, Any] = {"key": f"whose-{head}", "label_visibility": "collapsed", "default": "all heads"}
        whose = st.segmented_control("Whose", ["all heads", str(head)], required=True, **choice)
    all_heads = whose != str(head)
    copied = trace.copied if all_heads else {head: trace.copied[head]}
    weights = Counter(at for steps in copied.values() for at in steps.values())
    positions = [at for at, heads in trace.sources(step).items() if all_heads or head in heads]
    st.html(context_html(live.tokenizer, done.prompt.token_ids, weights, positions))


def look_at_copy(step: int | None = None, head: HeadId | None = None) -> None:
    """Look closely at a token of an answer, or at a head in its trace, or both."""
    if step is not None:
        session.TRACE_STEP.put(step)
    if head is not None:
        session.TRACE_HEAD.put(head)
    session.draw_anew()
