"""Means, differences and verdicts of an evaluation, by hand, and what holds for any scores."""

from collections.abc import Sequence

import numpy as np
import pytest

from retmask.compare.conditions import Role
from retmask.evaluate.statistics import Difference, Mean, Score, Tables, tables

ROLES: dict[str, Role] = {"unmasked": "base", "masked": "treatment", "random": "control"}
DRAWS = 500


def answers(task: str, category: str, condition: str, worth: Sequence[float], of: int = 2) -> list[Score]:
    """Scores of a condition, `of` items to a document."""
    return [Score(task, category, f"{task}{i}", f"{task}-{i // of}", condition, each) for i, each in enumerate(worth)]


def noisy(seed: int, gains: dict[str, float], documents: int = 12, tasks: str = "abc") -> list[Score]:
    """Right and wrong answers, alike within documents: a condition of gain g turns that share of wrong ones right."""
    rng, out = np.random.default_rng(seed), []
    for task in tasks:
        right = rng.random((documents, 4)) < rng.random((documents, 1)) * 0.6
        for name, gain in gains.items():
            better = right | (rng.random(right.shape) < gain) if gain else right
            out += answers(task, task.upper(), name, better.ravel().astype(float).tolist(), 4)
    return out


def mean(found: Tables, name: str, condition: str) -> Mean:
    return next(row for row in found.means if (row.name, row.condition) == (name, condition))


def gap(found: Tables, name: str, condition: str, against: str) -> Difference:
    return next(row for row in found.differences if (row.name, row[2], row.against) == (name, condition, against))


def test_means_of_means_by_hand() -> None:
    """A category is the mean of its tasks, however many items they have; the guard is not part of overall."""
    scores = answers("keys", "recall", "unmasked", [1, 1, 1, 1, 1, 1, 0, 0])
    scores += answers("json", "recall", "unmasked", [0, 0, 0, 0.5, 0.5, 0.5])
    scores += answers("facts", "rag", "unmasked", [0, 1, 0, 1, 0, 0])
    scores += answers("sums", "guard", "unmasked", [1] * 6)
    found = tables(scores, {"unmasked": "base"}, DRAWS)
    assert {row.name: (row.mean, row.items, row.clusters) for row in found.means} == {
        "keys": (0.75, 8, 4),
        "json": (0.25, 6, 3),
        "facts": (pytest.approx(1 / 3, abs=1e-6), 6, 3),
        "sums": (1, 6, 3),
        "recall": (0.5, 14, 7),
        "rag": (pytest.approx(1 / 3, abs=1e-6), 6, 3),
        "guard": (1, 6, 3),
        "overall": (pytest.approx((0.5 + 1 / 3) / 2, abs=1e-6), 20, 10),
    }
    for row in found.means:
        assert row.low is not None
        assert row.high is not None
        assert 0 <= row.low <= row.mean <= row.high <= 1
    assert (found.differences, found.verdicts) == ([], [])


def test_a_difference_by_hand() -> None:
    scores = answers("a", "A", "unmasked", [0, 0, 0.5, 1, 1, 0]) + answers("a", "A", "masked", [0, 1, 0.25, 1, 1, 1])
    row = gap(tables(scores, ROLES, DRAWS), "A", "masked", "unmasked")
    assert (row.mean, row.better, row.worse, row.items, row.clusters) == (pytest.approx(1.75 / 6, abs=1e-6), 2, 1, 6, 3)
    assert row.low is not None
    assert row.high is not None
    assert row.low <= row.mean <= row.high
    assert row.adjusted == row.p, "one category: nothing to correct"


def test_a_condition_against_itself_differs_by_nothing_at_all() -> None:
    scores = noisy(0, {"unmasked": 0, "again": 0})
    found = tables(scores, {"unmasked": "base", "again": "treatment"}, DRAWS)
    assert len(found.differences) == 3 + 3 + 1
    for row in found.differences:
        assert (row.mean, row.low, row.high, row.p, row.smallest, row.better, row.worse) == (0, 0, 0, 1, 0, 0, 0)
    assert {row.says for row in found.verdicts} == {"not shown"}


def test_a_gain_is_one_only_against_the_best_control() -> None:
    gains = {"unmasked": 0.0, "tuned": 0.6, "weak control": 0.0, "strong control": 0.6}
    scores = noisy(1, gains, documents=30)
    roles: dict[str, Role] = {"unmasked": "base", "tuned": "treatment", "weak control": "control"}

    def verdicts(roles: dict[str, Role]) -> set[tuple[str, str]]:
        return {(row.says, row.control) for row in tables(scores, roles).verdicts}

    assert verdicts({"unmasked": "base", "tuned": "treatment"}) == {("no control", "")}
    assert verdicts(roles) == {("gain", "weak control")}
    assert verdicts(roles | {"strong control": "control"}) == {("as the control", "strong control")}
    lost = [score._replace(score=1 - score.score) for score in scores]
    assert {row.says for row in tables(lost, roles).verdicts} == {"loss"}


