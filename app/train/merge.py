"""A training's adapter merged into its model: a checkpoint that needs neither PEFT nor us."""

import shlex
from pathlib import Path
from typing import Any

import streamlit as st

from app.shared import jobs, session
from app.shared.models import ModelRef
from app.shared.text import sentence
from retmask.compare.ablate import ABLATE, AblateSettings, last_written
from retmask.files import expanded, home, stem


def section(name: str, base: ModelRef, adapter: Path) -> None:
    """Where to write the checkpoint, the command that does the same, and what became of it."""
    st.markdown("**Merge and save**")
    st.caption("A checkpoint with the adapter in its weights, for transformers or any server.")
    usual = str(home() / "checkpoints" / stem(name, "merged", 60))  # a folder of its own for each training
    text = st.text_input("Folder", usual, key=f"merge-{name}", label_visibility="collapsed").strip()
    try:
        out = str(expanded(text).resolve()) if text else ""
    except ValueError as error:
        st.error(sentence(error))
        return
    how: dict[str, Any] = {"model": base.name, "revision": base.revision, "adapter": str(adapter)}
    settings = AblateSettings(**how, out=out) if out else None
    last = last_written(settings) if settings else None
    if settings:
        st.code(shlex.join(settings.command), language="bash", wrap_lines=True)
    off, icon = settings is None or bool(last and last.is_active), ":material/save:"
    st.button("Merge and save", icon=icon, key="merge_start", disabled=off, on_click=_start, args=(settings,))
    session.show_said("merge")
    if last:
        jobs.checkpoint_block(last, "merge")


def _start(settings: AblateSettings) -> None:
    jobs.begin(ABLATE, settings, "merge")
