"""What an evaluation says: means of tasks, categories and overall, differences against base and controls, verdicts.

Items of one document are alike, so documents are drawn (the bootstrap's clusters), in each task by themselves. A
category is the mean of its tasks, and overall that of the categories, but for what other suites ask, and for the guard,
which only watches what must not be lost. Differences are of the items that both conditions have answered.

**A gain is called one only against the best control.** Which control is the best is not chosen by the numbers that then
speak of it: a condition must differ from base, and in the same direction from *every* control (the intersection-union
test: Berger 1982), so the largest of the p-values counts, and that control is named. Choosing it so claims no more
gains than the level says, however many controls there are; with many of them a true gain is harder to show. p-values
are corrected across categories (Holm 1979), for base and control each.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from retmask.compare.conditions import Role
from retmask.heads.intervals import LEVEL, Estimate, average, clusters, estimate, holm
from retmask.items.item import EXTERNAL

GUARD = "guard"  # the category that is not part of overall
DRAWS = 10_000
SMALLEST = 2.8  # standard errors: the effect that is found in 80 of 100 evaluations, two-sided at 5 %
Level = Literal["task", "category", "overall"]
Says = Literal["gain", "loss", "as the control", "no control", "not shown"]
ALPHA = 1 - LEVEL
_DIGITS = 6


class Score(NamedTuple):
    """What a condition's answer to an item is worth. `cluster` names the document, which other items may share."""

    task: str
    category: str
    item: str
    cluster: str
    condition: str
    score: float


class Mean(NamedTuple):
    """The mean score of a condition, with its 95 % interval: None where a task has fewer than 3 documents."""

    level: Level
    name: str
    condition: str
    mean: float
    low: float | None
    high: float | None
    items: int
    clusters: int


class Difference(NamedTuple):
    """The mean of a condition minus that of another on the same items, with its paired 95 % interval.

    `p` is two-sided, `adjusted` corrected across categories (None for a task). `smallest` is the least true difference
    that so many items would have shown in 80 of 100 evaluations. `better` and `worse` count items.
    """

    level: Level
    name: str
    condition: str
    against: str
    mean: float
    low: float | None
    high: float | None
    p: float | None
    adjusted: float | None
    smallest: float | None
    better: int
    worse: int
    items: int
    clusters: int


class Verdict(NamedTuple):
    """What is to be said of a condition in a category or overall, and the p-values, corrected, that it rests on.

    `control` is the control that it is least sure to differ from. "as the control": it differs from base, and not
    surely from every control; "no control": it differs from base, and there is none; "not shown": not even from base.
    """

    level: Level
    name: str
    condition: str
    says: Says
    control: str
    p_base: float | None
    p_control: float | None


class Tables(NamedTuple):
    """All that is said, as rows."""

    means: list[Mean]
    differences: list[Difference]
    verdicts: list[Verdict]

    @property
    def record(self) -> dict[str, Any]:
        """The same as JSON holds it."""
        return {name: [row._asdict() for row in rows] for name, rows in self._asdict().items()}


class _Column(NamedTuple):
    """A condition, or its difference to another."""

    condition: str
    against: str = ""


class _Part(NamedTuple):
    """A row of the tables for every column: its estimate, and what is counted in it."""

    level: Level
    name: str
    estimate: Estimate
    counts: Float[np.ndarray, "count column"]  # items, clusters, better, worse


def tables(scores: Iterable[Score], roles: Mapping[str, Role], draws: int = DRAWS) -> Tables:
    """The tables of an evaluation, or of as much of it as there is; `roles` are the conditions in order.

    Differences are against base (the first condition where none is), and of treatments against every control.
    """
    base = next((name for name, role in roles.items() if role == "base"), next(iter(roles), ""))
    controls = [name for name, role in roles.items() if role == "control" and name != base]
    treatments = [name for name in roles if name not in (base, *controls)]
    columns = [_Column(name) for name in roles]
    columns += [_Column(name, base) for name in roles if name != base]
    columns += [_Column(name, control) for name in treatments for control in controls]
    parts = list(_parts(scores, columns, draws))
    means = [row for part in parts for row in _means(part, columns)]
    differences = list(_differences(parts, columns))
    verdicts = [row for name in treatments for row in _verdicts(differences, name, base)]
    return Tables(means, differences, verdicts)


def _parts(scores: Iterable[Score], columns: Sequence[_Column], draws: int) -> Iterator[_Part]:
    """Every task, every category and overall, in the order in which they first come."""
    by_task: dict[tuple[str, str], list[Score]] = defaultdict(list)
    for score in scores:
        by_task[score.category, score.task].append(score)
    tasks = {key: _task(key[1], rows, columns, draws) for key, rows in by_task.items()}
    yield from tasks.values()
    categories = {}
    for category in dict.fromkeys(category for category, _ in tasks):
        categories[category] = _joined("category", category, [tasks[key] for key in tasks if key[0] == category])
    yield from categories.values()
    if rest := [part for name, part in categories.items() if name not in (GUARD, EXTERNAL)]:
        yield _joined("overall", "overall", rest)


