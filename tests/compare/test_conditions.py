"""How conditions are named, and what cannot be one."""

import pytest

from retmask.evaluate.job import EvaluateSettings
from retmask.heads.rules import MaskRule


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trials": 0}, "0 trials are too few"),
        ({"tuned": ("unmasked=x",)}, "two conditions named unmasked"),
        ({"tuned": ("a=x", "a=y")}, "two conditions named a"),
        ({"also": ("a=L0H0", "a=L0H1")}, "a is what another condition is called"),
        ({"also": ("L0H0",)}, "'L0H0' names no mask: write name=L17H3,L18H6"),
        ({"also": ("unmasked=L0H0",)}, "unmasked is what another condition is called"),
        ({"also": ("masked=L0H0",)}, "masked is what another condition is called"),
        ({"also": (" tuned 2 =L0H0",)}, "tuned 2 is what another condition is called"),
        ({"also": ("bad=notahead",)}, "'notahead' is not a head"),
    ],
)
def test_what_cannot_be(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EvaluateSettings(model="m", **changes)  # type: ignore[arg-type]


def test_conditions_have_names() -> None:
    config = EvaluateSettings(model="m", tuned=("a", "b", "control=c"), rule=MaskRule(heads="L0H0"))
    folders = {name: one.folder for name, one in config.conditions().items()}
    assert folders == {"unmasked": "", "masked": "", "tuned": "a", "tuned 2": "b", "control": "c"}
    words = "retmask evaluate m --tuned a --tuned b --tuned control=c --heads L0H0"
    assert config.command == words.split()


def test_a_folder_may_have_an_equals_sign() -> None:
    config = EvaluateSettings(model="m", tuned=("/x/lr=0.02/a", "best=/x/lr=0.02/b"))
    folders = {name: one.folder for name, one in config.conditions().items()}
    assert folders == {"unmasked": "", "tuned": "/x/lr=0.02/a", "best": "/x/lr=0.02/b"}
