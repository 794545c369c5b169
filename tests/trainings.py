"""Settings of trainings, for tests that look at other things than what is trained on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

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
