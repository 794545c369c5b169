"""What stands behind a map: figures with their downloads, the table of heads, one head closely."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.shared import selection, session
from app.shared.text import downloads, draw_figure, file_name, sentence
from retmask.detect.job import same_prompts_sentence
from retmask.families.concentration import concentration
from retmask.figures import style
from retmask.figures.heads import copy_map, head_breakdown, needle_grid, rank_curve
from retmask.figures.rows import Row, breakdown_rows, copy_rows, head_rows, recall_rows
from retmask.heads.grid import HeadId
from retmask.heads.intervals import none_over, span
from retmask.heads.masks import HeadMask
from retmask.heads.scores import HeadScores
from retmask.heads.trials import Trial

FACTS = (  # by name: of a run's record, what a reader of its map needs
    "model revision sha256 grid haystack needles_sha256 template clock thinking "
    "scored counting dtype device attention parity created ended versions"
)


def concentration_figures(scores: HeadScores) -> None:
    """How few heads hold the scores, in four figures."""
    if scores.ranking:
        st.caption("This is a list of heads in order. It has no scores: colours and heights are places in the list.")
        return
    values = concentration(scores.mean)
    figures = [
        ("Heads ≥ 0.1", values.above, "d", "heads with a mean score of at least 0.1, the usual threshold"),
        ("Gini", values.gini, ".2f", "0: all heads score the same; near 1: one head holds everything"),
        ("In top 5 %", values.top_5pct_share, ".0%", "the part of all scores that the best 5 % of heads hold"),
        ("Effective", values.effective_heads, ".1f", "effective number of heads: exp of the entropy of the scores"),
    ]
    for column, (name, value, form, hint) in zip(st.columns(4, gap="small"), figures, strict=True):
        column.metric(name, "–" if value is None else format(value, form).replace("%", " %"), help=hint)


def ranks(scores: HeadScores, selected: HeadMask) -> None:
    """The scores by rank, the selected heads marked."""
    st.markdown("**Scores by rank**")
    heads = set(selected.heads)
    figure = rank_curve(scores, heads)
    draw_figure(figure, f"{scores.model}-ranks", lambda: head_rows(scores, heads), key="chart-ranks")
    by = scores.clusters
    if scores.n_trials > 1:
        st.caption(f"Band: 95 % interval over {by.words}." if scores.interval else sentence(none_over(by.n, by.unit)))


def recall(model: str, trials: Sequence[Trial]) -> None:
    """The grid of recall behind the map."""
    st.markdown("**Recall behind the map**")
    if not trials:
        st.caption("This file holds scores only. Recall by length and depth is known for maps detected here.")
        return
    n_found = sum(trial.success for trial in trials)
    st.caption(f"{n_found} of {len(trials)} trials found the needle; only these count for the scores.")
    draw_figure(needle_grid(trials), f"{model}-recall", lambda: recall_rows(trials), key="chart-recall")


def table(scores: HeadScores, selected: HeadMask) -> None:
    """All heads, best first; a click on a row looks at that head."""
    st.markdown("**All heads**")
    rows = head_rows(scores, set(selected.heads))
    columns = _columns(float(scores.mean.max()) or 1.0, scores.detector.active, scores.clusters.words)
    absent = {"kv_group"} if not scores.n_kv_heads else set()
    absent |= {"low", "high"} if scores.interval is None else set()
    names = [name for name in columns if name not in absent]
    st.dataframe(
        {name: [row[name] for row in rows] for name in names},
        column_config=columns,
        hide_index=True,
        height=430,
        key="table",
        selection_mode="single-row",
        on_select=lambda: _look_at_row(rows),
    )
    downloads(None, file_name(f"{scores.model}-heads"), lambda: rows)


def _columns(peak: float, did: str, over: str) -> dict[str, Any]:
    """How the table shows its columns; `peak` fills a bar, an active head `did` it, intervals are `over`."""
    column = st.column_config
    active = f"share of successful trials in which the head {did}"
    return {
        "rank": column.NumberColumn("rank", width=45),
        "name": column.TextColumn("head", width=65),
        "kv_group": column.NumberColumn("KV", width=40, help="the key/value head that this query head reads"),
        "mean": column.ProgressColumn("mean score", width=120, format="%.3f", min_value=0.0, max_value=peak),
        "low": column.NumberColumn("low", width=52, format="%.3f", help=f"lower end of the 95 % interval over {over}"),
        "high": column.NumberColumn(
            "high", width=52, format="%.3f", help=f"upper end of the 95 % interval over {over}"
        ),
        "activation": column.NumberColumn("active", width=58, format="percent", help=active),
        "selected": column.CheckboxColumn("chosen", width=52, help="whether the head is selected on the map"),
    }


def _look_at_row(rows: list[Row]) -> None:
    picked = session.value("table")["selection"]["rows"]
    if picked:
        selection.look_at(HeadId(rows[picked[0]]["layer"], rows[picked[0]]["head"]))


def one_head(scores: HeadScores, trials: Sequence[Trial]) -> None:
    """One head: its figures, its scores by needle, length and depth, and what it copied in one trial."""
    heads = list(scores.top(scores.grid.size))
    head = selection.focus(scores.grid) or heads[0]
    key, answer = session.answering("one-head", head, lambda _, chosen: selection.look_at(chosen))
    st.subheader("One head", anchor=False, divider="gray")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.selectbox(
            "Head", heads, heads.index(head), key=key, label_visibility="collapsed", width=140, on_change=answer
        )
        st.caption(head_sentence(scores, head), width="content")
    if not trials:
        st.caption("Scores by needle, length and depth, and the copied tokens, are known for maps detected here.")
        return
    with st.container(key="closely"):
        left, right = st.columns(2, gap="medium")
        with left:
            st.markdown("**Its score by needle, length and depth**")
            name = f"{scores.model}-{head}"
            draw_figure(head_breakdown(trials, head), name, lambda: breakdown_rows(trials, head), key="chart-head")
        with right:
            _copied(scores.model, trials, head)


def head_sentence(scores: HeadScores, head: HeadId) -> str:
    """What is known of a head, in a line."""
    spread = scores.interval
    between = (
        ""
        if spread is None
        else (f" (95 % interval {span(spread.low[head], spread.high[head], '.3f')} over {scores.clusters.words})")
    )
    group = scores.grid.kv_group(head)
    return (
        f"{style.ordinal(int(scores.rank[head]))} of {scores.grid.size:,}, mean {scores.mean[head]:.3f}"
        f"{between}, {scores.detector.active} in "
        f"{style.percent(scores.activation[head])} of "
        f"{scores.n_trials} successful trials" + ("" if group is None else f", key/value group {group}") + "."
    )


def _copied(model: str, trials: Sequence[Trial], head: HeadId) -> None:
    """In one trial, which answer tokens the head copied from which context tokens."""
    st.markdown("**What it copied in one trial**")
    successful = sorted((trial for trial in trials if trial.success), key=lambda trial: -trial.scores.get(head, 0.0))
    names = {_trial_name(trial, head): trial for trial in successful}
    picked = st.selectbox("Trial", list(names), key=f"trial-{head}", label_visibility="collapsed")
    if picked is None:
        return
    trial = names[picked]
    st.text(f"Question: {trial.question}\nAnswer: {trial.response[:600]}")
    if not copy_rows(trial, head):
        st.caption(f"{head} copied no token of the needle in this trial.")
        return
    st.caption("Tokens of the answer, downwards; the needle's tokens that they were copied from, across.")
    figure = copy_map(trial, head)
    draw_figure(figure, f"{model}-{head}-copied", lambda: copy_rows(trial, head), key="chart-copied")


def _trial_name(trial: Trial, head: HeadId) -> str:
    score = trial.scores.get(head, 0.0)
    return f"{score:.2f} · {trial.context_tokens:,} tokens · depth {style.percent(trial.depth)} · {trial.answer}"


def origin(record: Mapping[str, Any], command: str) -> None:
    """How a map that was detected here was made: the command line that does the same, settings and versions."""
    if not record:
        return
    with st.expander("How this map was made"):
        if command:
            st.code(command, language="bash", wrap_lines=True)
        if same := same_prompts_sentence(record):
            st.caption(same)
        facts = {name: record[name] for name in FACTS.split() if record.get(name) is not None}
        st.dataframe({"what": list(facts), "value": [_flat(value) for value in facts.values()]}, hide_index=True)


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_flat(part)}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
