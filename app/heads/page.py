"""The Heads page: the map of a model's retrieval heads, and the selection on it."""

from collections.abc import Sequence

import streamlit as st

from app.heads import detection as detect
from app.heads import evidence, tuned_map
from app.shared import maps, mask_editor, readers, selection, session
from app.shared.text import draw_figure, guarded, sentence
from retmask.figures import style
from retmask.figures.maps import head_heatmap
from retmask.figures.rows import head_rows
from retmask.heads.grid import Grid, HeadId
from retmask.heads.scores import HeadScores
from retmask.heads.trials import Trial

MODES = {"Click": "pan", "Box": "select", "Lasso": "lasso"}
LONG_COMMAND = 20
WHAT = (
    "A retrieval head is an attention head that copies tokens of the context into the answer. Select heads, by the "
    "rule on the right or on the map, then see on Compare what the model answers without them."
)
VIEWS = ["Map", "What moved"]


def page() -> None:
    """Draw the page for the map that is chosen."""
    try:
        shown = selection.current_map()
    except ValueError as error:
        st.header("No map", anchor=False)
        st.error(sentence(error))
        st.caption("Choose another map in the sidebar, open a score file, or detect the heads of a model.")
        return
    st.header(f"Retrieval heads of {sentence(shown.model)[:-1]}", anchor=False)
    if shown.scores:
        st.caption(about(shown.scores, shown.trials))
        st.caption(WHAT)
        _warnings(shown)
    detect.condition(shown)
    tuned_map.detection(shown)
    if shown.scores:
        _explore(shown, shown.scores)


def _warnings(shown: maps.HeadMap) -> None:
    """What to know of a file from elsewhere before its numbers are read."""
    if shown.run is None:
        for warning in readers.score_set(shown.source)[0].warnings:
            st.caption(f":orange[{sentence(warning)}]")


@st.fragment
@guarded
def _explore(shown: maps.HeadMap, scores: HeadScores) -> None:
    """Map, selection and evidence: what a click draws anew, and nothing else; first what it is waited for."""
    name = maps.base_map(shown)
    base = readers.open_map(name) if name else None
    if base and base.scores and _view() == VIEWS[1]:
        tuned_map.section(base, base.scores, shown, scores)
        return
    with st.container(key="beside"):
        left, right = st.columns([11, 9], gap="medium")
        with right:
            _selection(scores, shown)
        with left:
            _map(scores)
        with right:
            evidence.concentration_figures(scores)
            evidence.ranks(scores, selection.mask(scores.grid))
        left, right = st.columns([11, 9], gap="medium")
        with left:
            evidence.table(scores, selection.mask(scores.grid))
        with right:
            evidence.recall(shown.model, shown.trials)
    evidence.one_head(scores, shown.trials)
    evidence.origin(shown.record, shown.run.command if shown.run else "")


def _view() -> str:
    """Which of the views of a fine-tuned model's map is looked at."""
    kept = session.kept("heads_view", VIEWS[0])
    return st.segmented_control("View", VIEWS, required=True, label_visibility="collapsed", **kept) or VIEWS[0]


def about(scores: HeadScores, trials: Sequence[Trial]) -> str:
    """What a map is made of, in a line."""
    grid = scores.grid
    parts = [f"{grid.n_layers} layers × {grid.n_heads} heads"]
    if grid.n_kv_heads and grid.n_kv_heads < grid.n_heads:
        parts.append(f"{grid.n_heads // grid.n_kv_heads} query heads share each key/value head (KV)")
    trial = "trial" if scores.n_trials == 1 else "trials"
    parts.append(f"{scores.n_trials} successful {trial}" + (f" of {len(trials)}" if trials else ""))
    parts.append(scores.detector.says)
    return " · ".join(parts)


def _map(scores: HeadScores) -> None:
    grid = scores.grid
    with st.container(horizontal=True, vertical_alignment="center"):
        mode = st.segmented_control(
            "Select by", list(MODES), default="Click", key="mode", required=True, label_visibility="collapsed"
        )
        st.caption(HINTS[mode or "Click"])
    selected = set(selection.mask(grid).heads)
    key, answer = session.answering("map", {}, lambda before, after: _picked(session.picked(before, after), grid))
    with st.container(key="map"):
        draw_figure(
            head_heatmap(scores, selected, selection.focus(grid), MODES[mode or "Click"], session.drawing()),
            f"{scores.model}-map",
            lambda: head_rows(scores, selected),
            key=key,
            on_select=answer,
            selection_mode=("points", "box", "lasso"),
        )


HINTS = {
    "Click": "Darker heads score higher. Click a head to select it, again to let it go.",
    "Box": "Drag a box: its heads are added.",
    "Lasso": "Draw round heads: they are added.",
}


def _picked(points: Sequence[tuple[int, ...]], grid: Grid) -> None:
    """A click turns a head on or off; a box or a lasso adds."""
    heads = [HeadId(layer, head) for layer, head in points]
    if not heads:
        return
    before = set(selection.mask(grid).heads)
    clicked = session.value("mode", "Click") == "Click"
    selection.select(before ^ set(heads) if clicked else before | set(heads), grid)
    if clicked:
        selection.look_at(heads[-1])


def _selection(scores: HeadScores, shown: maps.HeadMap) -> None:
    """The selected heads: counted, as chips, with the rules that make them and the command that does the same."""
    grid = scores.grid
    selected = selection.mask(grid)
    with st.container(horizontal=True, vertical_alignment="center"):
        share = style.percent(round(len(selected) / grid.size, 3))
        scaled = f", {selection.condition(selected)}" if any(selected.scales.values()) else ""
        st.markdown(f"**{len(selected):,} of {grid.size:,} heads selected, {share}{scaled}**")
        mask_editor.steps(grid)
    mask_editor.editor(scores)
    long = len(selected) > LONG_COMMAND
    st.code(
        shown.command(*selection.options(scores)), language="bash", wrap_lines=True, height=120 if long else "content"
    )
