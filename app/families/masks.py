"""What one mask does that another does not: the prompts on which only one of the two loses the needle."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import streamlit as st

from app.families.sets import Shown
from app.shared import jobs, maps, readers, session
from app.shared.models import ModelRef
from app.shared.text import downloads, sentence, text_html
from retmask.detect.score import GATE
from retmask.evaluate.job import DEPTHS, EVALUATE, EvaluateSettings
from retmask.evaluate.needles import read_answers
from retmask.evaluate.suite import NEEDLES
from retmask.figures.rows import Row
from retmask.files import number, shipped
from retmask.heads.grid import HeadId
from retmask.heads.rules import UNMASKED
from retmask.runs.overview import duration
from retmask.runs.run import Run
from retmask.text.needle import load_needles

TRIALS = 60
NAMES = jobs.Names("disagree", "The measurement", "What it has measured is kept.")
SIDES = ("Only A loses it", "Only B loses it")
Prompt = dict[str, dict[str, Any]]  # the answers to a prompt: of UNMASKED, and of the masks A and B


class Losses(NamedTuple):
    """All prompts; in how many the unmasked model finds the needle; of these, what both masks or only one lose."""

    prompts: Sequence[Prompt]
    answered: int
    both: int
    only: tuple[list[Prompt], list[Prompt]]


def behaviour(set_a: Shown, set_b: Shown, heads: tuple[Sequence[HeadId], Sequence[HeadId]]) -> None:
    """What masking the best heads of set A does that masking those of B does not, or the button that measures it."""
    st.subheader("What mask A does that mask B does not", anchor=False, divider="gray")
    ref, masks = _model(set_a, set_b), (frozenset(heads[0]), frozenset(heads[1]))
    reason = _hindrance(set_a, ref, masks)
    if ref is None or reason:
        st.caption(reason)
        return
    runs = _measurements(ref, masks)
    last = runs[0] if runs else None
    if last is None:
        n = len(heads[0])
        st.caption(
            f"Masks the best {n} head{'s' * (n != 1)} of A, then those of B, in {sentence(str(ref))[:-1]}, on "
            "prompts that detection has not used, and shows on which prompts only one of the two masks loses the "
            f"needle.{_time(ref)}"
        )
    else:
        _outcome(next((run for run in runs if _has_answers(run)), last), masks)
        jobs.status_block(last, NAMES)
    if not (last and last.is_active):
        _start(last, ref, (set_a, set_b), heads)


def _hindrance(set_a: Shown, ref: ModelRef | None, masks: Sequence[Collection[HeadId]]) -> str:
    """Why nothing can be measured, as a sentence; empty where it can."""
    if set_a.set.level == "kv":
        return "Gates are of key/value heads, which masks do not take: a mask names query heads."
    if ref is None:
        return "Neither set says how its model is loaded. Maps that were detected here, and shipped maps, do."
    if not all(masks):
        return "One of the two maps has no head above 0, so there is nothing to mask."
    return "Both sets name the same best heads, so their masks are one." if masks[0] == masks[1] else ""


def _model(set_a: Shown, set_b: Shown) -> ModelRef | None:
    """The model that both masks are put on: that of A, else of B; of a fine-tuned model its base."""
    for shown in (set_a, set_b):
        shipped = shown.name in maps.shipped_maps()
        ref = ModelRef(shown.name) if shipped else ModelRef.of_config(shown.set.record.get("config") or {})
        if ref.name:
            return ref.base or ref
    return None


def _measurements(ref: ModelRef, masks: Sequence[Collection[HeadId]]) -> list[Run]:
    """The runs that have measured both masks on that model, or are to, newest first."""
    return [run for run in Run.all("evaluate") if _is_of(run, ref) and all(_names(run, masks))]


def _is_of(run: Run, ref: ModelRef) -> bool:
    measured = ModelRef.of_config(run.config)
    return (measured.place, measured.revision) == (ref.place, ref.revision)


def _has_answers(run: Run) -> bool:
    file = run.path / "answers.jsonl"
    return file.is_file() and file.stat().st_size > 0


def _names(run: Run, masks: Sequence[Collection[HeadId]]) -> list[str]:
    """What a run calls the conditions that mask these heads; empty for those that it has not."""
    texts = run.config.get("also")
    names: dict[frozenset[HeadId], str] = {}
    for text in texts if isinstance(texts, list) else []:
        name, _, listed = str(text).partition("=")
        try:
            names[frozenset(map(HeadId.parse, listed.split(",")))] = name.strip()
        except ValueError:
            continue
    return [names.get(frozenset(mask), "") for mask in masks]


def _start(run: Run | None, ref: ModelRef, sets: tuple[Shown, Shown], heads: tuple[Sequence[HeadId], ...]) -> None:
    """The buttons that measure, and what could not be done."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        trials = st.number_input("Prompts", step=1, width=120, **session.kept("disagree_trials", TRIALS))
        wrong = session.out_of_range(("disagree_trials", "the number of prompts", 1, _most()))
        look: dict[str, Any] = {"icon": ":material/straighten:", "type": "secondary" if run else "primary"}
        label, args = "Measure it again" if run else "Measure it", (ref, sets, heads, trials)
        st.button(label, key="disagree", on_click=_measure, args=args, disabled=bool(wrong), **look)
    if wrong:
        st.error(sentence(wrong))
    session.show_said("disagree")


