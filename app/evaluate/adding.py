"""What is added to the conditions of an evaluation: heads, random heads, a training's, a folder, a server, a text."""

from collections.abc import Callable
from functools import partial
from typing import Any

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.evaluate import rows
from app.evaluate.rows import Heads
from app.shared import jobs, session
from app.shared.models import ModelRef, tunings
from retmask.compare.conditions import parse
from retmask.evaluate.backends import server_of
from retmask.heads.scores import TOP_SHARE

SELECTED, BEST, NONE = "the selected heads", "the best of the map", "no mask"
PLACE = "evaluate_add"  # where sentences are said
SERVED = "an OpenAI-compatible server (chat completions); its key: RETMASK_SERVER_KEYS=host:port=KEY"
WHICH = "of the map in the sidebar, which is of this model"


def section(heads: Heads, model: ModelRef, heads_page: StreamlitPage) -> None:
    """What to add, and the button that adds it; heads are selected on `heads_page`."""
    kinds: dict[str, Callable[[], str]] = {
        "masked heads": partial(_masked, heads),
        "random heads": partial(_random, heads),
        "scaled heads": partial(_scaled, heads),
        "a training": partial(_tuned, heads, model),
        "a checkpoint": _checkpoint,
        "a server": _server,
        "a text": lambda: "masked=",
    }
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.selectbox("Add", list(kinds), width=170, **session.kept("evaluate_add", "masked heads"))
        text = kinds[kind or "a text"]()
        icon, args, add = ":material/add:", (text,), _add_server if kind == "a server" else rows.add
        st.button("Add", icon=icon, key="evaluate_add_row", on_click=add, args=args, disabled=not text)
        st.page_link(heads_page, label="Select on the map", icon=":material/grid_on:", width="content")
    session.show_said(PLACE)


def _which(heads: Heads, none: bool = False) -> str:
    """Which heads are chosen, as `masked=` takes them; empty for none."""
    options = [*[NONE] * none, *[SELECTED] * bool(len(heads.selected)), *[BEST] * bool(heads.scores)]
    if not options:
        st.caption("Choose a map of this model in the sidebar: its heads can be named then.", width="content")
        return ""
    counted = {SELECTED: f"the {len(heads.selected)} selected heads"}
    look: dict[str, Any] = {"width": 210, "help": WHICH, "format_func": lambda name: counted.get(name, name)}
    way = st.selectbox("Mask on top" if none else "Heads", options, key=f"evaluate_which-{'-'.join(options)}", **look)
    if way != BEST:
        return str(heads.selected) if way == SELECTED else ""
    share = st.number_input("Per cent", format="%g", width=110, **session.kept("evaluate_share", 100 * TOP_SHARE))
    return f"top:{share:g}%" if share else ""


def _masked(heads: Heads) -> str:
    which = _which(heads)
    return rows.masked(heads.selected) if which == str(heads.selected) else which and f"masked={which}"


def _random(heads: Heads) -> str:
    """As many random heads as those; several draws are seeds from 0 on."""
    which = _which(heads)
    draws = st.number_input("Draws", step=1, width=100, **session.kept("evaluate_draws", 3))
    says = "as many of each layer as the heads have there"
    matched = st.toggle("Layer-matched", help=says, **session.kept("evaluate_matched", False))
    if not which or not draws or draws < 1:
        return ""
    label = "random: " if which == str(heads.selected) and len(heads.selected) > 3 else ""
    return f"{label}random={which}:seed0" + (f"-{draws - 1}" if draws > 1 else "") + ":matched" * matched


def _scaled(heads: Heads) -> str:
    which = _which(heads)
    scale = st.number_input("Scale", step=0.1, format="%g", width=110, **session.kept("evaluate_scale", 0.5))
    if not which or scale is None:
        return ""
    if which == str(heads.selected):
        return rows.masked(heads.selected.scaled(scale)) if 0 <= scale <= 2 else ""
    return f"scaled={which}:{scale:g}"


def _tuned(heads: Heads, model: ModelRef) -> str:
    """What a training of the model has made, alone or with heads masked."""
    made = {str(training): training for training in tunings(model)}
    if not made:
        st.caption("Nothing was trained on this model here yet.", width="content")
        return ""
    name = st.selectbox("Training", list(made), key=f"evaluate_training-{len(made)}", width=420)
    which = _which(heads, none=True)
    folder = made[name].folder if name in made else ""
    return folder and f"tuned={folder}" + f"+masked={which}" * bool(which)


def _checkpoint() -> str:
    folder = st.text_input("Folder", placeholder="a folder with config.json", width=420, key="evaluate_folder").strip()
    return folder and f"model={folder}"


def _server() -> str:
    look: dict[str, Any] = {"placeholder": "http://127.0.0.1:8000/v1", "help": SERVED}
    url = st.text_input("Address", width=280, key="evaluate_server", **look).strip()
    name = st.text_input("Model", placeholder="if it serves several", width=200, key="evaluate_served").strip()
    return url and f"server={url}" + f"+served={name}" * bool(name)


def _add_server(text: str) -> None:
    """Add a server that answers; where none does, it is said. It is contacted at no other time before Start."""
    with jobs.telling(PLACE):
        for condition in parse(text):
            server_of(condition)
        rows.add(text)
