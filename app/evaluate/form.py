"""The form that starts an evaluation: of which model, which conditions, what is asked; how long it takes."""

from typing import Any

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.evaluate import adding, rows
from app.evaluate.rows import Heads
from app.shared import address, jobs, maps, selection, session
from app.shared.form import Form, show_command, show_memory
from app.shared.models import ModelRef
from app.shared.text import sentence
from retmask.evaluate.job import EVALUATE, EvaluateSettings
from retmask.evaluate.suite import NEEDLES, Suite, size
from retmask.heads.masks import HeadMask
from retmask.heads.rules import MaskRule
from retmask.items.item import CATEGORIES
from retmask.model.gguf import BUILT_IN
from retmask.model.weights import folder_grid
from retmask.runs.overview import duration
from retmask.runs.run import Run
from retmask.runs.settings import from_record

OTHERS = ("trials", "context_tokens", "needles", "haystack", "harness", "read")  # asked by the command line alone
FORM = Form(EvaluateSettings, "evaluate", ("model", "tuned", "rule", "also", "condition", "suite", *OTHERS))
MEASURED = {"smollm2-135m": 0.0012}  # seconds a token of an answer's window, on two cores
CHARS = 4  # of a token of one's own items, about
SAYS = {
    "quick": "a task of each category, three of the guard, at 1,024 tokens",
    "standard": "all tasks at 1,024 and 4,096 tokens",
    "long": "all tasks at 8,192, 32,768 and 131,072 tokens",
}


def section(heads_page: StreamlitPage, is_first: bool) -> None:
    """The form, folded away once there is an evaluation to look at."""
    key = session.EVALUATE_FORM.name
    box = st.expander("New evaluation", expanded=is_first, key=key, on_change="rerun", icon=":material/add:")
    if box.open:
        with box:
            _form(heads_page)


def show(settings: EvaluateSettings) -> None:
    """Open the form with these settings; before it is drawn, or in a callback."""
    FORM.fill(settings)
    rows.put([str(each) for each in settings.conditions().values() if each.role != "base"])
    session.EVALUATE_MAP.put(selection.source())
    session.EVALUATE_FORM.put(True)


def start_from(run: Run) -> None:
    """Open the form with the settings of an evaluation; where they cannot be read, it says so."""
    with jobs.telling("evaluation"):
        show(from_record(EvaluateSettings, run.config))


def _form(heads_page: StreamlitPage) -> None:
    shown = _map()
    model = _model(shown)
    heads = _heads(shown, model)
    _first(heads)
    conditions = rows.section(heads)
    adding.section(heads, ModelRef(model), heads_page)
    options = SAYS | {name: "" for name in (*CATEGORIES, FORM.held("suite")) if name and name not in SAYS}
    suite = FORM.widget("suite", value="quick", options=options, accept_new_options=True)
    values = FORM.widgets()
    settings = None
    try:
        if not model:
            raise ValueError("the model is missing: name its folder or its Hub id above")
        if suite == NEEDLES:
            raise ValueError("needles are asked on the page of a training, or by the command line: choose a suite")
        rule, named = MaskRule(scores=heads.scores), conditions or ()
        settings = FORM.settings(values, model=model, suite=suite or "", rule=rule, condition=named)
        _ = settings.asked
    except (ValueError, OSError) as error:
        st.error(sentence(error))
        settings = None  # also where it is what is asked that cannot be read
    if settings is None or conditions is None:
        st.button("Start", type="primary", disabled=True, key="evaluate_start")
        return
    tokens, says = _size(settings)
    show_command(settings, says)
    show_memory(model, tokens, "evaluate_memory")
    icon, args = ":material/play_arrow:", (settings,)
    st.button("Start", type="primary", icon=icon, key="evaluate_start", on_click=_start, args=args)
    session.show_said("evaluate")


def _size(settings: EvaluateSettings) -> tuple[int, str]:
    """The longest window in tokens; and how many answers there will be, and about how long they take, in words.

    By the last run of the model here, else as measured on two cores.
    """
    asked, conditions = settings.asked, settings.conditions().values()
    if isinstance(asked, Suite):
        (items, tokens), longest, served = size(asked), max(asked.lengths), size(asked, served=True)[0]
    else:
        windows = [len(item.message) // CHARS for item in asked]
        items, tokens, longest, served = len(asked), sum(windows), max(windows), len(asked)
    servers = sum(bool(condition.server) for condition in conditions)
    each = len(conditions) - servers + len(settings.floors_asked)
    seconds = jobs.seconds_for(tokens * each, settings.model, settings.device)
    seconds = seconds or MEASURED.get(settings.model, 0.0) * tokens * each
    takes = f"about {duration(seconds)}" if seconds else "how long they take is known once some have been given"
    takes += (" here, and what the servers take" if seconds else ", the servers' aside") if servers else ""
    n = len(settings.floors_asked)
    floors = f" and {n} floor{'s' * (n != 1)}" if n else ""
    answers = items * each + served * servers
    return longest, f"{items:,} items, {len(conditions)} conditions{floors}: {answers:,} answers, {takes}."


def _start(settings: EvaluateSettings) -> None:
    """Begin the evaluation and look at it."""
    run = jobs.begin(EVALUATE, settings, "evaluate")
    if run:
        address.go_to(evaluate=run.reference, item=None)
        session.EVALUATE_FORM.put(False)


def _map() -> maps.HeadMap | None:
    """The map that is looked at, None where there is none with heads."""
    try:
        shown = selection.current_map()
    except ValueError:
        return None
    return shown if shown.scores else None


def _model(shown: maps.HeadMap | None) -> str:
    """The model that is asked: that of the map, as long as nobody chooses another."""
    ref = shown.ref if shown else None
    of_map = (ref.base or ref) if ref else None
    if session.EVALUATE_MAP.get() != selection.source():
        session.EVALUATE_MAP.put(selection.source())
        if of_map:
            session.fill(evaluate_model=of_map.name, evaluate_revision=of_map.revision)
    names = [of_map.name if of_map else "", *BUILT_IN, FORM.held("model")]
    options = list(dict.fromkeys(filter(None, names)))
    look: dict[str, Any] = {"options": options, "accept_new_options": True, "width": 380}
    return (FORM.widget("model", **look) or "").strip()


def _heads(shown: maps.HeadMap | None, model: str) -> Heads:
    """Whose heads conditions name: those of the map, where it is of that model."""
    grid = folder_grid(model) if model else None
    none = Heads("", grid, HeadMask(), model, FORM.held("revision"))
    if shown is None or shown.grid is None:
        return none
    ref = shown.ref
    is_its = (ref.base or ref).place == ModelRef(model).place if ref else grid in (None, shown.grid)
    if not is_its:
        return none
    return none._replace(scores=shown.argument, grid=shown.grid, selected=selection.mask(shown.grid))


def _first(heads: Heads) -> None:
    """Put the first conditions there; anew for as long as nobody has changed them."""
    texts = rows.first(heads)
    if rows.written() == session.EVALUATE_FIRST.get() != texts:
        rows.put(texts)
        session.EVALUATE_FIRST.put(texts)
