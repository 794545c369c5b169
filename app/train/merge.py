"""A training's adapter merged into its model: a checkpoint that needs neither PEFT nor us."""

import shlex
from pathlib import Path
from typing import Any

import streamlit as st

from app.shared import jobs, session
from app.shared.models import ModelRef
from retmask.compare.ablate import ABLATE, AblateSettings, last_written
from retmask.files import home, stem


def section(name: str, base: ModelRef, adapter: Path) -> None:
    """Where to write the checkpoint, the command that does the same, and what became of it."""
    st.markdown("**Merge and save**")
    st.caption("A checkpoint with the adapter in its weights, for transformers or any server.")
    usual = str(home() / "checkpoints" / stem(name, "merged", 60))  # a folder of its own for each training
    out = jobs.folder_field(usual, f"merge-{name}", label_visibility="collapsed")
    how: dict[str, Any] = {"model": base.name, "revision": base.revision, "adapter": str(adapter)}
    settings = AblateSettings(**how, out=out) if out else None
    last = last_written(settings) if settings else None
    if settings:
        st.code(shlex.join(settings.command), language="bash", wrap_lines=True)
    off, starts = settings is None or bool(last and last.is_active), jobs.starting(ABLATE, settings, "merge")
    st.button("Merge and save", icon=":material/save:", key="merge_start", disabled=off, **starts)
    session.show_said("merge")
    if last:
        jobs.checkpoint_block(last, "merge")
