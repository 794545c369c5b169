"""What one mask does that another does not: the prompts on which only one of the two loses the needle."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import evidence
import markup
import state
import streamlit as st
import watch
from models import ModelRef
from set_list import Shown

from retmask import tables
from retmask.evaluate import UNMASKED, EvaluateConfig, new_evaluate, read_answers
from retmask.heads import HeadId
from retmask.overview import progress
from retmask.retrieval import GATE
from retmask.runs import Run, number

TRIALS = 60
SIDES = ("Only A loses it", "Only B loses it")
Prompt = dict[str, dict[str, Any]]  # the answers to a prompt: of UNMASKED, and of the masks A and B


def behaviour(one: Shown, other: Shown, heads: tuple[Sequence[HeadId], Sequence[HeadId]]) -> None:
    """What masking the best heads of set A does that masking those of B does not, or the button that measures it."""
    st.subheader("What mask A does that mask B does not", anchor=False, divider="gray")
    ref = _model(one, other)
    if ref is None:
        st.caption("Neither set says how its model is loaded. Maps that were detected here, and shipped maps, do.")
        return
    masks = frozenset(heads[0]), frozenset(heads[1])
    if not all(masks):
        st.caption("One of the two maps has no head above 0, so there is nothing to mask.")
        return
    if masks[0] == masks[1]:
        st.caption("Both sets name the same best heads, so their masks are one.")
        return
    runs = [run for run in Run.all("evaluate") if run.config.get("model") == ref.name and all(_names(run, masks))]
    run = runs[0] if runs else None
    status = run.status if run else ""
    if run is None:
        st.caption(
            f"Masks the best {len(heads[0])} heads of A, then those of B, in {ref}, on prompts that detection has not "
            "used, and shows on which prompts only one of the two masks loses the needle."
        )
    elif status in ("queued", "started"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.progress(*progress(run), width=500)
            watch.stop(run, f"disagree_cancel-{run.id}")
    elif status == "error":
        st.error("The measurement failed. Its last words:")
        st.code(run.last_words, language=None, wrap_lines=True)
    elif status == "cancelled":
        st.info("The measurement was cancelled; what it has measured is kept.")
    if run:
        _found(run, masks)
    if status not in ("queued", "started"):
        _start(run, status, ref, (one, other), heads)


def _model(one: Shown, other: Shown) -> ModelRef | None:
    """The model that both masks are put on: that of A, else of B; of a fine-tuned model its base."""
    for shown in (one, other):
        ref = state.open_map(shown.name).ref if shown.set.level == "query" and not shown.set.ranking else None
        if ref:
            return ref.base or ref
    return None


def _names(run: Run, masks: Sequence[Collection[HeadId]]) -> list[str]:
    """What a run calls the conditions that mask these heads; empty for those that it has not."""
    texts = run.config.get("also")
    known: dict[frozenset[HeadId], str] = {}
    for text in texts if isinstance(texts, list) else []:
        name, _, listed = str(text).partition("=")
        try:
            known[frozenset(map(HeadId.parse, listed.split(",")))] = name
        except ValueError:
            continue
    return [known.get(frozenset(mask), "") for mask in masks]


def _start(
    run: Run | None, status: str, ref: ModelRef, sets: tuple[Shown, Shown], heads: tuple[Sequence[HeadId], ...]
) -> None:
    """The buttons that measure, and what could not be done."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if run and status in ("cancelled", "error"):
            st.button("Go on measuring", key="disagree_again", on_click=watch.again, args=(run, "disagree"))
        trials = st.number_input("Prompts", 1, 10_000, width=120, **state.kept("disagree_trials", TRIALS))
        st.button(
            "Measure it again" if run else "Measure it", icon=":material/straighten:", key="disagree",
            on_click=_measure, args=(ref, sets, heads, int(trials)), type="secondary" if run else "primary",
        )  # fmt: skip
    said = state.said("disagree")
    if said:
        st.error(said)