def _time(ref: ModelRef) -> str:
    """How long the measurement of all three conditions may take, by the last run of the model here."""
    trials = int(session.value("disagree_trials", TRIALS) or TRIALS)
    seconds = jobs.seconds_for(3 * trials * EvaluateSettings(model=ref.name).context_tokens, ref.name)
    return f" {trials} prompts take about {duration(seconds)} here." if seconds else ""


def _most() -> int:
    """How many prompts the needles give that come with the project."""
    return len(load_needles(shipped("needles_held_out.json"))) * len(DEPTHS)


def _measure(ref: ModelRef, sets: tuple[Shown, Shown], heads: tuple[Sequence[HeadId], ...], trials: int) -> None:
    names = [re.sub(r"[^\w .,:()-]+", "-", shown.label)[:60].strip() or "mask" for shown in sets]
    names[1] += " (B)" * (names[0] == names[1])
    also = tuple(f"{name}={','.join(map(str, mask))}" for name, mask in zip(names, heads, strict=True))
    with jobs.telling("disagree"):
        jobs.start(
            EVALUATE, EvaluateSettings(model=ref.name, suite=NEEDLES, also=also, trials=trials, revision=ref.revision)
        )


def _outcome(run: Run, masks: Sequence[Collection[HeadId]]) -> None:
    """On how many prompts which mask loses the needle, and the answers to those on which only one does."""
    stamp = readers.file_stamp(run.path / "answers.jsonl")
    losses = session.remembered("disagree", (run.id, stamp, *masks), lambda: _losses(_prompts(run, _names(run, masks))))
    if not losses.answered:
        st.caption("No prompt has been answered by all three conditions and found without a mask, as yet.")
        return
    (only_a, only_b), both = map(len, losses.only), losses.both
    st.markdown(
        f"The unmasked model finds the needle in {losses.answered} of {len(losses.prompts)} prompts. Of these, mask A "
        f"loses **{only_a + both}** and mask B **{only_b + both}**; both lose {both}, only A **{only_a}**, only B "
        f"**{only_b}**."
    )
    _side_by_side(losses.only)
    downloads(None, f"disagree-{run.id}", lambda: _rows(losses.prompts))
    with st.expander("The command that does the same", key="disagree_command"):
        st.code(run.command, language="bash", wrap_lines=True)


def _losses(prompts: Sequence[Prompt]) -> Losses:
    """Which of these prompts which mask loses."""
    answered = [prompt for prompt in prompts if _finds(prompt[UNMASKED])]
    lost = [tuple(not _finds(prompt[letter]) for letter in "AB") for prompt in answered]
    only_a, only_b = (
        [prompt for prompt, pattern in zip(answered, lost, strict=True) if pattern == alone]
        for alone in ((True, False), (False, True))
    )
    return Losses(prompts, len(answered), lost.count((True, True)), (only_a, only_b))


def _prompts(run: Run, names: Sequence[str]) -> list[Prompt]:
    """The prompts that all three conditions have answered."""
    prompts: dict[Any, Prompt] = {}
    letters = dict(zip([UNMASKED, *names], [UNMASKED, "A", "B"], strict=True))
    for (condition, *key), line in read_answers(run.path).items():
        if condition in letters:
            prompts.setdefault(tuple(key), {})[letters[condition]] = line
    return [prompt for prompt in prompts.values() if len(prompt) == len(letters)]


def _finds(line: Mapping[str, Any]) -> bool:
    return number(line.get("recall")) > GATE


def _side_by_side(only: Sequence[Sequence[Prompt]]) -> None:
    """The answers to a prompt that only one of the masks loses."""
    names = {f"{side} ({len(prompts)})": prompts for side, prompts in zip(SIDES, only, strict=True) if prompts}
    if not names:
        st.caption("There is no prompt that only one of the two masks loses.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        key = f"disagree_side-{'-'.join(names)}"
        side = st.segmented_control("Which", list(names), default=next(iter(names)), required=True, key=key)
        prompts = names[side or next(iter(names))]
        titles = {_title(i, prompt[UNMASKED]): prompt for i, prompt in enumerate(prompts)}
        picked = st.selectbox("Prompt", list(titles), key=f"disagree_prompt-{side}", width=620)
    answers = titles.get(picked or "", prompts[0])
    with st.container(key="answers"):
        columns = st.columns(3, gap="medium")
        for column, letter in zip(columns, (UNMASKED, "A", "B"), strict=True):
            name = letter if letter == UNMASKED else f"mask {letter}"
            column.markdown(f"**{name}**, recall {number(answers[letter].get('recall')):.2f}")
            column.html(text_html(str(answers[letter].get("response", ""))))


def _title(place: int, line: Mapping[str, Any]) -> str:
    """What a prompt is called: its number, its needle, and where that lies."""
    return f"{place + 1}. {str(line['needle'])[:90]} · {line['context_tokens']:,} tokens · depth {line['depth']:.0%}"


def _rows(prompts: Sequence[Prompt]) -> list[Row]:
    """One row a prompt: recall and answer of each condition."""
    letters = (UNMASKED, "A", "B")
    return [
        {name: prompt[UNMASKED][name] for name in ("needle", "context_tokens", "depth")}
        | {f"recall {letter}": prompt[letter]["recall"] for letter in letters}
        | {f"response {letter}": prompt[letter].get("response", "") for letter in letters}
        for prompt in prompts
    ]