def _task(task: str, scores: Sequence[Score], columns: Sequence[_Column], draws: int) -> _Part:
    conditions = [column.condition for column in columns if not column.against]
    items = dict(sorted({score.item: score.cluster for score in scores}.items()))  # whatever was answered first
    rows, places = ({name: i for i, name in enumerate(names)} for names in (items, conditions))
    values = np.full((len(items), len(conditions)), np.nan)
    for score in scores:
        if score.condition in places:
            values[rows[score.item], places[score.condition]] = score.score
    gaps = [values[:, places[each.condition]] - values[:, places[each.against]] for each in columns if each.against]
    every = np.column_stack([values, *gaps])
    documents = clusters(list(items.values()), "document")
    there = ~np.isnan(every)
    drawn = [len(np.unique(documents.of[column])) for column in there.T]
    counts = np.array([there.sum(axis=0), drawn, (every > 0).sum(axis=0), (every < 0).sum(axis=0)])
    seed = int.from_bytes(hashlib.sha256(task.encode()).digest()[:8])  # tasks are drawn independently
    return _Part("task", task, estimate(every, documents, draws, seed), counts)


def _joined(level: Level, name: str, parts: Sequence[_Part]) -> _Part:
    counts = np.sum([part.counts for part in parts], axis=0)
    return _Part(level, name, average([part.estimate for part in parts]), counts)


def _means(part: _Part, columns: Sequence[_Column]) -> Iterator[Mean]:
    low, high = part.estimate.ends()
    for i, column in enumerate(columns):
        if not column.against and part.counts[0, i]:
            mean = part.estimate.mean[i]
            range_of = (0, 1) if 0 <= mean <= 1 else (-np.inf, np.inf)  # a share, but for log-probability, perplexity
            least, most = map(_rounded, np.clip((low[i], high[i]), *range_of))
            items, documents = map(int, part.counts[:2, i])
            yield Mean(part.level, part.name, column.condition, _rounded(mean), least, most, items, documents)


def _differences(parts: Sequence[_Part], columns: Sequence[_Column]) -> Iterator[Difference]:
    family = [part.level == "category" and part.name != GUARD for part in parts]
    p = np.array([part.estimate.p_values() for part in parts])
    adjusted = np.array([[np.nan] if part.level == "task" else [1.0] for part in parts]) * p
    adjusted[family] = np.apply_along_axis(holm, 0, p[family])
    for part, own, corrected in zip(parts, p, adjusted, strict=True):
        (low, high), smallest = part.estimate.ends(), SMALLEST * part.estimate.error
        for i, column in enumerate(columns):
            items, documents, better, worse = map(int, part.counts[:, i])
            if column.against and items:
                figures = (part.estimate.mean, low, high, own, corrected, smallest)
                mean, least, most, p_own, p_corrected, shown = (_rounded(each[i]) for each in figures)
                of = (mean, least, most, p_own, p_corrected, shown, better, worse, items, documents)
                yield Difference(part.level, part.name, *column, *of)


def _verdicts(differences: Sequence[Difference], condition: str, base: str) -> Iterator[Verdict]:
    """What is to be said of a condition, category by category and overall."""
    rows = [row for row in differences if row.condition == condition and row.level != "task"]
    from_base = {(row.level, row.name): row for row in rows if row.against == base}
    nearest = {}
    for place, row in from_base.items():
        sides = [(_beside(row, each), each.against) for each in rows if each[:2] == place and each.against != base]
        nearest[place] = max(sides, default=(np.nan, ""))
    p = np.array([value for value, _ in nearest.values()])
    family = [level == "category" and name != GUARD for level, name in nearest]
    p[family] = holm(p[family])
    for p_control, (place, row) in zip(map(_rounded, p), from_base.items(), strict=True):
        says = _says(row.mean, row.adjusted, p_control, bool(nearest[place][1]))
        yield Verdict(*place, condition, says, nearest[place][1], row.adjusted, p_control)


def _beside(row: Difference, to_control: Difference) -> float:
    """The p-value against a control, where the difference is in the direction of that to base; else 1."""
    return to_control.p if to_control.p is not None and to_control.mean * row.mean > 0 else 1.0


def _says(mean: float, p_base: float | None, p_control: float | None, controlled: bool) -> Says:
    if p_base is None or p_base > ALPHA:
        return "not shown"
    if not controlled:
        return "no control"
    if p_control is None or p_control > ALPHA:
        return "as the control"
    return "gain" if mean > 0 else "loss"


def _rounded(number: float) -> Any:
    return None if np.isnan(number) else round(float(number), _DIGITS) + 0.0  # no -0.0
