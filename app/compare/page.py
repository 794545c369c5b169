"""The Compare page: one prompt answered unmasked, masked, tuned, and with as many random heads masked, side by side."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.navigation.page import StreamlitPage

from app.compare import comparison, differences, dose, export, form, traces
from app.compare.answer_html import answer_html
from app.compare.comparison import LiveComparison
from app.compare.setup import Setup, keep_text
from app.shared import maps, mask_editor, models, selection, session
from app.shared.models import ModelRef, tuned
from app.shared.text import download_button, fact_html, file_name, guarded, sentence
from retmask.compare.comparison import Column, Comparison
from retmask.detect.score import GATE
from retmask.figures import style
from retmask.heads.grid import Grid
from retmask.heads.masks import HeadMask
from retmask.heads.rules import CONTROL, MASKED, TUNED, UNMASKED
from retmask.heads.scores import HeadScores

IDLE = {
    UNMASKED: "The model as it is.",
    MASKED: "The same model with the selected heads {}.",
    TUNED: "The model after fine-tuning, with no head masked.",
    CONTROL: "The same model with as many random heads {}.",
}
UNSELECTED = 'No head is selected: press "Mask the top 5 %" above, or select heads on the map.'
VIEWS = ["Differences", "Trace"]
SCROLL = "<script>document.querySelector('.st-key-answers')?.scrollIntoView({block: 'center'})</script>"


def page(heads_page: StreamlitPage) -> None:
    """Draw the page for the map that is chosen; `heads_page` is where heads are selected on it."""
    st.header("Compare", anchor=False)
    try:
        shown = selection.current_map()
    except ValueError as error:
        st.error(sentence(error))
        st.caption("Choose another map in the sidebar, open a score file, or detect the heads of a model.")
        return
    if shown.scores is None:
        st.info("This map has no heads yet: a comparison can be made once a trial has found its needle.")
        return
    st.caption(
        f"{sentence(shown.model)[:-1]} answers one prompt side by side. Heads are ranked by the map "
        f'"{sentence(maps.label(shown.source))[:-1]}".'
    )
    _mask(shown.scores, shown.model, heads_page)
    ref = form.section(shown)
    session.show_said(form.PLACE)
    _buttons()
    answers, details, below = st.container(), st.empty(), st.container()
    with below:  # it is drawn first: the answers may take their time
        _command(ref, shown, shown.scores.grid)
        dose.section(shown, ref, shown.scores.grid)
        export.section(ref, shown.scores.grid)
    live = comparison.live()
    if live and live.done and not session.WANTED.get():
        with details.container():
            _details(live, live.done)
    with answers:
        _answers(ref, shown.scores)


def _mask(scores: HeadScores, model: str, heads_page: StreamlitPage) -> None:
    """How many heads are masked, in a line, and what changes that."""
    grid = scores.grid
    selected = selection.mask(grid)
    with st.container(horizontal=True, vertical_alignment="center"):
        share = style.percent(round(len(selected) / grid.size, 3))
        st.markdown(f"**{len(selected):,} of {grid.size:,} heads {selection.condition(selected)} ({share})**")
        mask_editor.best(scores, "mask_best")
        st.page_link(heads_page, label="Select on the map", icon=":material/grid_on:", width="content")
    with st.expander("Change the mask", key="mask_editor"):
        mask_editor.editor(scores)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            mask_editor.scale(grid)
            mask_editor.kept(grid, model)
            mask_editor.steps(grid)


def _buttons() -> None:
    live = comparison.live()
    running = session.WANTED.get() or bool(live and not live.over)
    wrong = form.wrong()
    with st.container(horizontal=True, vertical_alignment="center"):
        look: dict[str, Any] = {"type": "primary", "icon": ":material/play_arrow:", "shortcut": "Ctrl+Enter"}
        st.button("Start", on_click=comparison.want, key="run", disabled=bool(wrong), **look)
        st.button("Stop", icon=":material/stop:", on_click=models.stop_comparison, disabled=not running, key="stop")
    for problem in filter(None, (sentence(wrong) if wrong else "", session.FAILED.get())):
        st.error(problem)


def _command(ref: ModelRef | None, shown: maps.HeadMap, grid: Grid) -> None:
    """The command line that does what the settings say."""
    mask, setup = selection.mask(grid), form.setup_for(ref)
    if ref and (len(mask) or setup.tuned) and (setup.kind == "needle" or setup.text.strip()):
        file = keep_text(setup.text) if setup.kind == "text" else None
        beside = tuned(setup.tuned)
        with suppress(ValueError):  # of what cannot be there is no command: Start says what is wrong
            command = setup.command(ref, mask, shown.argument, file, beside.folder if beside else "")
            st.caption("The command that does the same:")
            st.code(command, language="bash", wrap_lines=True)


def _answers(ref: ModelRef | None, scores: HeadScores) -> None:
    """The columns: what was said last, or what is being said now, token by token."""
    if session.WANTED.get():
        with st.spinner("Loading the model and making the prompt…", show_time=True):
            _begin(ref, scores)
        st.rerun()
    live = comparison.live()
    if live is None:
        _frames(form.setup_for(ref), {}, selection.mask(scores.grid))
        return
    assert live.latest is not None, "a comparison is begun with its first snapshot"
    _asked(live, ref, scores)
    masks = {column.name: column.mask for column in live.latest.columns}
    places = _frames(live.setup, masks, selection.mask(scores.grid))
    _draw(live, places)
    if live.over:
        return
    if session.SCROLLED_TO.get() is not live:
        session.SCROLLED_TO.put(live)
        st.html(SCROLL, unsafe_allow_javascript=True)
    try:
        while not live.over:
            live.advance()
            _draw(live, places)
    except (RuntimeError, MemoryError) as error:  # such as a GPU that is out of memory
        comparison.fail(f"the comparison broke off: {error}")
    st.rerun()  # what comes after an answer, and the buttons as they are then


def _begin(ref: ModelRef | None, scores: HeadScores) -> None:
    """Put a new comparison in the place of the last; where there can be none, say why and leave the last."""
    from retmask.compare.side_by_side import compare  # torch takes seconds to import, and the page opens without

    setup, mask = form.setup_for(ref), selection.mask(scores.grid)
    try:
        if ref is None:
            raise ValueError("the model is missing: name its folder or its Hub id above")
        wanted = setup.columns(mask, scores)
        model = models.get(ref)
        scores.check_grid(model.grid, str(ref))
        if setup.kind == "needle":
            model.check_length(setup.tokens)  # before so long a prompt is made: that alone takes minutes
        prompt = setup.prompt(model.tokenizer)
        columns, left_out = _with_tuned(wanted, ref)
        steps = compare(model, prompt, columns, setup.new_tokens, setup.sampling)
        live = LiveComparison(steps, ref, setup, mask, scores, model.tokenizer, left_out)
        live.advance()
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        comparison.fail(error)
    else:
        comparison.begin(live)


def _with_tuned(columns: Sequence[Column], ref: ModelRef) -> tuple[Sequence[Column], str]:
    """The columns with the tuned model in its place; where it cannot be loaded those without it, and why.

    As `models.get`, where no other column is left.
    """
    beside = models.tuned_for(ref)
    others = [column for column in columns if column.name != TUNED]
    if beside is None or len(others) == len(columns):
        return others, ""
    try:
        model = models.get(beside.ref, ref)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:  # such as memory for one model only
        if not others:
            raise
        return others, f"there is no tuned answer: {error}"
    return [column._replace(model=model) if column.name == TUNED else column for column in columns], ""


def _asked(live: LiveComparison, ref: ModelRef | None, scores: HeadScores) -> None:
    """What was asked, the right answer, and whether the settings have been changed since."""
    assert live.latest is not None
    st.caption(sentence(f"{live.model} · {live.setup}")[:-1])
    if (live.model, live.setup, live.mask) != (ref, form.setup_for(ref), selection.mask(scores.grid)):
        st.caption(":orange[These answers are of other settings than those above: run again to see theirs.]")
    if live.left_out:
        st.warning(sentence(live.left_out))
    if live.latest.prompt.answer:
        st.html(fact_html("Right answer", live.latest.prompt.answer))


def _frames(setup: Setup, masks: dict[str, HeadMask], selected: HeadMask) -> dict[str, DeltaGenerator]:
    """A frame for each column that is switched on, with its name; the places for the answers, by name."""
    on = {UNMASKED: setup.unmasked, MASKED: setup.masked, TUNED: setup.tuned, CONTROL: setup.control}
    names = [name for name in on if on[name]]
    places = {}
    with st.container(key="answers"):
        for name, column in zip(names, st.columns(max(1, len(names)), gap="medium", border=True), strict=False):
            with column:
                st.markdown(f"**{name}**")
                if name in masks:
                    _what(name, setup, masks[name])
                    places[name] = st.empty()
                else:
                    idle = IDLE[name].format(selection.condition(selected))
                    st.caption(idle if len(selected) or name in (UNMASKED, TUNED) else UNSELECTED)
    return places


def _what(name: str, setup: Setup, mask: HeadMask) -> None:
    """What a column's model is, in a line."""
    if name == UNMASKED:
        st.caption("the model as it is")
        return
    if name == TUNED:
        st.caption(sentence(str(tuned(setup.tuned) or setup.tuned))[:-1])
        return
    n = f"{len(mask):,} {'random ' * (name == CONTROL)}head{'s' * (len(mask) != 1)} {selection.condition(mask)}"
    seed = f", seed {setup.control_seed}" if name == CONTROL else ""
    st.caption(n + seed, help=sentence(", ".join(str(mask).split(","))))


def _draw(live: LiveComparison, places: dict[str, DeltaGenerator]) -> None:
    """Every column as far as it has come."""
    snapshot = live.latest
    assert snapshot is not None
    for i, column in enumerate(snapshot.columns):
        places[column.name].html(answer_html(snapshot, i, live.stopped, GATE))


@st.fragment
@guarded
def _details(live: LiveComparison, done: Comparison) -> None:
    """What the finished answers tell: a click in it draws nothing else anew."""
    with st.container(horizontal=True, vertical_alignment="center"):
        kept = session.kept("view", VIEWS[0])
        view = st.segmented_control("Details", VIEWS, required=True, label_visibility="collapsed", **kept)
        file = file_name(f"{live.model}-answers.json")
        download_button("All as JSON", lambda: _json(done), file, "application/json")
    if view == "Trace":
        traces.section(live, done)
    else:
        differences.section(live, done)


def _json(done: Comparison) -> bytes:
    return json.dumps(done.to_json(), indent=1, ensure_ascii=False).encode()
