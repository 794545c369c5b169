"""Mean recall of conditions, and the differences between every two on the same prompts."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from retmask.heads.intervals import Interval, clusters, each, interval

DRAWS = 10_000  # of the bootstrap


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
    each with all its prompts, None with fewer than 3.
    """
    by: dict[str, dict[Any, float]] = {name: {} for name in conditions}
    for line in answers:
        if line["condition"] in by:
            key = (line["needle"], line["context_tokens"], line["depth"])
            by[line["condition"]][key] = float(line["recall"])
    keys = sorted(set.intersection(*(set(known) for known in by.values())))
    rows, needles = [], clusters([key[0] for key in keys], "needle")
    for name in conditions:
        values = [by[name][key] for key in keys]
        low, high = _ends(interval(np.array(values), needles, draws=DRAWS))
        found = sum(value > 0.5 for value in values) / len(values)
        recall = sum(values) / len(values)
        rows.append(
            {"condition": name, "trials": len(values), "recall": round(recall, 4), "low": low, "high": high,
             "found": round(found, 4), "needles": needles.n}
        )  # fmt: skip
    differences = [
        difference(
            one, other, [by[one][key] for key in keys], [by[other][key] for key in keys], [key[0] for key in keys]
        )
        for i, other in enumerate(conditions)
        for one in conditions[i + 1 :]
    ]
    return {"conditions": rows, "differences": [found._asdict() for found in differences]}


def difference(
    condition: str, against: str, values: Sequence[float], others: Sequence[float], needles: Sequence[str]
) -> Difference:
    """The paired difference of two conditions; `needles` says which prompts belong together."""
    gaps = np.asarray(values) - np.asarray(others)
    by_needle = clusters(needles, "needle")
    low, high = _ends(interval(gaps, each(len(gaps), "prompt"), draws=DRAWS))
    needle_low, needle_high = _ends(interval(gaps, by_needle, draws=DRAWS))
    better, worse = int((gaps > 0).sum()), int((gaps < 0).sum())
    mean = round(float(gaps.mean()), 4)
    return Difference(condition, against, mean, low, high, needle_low, needle_high, better, worse, by_needle.n)


def _ends(found: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if found is None else (round(float(found.low), 4), round(float(found.high), 4))
