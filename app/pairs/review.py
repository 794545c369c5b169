"""The review of pairs, one at a time: keep, drop, edit. Every decision is written down at once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import streamlit as st

from app.pairs import card
from app.pairs.decisions import FILTERS, Reviewed, nearest, pairs_of, review_of
from app.shared import address, session
from app.shared.text import sentence
from retmask.pairs.gate import RULES
from retmask.pairs.pair import PreferencePair
from retmask.pairs.review import Verdict, decide
from retmask.runs.run import Run

ARROWS = {"left": "←", "right": "→"}
EMPTY = "An answer is empty, and training takes no empty ones: edit the pair to keep it."
KEYS = (
    "Keys: y keeps, n drops, ← and → step, u takes back, e edits. After a click on a field or a switch, click on the "
    "empty page first."
)


class Button(NamedTuple):
    """A button of the review: its label, the key that presses it, its icon, what it does, and how it looks."""

    label: str
    shortcut: str
    icon: str
    does: str
    type: Literal["primary", "secondary", "tertiary"] = "secondary"

    def draw(self, off: bool, do: Callable[..., None], *args: Any) -> None:
        """The button; `off` where it can do nothing."""
        key, icon = f"review_{self.label.lower()}", f":material/{self.icon}:"
        says = f"{self.does} (key {ARROWS.get(self.shortcut, self.shortcut)})"
        look: dict[str, Any] = {"key": key, "icon": icon, "shortcut": self.shortcut, "help": says, "type": self.type}
        st.button(self.label, disabled=off, on_click=do, args=args, **look)


PREVIOUS = Button("Previous", "left", "keyboard_arrow_left", "the pair before")
NEXT = Button("Next", "right", "keyboard_arrow_right", "the pair after")
KEEP = Button("Keep", "y", "check", "keep this pair and go on", "primary")
DROP = Button("Drop", "n", "close", "drop this pair and go on")
EDIT = Button("Edit", "e", "edit", "write other texts")
UNDO = Button("Undo", "u", "undo", "take back the last decision", "tertiary")


def section(run: Run, reviewed: Reviewed) -> None:
    """Filters, the pair that is looked at, and what can be done with it."""
    st.subheader("Review", anchor=False)
    shown = _filtered(reviewed)
    problem = session.said("review")
    if problem:
        st.warning(problem)
    if not shown:
        _steps(run, reviewed, shown, 0)
        st.info("No pair is left under this filter.")
        return
    at = nearest(shown, int(session.value(_key(run, "at"), reviewed.first)))
    i = shown[at]
    session.put(_key(run, "drawn"), i)
    _steps(run, reviewed, shown, at)
    pair = reviewed.pair(i)
    judged = reviewed.judged[i]
    verdict = reviewed.review.verdicts.get(pair.id)
    edited = pair.id in reviewed.review.edits
    above = card.standing(pair, verdict, reviewed.keeps(i), judged.faults)
    above += card.prompt(pair.messages, pair.answer, pair.prompt_tokens)
    if session.value(_key(run, "editing")) == i:
        st.html(above)
        _editor(run, i, pair, edited)
    else:
        st.html(above + card.answers(pair, edited))


def _filtered(reviewed: Reviewed) -> list[int]:
    """The pairs that are gone through, by what is chosen here."""
    rules = ["", *(name for name in RULES if reviewed.faults[name])]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        which = st.segmented_control("Show", FILTERS, required=True, **session.kept("pairs_filter", FILTERS[0]))
        search = st.text_input("Search", placeholder="words in prompt or answers", width=230, key="review_search")
        says = {name: rule.says for name, rule in RULES.items()} | {"": "any rule or none"}
        key = f"review_rule-{'-'.join(rules)}"
        rule = st.selectbox("Found by", rules, format_func=lambda name: says[name], width=330, key=key)
    return reviewed.shown(which or FILTERS[0], search, rule or "")


def _steps(run: Run, reviewed: Reviewed, shown: Sequence[int], at: int) -> None:
    """The position, and the buttons: those that decide go on to the next pair."""
    here = shown[at] if shown else None
    before = shown[at - 1] if at > 0 else None
    after = shown[at + 1] if at + 1 < len(shown) else None
    history = session.value(_key(run, "undo"), [])
    editing = here is not None and session.value(_key(run, "editing")) == here
    with st.container(horizontal=True, vertical_alignment="center", key="review_steps"):
        PREVIOUS.draw(before is None, _look, run, before)
        NEXT.draw(after is None, _look, run, after)
        off = here is None or editing
        KEEP.draw(off, _decide, run, here, after, "keep")
        DROP.draw(off, _decide, run, here, after, "drop")
        EDIT.draw(off, _edit, run, here)
        UNDO.draw(editing or not history, _undo, run)
        if here is not None:
            st.markdown(f"**{at + 1:,} of {len(shown):,}**", width="content")
    st.caption(f"{len(reviewed.review.verdicts):,} of {len(reviewed.judged):,} decided by you. {KEYS}")


def _key(run: Run, what: str) -> str:
    return f"review-{run.path}-{what}"


def _look(run: Run, i: int | None) -> None:
    """Look at pair `i`. The address names the run from now on: a newer one must not take its place."""
    address.go_to(pairs=run.reference)
    session.put(_key(run, "editing"), None)
    session.put(_key(run, "at"), i)


def _edit(run: Run, i: int | None) -> None:
    _look(run, i)
    session.put(_key(run, "editing"), i)


def _decide(run: Run, i: int, after: int | None, verdict: Verdict) -> None:
    """Write a verdict down and go on. A press that comes before the next pair is drawn is meant for nothing."""
    if session.value(_key(run, "drawn")) != i:
        return
    pair = _now(run).pair(i)
    if verdict == "keep" and not (pair.chosen.text.strip() and pair.rejected.text.strip()):
        session.say(sentence(EMPTY), "review")
    elif _write(run, i, verdict=verdict):
        _look(run, i if after is None else after)
        session.put(_key(run, "drawn"), None)


def _write(run: Run, i: int, **decision: Any) -> bool:
    """Write a decision down, and keep how it was before for `_undo`; whether it could be."""
    reviewed = _now(run)
    pair_id = reviewed.judged[i].pair.id
    former = {"verdict": reviewed.review.verdicts.get(pair_id), "edit": reviewed.review.edits.get(pair_id)}
    if not _written(run, pair_id, decision):
        return False
    history = session.value(_key(run, "undo"), [])
    session.put(_key(run, "undo"), [*history, (i, pair_id, {name: former[name] for name in decision})])
    return True


def _written(run: Run, pair_id: str, decision: Mapping[str, Any]) -> bool:
    try:
        decide(run.path, pair_id, **decision)
    except (OSError, ValueError) as error:
        session.say(sentence(f"the decision could not be written: {error}"), "review")
        return False
    return True


def _undo(run: Run) -> None:
    """Write down what was before the last decision, and look at its pair."""
    *history, (i, pair_id, former) = session.value(_key(run, "undo"))
    if _written(run, pair_id, former):
        session.put(_key(run, "undo"), history)
        _look(run, i)


def _editor(run: Run, i: int, pair: PreferencePair, edited: bool) -> None:
    """The two texts to write in."""
    keys = [_key(run, f"{name}-{i}") for name in ("chosen", "rejected")]
    with st.form("review_edit", border=False):
        for column, key, answer in zip(st.columns(2), keys, (pair.chosen, pair.rejected), strict=True):
            name = "Chosen" if answer is pair.chosen else "Rejected"
            column.text_area(name, answer.text, height=240, key=key)
        with st.container(horizontal=True):
            st.form_submit_button("Save and keep", type="primary", on_click=_save, args=(run, i, keys))
            st.form_submit_button("Cancel", on_click=_look, args=(run, i))
            if edited:
                st.form_submit_button("The models' own texts", on_click=_restore, args=(run, i))


def _save(run: Run, i: int, keys: Sequence[str]) -> None:
    texts = [str(session.value(key, "")).rstrip() for key in keys]
    if not all(text.strip() for text in texts):
        session.say(sentence(EMPTY), "review")
    elif texts[0] == texts[1]:
        session.say("Both texts are the same: there is nothing to prefer. Change one of them.", "review")
    elif _write(run, i, edit=texts, verdict="keep"):
        _look(run, i)


def _restore(run: Run, i: int) -> None:
    if _write(run, i, edit=None):
        _look(run, i)


def _now(run: Run) -> Reviewed:
    """The pairs and the decisions as they are on disk."""
    return Reviewed(pairs_of(run.path), review_of(run.path), ())
