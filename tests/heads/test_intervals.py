"""The one function behind all intervals: cases worked by hand, and what holds for any values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retmask.heads.intervals import (
    alike,
    average,
    clusters,
    each,
    estimate,
    holm,
    interval,
    middle,
    none_over,
    over,
    proportion_interval,
    span,
)

VALUES = st.lists(st.floats(0, 1), min_size=3, max_size=30).map(np.array)


def test_three_clusters_give_their_range() -> None:
    """Means 1, 2 and 6 of three clusters: all of a draw are one cluster in 1 of 27 draws, oftener than 1 in 40."""
    found = interval(np.array([1.0, 1.0, 1.0, 2.0, 5.0, 7.0]), clusters("aaabcc", "needle"))
    assert found is not None
    assert (float(found.low), float(found.high), found.n, found.unit) == (1, 6, 3, "needle")


@pytest.mark.parametrize("names", ["", "a", "aaaa", "aabb"])
def test_fewer_than_three_clusters_give_none(names: str) -> None:
    assert interval(np.ones(len(names)), clusters(names, "needle")) is None


def test_many_values_come_near_the_normal_interval() -> None:
    few, many = (interval(np.array([0.0, 1.0] * n), each(2 * n, "prompt"), draws=10_000) for n in (5, 500))
    assert few is not None
    assert many is not None
    assert few.low < many.low < 0.5 < many.high < few.high
    half = 1.96 * 0.5 / 1000**0.5
    assert many[:2] == pytest.approx((0.5 - half, 0.5 + half), abs=0.004)


@given(VALUES, st.integers(2, 5))
@settings(deadline=None)
def test_copies_in_a_cluster_change_nothing(values: np.ndarray, times: int) -> None:
    once = interval(values, each(len(values), "needle"))
    copied = interval(np.repeat(values, times), clusters(np.repeat(range(len(values)), times).tolist(), "needle"))
    assert once is not None
    assert copied is not None
    assert copied[:2] == pytest.approx(once[:2])


@given(VALUES)
@settings(deadline=None)
def test_an_interval_holds_the_mean_and_is_the_same_each_time(values: np.ndarray) -> None:
    by = each(len(values), "trial")
    found = interval(values, by)
    assert found is not None
    assert found.low <= values.mean() <= found.high
    assert found == interval(values, by)


def test_figures_that_some_draws_lack_are_of_the_others() -> None:
    """One of three values is above 0; a draw without it has no share."""

    def first_share(means: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return means[:, 0] / means.sum(axis=1)

    values = np.array([[0.3, 0.1], [0.0, 0.0], [0.0, 0.0]])
    found = interval(values, each(3, "trial"), first_share)
    assert found is not None
    assert found[:2] == pytest.approx((0.75, 0.75))
    nothing = interval(np.zeros((3, 2)), each(3, "trial"), first_share)
    assert nothing is not None
    assert np.isnan(nothing.low)


@pytest.mark.parametrize(
    ("share", "n", "low", "high"), [(0.5, 10, 0.237, 0.763), (1.0, 5, 0.566, 1.0), (0, 5, 0, 0.434)]
)
def test_the_interval_of_a_proportion(share: float, n: int, low: float, high: float) -> None:
    assert proportion_interval(share, n) == pytest.approx((low, high), abs=0.001)


def test_the_interval_holds_the_share_and_shrinks_with_more_observations() -> None:
    for share in (0.0, 0.3, 0.875, 1.0):
        few, many = proportion_interval(share, 8), proportion_interval(share, 800)
        assert few[0] <= many[0] <= share <= many[1] <= few[1]


def test_clusters() -> None:
    assert clusters(["b", "a", "b"], "needle").of.tolist() == [0, 1, 0]
    assert clusters([], "needle").n == 0
    assert alike(np.array([[[0.5]], [[0.0]], [[0.5]]]), "trial").n == 2


def test_the_middle_of_draws() -> None:
    assert middle(np.arange(41.0)) == pytest.approx((1, 39))


def test_words() -> None:
    assert (over(1, "needle"), over(3, "needle")) == ("1 needle", "3 needles")
    assert (span(0.25, 0.5), span(-0.1, 0.2, "+.1f"), span(None, None)) == ("0.25 to 0.50", "-0.1 to +0.2", "–")
    assert none_over(1, "needle") == "no interval: it takes 3 needles or more, and there is 1 needle"


def test_an_estimate_knows_its_error_without_the_bias_of_few_clusters() -> None:
    values = np.array([0.0, 0.1, 0.5, 0.6, 0.8])[:, None]
    found = estimate(values, each(5, "document"), draws=20_000)
    assert found.mean == pytest.approx([0.4])
    assert found.error == pytest.approx([values.std(ddof=1) / np.sqrt(5)], rel=0.02)
    assert found.freedom.tolist() == [4]
    plain = interval(values, each(5, "document"), draws=20_000)
    low, high = found.ends()
    assert plain is not None
    assert low[0] < plain.low[0] < plain.high[0] < high[0]


def test_an_estimate_is_of_what_was_measured() -> None:
    """The second figure was measured in two clusters only: it has a mean, and no interval."""
    values = np.array([[1, np.nan], [0, 1], [0, np.nan], [1, 0], [1, 0.5]])
    found = estimate(values, clusters("aabbc", "document"))
    assert found.mean == pytest.approx([0.6, 0.5])
    assert found.freedom[0] == 2
    one, other = estimate(values, clusters("aaabb", "document")), found
    assert np.isnan(one.ends()).all()
    assert np.isnan(one.p_values()).all()
    assert np.isnan(average([one, other]).ends()).all(), "as sure as its least sure part"
    nothing = estimate(np.full((5, 2), np.nan), each(5, "document"))
    assert average([nothing, other]).mean == pytest.approx(other.mean), "what was not measured does not count"


def test_the_mean_of_independent_estimates() -> None:
    """Two tasks of equal variance: half of it, and the degrees of freedom of both together (Satterthwaite)."""
    values = np.random.default_rng(0).random((8, 1))
    first, second = (estimate(values, each(8, "document"), 20_000, seed) for seed in (1, 2))
    both = average([first, second])
    assert both.mean == pytest.approx(first.mean)
    assert both.error == pytest.approx(first.error / np.sqrt(2), rel=0.03)
    assert both.freedom == pytest.approx([14], rel=0.01)


@given(st.lists(st.floats(0, 1), min_size=10, max_size=30).map(np.array), st.floats(-1, 1))
@settings(deadline=None)
def test_a_p_value_is_small_where_the_interval_leaves_0_out(values: np.ndarray, shift: float) -> None:
    found = estimate((values - shift)[:, None], each(len(values), "document"), draws=1000)
    (low,), (high,), (p,) = *found.ends(), found.p_values()
    if p > 0.06:
        assert low <= 0 <= high
    if p < 0.04:
        assert not low < 0 < high


def test_a_condition_that_never_differs_has_p_1() -> None:
    found = estimate(np.zeros((5, 1)), each(5, "document"))
    assert (found.p_values(), found.error, *found.ends()) == (1, 0, 0, 0)


def test_p_values_corrected_by_hand() -> None:
    corrected = holm(np.array([0.01, 0.04, np.nan, 0.03, 0.9]))
    assert corrected[[0, 1, 3, 4]] == pytest.approx([0.04, 0.09, 0.09, 0.9])
    assert np.isnan(corrected[2])


@pytest.mark.parametrize("n", [1, 2])
def test_of_too_few_clusters_there_is_a_mean_alone(n: int) -> None:
    made = estimate(np.arange(4.0)[:, None], clusters([i % n for i in range(4)], "document"), draws=10)
    assert made.mean == 1.5
    assert np.isnan(made.draws).all()
    assert np.isnan(made.freedom).all()
