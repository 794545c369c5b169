"""Score sets, detections and measured masks as the Families page meets them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import page
from streamlit.testing.v1 import AppTest

from retmask.files import append_line, shipped
from retmask.heads.scores import HeadScores
from retmask.runs.run import Run

SMOL, GEMMA = "smollm2-135m", "gemma-3-270m"


BEST = HeadScores.load(shipped("maps", SMOL))


def opened(*sets: str, view: str = "", **query: str) -> AppTest:
    """The Families page, with these sets on it."""
    chosen = {"sets": ",".join(sets)} if sets else {}
    return page.opened("families", {"families_view": view} if view else None, **chosen, **query)


def a_set(path: Path, values: Any) -> Path:
    """A score file with these values: trial, layer, head."""
    HeadScores(path.stem, np.asarray(values, dtype=float)).save(path)
    return path


def a_detection(name: str, counting: str = "set", values: Any = None) -> Run:
    """A finished detection of the default model, with the shipped map's trials."""
    run = Run.create("detect", {"model": SMOL}, name=name)
    for file in ("scores.json", "trials.jsonl"):
        shutil.copy(shipped("maps", SMOL, file), run.path)
    if values is not None:
        HeadScores(SMOL, values).save(run.path / "scores.json")
    grid = {"n_layers": 30, "n_heads": 9, "n_kv_heads": 3}
    run.update(status="success", model=SMOL, counting=counting, head_grid=grid)
    return run


def answered(run: Run, condition: str, recalls: list[float]) -> None:
    for number, recall in enumerate(recalls):
        place = {"needle": f"needle {number}", "context_tokens": 512, "depth": 0.5}
        line = {"condition": condition, **place, "recall": recall, "response": f"{condition} says <b>{number}</b>"}
        append_line(run.path / "answers.jsonl", line)
