"""What answers are worth, worked by hand, and as others compute it where they are installed."""

from importlib.util import find_spec
from math import log2, nan

import pytest

from retmask.items.metrics import (
    cited,
    first_answer,
    length_penalty,
    named,
    ndcg,
    ndcg_by,
    picked,
    sets,
    string_match_all,
)
from retmask.tasks import hops

GRADES = {"a": 2.0, "b": 1.0, "c": 0.0, "d": 0.0}


def test_string_match_is_rulers() -> None:
    gold = ["7421", "Owl"]
    assert string_match_all("the owl said 74211", gold) == 1.0
    assert string_match_all("742", gold) == 0.0
    assert string_match_all("7421 only", gold) == 0.5
    assert string_match_all("", gold) == 0.0


def test_whole_words_are_named() -> None:
    assert named("It is Corbury.", ["corbury"]) == ["corbury"]
    assert named("Corburyton", ["Corbury"]) == named("", ["Corbury"]) == []
    assert named("Golden Arrow", ["the Golden Arrow", "the White Wolf"]) == ["the Golden Arrow"]


def test_an_answer_is_picked_among_its_kind() -> None:
    assert picked("The owl.\nOr the hen", ["owl"], ["hen", "gull"]) == 1.0
    assert picked("owl, hen, gull", ["owl"], ["hen", "gull"]) == pytest.approx(1 / 3)
    assert picked("hen", ["owl"], ["hen"]) == picked("", ["owl"], ["hen"]) == picked("a bird", ["owl"], ["hen"]) == 0.0


def test_of_several_answers_each_counts_and_what_is_wrong_costs() -> None:
    gold, wrong = ["owl", "hen"], ["gull", "crow"]
    assert picked("owl and hen.\n\nThe gull", gold, wrong) == picked(":\n\n- hen\n- owl", gold, wrong) == 1.0
    assert picked("owl", gold, wrong) == picked("owl, owl, OWL", gold, wrong) == 0.5
    assert picked("owl, hen, gull, crow", gold, wrong) == 0.5
    assert picked("owl, gull", gold, wrong) == 0.25
    assert picked("", gold, wrong) == picked("gull, crow", gold, wrong) == 0.0


def test_a_label_is_what_an_answer_begins_with() -> None:
    assert first_answer(" Blue, as I said", "blue") == 1.0
    assert first_answer("not blue", "blue") == first_answer("", "blue") == first_answer("bluer", "blue") == 0.0


def test_sets() -> None:
    assert sets(cited("Ada [3], Bo [12] and [3]"), ["3", "4"]) == (0.5, 0.5)
    assert sets(["3", "4", "5", "6"], ["3", "4"]).f1 == pytest.approx(2 / 3)
    assert sets(cited("none (3)"), ["3"]) == (0.0, 0.0)
    assert sets([], ["3"]).f1 == 0.0


def test_ndcg() -> None:
    assert ndcg("abcd", GRADES) == ndcg("ab", GRADES) == 1.0
    assert ndcg("ba", GRADES) == pytest.approx((1 + 2 / log2(3)) / (2 + 1 / log2(3)))
    assert ndcg("cda", GRADES) == pytest.approx(1.0 / (2 + 1 / log2(3)))
    assert ndcg("aaab", GRADES) == 1.0  # twice counts once
    assert ndcg("xyab", GRADES) == ndcg("cdab", GRADES) < 1.0  # what is unknown takes a place
    assert ndcg("", GRADES) == ndcg("cd", GRADES) == ndcg("cda", GRADES, k=2) == 0.0


def test_ndcg_of_what_is_tied_is_the_mean_of_its_orders() -> None:
    best = 2 + 1 / log2(3)
    assert ndcg_by({"a": -1, "b": -2, "c": -3, "d": -4}, GRADES) == 1.0
    mean = (ndcg("ab", GRADES) + ndcg("ba", GRADES)) / 2
    assert ndcg_by({"a": -1, "b": -1, "c": -3, "d": -4}, GRADES) == pytest.approx(mean)
    alike = pytest.approx(0.75 * (1 + 1 / log2(3) + 0.5 + 1 / log2(5)) / best)
    assert ndcg_by(dict.fromkeys("abcd", -1.0), GRADES) == ndcg_by(dict.fromkeys("abcd", nan), GRADES) == alike
    assert ndcg_by({"a": nan, "b": -9, "c": -1, "d": -2}, GRADES) == pytest.approx(ndcg("cdba", GRADES))


@pytest.mark.skipif(find_spec("sklearn") is None, reason="scikit-learn is not installed; worked by hand above")
@pytest.mark.parametrize("values", ["4321", "1234", "2242", "1111", "3311"])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_ndcg_of_what_is_tied_is_that_of_scikit_learn(values: str, k: int) -> None:
    from sklearn.metrics import ndcg_score

    worth = dict(zip("abcd", map(float, values), strict=True))
    expected = ndcg_score([[GRADES[name] for name in "abcd"]], [list(worth.values())], k=k)
    assert ndcg_by(worth, GRADES, k) == pytest.approx(expected)


@pytest.mark.skipif(find_spec("sklearn") is None, reason="scikit-learn is not installed; worked by hand above")
@pytest.mark.parametrize("order", ["abcd", "dcba", "bdac"])
def test_ndcg_is_that_of_scikit_learn(order: str) -> None:
    from sklearn.metrics import ndcg_score

    truth = [[GRADES[name] for name in "abcd"]]
    assert ndcg(order, GRADES, 3) == pytest.approx(ndcg_score(truth, [[-order.index(name) for name in "abcd"]], k=3))


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed; worked by hand above")
@pytest.mark.parametrize("response", ["the owl said 74211", "742", "7421 only", ""])
def test_string_match_is_that_of_lm_eval(response: str) -> None:
    from lm_eval.tasks.ruler import common_utils

    gold = ["7421", "Owl"]
    assert string_match_all(response, gold) == common_utils.string_match_all([response], [gold])


def test_what_is_too_long_is_worth_less() -> None:
    assert length_penalty("", 4) == length_penalty("one two three four", 4) == 1.0
    assert length_penalty("one two three four five six seven eight", 4) == 0.5


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed")
def test_the_words_of_variable_tracking_are_rulers() -> None:
    from lm_eval.tasks.ruler import vt_utils

    assert (
        " ".join((hops.MEMORIZE, hops.FIND, hops.FOUND)).split() == vt_utils.TEMPLATE.replace("{context}", "").split()
    )
