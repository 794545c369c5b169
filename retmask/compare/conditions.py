"""What is measured: a model with something done to it, and how it is called."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from retmask.files import expanded
from retmask.heads.grid import Grid
from retmask.heads.masks import HeadMask
from retmask.heads.rules import ANY_GRID, MASKED, TUNED, UNMASKED, MaskRule


class Condition(NamedTuple):
    """What answers: the model in a folder (empty: the model as it is), with the heads of a rule masked."""

    folder: str = ""
    rule: MaskRule = MaskRule()

    @property
    def is_adapter(self) -> bool:
        """Whether its folder holds an adapter, and no whole model."""
        return bool(self.folder) and (expanded(self.folder) / "adapter_config.json").is_file()

    def check(self, grid: Grid | None) -> None:
        """ValueError where its heads are not in a model of that grid, or its folder holds no adapter and no model."""
        if self.rule.given:
            self.rule.check(grid)
        if self.folder and not self.is_adapter and not (expanded(self.folder) / "config.json").is_file():
            raise ValueError(
                f"{self.folder} is no adapter and no model: give the folder that `retmask train` has written"
            )


def conditions(rule: MaskRule, also: Sequence[str], tuned: Sequence[str]) -> dict[str, Condition]:
    """The conditions by name, in order: the model as it is, masked by the rule, further masked, fine-tuned.

    `also` are masks as name=L17H3,L18H6; `tuned` are folders, each perhaps with a name before: name=folder. ValueError
    for a name twice, or a mask without one.
    """
    named = {UNMASKED: Condition()} | ({MASKED: Condition(rule=rule)} if rule.given else {})
    for text in also:
        name, _, heads = (part.strip() for part in text.partition("="))
        if not name or not HeadMask.parse(heads, ANY_GRID):
            raise ValueError(f"{text[:60]!r} names no mask: write name=L17H3,L18H6")
        if name in named or re.fullmatch(rf"{MASKED}|{TUNED}( \d+)?", name):
            raise ValueError(f"{name} is what another condition is called: give the mask a name of its own")
        named[name] = Condition(rule=MaskRule(heads=heads))
    for place, text in enumerate(tuned, start=1):
        name, equals, folder = text.partition("=")
        if not equals or "/" in name:  # the "=" of a folder that is called lr=0.02
            name, folder = TUNED if place == 1 else f"{TUNED} {place}", text
        if name in named:
            raise ValueError(f"there are two conditions named {name}: give each a name, as in name=folder")
        named[name] = Condition(folder)
    return named
