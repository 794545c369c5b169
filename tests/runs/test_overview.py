"""How long prompts may take: by the last run of the model on that device, or not at all."""

from pathlib import Path

import pytest

from retmask.runs.overview import seconds_for
from retmask.runs.run import Run


def a_run(model: str, pace: object, device: str = "", day: int = 1) -> None:
    Run.create("detect", {"model": model, "device": device}).update(pace=pace, created=f"2026-01-{day:02}T00:00:00")


def test_the_newest_run_of_the_model_on_the_device_tells_the_pace(fresh_home: Path) -> None:
    assert seconds_for(1000, "m") is None
    a_run("m", 0.004, day=1)
    a_run("m", 0.002, day=2)
    a_run("m", 0.001, "cuda", day=3)
    a_run("other", 1.0, day=4)
    assert seconds_for(1000, "m") == pytest.approx(2)
    assert seconds_for(1000, "m", "cuda") == pytest.approx(1)


@pytest.mark.parametrize("pace", [None, "fast", True, 0, -1, [1]])
def test_a_damaged_pace_is_none(pace: object, fresh_home: Path) -> None:
    a_run("m", pace)
    assert seconds_for(1000, "m") is None
