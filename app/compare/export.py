"""The export of a checkpoint with the selected heads masked in its weights."""

import hashlib
import json
import shlex
from pathlib import Path

import streamlit as st

from app.shared import jobs, selection, session
from app.shared.models import ModelRef
from app.shared.text import download_button
from retmask.compare.ablate import ABLATE, AblateSettings, last_written
from retmask.files import home, stem
from retmask.heads.grid import Grid
from retmask.heads.masks import HeadMask, mask_record
from retmask.heads.rules import MaskRule


def section(ref: ModelRef | None, grid: Grid) -> None:
    """Where to write it, the command that does the same, and what became of it."""
    st.subheader("Export", anchor=False, divider="gray")
    mask = selection.mask(grid)
    if not len(mask):
        st.caption("Select heads to write a checkpoint of the model without them, for transformers or any server.")
        return
    if ref is None:
        st.caption("Name the model above to write a checkpoint of it with this mask.")
        return
    st.caption(
        "A checkpoint with the mask in its weights: plain transformers, or any server, answers as the masked model."
    )
    out = jobs.folder_field(str(_default(ref, mask)), f"export-{ref}-{mask}")
    settings = AblateSettings(**ref.settings, rule=MaskRule(heads=str(mask)), out=out) if out else None
    run = last_written(settings) if settings else None
    if settings:
        st.code(shlex.join(settings.command), language="bash", wrap_lines=True)
    with st.container(horizontal=True, vertical_alignment="center"):
        off, starts = settings is None or bool(run and run.is_active), jobs.starting(ABLATE, settings, "export")
        st.button("Export checkpoint", icon=":material/save:", key="export_start", disabled=off, **starts)
        record = mask_record(mask, grid, str(ref))
        download_button("Mask as JSON", lambda: json.dumps(record, indent=1).encode(), "mask.json", "application/json")
    session.show_said("export")
    if run:
        jobs.checkpoint_block(run, "export")


def _default(ref: ModelRef, mask: HeadMask) -> Path:
    """A folder of its own for each model and mask."""
    name = stem(Path(ref.name).name, "model")
    digest = hashlib.sha256(" ".join([str(mask), *ref.options]).encode()).hexdigest()[:6]
    return home() / "checkpoints" / f"{name}{'-tuned' if ref.adapter else ''}-{len(mask)}-heads-{digest}"
