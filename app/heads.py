"""The Heads page: the map of a model's retrieval heads, and the selection on it."""

from collections.abc import Sequence

import detect
import evidence
import state
import streamlit as st

from retmask import charts
from retmask.heads import Grid, HeadId, HeadMask, share_count
from retmask.retrieval import Trial
from retmask.scores import THRESHOLD, TOP_SHARE, HeadScores

MODES = {"Click": "pan", "Box": "select", "Lasso": "lasso"}
COUNTING = {"set": "each needle token counts once", "steps": "counted at every step, as in the published code"}
MOST_CHIPS, LONG_COMMAND = 100, 20


def page() -> None:
    """Draw the page for the map that is chosen."""
    if state.form_open():
        detect.form()
    try:
        shown = state.current()
    except ValueError as error:
        st.header("No map", anchor=False)
        st.error(state.sentence(error))
        st.caption("Choose another map in the sidebar, open a score file, or detect the heads of a model.")
        return
    st.header(f"Retrieval heads of {state.sentence(shown.model)[:-1]}", anchor=False)
    if shown.scores:
        st.caption(about(shown.scores, shown.trials))
    detect.condition(shown)
    if shown.scores:
        _explore(shown, shown.scores)


@st.fragment
def _explore(shown: state.HeadMap, scores: HeadScores) -> None:
    """Map, selection and evidence: what a click draws anew, and nothing else; first what it is waited for."""
    with st.container(key="beside"):
        left, right = st.columns([11, 9], gap="medium")
        with right:
            _selection(scores, shown)
        with left:
            _map(scores)
        with right:
            evidence.concentration(scores)
            evidence.ranks(scores, state.mask(scores.grid))
        left, right = st.columns([11, 9], gap="medium")
        with left:
            evidence.table(scores, state.mask(scores.grid))
        with right:
            evidence.recall(shown.model, shown.trials)
    evidence.one_head(scores, shown.trials)
    evidence.origin(shown.record)


def about(scores: HeadScores, trials: Sequence[Trial]) -> str:
    """What a map is made of, in a line."""
    grid = scores.grid
    parts = [f"{grid.n_layers} layers × {grid.n_heads} heads"]
    if grid.n_kv_heads and grid.n_kv_heads < grid.n_heads:
        parts.append(f"{grid.n_heads // grid.n_kv_heads} query heads share each key/value head (KV)")
    trial = "trial" if scores.n_trials == 1 else "trials"
    parts.append(f"{scores.n_trials} successful {trial}" + (f" of {len(trials)}" if trials else ""))
    parts.append(COUNTING.get(scores.counting, "how it was counted is not recorded"))
    return " · ".join(parts)


def _map(scores: HeadScores) -> None:
    grid = scores.grid
    with st.container(horizontal=True, vertical_alignment="center"):
        mode = st.segmented_control(
            "Select by", list(MODES), default="Click", key="mode", required=True, label_visibility="collapsed"
        )
        st.caption(HINTS[mode or "Click"])
    selected = set(state.mask(grid).heads)
    evidence.shown(
        charts.head_heatmap(scores, selected, state.focus(grid), MODES[mode or "Click"], state.drawing()),
        f"{scores.model}-map",
        lambda: charts.head_rows(scores, selected),
        key="map",
        on_select=lambda: _picked(grid),
        selection_mode=("points", "box", "lasso"),
    )


HINTS = {
    "Click": "Darker heads copied more of the needle. Click a head to select it, again to let it go.",
    "Box": "Drag a box: its heads are added.",
    "Lasso": "Draw round heads: they are added.",
}


def _picked(grid: Grid) -> None:
    """A click turns a head on or off; a box or a lasso adds."""
    heads = state.picked_points(state.value("map"))
    if not heads:
        return
    before = set(state.mask(grid).heads)
    clicked = state.value("mode", "Click") == "Click"
    state.select(before ^ set(heads) if clicked else before | set(heads), grid)
    if clicked:
        state.look_at(heads[-1])


