"""How long prompts may take: by the last run of the model on that device, or not at all. In what runs differ."""

from pathlib import Path
from typing import Any

import pytest

from app.shared.jobs import seconds_for
from retmask.compare.ablate import AblateSettings
from retmask.heads.rules import MaskRule
from retmask.pairs.job import PairsSettings
from retmask.runs.overview import differences
from retmask.runs.run import Run
from retmask.runs.settings import record


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


@pytest.mark.parametrize(
    ("kind", "old", "settings"),
    [
        (
            "pairs",
            {"model": "m", "rule": {"heads": "L0H1", "seed": 0}, "prompts": "p", "temperature": 0.6, "top_p": 1.0}
            | {"max_new_tokens": 64, "shards": 1},
            PairsSettings(model="m", rule=MaskRule(heads="L0H1"), prompts="p"),
        ),
        (
            "ablate",
            {"model": "m", "heads": "L0H1", "out": "/o", "revision": "", "adapter": ""},
            AblateSettings(model="m", out="/o", rule=MaskRule(heads="L0H1")),
        ),
    ],
)
def test_a_run_of_an_older_version_differs_only_in_what_was_told(
    kind: str, old: dict[str, Any], settings: Any, fresh_home: Path
) -> None:
    before, after = Run.create(kind, old), Run.create(kind, record(settings))
    assert differences([before, after]) == []
    other = Run.create(kind, record(settings) | {"rule": record(MaskRule(heads="L0H2", scale=0.5)), "adapter": "a"})
    assert differences([before, other]) == [
        {"setting": "rule.heads", before.reference: "L0H1", other.reference: "L0H2"},
        {"setting": "rule.scale", before.reference: "–", other.reference: "0.5"},
        {"setting": "adapter", before.reference: "–", other.reference: "a"},
    ]


def test_a_zero_differs_from_another_number(fresh_home: Path) -> None:
    greedy, drawn = (Run.create("pairs", {"model": "m", "temperature": value}) for value in (0.0, 0.6))
    (row,) = differences([greedy, drawn])
    assert row == {"setting": "temperature", greedy.reference: "0.0", drawn.reference: "0.6"}
