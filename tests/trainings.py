"""Settings of trainings, for tests that look at other things than what is trained on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from retmask.runs.settings import from_preset
from retmask.train.settings import TrainSettings


def plain(**changes: Any) -> TrainSettings:
    """Settings by default but for the changes, of a model and pairs that are named and not there."""
    return TrainSettings(**{"model": "m", "pairs": "p", **changes})


def by_preset(name: str, **changes: Any) -> TrainSettings:
    """The same by a preset."""
    return from_preset(TrainSettings, name, **{"model": "m", "pairs": "p", **changes})


def of(model: Path | str, pairs: Path | str, settings: TrainSettings, **changes: Any) -> TrainSettings:
    """The settings, of that model and those pairs."""
    return replace(settings, model=str(model), pairs=str(pairs), **changes)


SETTINGS = plain(max_steps=6, batch=2, save_steps=2, learning_rate=5e-3, eval_share=0.25, device="cpu", rank=4)


def command_line(process: psutil.Process) -> list[str]:
    """A process's command line; empty for one that has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []
