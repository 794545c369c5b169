"""Means, differences and verdicts of an evaluation, by hand, and what holds for any scores."""

from collections.abc import Sequence

import numpy as np
import pytest

from retmask.compare.conditions import Role
from retmask.evaluate.statistics import Difference, Mean, Score, Tables, means_of, tables
from retmask.heads.intervals import holm

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


def mean(result: Tables, name: str, condition: str) -> Mean:
    return next(row for row in result.means if (row.name, row.condition) == (name, condition))


def gap(result: Tables, name: str, condition: str, against: str) -> Difference:
    return next(row for row in result.differences if (row.name, row[2], row.against) == (name, condition, against))


def test_means_of_means_by_hand() -> None:
    """A category is the mean of its tasks, however many items they have; the guard is not part of overall."""
    scores = answers("keys", "recall", "unmasked", [1, 1, 1, 1, 1, 1, 0, 0])
    scores += answers("json", "recall", "unmasked", [0, 0, 0, 0.5, 0.5, 0.5])
    scores += answers("facts", "rag", "unmasked", [0, 1, 0, 1, 0, 0])
    scores += answers("sums", "guard", "unmasked", [1] * 6)
    result = tables(scores, {"unmasked": "base"}, DRAWS)
    assert {row.name: (row.mean, row.items, row.clusters) for row in result.means} == {
        "keys": (0.75, 8, 4),
        "json": (0.25, 6, 3),
        "facts": (pytest.approx(1 / 3, abs=1e-6), 6, 3),
        "sums": (1, 6, 3),
        "recall": (0.5, 14, 7),
        "rag": (pytest.approx(1 / 3, abs=1e-6), 6, 3),
        "guard": (1, 6, 3),
        "overall": (pytest.approx((0.5 + 1 / 3) / 2, abs=1e-6), 20, 10),
    }
    for row in result.means:
        assert row.low is not None
        assert row.high is not None
        assert 0 <= row.low <= row.mean <= row.high <= 1
    assert (result.differences, result.verdicts) == ([], [])


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
    result = tables(scores, {"unmasked": "base", "again": "treatment"}, DRAWS)
    assert len(result.differences) == 3 + 3 + 1
    for row in result.differences:
        assert (row.mean, row.low, row.high, row.p, row.smallest, row.better, row.worse) == (0, 0, 0, 1, None, 0, 0)
    assert {row.says for row in result.verdicts} == {"not shown"}


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
    result = tables(noisy(3, gains, tasks="abcd"), ROLES)
    rows = [row for row in result.differences if row.level == "category"]
    p = sorted(row.p for row in rows if row.p is not None)
    adjusted = sorted(row.adjusted for row in rows if row.adjusted is not None)
    assert adjusted[0] == pytest.approx(min(1, 4 * p[0]), abs=1e-5)
    assert adjusted[1] == pytest.approx(min(1, max(4 * p[0], 3 * p[1])), abs=1e-5)
    assert all(row.adjusted is None for row in result.differences if row.level == "task")
    overall = gap(result, "overall", "masked", "unmasked")
    assert overall.adjusted == overall.p
    assert overall.p is not None
    assert overall.p < p[0], "all categories together show what none of them surely does"


def test_a_verdict_is_corrected_once_for_base_and_controls_together() -> None:
    """Of each category the larger p-value, to base or a control, and only then Holm's correction across them."""
    scores = noisy(4, {"unmasked": 0.0, "random": 0.05, "masked": 0.2}, documents=8, tasks="abcd")
    result = tables(scores, ROLES, DRAWS)
    both = [(gap(result, name, "masked", "unmasked"), gap(result, name, "masked", "random")) for name in "ABCD"]
    assert all(base.mean * control.mean > 0 for base, control in both)
    p = holm(np.array([max(base.p or 0, control.p or 0) for base, control in both]))
    rows = [row for row in result.verdicts if row.level == "category"]
    assert [row.p_control for row in rows] == pytest.approx(p.tolist(), abs=1e-5)
    assert [row.p_base for row in rows] == [base.adjusted for base, _ in both]
    assert [row.says in ("gain", "loss") for row in rows] == [value <= 0.05 for value in p]


@pytest.mark.parametrize(
    ("documents", "least", "says"), [(4, 0.125, "not shown"), (5, 0.0625, "not shown"), (6, 0.03125, "loss")]
)
def test_few_documents_that_all_differ_alike_are_no_proof(documents: int, least: float, says: str) -> None:
    """As of a sign test: so many documents fall on one side by chance in 2 of 2^n evaluations."""
    right, wrong = [1.0] * 2 * documents, [0.0] * 2 * documents
    scores = [score for name in ROLES for score in answers("a", "A", name, wrong if name == "masked" else right)]
    result = tables(scores, ROLES, DRAWS)
    row = gap(result, "a", "masked", "unmasked")
    assert (row.mean, row.p, row.smallest) == (-1, pytest.approx(least, abs=0.004), None)
    assert {row.says for row in result.verdicts} == {says}


