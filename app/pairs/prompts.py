"""What is asked in pairs: prompts that are made here, a file of them, or a data set of the Hub."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st

from app.pairs import card
from app.shared import readers, session
from app.shared.form import Form
from app.shared.text import sentence
from retmask.files import expanded
from retmask.pairs.job import PairsSettings
from retmask.text.prompts import ARMS
from retmask.text.sources import FILES, read_prompts

SOURCES = {"generate": "Made here", "file": "File or Hub dataset"}
FORM = Form(
    PairsSettings,
    "pairs",
    # the map and its heads; what is asked, below; shards are for several machines
    apart=("model", "revision", "adapter", "rule", "prompts", "generate", "count", "shards", "shard"),
)
PREVIEW = 3  # prompts
LARGE = 64 * 2**20  # bytes of a file that is read at once


def chosen() -> dict[str, Any]:
    """Where the prompts come from, as settings: `prompts` is empty as long as nobody has said it."""
    kept = session.kept("pairs_source", "generate") | {"format_func": lambda name: SOURCES[name]}
    source = st.segmented_control("Prompts", list(SOURCES), required=True, **kept)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if source != "file":
            arm = FORM.widget("generate", options=ARMS, value="grounded")
            return {"generate": arm, "count": FORM.widget("count", value=300)}
        path, count = FORM.widget("prompts"), replace(FORM, place="pairs_file").widget("count")
    types, most = ["jsonl", "json", "txt"], readers.MOST_UPLOAD
    st.file_uploader("or drop a file here", types, key="pairs_upload", max_upload_size=most, on_change=_uploaded)
    session.show_said("pairs_upload")
    return {"prompts": path, "count": count}


def _uploaded() -> None:
    """Keep an uploaded file and put its path into the field."""
    file = session.value("pairs_upload")
    if file is None:
        return
    try:
        session.fill(pairs_prompts=str(keep(file.name, file.getvalue())))
    except (ValueError, OSError) as error:
        session.say(sentence(error), "pairs_upload")


def keep(name: str, content: bytes) -> Path:
    """The path of a lasting copy of a file of prompts. ValueError, and no copy, if it is none."""
    return readers.keep_upload(name, content, "prompts", lambda path: read_prompts(str(path)))


def preview(settings: PairsSettings) -> None:
    """The first prompts, made or read when they are asked for."""
    with st.expander(f"Look at {PREVIEW} of the prompts", key="pairs_preview", on_change="rerun") as box:
        if not box.open:
            return
        few = replace(settings, count=min(settings.count, PREVIEW) or PREVIEW, allow=())
        try:
            with st.spinner("Reading the prompts…"):
                prompts = session.remembered("pairs_preview", (few, _changed(settings.prompts)), few.items)
        except ValueError as error:
            st.error(sentence(error))
            return
        st.html("".join(card.prompt(prompt.messages, prompt.answer) for prompt in prompts[:PREVIEW]))


def read(settings: PairsSettings) -> int:
    """How many prompts a file holds, said with what is passed over. ValueError, one sentence, for what is no such file.

    What is large or lies elsewhere is read when the run begins, and not as one types.
    """
    name, count = settings.prompts, settings.count
    path = expanded(name)
    if (path.is_file() and path.stat().st_size > LARGE) or not name.casefold().endswith(FILES):
        return count
    with st.spinner("Reading the prompts…"):
        key = (name, count, _changed(name))
        contents = session.remembered("pairs_read", key, lambda: read_prompts(name, count))
    n = len(contents.prompts)
    st.caption(f"{n:,} prompt{'s' * (n != 1)}" + (f"; {contents.sentence}." if contents.sentence else "."))
    return n


def _changed(prompts: str) -> int:
    """When a file of prompts was written; 0 for what is no file."""
    try:
        path = expanded(prompts)
        return path.stat().st_mtime_ns if prompts and path.is_file() else 0
    except (ValueError, OSError):
        return 0
