"""The rows of data behind score sets side by side: what each is, and how far every two agree. No figure, no model."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from retmask.families.agreement import Agreement
from retmask.figures.rows import Row
from retmask.heads.concentration import THRESHOLD, concentration, intervals
from retmask.heads.intervals import FEWEST, Clusters
from retmask.heads.sets import ScoreSet, labels

Found = dict[tuple[int, int], Agreement | str]  # of the things with these numbers, or why it cannot be told
T = TypeVar("T")


def set_rows(sets: Sequence[ScoreSet], threshold: float = THRESHOLD) -> list[Row]:
    """One row a set: what it is, and its figures of concentration, each with `_low` and `_high` (95 % intervals).

    `over` says what the intervals are over, and is empty where there are none: needles, with all their trials; of a
    file that does not say its needles, trials, copies of one drawn together.

    `grid` is empty where it is not known. `trials` and `distinct` are None for what has no trials, figures for a list
    of heads without scores, and ends of intervals where they are over fewer than 3.
    """
    return [
        {
            "label": label,
            "model": one.model,
            "family": one.family,
            "grid": str(one.grid or ""),
            "level": one.level,
            "counting": one.counting,
            "trials": one.n_trials if one.has_trials else None,
            "distinct": one.distinct if one.has_trials else None,
            "over": _over(one.scores.clusters) if one.has_trials else "",
            "best": str(one.scores.top(1)[0]),
            **_figures(one, threshold),
        }
        for label, one in zip(labels(sets), sets, strict=True)
    ]


def _over(by: Clusters) -> str:
    return by.words if by.n >= FEWEST else ""


def _figures(one: ScoreSet, threshold: float) -> Row:
    figures = concentration(one.scores.mean, threshold)._asdict()
    n_heads = figures.pop("n_heads")
    row: Row = {"n_heads": n_heads if one.grid_known else None}
    spread = {} if one.ranking else intervals(one.scores.values, one.scores.clusters, threshold)
    for name, value in figures.items():
        low, high = spread.get(name) or (None, None)
        row |= {name: None if one.ranking else _round(value), f"{name}_low": _round(low), f"{name}_high": _round(high)}
    return row


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def every_two(things: Sequence[T], agree: Callable[[T, T], Agreement]) -> Found:
    """The agreement of every two, the first number below the second, or what its ValueError says."""
    out: Found = {}
    for j, other in enumerate(things):
        for i, one in enumerate(things[:j]):
            try:
                out[i, j] = agree(one, other)
            except ValueError as error:
                out[i, j] = str(error)
    return out


def pair_rows(names: Sequence[str], found: Found) -> list[Row]:
    """One row a pair: its agreement, or `why` there is none."""
    blank: Row = dict.fromkeys(Agreement._fields)
    return [
        {"one": names[i], "other": names[j]}
        | (one._asdict() | {"why": ""} if isinstance(one, Agreement) else blank | {"why": one})
        for (i, j), one in found.items()
    ]
