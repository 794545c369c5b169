"""What moved from one map of heads to another: the difference in the trials that both have. No model, no torch."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from retmask.heads.intervals import Interval, interval
from retmask.heads.scores import HeadScores


class MapDifference(NamedTuple):
    """Two maps of one grid, and the mean of every head in the second minus that in the first.

    `pairs` counts the trials of the same needle, length and depth that succeeded in both: where there are any, `before`
    and `after` hold these alone. `interval` is that of `change`, with all trials of a needle drawn together; None for
    fewer than 3 needles and where the trials are not known. `holds`: the interval leaves out 0.
    """

    before: HeadScores
    after: HeadScores
    pairs: int
    change: Float[np.ndarray, "layer head"]
    interval: Interval | None
    holds: Bool[np.ndarray, "layer head"]


def difference(before: HeadScores, after: HeadScores) -> MapDifference:
    """What moved from one to the other. ValueError where the grids differ."""
    after.check_grid(before.grid, before.model)
    places = _shared(before, after)
    none = np.zeros(before.mean.shape, dtype=bool)
    if not places:
        return MapDifference(before, after, 0, after.mean - before.mean, None, none)
    before, after = _only(before, [i for i, _ in places]), _only(after, [j for _, j in places])
    gaps = after.values - before.values
    spread = interval(gaps, before.clusters)
    holds = none if spread is None else (np.round(spread.low, 12) > 0) | (np.round(spread.high, 12) < 0)
    return MapDifference(before, after, len(places), gaps.mean(axis=0), spread, holds)


def _shared(before: HeadScores, after: HeadScores) -> list[tuple[int, int]]:
    """Where each trial that both have stands in either."""
    places = {label: place for place, label in enumerate(after.labels)}
    return [(place, places[label]) for place, label in enumerate(before.labels) if label in places]


def _only(scores: HeadScores, places: list[int]) -> HeadScores:
    return replace(scores, values=scores.values[places], labels=tuple(scores.labels[place] for place in places))