def _measure(ref: ModelRef, sets: tuple[Shown, Shown], heads: tuple[Sequence[HeadId], ...], trials: int) -> None:
    names = [re.sub(r"[^\w .,:()-]+", "-", one.label).strip()[:60] or "mask" for one in sets]
    names[1] += " (B)" * (names[0] == names[1])
    also = tuple(f"{name}={','.join(map(str, mask))}" for name, mask in zip(names, heads, strict=True))
    try:
        wanted = EvaluateConfig(ref.name, also=also, trials=trials, revision=ref.revision)
        state.start("evaluate", asdict(wanted), lambda: new_evaluate(wanted))
    except (ValueError, OSError) as error:
        state.say(state.sentence(error), "disagree")


def _found(run: Run, masks: Sequence[Collection[HeadId]]) -> None:
    """On how many prompts which mask loses the needle, and the answers to those on which only one does."""
    stamp = state.file_stamp(run.path / "answers.jsonl")
    prompts = state.remembered("disagree", (run.id, stamp, *masks), lambda: _prompts(run, _names(run, masks)))
    answered = [prompt for prompt in prompts if _finds(prompt[UNMASKED])]
    if not answered:
        st.caption("No prompt has been answered by all three conditions and found without a mask, as yet.")
        return
    lost = [[prompt for prompt in answered if not _finds(prompt[letter])] for letter in "AB"]
    only = [[prompt for prompt in lost[i] if prompt not in lost[1 - i]] for i in (0, 1)]
    both = len(lost[0]) - len(only[0])
    st.markdown(
        f"The unmasked model finds the needle in {len(answered)} of {len(prompts)} prompts. Of these, mask A loses "
        f"**{len(lost[0])}** and mask B **{len(lost[1])}**; both lose {both}, only A **{len(only[0])}**, only B "
        f"**{len(only[1])}**."
    )
    _side_by_side(only)
    evidence.downloads(None, f"disagree-{run.id}", lambda: _rows(prompts))
    with st.expander("The command that does the same", key="disagree_command"):
        st.code(run.command, language="bash", wrap_lines=True)


def _prompts(run: Run, names: Sequence[str]) -> list[Prompt]:
    """The prompts that all three conditions have answered."""
    known: dict[Any, Prompt] = {}
    letters = dict(zip([UNMASKED, *names], [UNMASKED, "A", "B"], strict=True))
    for (condition, *key), line in read_answers(run.path).items():
        if condition in letters:
            known.setdefault(tuple(key), {})[letters[condition]] = line
    return [prompt for prompt in known.values() if len(prompt) == len(letters)]


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
        picked = st.selectbox(
            "Prompt", range(len(prompts)), key=f"disagree_prompt-{side}", width=620,
            format_func=lambda i: _title(i, prompts[i][UNMASKED]) if i < len(prompts) else "",
        )  # fmt: skip
    shown = prompts[picked or 0]
    with st.container(key="answers"):
        for column, (name, letter) in zip(
            st.columns(3, gap="medium"), (("unmasked", UNMASKED), ("mask A", "A"), ("mask B", "B")), strict=True
        ):
            with column:
                st.markdown(f"**{name}**, recall {number(shown[letter].get('recall')):.2f}")
                st.html(markup.said(str(shown[letter].get("response", ""))))


def _title(place: int, line: Mapping[str, Any]) -> str:
    """What a prompt is called: its number, its needle, and where that lies."""
    return f"{place + 1}. {str(line['needle'])[:90]} · {line['context_tokens']:,} tokens · depth {line['depth']:.0%}"


def _rows(prompts: Sequence[Prompt]) -> list[tables.Row]:
    """One row a prompt: recall and answer of each condition."""
    letters = (UNMASKED, "A", "B")
    return [
        {name: prompt[UNMASKED][name] for name in ("needle", "context_tokens", "depth")}
        | {f"recall {letter}": prompt[letter]["recall"] for letter in letters}
        | {f"response {letter}": prompt[letter].get("response", "") for letter in letters}
        for prompt in prompts
    ]
