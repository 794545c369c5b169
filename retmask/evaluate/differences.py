"""Mean recall of conditions, and the differences between every two on the same prompts."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from retmask.heads.intervals import Clusters, clusters, each, ends, interval

DRAWS = 10_000  # of the bootstrap
_DIGITS = 4


class Difference(NamedTuple):
    """Mean recall of one condition minus that of another on the same prompts, with 95 % paired bootstrap intervals.

    `low` and `high` draw prompts; `needle_low` and `needle_high` draw needles with all their prompts, which is the
    stricter, since prompts of one needle are alike. None where fewer than 3 can be drawn. `better` and `worse` count
    prompts, `needles` the needles.
    """

    condition: str
    against: str
    mean: float
    low: float | None
    high: float | None
    needle_low: float | None
    needle_high: float | None
    better: int
    worse: int
    needles: int


def summary(answers: Sequence[Mapping[str, Any]], conditions: Sequence[str]) -> dict[str, Any]:
    """Means of every condition, and differences of every two on the same prompts, the later minus the earlier.

    Recall is mean ROUGE-1 recall (0-1), found the share above 0.5; `low` and `high` are its 95 % interval over needles,
    each with all its prompts, None with fewer than 3. Prompts that not all conditions have answered are left out.
    """
    recalls: dict[str, dict[Any, float]] = {name: {} for name in conditions}
    for line in answers:
        if line["condition"] in recalls:
            prompt = (line["needle"], line["context_tokens"], line["depth"])
            recalls[line["condition"]][prompt] = float(line["recall"])
    prompts = sorted(set.intersection(*map(set, recalls.values())))
    values = {name: np.array([recalls[name][prompt] for prompt in prompts]) for name in conditions}
    needles = [prompt[0] for prompt in prompts]
    differences = [
        difference(later, earlier, values[later], values[earlier], needles)
        for earlier, later in combinations(conditions, 2)
    ]
    rows = [_row(name, values[name], clusters(needles, "needle")) for name in conditions]
    return {"conditions": rows, "differences": [gap._asdict() for gap in differences]}


def _row(condition: str, recalls: Float[np.ndarray, " prompt"], needles: Clusters) -> dict[str, Any]:
    low, high = ends(interval(recalls, needles, draws=DRAWS), _DIGITS)
    return {
        "condition": condition,
        "trials": len(recalls),
        "recall": round(float(recalls.mean()), _DIGITS),
        "low": low,
        "high": high,
        "found": round(float((recalls > 0.5).mean()), _DIGITS),
        "needles": needles.n,
    }


def difference(
    condition: str,
    against: str,
    recalls: Float[np.ndarray, " prompt"],
    baseline: Float[np.ndarray, " prompt"],
    needles: Sequence[str],
) -> Difference:
    """The paired difference of two conditions; `needles` says which prompts belong together."""
    gaps, by_needle = recalls - baseline, clusters(needles, "needle")
    low, high = ends(interval(gaps, each(len(gaps), "prompt"), draws=DRAWS), _DIGITS)
    needle_low, needle_high = ends(interval(gaps, by_needle, draws=DRAWS), _DIGITS)
    return Difference(
        condition,
        against,
        mean=round(float(gaps.mean()), _DIGITS),
        low=low,
        high=high,
        needle_low=needle_low,
        needle_high=needle_high,
        better=int((gaps > 0).sum()),
        worse=int((gaps < 0).sum()),
        needles=by_needle.n,
    )