def _selection(scores: HeadScores, shown: state.HeadMap) -> None:
    """The selected heads: counted, as chips, with the rules that make them and the command that does the same."""
    grid = scores.grid
    selected = state.mask(grid)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            f"**{len(selected):,} of {grid.size:,} heads selected, {len(selected) / grid.size:.1%}**".replace("%", " %")
        )
        st.button(
            "Undo",
            icon=":material/undo:",
            on_click=state.undo,
            args=(grid,),
            disabled=not state.can_undo(grid),
            type="tertiary",
        )
        st.button(
            "Clear",
            icon=":material/close:",
            on_click=state.select,
            args=((), grid),
            disabled=not len(selected),
            type="tertiary",
        )
    _chips(selected, grid)
    _rules(scores)
    said = state.said()
    if said:
        st.error(said)
    long = len(selected) > LONG_COMMAND
    st.code(shown.command(*state.rule(grid)), language="bash", wrap_lines=True, height=120 if long else "content")


def _chips(selected: HeadMask, grid: Grid) -> None:
    """The selected heads, each with a cross to let it go; very many as text."""
    if len(selected) > MOST_CHIPS:
        with st.container(height=130):
            st.text(str(selected).replace(",", ", "))
        return
    key = f"chips-{state.drawing()}"
    st.container(key="chips").multiselect(
        "Selected heads",
        grid.heads(),
        list(selected.heads),
        key=key,
        label_visibility="collapsed",
        select_all=False,
        wrap=True,
        placeholder="None yet: click the map, use a rule, or type a head",
        on_change=lambda: state.select(state.value(key), grid),
    )


RULES = ["Score", "Top k", "Top %", "List", "Random"]


def _rules(scores: HeadScores) -> None:
    """Select by a rule: its kind, its number, and whether it replaces the selection or adds to it."""
    grid = scores.grid
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.segmented_control("Select by", RULES, default="Top %", key="rule_kind", required=True)
        _rule_inputs(kind or "Top %", grid)
        st.button("Select", type="primary", on_click=_apply, args=(scores, False), key="rule_select")
        st.button("Add", on_click=_apply, args=(scores, True), key="rule_add", help="add to the selection")


def _rule_inputs(kind: str, grid: Grid) -> None:
    if kind == "Score":
        st.number_input("at least", 0.0, 10.0, THRESHOLD, 0.01, key="rule_above", width=110)
    elif kind == "Top k":
        st.number_input("heads", 1, grid.size, share_count(grid.size, TOP_SHARE), key="rule_top", width=110)
    elif kind == "Top %":
        st.number_input("per cent", 0.1, 100.0, 100 * TOP_SHARE, 1.0, key="rule_share", width=110, format="%g")
    elif kind == "List":
        st.text_input("heads", placeholder="L17H3, 18-6", key="rule_list", width=200)
    else:
        size = len(state.mask(grid)) or share_count(grid.size, TOP_SHARE)
        st.number_input("heads", 1, grid.size, size, key="rule_random", width=90)
        st.number_input(
            "seed", 0, 10**6, 0, key="rule_seed", width=90, help="drawn from the heads below 0.1: a control"
        )


def _apply(scores: HeadScores, add: bool) -> None:
    """Do what the rule says; a sentence and no change where it cannot be done."""
    grid = scores.grid
    try:
        heads, options = _ruled(scores)
    except ValueError as error:
        return state.say(f"{state.sentence(error)} Nothing was changed.")
    before = state.mask(grid).heads if add else ()
    state.select([*before, *heads], grid, () if before else options)
    return None


def _ruled(scores: HeadScores) -> tuple[Sequence[HeadId], tuple[str, ...]]:
    """The heads that the rule names, and the options of `retmask heads` that name them."""
    kind, grid = state.value("rule_kind"), scores.grid
    if kind == "Score":
        threshold = state.value("rule_above")
        return scores.above(threshold), ("--threshold", f"{threshold:g}")
    if kind in ("Top k", "Top %"):
        k = state.value("rule_top") if kind == "Top k" else share_count(grid.size, state.value("rule_share") / 100)
        return scores.top(k), ("--top", f"{k}")
    if kind == "List":
        heads = HeadMask.parse(state.value("rule_list"), grid).heads
        if not heads:
            raise ValueError("the list is empty: write heads such as L17H3, 18-6")
        return heads, ("--heads", ",".join(map(str, heads)))
    k, seed = state.value("rule_random"), state.value("rule_seed")
    drawn = HeadMask.random(grid, k, seed, excluding=scores.above())
    return drawn.heads, ("--random", f"{k}", "--seed", f"{seed}")
