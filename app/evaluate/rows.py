"""The conditions of an evaluation as rows, each a text in the grammar of `retmask.compare.conditions`."""

from collections.abc import Sequence
from typing import NamedTuple

import streamlit as st

from app.shared import session
from app.shared.text import sentence
from retmask.compare.conditions import HELP, Condition, parse
from retmask.evaluate.backends import address_of
from retmask.heads.grid import Grid
from retmask.heads.masks import HeadMask
from retmask.heads.rules import UNMASKED


class Heads(NamedTuple):
    """Whose heads the rows name: the map of the model as an argument, its grid, and the heads selected on it.

    `scores` is empty where the map that is looked at is another model's, and the grid None where it is not known.
    """

    scores: str
    grid: Grid | None
    selected: HeadMask
    model: str = ""
    revision: str = ""


def written() -> list[str]:
    """The texts of the rows as they are now, the unmasked model's left out."""
    return [str(session.value(_key(number), "")).strip() for number in session.EVALUATE_ROWS.get()]


def put(texts: Sequence[str]) -> None:
    """Show these conditions, a row for each; before the rows are drawn, or in a callback."""
    session.EVALUATE_ROWS.put([])
    for text in texts:
        add(text)


def add(text: str) -> None:
    """Show one condition more. Each is another widget: what a browser still sends of one before is of that."""
    number = session.EVALUATE_ROWS_MADE.get()
    session.EVALUATE_ROWS_MADE.put(number + 1)
    session.put(_key(number), text)
    session.EVALUATE_ROWS.put([*session.EVALUATE_ROWS.get(), number])


def first(heads: Heads) -> list[str]:
    """The conditions at first: the selected heads masked, else the best 5 % of the map, and one draw of as many."""
    if len(heads.selected):
        return [masked(heads.selected), f"random: random={heads.selected}:seed0"]
    return ["masked=top:5%", "random=top:5%:seed0"] if heads.scores else []


def masked(mask: HeadMask) -> str:
    """The condition with these heads masked, or scaled as they are; more than a few are called by their number."""
    word = "scaled" if any(mask.scales.values()) else "masked"
    return f"{len(mask)} heads {word}: {word}={mask}" if len(mask) > 3 else f"{word}={mask}"


def section(heads: Heads) -> tuple[str, ...] | None:
    """Draw the rows; their texts, None where one of them is no condition."""
    st.text_input("Conditions", UNMASKED, disabled=True, help=f"All answer the same questions. Each is {HELP}")
    names: dict[str, Condition] = {}
    are_right = [_row(number, heads, names) for number in session.EVALUATE_ROWS.get()]
    return tuple(written()) if all(are_right) else None


def _row(number: int, heads: Heads, names: dict[str, Condition]) -> bool:
    """Draw a row, with a sentence where it is no condition; whether it is one. `names` are those above it."""
    with st.container(horizontal=True, vertical_alignment="center"):
        look = {"label_visibility": "collapsed", "placeholder": "masked=top:5%"} | session.kept(_key(number), "")
        st.text_input("Condition", **look)
        icon, args = ":material/close:", (number,)
        st.button(
            "", icon=icon, type="tertiary", key=f"evaluate_drop-{number}", help="Remove", on_click=_drop, args=args
        )
    text = str(session.value(_key(number), "")).strip()
    try:
        place, asked = f"evaluate_row-{number}", (text, heads._replace(selected=HeadMask()))
        conditions = session.remembered(place, asked, lambda: _tried(text, heads))
        if isinstance(conditions, Exception):
            raise conditions
        for condition in conditions:
            if names.setdefault(condition.name, condition) != condition:
                raise ValueError(f'a row above is named {condition.name} too: write another name before it, "name: "')
    except (ValueError, OSError) as error:
        st.error(sentence(error))
        return False
    if len(conditions) > 1:
        st.caption(f"{len(conditions)} conditions, a draw each.")
    return True


def _tried(text: str, heads: Heads) -> list[Condition] | Exception:
    """As `_read`; what is wrong is given back, to be remembered, where the model is not on this machine.

    The Hub, which is asked then, may take seconds to answer.
    """
    try:
        return _read(text, heads)
    except (ValueError, OSError) as error:
        if heads.grid:
            raise
        return error


def _read(text: str, heads: Heads) -> list[Condition]:
    """The conditions of a row. ValueError, one sentence, for a text that is none, or none of this model."""
    if not text:
        raise ValueError("this row is empty: write a condition, such as masked=top:5%, or remove it")
    conditions = parse(text, heads.scores)
    first = conditions[0]  # the others differ in the seed alone
    if first.rule.by_scores and not heads.scores:
        raise ValueError(f"{text} takes the best heads of a map: choose one of this model in the sidebar")
    if not address_of(first):
        first.check(heads.grid, heads.model, heads.revision)
    return conditions


def _drop(number: int) -> None:
    session.EVALUATE_ROWS.put([each for each in session.EVALUATE_ROWS.get() if each != number])


def _key(number: int) -> str:
    return f"evaluate_row-{number}"
