"""The export of a checkpoint with the selected heads masked in its weights."""

import hashlib
import json
import re
import shlex
from pathlib import Path

import state
import streamlit as st
import watch

from retmask.ablate import new_ablate
from retmask.files import home
from retmask.heads import Grid, HeadMask
from retmask.masks import mask_record
from retmask.runs import Run


def section(name: str, grid: Grid) -> None:
    """Where to write it, the command that does the same, and what became of it."""
    st.subheader("Export", anchor=False, divider="gray")
    mask = state.mask(grid)
    if not len(mask):
        st.caption("Select heads to write a checkpoint of the model without them, for transformers or any server.")
        return
    if not name:
        st.caption("Name the model above to write a checkpoint of it without the selected heads.")
        return
    st.caption(
        "A checkpoint with the mask in its weights: plain transformers, or any server, answers as the masked model."
    )
    folder = st.text_input("Folder", str(_default(name, mask)), key=f"export-{name}-{mask}").strip()
    command = ["retmask", "ablate", name, "--heads", str(mask), "--out", folder]
    st.code(shlex.join(command), language="bash", wrap_lines=True)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Export checkpoint", icon=":material/save:", key="export_start", disabled=not folder,
            on_click=_start, args=(name, mask, grid, folder),
        )  # fmt: skip
        st.download_button(
            "Mask as JSON", json.dumps(mask_record(mask, grid, name), indent=1), "mask.json", "application/json",
            key="export_mask", on_click="ignore", type="tertiary", icon=":material/download:",
        )  # fmt: skip
    said = state.said("export")
    if said:
        st.error(said)
    _last(folder)


def _default(name: str, mask: HeadMask) -> Path:
    """A folder of its own for each model and mask."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name).strip("-.")[:40] or "model"
    return home() / "checkpoints" / f"{stem}-{len(mask)}-heads-{hashlib.sha256(str(mask).encode()).hexdigest()[:6]}"


def _start(name: str, mask: HeadMask, grid: Grid, folder: str) -> None:
    try:
        new_ablate(name, mask, grid, Path(folder).expanduser().resolve()).spawn()
    except (ValueError, OSError) as error:
        state.say(state.sentence(error), "export")


def _last(folder: str) -> None:
    """What became of the last export into this folder."""
    path = str(Path(folder).expanduser().resolve())
    run = next((run for run in Run.all("ablate") if run.record.get("config", {}).get("out") == path), None)
    if run is None:
        return
    status = run.status
    if status in ("queued", "started"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.progress(*watch.progress(run), width=500)
            watch.stop(run, f"export_cancel-{run.id}")
    elif status == "success":
        st.success("It is written. To load it:")
        st.code(
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"model = AutoModelForCausalLM.from_pretrained({path!r})\n"
            f"tokenizer = AutoTokenizer.from_pretrained({path!r})",
            language="python", wrap_lines=True,
        )  # fmt: skip
    elif status == "cancelled":
        st.info("This export was cancelled, and nothing was written.")
    else:
        st.error(state.sentence(str(run.record.get("error") or "its worker ended without a word")))
