"""The settings of DPO: their ranges and presets."""

import math

import pytest
from trainings import by_preset, plain

from retmask.train.settings import PRESETS


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learning_rate": 0.0}, "learning rate 0 is outside 1e-08 to 0.01"),
        ({"learning_rate": 10.0}, "learning rate 10 is outside"),
        ({"learning_rate": math.nan}, "learning rate nan is outside"),
        ({"beta": -1.0}, "beta -1 is outside"),
        ({"batch": 3, "micro_batch": 2}, "a batch of 3 is no multiple of the micro-batch 2"),
        ({"method": "magic"}, "method 'magic' is unknown: choose lora, full"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        plain(**changes)  # type: ignore[arg-type]


def test_presets() -> None:
    assert {name: by_preset(name).method for name in PRESETS} == {
        "laptop": "lora",
        "gpu": "lora",
        "paper": "full",
    }
    assert by_preset("paper").reference == "precomputed"
    with pytest.raises(ValueError, match="preset 'big' is unknown"):
        by_preset("big")
