"""The selected heads as widgets, on any page: chips, rules that choose them, their scale, masks kept under a name."""

from collections.abc import Sequence
from typing import Any, Literal

import streamlit as st

from app.shared import selection, session
from app.shared.text import sentence
from retmask.heads.grid import Grid, HeadId, share_count
from retmask.heads.masks import HeadMask, load_mask, save_mask, saved_masks
from retmask.heads.scores import THRESHOLD, TOP_SHARE, HeadScores

MOST_CHIPS = 100
NO_HEADS = "None yet: click the map, use a rule, or type a head"


def steps(grid: Grid) -> None:
    """One step back, and all heads gone."""
    last, none = not selection.can_undo(grid), not len(selection.mask(grid))
    undo, clear = ":material/undo:", ":material/close:"
    st.button("Undo", icon=undo, on_click=selection.undo, args=(grid,), disabled=last, type="tertiary")
    st.button("Clear", icon=clear, on_click=selection.select, args=((), grid), disabled=none, type="tertiary")


def best(scores: HeadScores, key: str) -> None:
    """The button that selects the best heads; nothing where just these are selected."""
    heads, selected = scores.top_share(), selection.mask(scores.grid).heads
    if set(selected) != set(heads):
        kind: Literal["primary", "tertiary"] = "tertiary" if selected else "primary"
        args = (heads, scores.grid, ("--top", f"{len(heads)}"))
        st.button("Mask the top 5 %", type=kind, key=key, on_click=selection.select, args=args)


def editor(scores: HeadScores) -> None:
    """Chips of the selected heads, the rules that make them, and what could not be done."""
    _chips(selection.mask(scores.grid), scores.grid)
    _rules(scores)
    session.show_said()


def scale(grid: Grid) -> None:
    """The scale of all selected heads."""
    selected = selection.mask(grid)
    scales = set(selected.scales.values())
    shown = None if len(scales) > 1 else next(iter(scales), 0.0)
    key, answer = session.answering("scale", shown, lambda _, typed: _rescale(typed, grid))
    says = "what the output of the selected heads is multiplied with: 0 masks them, 1 leaves them as they are"
    look: dict[str, Any] = {"format": "%g", "placeholder": "mixed", "disabled": not len(selected), "width": 150}
    st.number_input("Scale", value=shown, step=0.1, key=key, help=says, on_change=answer, **look)


def _rescale(scale: float | None, grid: Grid) -> None:
    """Put the selected heads at a scale, or say why they cannot be."""
    try:
        selection.rescale(scale, grid)
    except ValueError:
        session.say(f"{sentence('the scale must be a number from 0 to 2')} Nothing was changed.")
        session.draw_anew()


def kept(grid: Grid, model: str) -> None:
    """Keep the selection under a name, or take one that was kept."""
    st.text_input("Keep this mask as", key="mask_name", placeholder="a name", width=170)
    st.button("Save", key="mask_save", on_click=_save, args=(grid, model), disabled=not len(selection.mask(grid)))
    names = saved_masks()
    if names:
        st.selectbox("Kept masks", names, key="mask_kept", width=190)
        st.button("Load", key="mask_load", on_click=_load, args=(grid,))


def _save(grid: Grid, model: str) -> None:
    try:
        save_mask(session.value("mask_name", "").strip(), selection.mask(grid), grid, model)
    except (ValueError, OSError) as error:
        session.say(sentence(error))


def _load(grid: Grid) -> None:
    try:
        selection.set_mask(load_mask(session.value("mask_kept"), grid), grid)
    except ValueError as error:
        session.say(f"{sentence(error)} Nothing was changed.")


def _chips(selected: HeadMask, grid: Grid) -> None:
    """The selected heads, each with a cross to let it go; very many as text."""
    if len(selected) > MOST_CHIPS:
        with st.container(height=130):
            st.text(str(selected).replace(",", ", "))
        return
    key, answer = session.answering("chips", list(selected.heads), lambda before, after: _change(before, after, grid))
    look: dict[str, Any] = {"label_visibility": "collapsed", "select_all": False, "wrap": True, "placeholder": NO_HEADS}
    look["format_func"] = lambda head: f"{head}:{selected.scales[head]:g}" if selected.scales.get(head) else str(head)
    place, heads = st.container(key="chips"), list(selected.heads)
    place.multiselect("Selected heads", grid.heads(), heads, key=key, on_change=answer, **look)


