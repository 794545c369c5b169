"""A browser over single items: the context with what is planted in it, the question, every condition's answer."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.evaluate.evaluation import FOUND, WAYS, Evaluation, Filter, evaluation_of
from app.evaluate.item_html import OPENED, STYLE, item_html
from app.shared import address, selection, session
from app.shared.text import sentence
from retmask.files import mapping
from retmask.items.item import Item
from retmask.pairs.pair import Answer, PreferencePair
from retmask.pairs.review import collect
from retmask.runs import faults
from retmask.runs.run import Run

PLACE = "items"  # where sentences are said
GOLD = "the right answer"
KEYS = "Keys: ← and → step. After a click on a field, click on the empty page first."
TRAINED = (
    "Appended to a run of pairs, which the Pairs page then shows. What a model is trained on no longer measures it: "
    "evaluate with another seed afterwards."
)


def show(
    run: Run,
    compare_page: StreamlitPage | None = None,
    ask: Callable[..., None] | None = None,
    beside: Sequence[Run] = (),
) -> None:
    """Draw the items of an evaluation, one at a time, with the answers of the conditions of those `beside` it too.

    `ask` puts one into the form of `compare_page`.
    """
    evaluation = evaluation_of(run, beside)
    if not evaluation.items:
        return
    st.html(STYLE)
    st.subheader("Items", anchor=False, divider="gray")
    session.show_said(PLACE)
    shown = evaluation.shown(_filter(run, evaluation))
    name = address.place("item")
    if name and name not in evaluation.places:
        st.caption(sentence(f"There is no item {name[:80]} in this evaluation"))
    if not shown:
        st.info("No item passes this filter.")
        return
    at = min(bisect_left(shown, evaluation.places.get(name, shown[0])), len(shown) - 1)
    item = evaluation.whole(shown[at])
    _steps(run, evaluation, shown, at)
    st.html(item_html(item, {name: evaluation.answers.get((name, item.id)) for name in evaluation.answering}))
    st.html(OPENED.format(number=shown[at]), unsafe_allow_javascript=True)
    with st.container(horizontal=True, vertical_alignment="center"):
        if compare_page and ask:
            _compare(run, item, compare_page, ask)
        _pair(run, evaluation, item)
    if added := session.said("pair_added"):
        st.success(added)


def _filter(run: Run, evaluation: Evaluation) -> Filter:
    """What is chosen of kinds, lengths, changes and words."""
    kinds = {name: list(dict.fromkeys(getattr(item, name) for item in evaluation.items)) for name in _KINDS}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        category, task, length = (_kind(run, name, kinds[name]) for name in _KINDS)
        search = st.text_input("Search", placeholder="in question and answers", width=200, key=f"items_search-{run.id}")
    way, before, after = _way(run, evaluation)
    return Filter(str(category or ""), str(task or ""), int(length or 0), way, before, after, search)


_KINDS = {"category": "Category", "task": "Task", "tokens": "Length"}


def _kind(run: Run, name: str, values: Sequence[Any]) -> Any:
    """The value that is chosen of a kind; empty or 0 for all."""
    everything: Any = 0 if name == "tokens" else ""

    def label(value: Any) -> str:
        return "all" if value == everything else f"{value:,}" if name == "tokens" else str(value)

    options = [everything, *values] if len(values) > 1 else [everything]
    return st.selectbox(_KINDS[name], options, format_func=label, width=170, key=f"items_{name}-{run.id}")


def _way(run: Run, evaluation: Evaluation) -> tuple[str, str, str]:
    """How two conditions are to differ in an item, and which."""
    names = evaluation.answering
    if len(names) < 2:
        return "all", "", ""
    base = next((name for name, role in evaluation.roles.items() if role == "base"), names[0])
    treatment = next((name for name, role in evaluation.roles.items() if role == "treatment"), names[1])
    says = ("all items", "got better", "got worse", "found by A, lost by B", "lost by A, found by B")
    labels = dict(zip(WAYS, says, strict=True))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        way = st.selectbox("Show", WAYS, format_func=labels.__getitem__, width=220, key=f"items_way-{run.id}")
        if way == "all":
            return "all", "", ""
        sides = {"A": base, "B": treatment}
        before, after = (
            st.selectbox(side, names, names.index(first), width=260, key=f"items_{side}-{run.id}")
            for side, first in sides.items()
        )
    return str(way), str(before), str(after)


def _steps(run: Run, evaluation: Evaluation, shown: Sequence[int], at: int) -> None:
    """Where one is, and the way to the item before and the one after, by button and by key."""
    names = [evaluation.items[place].id for place in shown]
    with st.container(horizontal=True, vertical_alignment="center", key="items_steps"):
        for label, shortcut, by in (("Previous", "left", -1), ("Next", "right", 1)):
            icon, is_last = f":material/keyboard_arrow_{shortcut}:", not 0 <= at + by < len(shown)
            look: dict[str, Any] = {"icon": icon, "shortcut": shortcut, "disabled": is_last, "key": f"items_{label}"}
            st.button(label, **look, on_click=_step, args=(run, names, at, by))
        st.markdown(f"**{at + 1:,} of {len(shown):,}**", width="content")
        st.caption(KEYS, width="content")


def _step(run: Run, names: Sequence[str], at: int, by: int) -> None:
    """Look at the item before or after the one that the address names; at first that is the one `at` a place.

    Not of the one that is drawn: who presses a key quickly is further on by then. The address names its run from now
    on, with those beside it: a newer one must not take its place.
    """
    name, looked_at = address.place("item"), address.place("evaluate")
    at = names.index(name) if name in names else at
    whole = looked_at if looked_at.partition(",")[0] == run.reference else run.reference
    address.go_to(evaluate=whole, item=names[max(0, min(at + by, len(names) - 1))])


def _compare(run: Run, item: Item, page: StreamlitPage, ask: Callable[..., None]) -> None:
    """A button that asks this again on the Compare page, with every answer beside the others."""
    says = "asks this on the Compare page, of the heads that are selected there" + (
        f'; without the beginning "{item.prefix}" of the answer' if item.prefix else ""
    )
    if st.button("Open in Compare", icon=":material/compare_arrows:", key="items_compare", help=sentence(says)):
        if scores := str(mapping(run.config.get("rule")).get("scores") or ""):
            selection.choose(scores)
        ask(item.message, item.gold[0], "plain" if item.plain else "chat")
        st.switch_page(page)


def _pair(run: Run, evaluation: Evaluation, item: Item) -> None:
    """A small form: which answer is chosen and which rejected, as a pair to train on."""
    scores = {name: evaluation.score(name, item) for name in evaluation.roles}
    right = [GOLD, *(name for name, score in scores.items() if score is not None and score >= FOUND)]
    wrong = [name for name, score in scores.items() if score is not None and score < FOUND]
    wrong = [name for name in wrong if evaluation.answers[name, item.id]["response"].strip()]
    with st.popover("Make a pair of it", icon=":material/thumbs_up_down:"):
        if not wrong:
            st.caption("No condition has a wrong answer that could be the rejected one.")
            return
        chosen = st.selectbox("Chosen", right, key=f"items_chosen-{item.id}")
        rejected = st.selectbox("Rejected", wrong, key=f"items_rejected-{item.id}")
        st.caption(TRAINED)
        made = _made(evaluation, item, str(chosen), str(rejected))
        st.button("Add the pair", type="primary", key="items_add", on_click=_add, args=(run, made))


def _made(evaluation: Evaluation, item: Item, chosen: str, rejected: str) -> PreferencePair:
    """The pair of two answers, each with the words that every answer begins with."""

    def answer(name: str) -> Answer:
        text = ", ".join(item.gold) if name == GOLD else evaluation.answers[name, item.id]["response"]
        return Answer(f"{item.prefix} {text}".strip(), 0, "stop")

    messages = (("user", item.message),)
    return PreferencePair(
        f"{item.id} {rejected}", messages, answer(chosen), answer(rejected), arm="evaluation", answer=item.gold[0]
    )


def _add(run: Run, pair: PreferencePair) -> None:
    try:
        pairs = collect(run, pair, run.record.get("template") != "plain")
    except (OSError, ValueError) as error:
        session.say(sentence(faults.sentence(error)), PLACE)
        return
    address.write("pairs", pairs.reference)
    session.say(sentence(f"Added to {pairs.id}, {pairs.record['kept']} in it: the Pairs page shows them"), "pair_added")
