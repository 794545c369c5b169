"""Which pairs are trained on, and which model: chosen from the runs, named as a file, or given by the address."""

from collections.abc import Collection, Mapping
from typing import Any

import streamlit as st

from app.shared import address, readers, session
from app.shared.form import Form
from app.shared.text import sentence
from retmask.files import number
from retmask.pairs.files import pairs_file, read_rows
from retmask.pairs.pair import PAIRS
from retmask.runs.overview import label, standing
from retmask.runs.run import Run, run_path
from retmask.train.settings import TrainSettings

FORM = Form(TrainSettings, "train", apart=("model", "pairs", "any_pairs", "revision"))
ELSEWHERE = "another file"
FILE = (
    "a .jsonl or .json file in TRL's preference format (prompt, chosen, rejected) or LLaMA-Factory's, or a folder of "
    "`retmask pairs`"
)


def chosen() -> dict[str, Any]:
    """What is trained on what, as settings: `pairs` and `model` are empty as long as nobody has said them."""
    pairs = _pairs()
    return {"pairs": pairs, **_model(pairs)}


def offered() -> dict[str, str]:
    """The runs that are over and have made pairs, newest first: their ids with what they are called."""
    over = (run for run in Run.all("pairs") if not run.is_active)
    return {run.id: label(run, f"{n:,} pair{'s' * (n != 1)}", standing(run)) for run in over if (n := _count(run))}


def _count(run: Run) -> int:
    """How many pairs a run has kept; one that was stopped or failed need not have recorded it."""
    file = run.path / PAIRS
    if not file.is_file() or not file.stat().st_size:
        return 0
    return int(number(run.record.get("kept"))) or len(file.read_bytes().splitlines())


def _pairs() -> str:
    """The run or the file with the pairs. The address names the run that is shown, and none for a file."""
    names = offered()
    _take_address(names)
    first = next(iter(names), ELSEWHERE)
    picked = session.TRAIN_PAIRS.get() or first
    if picked not in (*names, ELSEWHERE):  # a folder, or deleted since, or it goes on again
        _take_file(_path(picked))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kept = session.TRAIN_PAIRS.kept(first) | {"width": 820}
        st.selectbox("Pairs", [*names, ELSEWHERE], format_func=lambda name: names.get(name, name), **kept)
        picked = session.TRAIN_PAIRS.get()
        session.TRAIN_PAIRS_SEEN.put(picked)
        _into_address(picked)
        if picked != ELSEWHERE:
            return picked
        kept = session.TRAIN_FILE.kept() | {"width": 380, "help": FILE}
        path = st.text_input("File", placeholder="folder/pairs.jsonl", **kept)
    types, most = ["jsonl", "json"], readers.MOST_UPLOAD
    st.file_uploader("or drop one here", types, key="train_upload", max_upload_size=most, on_change=_uploaded)
    session.show_said("train_upload")
    return str(path).strip()


def _uploaded() -> None:
    """Keep a file of pairs that was dropped and put its path into the field."""
    file = session.value("train_upload")
    if file is None:
        return
    try:
        session.TRAIN_FILE.fill(str(readers.keep_upload(file.name, file.getvalue(), "pairs", read_rows)))
    except (ValueError, OSError) as error:
        session.say(sentence(error), "train_upload")


def _take_address(names: Collection[str]) -> None:
    """Choose the pairs that the address names, where it names others than when this was drawn last."""
    name = address.place("pairs")
    if not name or name == session.TRAIN_PAIRS_IN_ADDRESS.get():
        return
    session.TRAIN_PAIRS_IN_ADDRESS.put(name)
    if name in names:
        session.TRAIN_PAIRS.fill(name)
    else:
        _take_file(_path(name))


def _take_file(path: str) -> None:
    session.TRAIN_PAIRS.fill(ELSEWHERE)
    session.TRAIN_FILE.fill(path)


def _into_address(picked: str) -> None:
    """Let the address name the run with the pairs; for a file it stays as it is, if it means that file."""
    name = address.place("pairs")
    kept = name if session.TRAIN_FILE.get() == _path(name) else ""
    wanted = kept if picked == ELSEWHERE else picked
    session.TRAIN_PAIRS_IN_ADDRESS.put(wanted)
    if wanted != name:
        address.go_to(pairs=wanted or None, gate=None)


def _path(name: str) -> str:
    """The folder of the run of that name; what can be no run's name as it is."""
    try:
        return str(run_path(name))
    except ValueError:
        return name


def _model(pairs: str) -> dict[str, Any]:
    """The model's name, its revision, and whether pairs of another model may be used, as settings."""
    made = _made_with(pairs)
    if session.TRAIN_MODEL_OF.get() != pairs:  # other pairs, other model
        session.TRAIN_MODEL_OF.put(pairs)
        session.fill(train_any_pairs=False)
        if made.get("model"):
            session.fill(train_model=str(made["model"]), train_revision=str(made.get("revision") or ""))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        says = "the one that made the pairs: DPO wants a model's own answers"
        model = FORM.widget("model", placeholder="folder or Hub id", width=380, help=says)
        revision = FORM.widget("revision", placeholder="the newest", width=150)
        differs = bool(made.get("model")) and model != made["model"]
        label = "Use another model's pairs"
        any_pairs = differs and FORM.widget("any_pairs", label=label, help=None)
    if made.get("adapter"):
        st.warning(sentence(f"The pairs were made with the adapter {made['adapter']}; training begins without it"))
    return {"model": model, "revision": revision, "any_pairs": bool(any_pairs)}


def _made_with(pairs: str) -> Mapping[str, Any]:
    """The settings of the run that made the pairs; empty where there is none."""
    try:
        return Run(pairs_file(pairs).parent).config if pairs else {}
    except ValueError:
        return {}