EXCLUDE = (
    "No retrieval head is drawn: none with a mean of at least 0.1 where the score counts copies, else none of the best "
    "5 %. Or say here which: the least mean score (0.05) or the share of the best (5%)"
)


def _change(before: Sequence[HeadId], after: Sequence[HeadId], grid: Grid) -> None:
    """Let the heads go whose chips were taken away, and add those that were put there."""
    gone = set(before) - set(after)
    stay = [head for head in selection.mask(grid).heads if head not in gone]
    selection.select([*stay, *(set(after) - set(before))], grid)


RULES = ["Score", "Top k", "Top %", "List", "Random"]


def _rules(scores: HeadScores) -> None:
    """Select by a rule: its kind, its number, and whether it replaces the selection or adds to it."""
    grid = scores.grid
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.segmented_control("Select by", RULES, default="Top %", key="rule_kind", required=True)
        _rule_inputs(kind or "Top %", grid)
        wrong = _wrong(kind or "Top %", grid)
        apply: dict[str, Any] = {"on_click": _apply, "disabled": bool(wrong)}
        st.button("Select", type="primary", args=(scores, False), key="rule_select", **apply)
        st.button("Add", args=(scores, True), key="rule_add", help="add to the selection", **apply)
    if wrong:
        st.error(sentence(wrong))


def _rule_inputs(kind: str, grid: Grid) -> None:
    if kind == "Score":
        st.number_input("at least", value=THRESHOLD, step=0.01, key="rule_above", width=110, help="mean score")
    elif kind == "Top k":
        st.number_input("heads", value=share_count(grid.size, TOP_SHARE), step=1, key="rule_top", width=110)
    elif kind == "Top %":
        look: dict[str, Any] = {"width": 110, "format": "%g", "help": "of all heads"}
        st.number_input("per cent", value=100 * TOP_SHARE, step=1.0, key="rule_share", **look)
    elif kind == "List":
        st.text_input("heads", placeholder="L17H3, 18-6", key="rule_list", width=200)
    else:
        size = len(selection.mask(grid)) or share_count(grid.size, TOP_SHARE)
        st.number_input("heads", value=size, step=1, key="rule_random", width=90)
        st.number_input("seed", value=0, step=1, key="rule_seed", width=90, help="of the draw")
        st.text_input("but", placeholder="retrieval heads", key="rule_exclude", width=140, help=EXCLUDE)


def _wrong(kind: str, grid: Grid) -> str:
    """What is wrong with a rule's numbers, empty for nothing."""
    ranges: dict[str, list[tuple[str, str, float, float]]] = {
        "Score": [("rule_above", "the score", 0, 10)],
        "Top k": [("rule_top", "the number of heads", 1, grid.size)],
        "Top %": [("rule_share", "the share in per cent", 0.1, 100)],
        "Random": [("rule_random", "the number of heads", 1, grid.size), ("rule_seed", "the seed", 0, 10**6)],
    }
    return session.out_of_range(*ranges.get(kind, []))


def _apply(scores: HeadScores, add: bool) -> None:
    """Do what the rule says; a sentence and no change where it cannot be done."""
    grid = scores.grid
    try:
        options = _options(grid)
        ruled = selection.named(options, scores)
    except ValueError as error:
        return session.say(f"{sentence(error)} Nothing was changed.")
    before = selection.mask(grid).heads if add else ()
    scaled = options[0] == "--heads" and ":" in session.value("rule_list")
    at = ruled.scales if scaled else {}
    selection.select([*before, *ruled.heads], grid, () if before else options, at)
    return None


def _options(grid: Grid) -> tuple[str, ...]:
    """The options of `retmask heads` that say what the rule says."""
    kind = session.value("rule_kind")
    wrong = _wrong(kind, grid)
    if wrong:
        raise ValueError(wrong)
    if kind == "Score":
        return "--threshold", f"{session.value('rule_above'):.12g}"
    if kind in ("Top k", "Top %"):
        k = session.value("rule_top") if kind == "Top k" else share_count(grid.size, session.value("rule_share") / 100)
        return "--top", f"{k}"
    if kind == "List":
        typed = str(HeadMask.parse(session.value("rule_list"), grid))
        if not typed:
            raise ValueError("the list is empty: write heads such as L17H3, 18-6")
        return "--heads", typed
    exclude = str(session.value("rule_exclude") or "").strip()
    drawn = ("--random", f"{session.value('rule_random')}", "--seed", f"{session.value('rule_seed')}")
    return (*drawn, "--exclude", exclude) if exclude else drawn
