"""What an evaluation says: means of tasks, categories and overall, differences against base and controls, verdicts.

Items of one document are alike, so documents are drawn (the bootstrap's clusters), in each task by themselves. A
category is the mean of its tasks, and overall that of the categories, but for what other suites ask, and for the guard,
which only watches what must not be lost. Differences are of the items that both conditions have answered. A condition
that has not answered all tasks of a category that others have, as a server has not, has no mean and no difference
there: that of fewer tasks is not to be held against it; and so overall.

**A gain is called one only against the best control.** Which control is the best is not chosen by the numbers that then
speak of it: a condition must differ from base, and in the same direction from *every* control (the intersection-union
test: Berger 1982), so the largest of the p-values, that to base among them, is the p-value of a category, and the
control that is least sure to differ is named. Only then are the p-values corrected across categories, once (Holm 1979).
Choosing so claims no more gains than the level says, however many controls there are; with many of them a true gain is
harder to show. With fewer than 6 documents a task alone shows nothing (`retmask.heads.intervals.Estimate.p_values`).
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from retmask.compare.conditions import Role
from retmask.heads.intervals import LEVEL, Clusters, Estimate, average, clusters, estimate, holm
from retmask.items.item import EXTERNAL

GUARD = "guard"
WATCHED = (GUARD, EXTERNAL)  # the categories that are not part of overall
DRAWS = 10_000
SMALLEST = 2.8  # standard errors: the effect that is found in 80 of 100 evaluations, two-sided at 5 %
Level = Literal["task", "category", "overall"]
Says = Literal["gain", "loss", "as the control", "no control", "not shown"]
ALPHA = 1 - LEVEL
_COLUMNS = 16
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
    that so many items would have shown in 80 of 100 evaluations; None where all documents differ alike, which tells
    nothing of it. `better` and `worse` count items.
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

    `control` is the control that it is least sure to differ from. `p_base` is of its difference to base alone,
    `p_control` of differing from base and from every control: None where there is no control. "as the control": it
    differs from base, and not surely from every control; "no control": it differs from base, and there is none; "not
    shown": not even from base.
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


class _Task(NamedTuple):
    """A task: what the answers of every condition are worth, nan for none, and the documents of its items."""

    category: str
    name: str
    values: Float[np.ndarray, "item condition"]
    documents: Clusters


class _Part(NamedTuple):
    """A row of the tables for some columns: its estimate, and what is counted in it."""

    level: Level
    name: str
    estimate: Estimate
    counts: Float[np.ndarray, "count column"]  # items, clusters, better, worse, tasks


class _Row(NamedTuple):
    """A row of the tables for every column: the figures of a part, without its draws."""

    level: Level
    name: str
    figures: Float[np.ndarray, "figure column"]  # mean, low, high, p, standard error; and the counts


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
    rows = _rows(scores, columns, draws)
    differences = list(_differences(rows, columns))
    verdicts = [row for name in treatments for row in _verdicts(differences, name, base)]
    return Tables(_means(rows, columns), differences, verdicts)


def means_of(scores: Iterable[Score], conditions: Iterable[str], draws: int = DRAWS) -> list[Mean]:
    """The means of these conditions alone, without their differences."""
    columns = [_Column(name) for name in conditions]
    return _means(_rows(scores, columns, draws), columns)


def _rows(scores: Iterable[Score], columns: Sequence[_Column], draws: int) -> list[_Row]:
    """Every task, every category and overall. Draws are held of a few columns at a time, which bounds the memory."""
    conditions = [column.condition for column in columns if not column.against]
    by_task: dict[tuple[str, str], list[Score]] = defaultdict(list)
    for score in scores:
        by_task[score.category, score.task].append(score)
    tasks = [_task(*key, rows, conditions) for key, rows in by_task.items()]
    values = {name: place for place, name in enumerate(conditions)}
    blocks = []
    for at in range(0, len(columns), _COLUMNS):
        places = [(values[each.condition], values.get(each.against)) for each in columns[at : at + _COLUMNS]]
        blocks.append([_row(part) for part in _parts(tasks, places, draws)])
    return [
        _Row(level, name, _of_all_tasks(np.hstack([row.figures for row in rows])))
        for rows in zip(*blocks, strict=True)
        for level, name, _ in rows[:1]
    ]


def _of_all_tasks(figures: Float[np.ndarray, "figure column"]) -> Float[np.ndarray, "figure column"]:
    """The figures; nan and no items for a column with fewer tasks than another."""
    none = np.array([[np.nan]] * 5 + [[0.0]] * 5)
    return np.where(figures[-1] < figures[-1].max(), none, figures)


def _task(category: str, name: str, scores: Sequence[Score], conditions: Sequence[str]) -> _Task:
    items = dict(sorted({score.item: score.cluster for score in scores}.items()))  # whatever was answered first
    rows, places = ({name: i for i, name in enumerate(names)} for names in (items, conditions))
    values = np.full((len(items), len(conditions)), np.nan)
    for score in scores:
        if score.condition in places:
            values[rows[score.item], places[score.condition]] = score.score
    return _Task(category, name, values, clusters(list(items.values()), "document"))


def _parts(tasks: Sequence[_Task], places: Sequence[tuple[int, int | None]], draws: int) -> Iterator[_Part]:
    """Every task, every category and overall, in the order in which they first come, of some columns."""
    parts = [(task.category, _estimated(task, places, draws)) for task in tasks]
    yield from (part for _, part in parts)
    categories = {}
    for name in dict.fromkeys(name for name, _ in parts):
        categories[name] = _joined("category", name, [part for category, part in parts if category == name])
    yield from categories.values()
    if rest := [part for name, part in categories.items() if name not in WATCHED]:
        yield _joined("overall", "overall", rest)


def _estimated(task: _Task, places: Sequence[tuple[int, int | None]], draws: int) -> _Part:
    """A task's estimates of conditions, or of their differences to another, by their places."""
    every = np.column_stack(
        [task.values[:, i] - (0 if against is None else task.values[:, against]) for i, against in places]
    )
    there = ~np.isnan(every)
    documents = [len(np.unique(task.documents.of[column])) for column in there.T]
    changed = ((every > 0).sum(axis=0), (every < 0).sum(axis=0))
    counts = np.array([there.sum(axis=0), documents, *changed, there.any(axis=0)], dtype=float)
    seed = int.from_bytes(hashlib.sha256(task.name.encode()).digest()[:8])  # tasks are drawn independently
    return _Part("task", task.name, estimate(every, task.documents, draws, seed), counts)


