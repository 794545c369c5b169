"""The one function behind all intervals: cases worked by hand, and what holds for any values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retmask.heads.intervals import alike, clusters, each, interval, middle, none_over, over, proportion_interval, span

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
def test_copies_in_a_cluster_change_nothing(values: np.ndarray, times: int) -> None:
    once = interval(values, each(len(values), "needle"))
    copied = interval(np.repeat(values, times), clusters(np.repeat(range(len(values)), times).tolist(), "needle"))
    assert once is not None
    assert copied is not None
    assert copied[:2] == pytest.approx(once[:2])


@given(VALUES)
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