def test_one_document_has_a_mean() -> None:
    (row, *_) = tables(answers("a", "A", "unmasked", [1, 0]), ROLES, DRAWS).means
    assert row[3:] == (0.5, None, None, 2, 1)


def test_a_second_model_so_far_is_as_sure_as_its_own_documents_are() -> None:
    """Those that it has not answered are not drawn: its interval is that of an evaluation that has no others."""
    scores = noisy(6, {"unmasked": 0.0, "tuned": 0.3}, documents=12, tasks="a")
    few = [score for score in scores if score.cluster in {f"a-{i}" for i in range(4)}]
    so_far = few + [score for score in scores if score not in few and score.condition == "unmasked"]
    roles: dict[str, Role] = {"unmasked": "base", "tuned": "treatment"}
    result, alone = tables(so_far, roles, DRAWS), tables(few, roles, DRAWS)
    assert mean(result, "overall", "unmasked").clusters == 12
    assert mean(result, "overall", "tuned") == mean(alone, "overall", "tuned")
    assert None not in mean(result, "overall", "tuned")
    assert gap(result, "A", "tuned", "unmasked") == gap(alone, "A", "tuned", "unmasked")


def test_more_conditions_change_nothing_of_the_others() -> None:
    """However many there are: of 25 conditions the means and differences are those of any two of them alone."""
    gains = {"unmasked": 0.0, "masked": 0.2} | {f"random {i}": i / 40 for i in range(23)}
    scores = noisy(7, gains, documents=5, tasks="ab")
    roles: dict[str, Role] = dict.fromkeys(gains, "control")
    every = tables(scores, roles | {"unmasked": "base", "masked": "treatment"}, 200)
    for name in ("masked", "random 7", "random 22"):
        two = tables(scores, {"unmasked": "base", name: "treatment"}, 200)
        assert [row for row in every.means if row.condition in ("unmasked", name)] == two.means
        pairs = [row for row in every.differences if (row.condition, row.against) == (name, "unmasked")]
        assert pairs == two.differences
    assert means_of(scores, gains, 200) == every.means


def test_too_few_documents_have_a_mean_and_no_interval() -> None:
    scores = answers("a", "A", "unmasked", [0, 1, 1, 1]) + answers("a", "A", "masked", [0, 0, 0, 1])
    scores += answers("b", "A", "unmasked", [0, 1] * 4) + answers("b", "A", "masked", [0, 1] * 4)
    result = tables(scores, ROLES, DRAWS)
    assert mean(result, "a", "unmasked")[3:] == (0.75, None, None, 4, 2)
    assert mean(result, "A", "unmasked")[3:6] == (0.625, None, None), "a category is as sure as its least sure task"
    row = gap(result, "A", "masked", "unmasked")
    assert (row.mean, row.low, row.p, row.adjusted, row.smallest) == (-0.25, None, None, None, None)
    assert {row.says for row in result.verdicts} == {"not shown"}
    assert mean(result, "b", "unmasked").low is not None


def test_what_is_there_so_far_is_told() -> None:
    """A condition of which nothing is there has no row; differences are of items that both have answered."""
    scores = answers("a", "A", "unmasked", [1, 1, 1, 0, 0, 0, 1, 1]) + answers("a", "A", "masked", [0, 1, 1, 0, 0, 0])
    result = tables(scores, ROLES, DRAWS)
    assert (mean(result, "A", "unmasked").items, mean(result, "A", "masked").items) == (8, 6)
    row = gap(result, "A", "masked", "unmasked")
    assert (row.items, row.clusters, row.mean) == (6, 3, pytest.approx(-1 / 6, abs=1e-6))
    assert "random" not in {row.condition for row in result.means}
    assert tables([], ROLES) == ([], [], [])


def test_tasks_are_drawn_independently() -> None:
    """The same scores under two names: were they drawn alike, their mean would be as unsure as one of them."""
    worth = np.random.default_rng(0).integers(0, 2, 40).astype(float).tolist()
    scores = [score for task in "ab" for score in answers(task, "A", "unmasked", worth)]
    result = tables(scores, {"unmasked": "base"})
    one, both = mean(result, "a", "unmasked"), mean(result, "A", "unmasked")
    assert None not in (one.low, one.high, both.low, both.high)
    ratio = (both.high - both.low) / (one.high - one.low)  # type: ignore[operator]
    assert ratio == pytest.approx(0.66, abs=0.08), (
        "1 / sqrt(2), and less: twice as many documents know their spread better"
    )


def test_the_order_of_answers_changes_nothing() -> None:
    scores = noisy(5, {"unmasked": 0.0, "masked": 0.2, "random": 0.1})
    result = tables(scores, ROLES, DRAWS)
    assert tables([score for score in scores if score.condition != "random"] + scores, ROLES, DRAWS) == result
    by_name = sorted(scores, key=lambda score: (score.task, score.cluster, score.item))
    assert tables(by_name, ROLES, DRAWS) == result
    assert set(result.record) == {"means", "differences", "verdicts"}


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
