"""What is asked in pairs: prompts that are made here, a file of them, or a data set of the Hub."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st

from app.pairs import card
from app.shared import readers, session
from app.shared.text import sentence
from retmask.files import expanded
from retmask.pairs.job import PairsSettings
from retmask.text.sources import FILES, read_prompts

SOURCES = {"generate": "Made here", "file": "File", "hub": "Hub dataset"}
ARMS = {
    "grounded": "Questions about a fact in a page of Python's manual; the answer is known, so pairs can be checked.",
    "chat": "Short instructions as people give them to an assistant; nobody knows the one right answer.",
}
FILE = (
    ".jsonl or .json with a prompt (a text, or messages; the forms of OpenAI, ShareGPT and LMSYS too) in each row and, "
    "where it is known, its answer; or .txt with a prompt a line"
)
HUB = "with a column prompt, messages or conversation; rows in other languages are passed over"
PREVIEW = 3  # prompts
LARGE = 64 * 2**20  # bytes of a file that is read at once


def chosen() -> dict[str, Any]:
    """Where the prompts come from, as settings: `prompts` is empty as long as nobody has said it."""
    kept = session.kept("pairs_source", "generate") | {"format_func": lambda name: SOURCES[name]}
    source = st.segmented_control("Prompts", list(SOURCES), required=True, **kept)
    if source == "file":
        return _file()
    if source == "hub":
        with st.container(horizontal=True):
            hint, kept = "owner/name or owner/name:split", session.kept("pairs_hub", "") | {"width": 330}
            name = st.text_input("Dataset", placeholder=hint, help=HUB, **kept)
            return {"prompts": name.strip(), "count": _count(1)}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        arm = st.segmented_control("Kind", list(ARMS), required=True, **session.kept("pairs_arm", "grounded"))
        count = _count(1)
    st.caption(ARMS[arm or "grounded"])
    return {"generate": arm or "grounded", "count": count}


def _count(least: int) -> int | None:
    """How many prompts. Limits are told and not enforced by the widget: `PairsSettings` says what is outside them."""
    says = "how many prompts are answered" + (", 1 or more" if least else "; 0 takes all of the file")
    kept = session.kept("pairs_count" if least else "pairs_file_count", 300 if least else 0)
    count: int | None = st.number_input("Prompts", step=1, width=140, help=says, **kept)
    return count


def _file() -> dict[str, Any]:
    with st.container(horizontal=True):
        kept = session.kept("pairs_file", "") | {"width": 330}
        path = st.text_input("Path", placeholder="folder/prompts.jsonl", help=FILE, **kept)
        count = _count(0)
    types, most = ["jsonl", "json", "txt"], readers.MOST_UPLOAD
    st.file_uploader("or drop one here", types, key="pairs_upload", max_upload_size=most, on_change=_uploaded)
    session.show_said("pairs_upload")
    return {"prompts": path.strip(), "count": count}


def _uploaded() -> None:
    """Keep an uploaded file and put its path into the field."""
    file = session.value("pairs_upload")
    if file is None:
        return
    try:
        session.fill(pairs_file=str(keep(file.name, file.getvalue())))
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
