"""The weights and masks of an evaluation's conditions, pinned: a run that goes on has those that it began with."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from retmask.compare.conditions import Condition
from retmask.heads.grid import Grid
from retmask.heads.masks import HeadMask
from retmask.heads.rules import MASKED, UNMASKED
from retmask.runs.job import Work

if TYPE_CHECKING:
    from retmask.evaluate.job import EvaluateSettings
    from retmask.model.lens import LensModel


def load(
    work: "Work[EvaluateSettings]", names: Sequence[str], condition: Condition, context_tokens: int
) -> "LensModel":
    """The model of the conditions of these names. ValueError where the run began with other weights."""
    from retmask.model.loading import facts

    model = condition.load(work.settings.model, **work.loading, context_tokens=context_tokens)
    weights = facts(model, condition.tuned if condition.is_adapter else "")
    digest = weights["adapter_sha256"] or weights["sha256"]
    whose = names if any(condition.weights) else [UNMASKED]
    work.run.pin(**{f"weights of {name}": digest for name in whose}, dtype=weights["dtype"])
    return model


def masks_of(work: "Work[EvaluateSettings]", grid: Grid, names: Sequence[str]) -> dict[str, HeadMask]:
    """The masks of those of the conditions that have one, by name. ValueError where the run began with others."""
    rule, named = work.settings.rule, work.settings.conditions()
    masks = {name: named[name].mask(grid) for name in names if named[name].word}
    work.run.pin(**{"mask" if name == MASKED else f"mask of {name}": str(mask) for name, mask in masks.items()})
    if rule.random and MASKED in names:
        work.run.update(excluded=[*map(str, rule.excluded(grid))])
    return masks