def _joined(level: Level, name: str, parts: Sequence[_Part]) -> _Part:
    counts = np.sum([part.counts for part in parts], axis=0)
    return _Part(level, name, average([part.estimate for part in parts]), counts)


def _row(part: _Part) -> _Row:
    """A part's figures: its draws are needed no longer."""
    each = part.estimate
    return _Row(part.level, part.name, np.vstack([each.mean, *each.ends(), each.p_values(), each.error, part.counts]))


def _means(rows: Sequence[_Row], columns: Sequence[_Column]) -> list[Mean]:
    means = []
    for row in rows:
        for column, (mean, low, high, _, _, items, documents, *_) in zip(columns, row.figures.T, strict=True):
            if not column.against and items:
                range_of = (0, 1) if 0 <= mean <= 1 else (-np.inf, np.inf)  # a share, but for log-probability
                least, most = map(_rounded, np.clip((low, high), *range_of))
                of = (_rounded(mean), least, most, int(items), int(documents))
                means.append(Mean(row.level, row.name, column.condition, *of))
    return means


def _differences(rows: Sequence[_Row], columns: Sequence[_Column]) -> Iterator[Difference]:
    every = np.array([row.figures[3] for row in rows])
    family = [row.level == "category" and row.name != GUARD for row in rows]
    adjusted = np.array([[np.nan] if row.level == "task" else [1.0] for row in rows]) * every
    adjusted[family] = np.apply_along_axis(holm, 0, every[family])
    for row, corrected in zip(rows, adjusted, strict=True):
        for column, figures, p_corrected in zip(columns, row.figures.T, corrected, strict=True):
            items, documents, better, worse = map(int, figures[5:9])
            if column.against and items:
                mean, low, high, p = map(_rounded, figures[:4])
                smallest = _rounded(SMALLEST * figures[4]) or None
                of = (mean, low, high, p, _rounded(p_corrected), smallest, better, worse, items, documents)
                yield Difference(row.level, row.name, *column, *of)


def _verdicts(differences: Sequence[Difference], condition: str, base: str) -> Iterator[Verdict]:
    """What is to be said of a condition, category by category and overall."""
    rows = [row for row in differences if row.condition == condition and row.level != "task"]
    from_base = [row for row in rows if row.against == base]
    nearest = []
    for row in from_base:
        beside = [(_beside(row, each), each.against) for each in rows if each[:2] == row[:2] and each.against != base]
        nearest.append(max(beside, default=(np.nan, "")))
    p = np.maximum([np.nan if row.p is None else row.p for row in from_base], [least for least, _ in nearest])
    family = [row.level == "category" and row.name != GUARD for row in from_base]
    p[family] = holm(p[family])
    for row, (_, control), p_control in zip(from_base, nearest, map(_rounded, p), strict=True):
        says = _says(row.mean, row.adjusted, p_control, bool(control))
        yield Verdict(row.level, row.name, condition, says, control, row.adjusted, p_control)


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
