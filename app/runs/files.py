"""The files that a run wrote, and what is in them."""

import json
from pathlib import Path

import streamlit as st

from app.shared.text import download_button
from retmask.runs import overview
from retmask.runs.run import Run

READABLE = {".json", ".jsonl", ".txt", ".csv", ".md", ".log", ".yaml", ".yml", ".jinja"}
MOST_READ = 200_000  # bytes of a file that are shown
MOST_LISTED = 200  # files of a folder that are named


def section(run: Run) -> None:
    """The files that a run wrote; a click on one shows what is in it."""
    outputs = overview.outputs(run)
    st.markdown(f"**What it wrote** ({overview.size(sum(output.size for output in outputs))})")
    names = [output.name + (f" ({output.files} files)" if output.name.endswith("/") else "") for output in outputs]
    column = st.column_config
    event = st.dataframe(
        {"file": names, "size": [output.size for output in outputs]},
        column_config={"file": column.TextColumn(width=270), "size": column.NumberColumn(width=80, format="bytes")},
        key=f"runs_files-{run.id}",
        selection_mode="single-row",
        on_select="rerun",
        hide_index=True,
        width=400,
    )
    st.caption(f"Click a file to look into it. They lie in `{run.path}`.")
    for row in event["selection"]["rows"]:
        if row < len(outputs):
            content(run.path / outputs[row].name.rstrip("/"))


def content(path: Path) -> None:
    """What is in a file or a folder, as far as it can be read."""
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        lines = [f"{file.relative_to(path)}  {overview.size(file.stat().st_size)}" for file in files[:MOST_LISTED]]
        st.code("\n".join([*lines, "…"] if len(files) > MOST_LISTED else lines), language=None)
    elif path.suffix == ".png":
        st.image(path.read_bytes())
    elif path.suffix in READABLE:
        _text(path)
    else:
        st.caption("It is not a text; it lies in the folder for other programs.")
    if path.is_file():
        download_button("Download", path.read_bytes, path.name, "application/octet-stream")


def _text(path: Path) -> None:
    with path.open("rb") as file:
        read = file.read(MOST_READ + 1)
    text = read[:MOST_READ].decode("utf-8", errors="replace")
    if path.suffix == ".json" and len(read) <= MOST_READ:
        try:
            value = json.loads(text)
        except ValueError:  # shown as it is
            value = None
        if value is not None:
            with st.container(height=400 if len(text) > 1000 else "content", border=False):
                st.json(value, expanded=1)
            return
    st.code(text, language=None, wrap_lines=True, height=400)
    if len(read) > MOST_READ:
        st.caption(f"The first {overview.size(MOST_READ)} of it.")
