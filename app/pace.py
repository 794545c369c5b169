"""How long a job will take, from how long the last one like it took: nothing is measured for it, and nothing loaded."""

from collections.abc import Mapping
from typing import Any

from retmask.files import settled
from retmask.runs import Run, number


def pace(kind: str, model: str, **alike: Any) -> tuple[float, Mapping[str, Any]] | None:
    """Seconds an item in the last run of that kind with that model, and that run's settings; None where none tells.

    `alike` are settings that it must share.
    """
    for run in Run.all(kind):
        config = run.config
        same = settled(str(config.get("model"))) == settled(model) and alike.items() <= config.items()
        lines = [line for line in run.latest if number(line.get("done")) > 0 and "eta" in line] if same else []
        items = number(lines[-1].get("done")) - number(lines[0].get("done")) if lines else 0.0
        seconds = number(lines[-1].get("time")) - number(lines[0].get("time")) if lines else 0.0
        if items > 0 and seconds > 0:
            return seconds / items, config
    return None
