"""Whether the statistics of an evaluation keep their word, on evaluations whose truth is known.

Simulated evaluations of the size of a suite: nine categories and the guard, 15 tasks, 4 questions a document. How easy
a question is depends on its task, its document and itself (a logit each, with standard deviation 1 for the last two);
an answer is right or wrong by chance, on every third task graded in quarters. Conditions answer the same questions with
chance of their own: two that are alike agree on about 8 of 10 questions, and differ by nothing in the mean.

- **Coverage**: how often the 95 % interval of a mean holds the mean over all documents that there could be; beside it
  that of the plain percentile bootstrap, which is too narrow for so few documents.
- **Halves**: how often two halves of the documents, drawn at random, differ by no more than their intervals allow.
- **Itself**: a condition against itself differs by 0, and so do both ends of the interval.
- **False gains**: how often a gain is claimed of a condition that differs from base and three controls by chance alone;
  and of one that truly betters base, but not more than its controls do. A claim rests on the largest of the p-values
  to base and to the controls, corrected once across categories; a category whose one task has fewer than 6 documents
  can claim none.
- **A planted gain**: how often a condition is found out that answers as base does, but reads the gold answer in 10 % of
  the items.

`python analyses/null_checks.py` takes some 20 minutes on two idle CPU cores.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from scipy.special import expit, ndtr

from analyses.figures import Curve, Panel, panels, rounded, save, show
from retmask.compare.conditions import Role
from retmask.evaluate.statistics import DRAWS, GUARD, Mean, Score, Tables, tables
from retmask.heads.intervals import clusters, interval, proportion_interval

TASKS = ("recall " * 4 + "rag rag hops hops cite rerank icl qa summary association guard").split()  # their categories
DOCUMENTS, ITEMS = (4, 6, 10, 20), 4
ROLES: dict[str, Role] = {
    "unmasked": "base",
    "itself": "treatment",
    "chance": "treatment",
    "reads gold": "treatment",
    "control 1": "control",
    "control 2": "control",
    "control 3": "control",
}
MOVED, OWN, GOLD = 0.5, 0.3, 0.1  # logits; of an answer's variance; of the items
HOLDS, PLAIN = "the interval holds the truth", "the plain percentile interval holds the truth"
WITHIN, PLANTED = "two halves differ within their intervals", "the planted gain is found"
CHANCE, SHARED = "a gain is claimed of chance", "a gain is claimed that controls share"
Answers = dict[str, Float[np.ndarray, "document item"]]


class Kind(NamedTuple):
    """A task: its name, its category, how easy it is (a logit), and whether its answers are graded."""

    name: str
    category: str
    ease: float
    graded: bool


def suite() -> list[Kind]:
    """The tasks, from 80 % right to 20 %."""
    eases = np.linspace(1.4, -1.4, len(TASKS))
    return [Kind(f"{category} {i}", category, float(eases[i]), i % 3 == 2) for i, category in enumerate(TASKS)]


def answered(rng: np.random.Generator, kind: Kind, documents: int, moved: float = 0) -> Answers:
    """Scores of every condition on a task; all but base and what answers as it does gain `moved` logits."""
    shape = documents, ITEMS
    logit = kind.ease + rng.standard_normal((documents, 1)) + rng.standard_normal(shape)
    shared = rng.standard_normal(shape)

    def scores(gain: float) -> Float[np.ndarray, "document item"]:
        luck = np.sqrt(1 - OWN) * shared + np.sqrt(OWN) * rng.standard_normal(shape)
        worth = np.round(4 * expit(logit + gain + luck)) / 4 if kind.graded else ndtr(luck) < expit(logit + gain)
        return np.asarray(worth, dtype=float)

    base = scores(0)
    answers = {"unmasked": base, "itself": base, "chance": scores(moved)}
    answers["reads gold"] = np.where(rng.random(shape) < GOLD, 1.0, base)
    return answers | {name: scores(moved) for name in ROLES if name.startswith("control")}


def evaluation(rng: np.random.Generator, documents: int, moved: float = 0) -> list[Score]:
    """The scores of an evaluation."""
    return [
        Score(kind.name, kind.category, f"{document}-{item}", str(document), condition, float(score))
        for kind in suite()
        for condition, array in answered(rng, kind, documents, moved).items()
        for (document, item), score in np.ndenumerate(array)
    ]


def truths(documents: int = 50_000) -> dict[str, float]:
    """The mean of base over all documents that there could be, by task, category and overall."""
    rng, of = np.random.default_rng(0), defaultdict(list)
    for kind in suite():
        of[kind.name] = [answered(rng, kind, documents)["unmasked"].mean()]
        of[kind.category] += of[kind.name]
    of["overall"] = [np.mean(of[category]) for category in dict.fromkeys(TASKS) if category != GUARD]
    return {name: float(np.mean(means)) for name, means in of.items()}


def checks(rng: np.random.Generator, documents: int, truth: Mapping[str, float]) -> Iterator[tuple[str, str, bool]]:
    """What one evaluation, and another half of it, show: the check, the level, and whether it came out so."""
    scores = evaluation(rng, documents)
    found = tables(scores, ROLES, DRAWS)
    base = [row for row in found.means if row.condition == "unmasked"]
    for row in base:
        yield HOLDS, row.level, row.low <= truth[row.name] <= row.high  # type: ignore[operator]
    of_first = [score for score in scores if (score.task, score.condition) == (suite()[0].name, "unmasked")]
    by = clusters([score.cluster for score in of_first], "document")
    plain = interval(np.array([score.score for score in of_first]), by)
    assert plain is not None
    yield PLAIN, "task", bool(plain.low <= truth[suite()[0].name] <= plain.high)
    other = [score for score in evaluation(rng, documents) if score.condition == "unmasked"]
    for row, half in zip(base, tables(other, {"unmasked": "base"}, DRAWS).means, strict=True):
        room = np.hypot(_half(row), _half(half))
        yield WITHIN, row.level, bool(abs(row.mean - half.mean) <= room + 1e-9)
    assert all(row[4:7] == (0, 0, 0) for row in found.differences if row[2:4] == ("itself", "unmasked"))
    yield from _claims(found, "chance", CHANCE)
    yield from _claims(found, "reads gold", PLANTED)
    yield from _claims(tables(evaluation(rng, documents, MOVED), ROLES, DRAWS), "chance", SHARED)


def _half(row: Mean) -> float:
    assert row.low is not None
    assert row.high is not None
    return (row.high - row.low) / 2


def _claims(found: Tables, condition: str, check: str) -> Iterator[tuple[str, str, bool]]:
    """Whether a gain of a condition is claimed overall, in each category, and in any of the nine."""
    rows = [row for row in found.verdicts if row.condition == condition and row.name != GUARD]
    for row in rows:
        yield check, row.level, row.says == "gain"
    yield check, "any category", any(row.says == "gain" for row in rows if row.level == "category")
    p = next(row.p_base for row in rows if row.level == "overall")
    yield f"{check}: against base alone", "overall", p is not None and p <= 0.05


def measure(evaluations: int, documents: Sequence[int] = DOCUMENTS) -> list[dict[str, Any]]:
    """The table: how often each check came out, by the number of documents a task has."""
    truth, rows = truths(), []
    for n in documents:
        generators = (np.random.default_rng((n, number)) for number in range(evaluations))
        rows += rows_of(n, (out for rng in generators for out in checks(rng, n, truth)))
    return rows


def rows_of(documents: int, outs: Iterable[tuple[str, str, bool]]) -> list[dict[str, Any]]:
    """A row for each check and level: how often it came out, with a 95 % interval."""
    came: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for check, level, out in outs:
        came[check, level].append(out)
    rows = []
    for (check, level), each in came.items():
        share = float(np.mean(each))
        low, high = map(rounded, proportion_interval(share, len(each)))
        row = {"documents": documents, "items": documents * ITEMS, "check": check, "level": level}
        rows.append(row | {"share": rounded(share), "low": low, "high": high, "of": len(each)})
    return rows


def draw(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Coverage, and how often a gain is claimed, by the number of documents a task has."""

    def curve(check: str, level: str, name: str) -> Curve:
        points = [row for row in rows if (row["check"], row["level"]) == (check, level)]
        x, y, low, high = ([row[key] for row in points] for key in ("documents", "share", "low", "high"))
        return Curve(name, x, y, low, high)

    coverage = [curve(HOLDS, level, level) for level in ("task", "category", "overall")]
    coverage += [curve(PLAIN, "task", "task, plain percentiles"), curve(WITHIN, "overall", "two halves, overall")]
    claims = [curve(PLANTED, level, f"planted, {level}") for level in ("overall", "any category")]
    claims += [curve(CHANCE, "overall", "chance, overall"), curve(SHARED, "overall", "shared by controls, overall")]
    x = {"title": "documents a task", "tickvals": list(DOCUMENTS)}
    y = {"title": "share of evaluations"}
    return panels(
        [
            Panel("how often 95 % intervals hold", coverage, x, y | {"range": [0.7, 1.01]}),
            Panel("how often a gain is claimed", claims, x, y | {"range": [-0.02, 1.02]}),
        ],
        height=400,
    )


def main() -> None:
    """Simulate, print, write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=300, help="of each number of documents")
    rows = measure(parser.parse_args().evaluations)
    show(rows)
    save(draw(rows), rows, "null-checks")


if __name__ == "__main__":
    main()
