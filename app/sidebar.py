"""The sidebar: which map is looked at, how to open another, the tuned model, what runs now."""

import os
from collections.abc import Callable
from typing import Any

import streamlit as st

from app.shared import jobs, maps, models, readers, selection, session
from app.shared.text import plain, sentence
from retmask.files import home
from retmask.heads.sets import keep_set

LONG = 28  # characters of a map's name that the picker shows


def picker(tune: Callable[[str], None]) -> None:
    """The sidebar: which map is looked at, how to open another one, what is running; `tune` chooses a tuned model."""
    names = selection.sources()
    key, answer = session.answering("map-of", selection.source(), lambda _, now: selection.choose(now))
    st.selectbox("Map", names, names.index(selection.source()), key=key, format_func=maps.label, on_change=answer)
    whole = maps.label(selection.source())
    if len(whole) > LONG:
        st.caption(sentence(whole)[:-1])
    with st.expander("Open a score file", expanded=False):
        opener()
    look: dict[str, Any] = {"icon": ":material/radar:", "width": "stretch"}
    st.button("Detect again", key="detect_again", on_click=session.DETECTION_FORM.put, args=(True,), **look)
    tuned_line(tune)
    jobs.watch()
    if os.environ.get("RETMASK_HOME"):
        st.caption(
            "The commands on these pages find this app's runs with "
            f"`RETMASK_HOME={plain(home())}` in their environment."
        )


def opener() -> None:
    """Open a score file by path or upload, in the sidebar. What is malformed is told in a sentence and not opened."""
    label, says = "Path of a score file or run folder", "also a list of QRHead or gates of DuoAttention, of a model"
    path = st.text_input(label, key="open_path", placeholder="folder/scores.json", help=f"{says} that they name")
    upload = st.file_uploader("or drop one here", type=readers.SCORE_FILES, key="open_upload", max_upload_size=64)
    model = st.selectbox("It belongs to", ["some other model", *maps.shipped_maps()], key="open_model")
    says = "draws the groups of query heads that share a key/value head; published files do not say it"
    kv = st.number_input("Key/value heads", value=None, step=1, key="open_kv", placeholder="not known", help=says)
    if st.button("Open", key="open_go", disabled=not (path.strip() or upload), width="stretch"):
        try:
            wrong = kv is not None and session.out_of_range(("open_kv", "the number of key/value heads", 1, 512))
            if wrong:
                raise ValueError(wrong)
            name = keep_set(upload.name, upload.getvalue()) if upload else path.strip()
            _check(readers.open_map(name, kv), model)
        except ValueError as error:
            st.error(f"{sentence(error)} The map you see is unchanged.")
            return
        selection.choose(name, kv)
        st.rerun()


def _check(opened: maps.HeadMap, model: str) -> None:
    """ValueError where the scores cannot be the model's."""
    if model in maps.shipped_maps() and opened.scores:
        grid = readers.open_map(model).grid
        if grid:
            opened.scores.check_grid(grid, model)


def tuned_line(tune: Callable[[str], None]) -> None:
    """Which model is the tuned one, in the sidebar, with a button to switch it off; nothing where none is."""
    tuned = models.tuned_model()
    if tuned is None:
        return
    name, off = st.columns([6, 1], gap=None, vertical_alignment="center")
    name.caption(f"Tuned: {sentence(str(tuned))[:-1]}", help=sentence(f"Trained on {tuned.base}"))
    icon, says = ":material/close:", "go on without the tuned model"
    off.button("", icon=icon, type="tertiary", key="tuned_off", on_click=tune, args=("",), help=says)
