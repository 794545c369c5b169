"""One detection by its trials on the Families page: how far needles, lengths, depths and rules name the same heads."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import get_args

import streamlit as st

from app.families import matrix, two_sets
from app.families.sets import Shown
from app.shared import session
from app.shared.text import draw_figure, sentence
from retmask.families.agreement import Agreements, agreement, every_two, split_half
from retmask.figures import style
from retmask.figures.rows import pair_rows
from retmask.heads.scores import TOP_SHARE, HeadScores
from retmask.heads.trials import By, Rule, recounted, slices

PARTS: dict[str, By] = {"Needle": "needle", "Length": "length", "Depth": "depth"}
RULES: dict[Rule, str] = {"set": "each token once", "steps": "every step", "activation": "copied at all"}
COUNTING = "Counting rule"


def section(shown: Sequence[Shown], measure: str, k: int | None) -> None:
    """The agreement of a detection's parts with each other."""
    st.subheader("One detection, by its trials", anchor=False, divider="gray")
    detections = [detection for detection in shown if _keeps_trials(detection)]
    if not detections:
        st.caption("None of these sets keeps its trials. Those of detections do: choose one above, or detect again.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        detection = two_sets.choice("Detection", "agree_within", detections, 0)
        kept = session.kept("agree_by", "Needle")
        by = st.segmented_control("By", [*PARTS, COUNTING], required=True, **kept) or "Needle"
    n = detection.set.scores.grid.size
    if k and k > n:
        st.info(f"This detection has {n:,} heads, fewer than the best {k:,}: choose fewer to compare its parts.")
        return
    if not detection.set.trials():
        st.info("No trial of this detection can be read: its trials.jsonl is empty, damaged or gone.")
        return
    try:
        parts = session.remembered("parts", (detection.name, detection.stamp, by), lambda: _parts(detection, by))
    except ValueError as error:
        st.warning(sentence(error))
        return
    if len(parts) < 2:
        st.info(_too_few(by))
        return
    st.caption(_halves(detection))
    names = list(parts)
    agreed = session.remembered("within", (detection.name, detection.stamp, by, k), lambda: _pairs(parts, k))
    figure, name = matrix.figure(names, agreed, measure), f"{detection.label}-by-{by.lower()}"
    with st.container(key="wide_parts"):
        draw_figure(figure, name, lambda: pair_rows(names, agreed), key="chart-within")


def _keeps_trials(detection: Shown) -> bool:
    """Whether a set's trials lie beside it; none is read, as a file may hold thousands."""
    path = detection.set.path
    return path is not None and bool(detection.set.record) and path.with_name("trials.jsonl").is_file()


def _too_few(by: str) -> str:
    if by == COUNTING:
        return "These trials do not say which tokens were copied, so they cannot be counted by another rule."
    return f"All successful trials have one {by.lower()}: there is nothing to set beside each other."


def _parts(detection: Shown, by: str) -> Mapping[str, HeadScores]:
    """A detection's scores by the value of what parts its trials, with the number of trials in each name."""
    scores, trials = detection.set.scores, detection.set.trials()
    if by == COUNTING:
        counted = {RULES[rule]: recounted(trials, scores.grid, scores.model, rule) for rule in get_args(Rule)}
        own = {} if scores.counting in RULES else {scores.detector.name: scores}
        return own | {name: part for name, part in counted.items() if part}
    sliced = slices(trials, scores.grid, scores.model, scores.counting, PARTS[by])
    texts = {value: _value(value, by) for value in sliced}
    twins = {text for text, n in Counter(texts.values()).items() if n > 1}  # depths that round to the same
    names = {value: str(value) if text in twins else text for value, text in texts.items()}
    return {f"{names[value]} ({part.n_trials})": part for value, part in sliced.items()}


def _value(value: str | int | float, by: str) -> str:
    if by == "Length":
        return f"{value:,} tokens"
    return style.percent(float(value)) if by == "Depth" else str(value)


def _pairs(parts: Mapping[str, HeadScores], k: int | None) -> Agreements:
    return every_two(list(parts.values()), lambda first, second: agreement(first, second, k))


def _halves(detection: Shown) -> str:
    """What two random halves of all the trials share: what the agreement of parts is to be measured by."""
    halves = session.remembered(
        "halves", (detection.name, detection.stamp), lambda: split_half(detection.set.scores.values)
    )
    legend = "In legend: how many successful trials a part has. Parts of few trials differ by chance"
    if halves is None:
        return f"{legend}."
    low, high = (style.percent(round(share, 2)) for share in (halves.low, halves.high))
    return (
        f"{legend}: two random halves, {halves.n_trials} trials each, share {style.percent(round(halves.mean, 2))} of "
        f"their best {style.percent(TOP_SHARE)} of heads (95 % of draws: {low} to {high})."
    )