def test_p_values_are_corrected_for_the_number_of_categories() -> None:
    gains = {"unmasked": 0.0, "masked": 0.12}
    found = tables(noisy(3, gains, tasks="abcd"), ROLES)
    rows = [row for row in found.differences if row.level == "category"]
    p = sorted(row.p for row in rows if row.p is not None)
    adjusted = sorted(row.adjusted for row in rows if row.adjusted is not None)
    assert adjusted[0] == pytest.approx(min(1, 4 * p[0]), abs=1e-5)
    assert adjusted[1] == pytest.approx(min(1, max(4 * p[0], 3 * p[1])), abs=1e-5)
    assert all(row.adjusted is None for row in found.differences if row.level == "task")
    overall = gap(found, "overall", "masked", "unmasked")
    assert overall.adjusted == overall.p
    assert overall.p is not None
    assert overall.p < p[0], "all categories together show what none of them surely does"


def test_too_few_documents_have_a_mean_and_no_interval() -> None:
    scores = answers("a", "A", "unmasked", [0, 1, 1, 1]) + answers("a", "A", "masked", [0, 0, 0, 1])
    scores += answers("b", "A", "unmasked", [0, 1] * 4) + answers("b", "A", "masked", [0, 1] * 4)
    found = tables(scores, ROLES, DRAWS)
    assert mean(found, "a", "unmasked")[3:] == (0.75, None, None, 4, 2)
    assert mean(found, "A", "unmasked")[3:6] == (0.625, None, None), "a category is as sure as its least sure task"
    row = gap(found, "A", "masked", "unmasked")
    assert (row.mean, row.low, row.p, row.adjusted, row.smallest) == (-0.25, None, None, None, None)
    assert {row.says for row in found.verdicts} == {"not shown"}
    assert mean(found, "b", "unmasked").low is not None


def test_what_is_there_so_far_is_told() -> None:
    """A condition of which nothing is there has no row; differences are of items that both have answered."""
    scores = answers("a", "A", "unmasked", [1, 1, 1, 0, 0, 0, 1, 1]) + answers("a", "A", "masked", [0, 1, 1, 0, 0, 0])
    found = tables(scores, ROLES, DRAWS)
    assert (mean(found, "A", "unmasked").items, mean(found, "A", "masked").items) == (8, 6)
    row = gap(found, "A", "masked", "unmasked")
    assert (row.items, row.clusters, row.mean) == (6, 3, pytest.approx(-1 / 6, abs=1e-6))
    assert "random" not in {row.condition for row in found.means}
    assert tables([], ROLES) == ([], [], [])


def test_tasks_are_drawn_independently() -> None:
    """The same scores under two names: were they drawn alike, their mean would be as unsure as one of them."""
    worth = np.random.default_rng(0).integers(0, 2, 40).astype(float).tolist()
    scores = [score for task in "ab" for score in answers(task, "A", "unmasked", worth)]
    found = tables(scores, {"unmasked": "base"})
    one, both = mean(found, "a", "unmasked"), mean(found, "A", "unmasked")
    assert None not in (one.low, one.high, both.low, both.high)
    ratio = (both.high - both.low) / (one.high - one.low)  # type: ignore[operator]
    assert ratio == pytest.approx(0.66, abs=0.08), (
        "1 / sqrt(2), and less: twice as many documents know their spread better"
    )


def test_the_order_of_answers_changes_nothing() -> None:
    scores = noisy(5, {"unmasked": 0.0, "masked": 0.2, "random": 0.1})
    found = tables(scores, ROLES, DRAWS)
    assert tables([score for score in scores if score.condition != "random"] + scores, ROLES, DRAWS) == found
    by_name = sorted(scores, key=lambda score: (score.task, score.cluster, score.item))
    assert tables(by_name, ROLES, DRAWS) == found
    assert set(found.record) == {"means", "differences", "verdicts"}


@pytest.mark.parametrize(("documents", "least"), [(4, 0.9), (10, 0.9)])
def test_intervals_hold_the_truth(documents: int, least: float) -> None:
    """Of 120 evaluations of one task of that many documents: 95 % intervals, were they 85 % ones, would be seen."""
    held = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        worth = np.clip(
            0.5 + 0.15 * rng.standard_normal((documents, 1)) + 0.1 * rng.standard_normal((documents, 4)), 0, 1
        )
        row = tables(answers("a", "A", "unmasked", worth.ravel().tolist(), 4), {"unmasked": "base"}, DRAWS).means[0]
        assert row.low is not None
        assert row.high is not None
        held += row.low <= 0.5 <= row.high
    assert held / 120 >= least
