"""Figures of concentration: hand-worked cases, what holds for any map, and what is known of the published files."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from published import PUBLISHED, with_published

from retmask.families.concentration import Concentration, concentration, depth_profile, lorenz
from retmask.families.concentration import intervals as over_clusters
from retmask.heads.grid import HeadId
from retmask.heads.intervals import alike, each, resampled_means
from retmask.heads.scores import HeadScores

RELATIVE = Concentration._fields[3:]
SCORES = st.just(0.0) | st.floats(1e-12, 1)  # a share of tokens is not so small that a product with it underflows
MAPS = st.lists(SCORES, min_size=2, max_size=60).filter(any).map(lambda xs: np.array([xs]))


def intervals(
    values: np.ndarray, threshold: float = 0.1, distinct: bool = False
) -> dict[str, tuple[float, float] | None]:
    """The intervals over trials, or over those that differ."""
    by = alike(values, "different trial") if distinct else each(len(values), "trial")
    return over_clusters(values, by, threshold)


def test_by_hand() -> None:
    """Means 1, 3: Gini = ((2-3)*1 + (4-3)*3) / (2*4); l1 = 4, l2 = sqrt 10; entropy of 1/4, 3/4."""
    found = concentration(np.array([[3.0, 1.0]]), threshold=2.0)
    assert (found.n_heads, found.above, found.above_share, found.half_heads) == (2, 1, 0.5, 1)
    assert found.gini == pytest.approx(0.25)
    assert found.hoyer == pytest.approx((math.sqrt(2) - 4 / math.sqrt(10)) / (math.sqrt(2) - 1))
    assert found.top_1pct_share == found.top_5pct_share == pytest.approx(0.75)
    assert found.effective_heads == pytest.approx(4 / 3**0.75)


def test_exact_tenths_reach_a_tenth() -> None:
    """The mean of 0.3, 0 and 0 is 0.09999999999999999; so is that of most draws of such trials."""
    values = np.zeros((3, 1, 4))
    values[:, 0] = [[0.3, 0.1, 0.2, 0.0], [0.0, 0.1, 0.1, 0.0], [0.0, 0.1, 0.0, 0.2999]]
    assert values.mean(axis=0)[0, 0] < 0.1
    assert concentration(values.mean(axis=0)).above == 3
    sevenths = np.repeat([[[0.7, 0.1]]], 7, axis=0)
    sevenths[1:, 0, 0] = 0
    assert HeadScores("m", sevenths).above() == (HeadId(0, 0), HeadId(0, 1))
    low, high = intervals(np.full((7, 1, 2), 0.1))["above"]  # type: ignore[misc]
    assert (low, high) == (2, 2)


def test_draws() -> None:
    """Of two copies of 0.5 and one 0.1: both copies alone, or the two trials, or twice the other."""
    values = np.array([[[0.5, 0.0]], [[0.1, 0.2]], [[0.5, 0.0]]])
    assert alike(values, "trial").of.tolist() == [1, 0, 1]
    means = {round(float(mean), 6) for mean in resampled_means(values, alike(values, "trial"))[:, 0, 0]}
    assert means == {0.5, round(1.1 / 3, 6), 0.1}
    assert resampled_means(values, each(3, "trial")).shape == (1000, 1, 2)


def test_shares_of_a_hundred_heads() -> None:
    """The best head has 20, the next four 5 each, the other 95 make 60: 1 % hold a fifth, 5 % two fifths."""
    found = concentration(np.array([20.0] + [5.0] * 4 + [60 / 95] * 95).reshape(10, 10))
    assert found.top_1pct_share == pytest.approx(0.2)
    assert found.top_5pct_share == pytest.approx(0.4)
    assert found.half_heads == 5 + math.ceil(10 / (60 / 95))


@pytest.mark.parametrize("n", [1, 2, 7, 49, 60, 1152])
def test_equal_heads(n: int) -> None:
    found = concentration(np.full((1, n), 0.1))
    assert found.gini == pytest.approx(0)
    assert found.hoyer == pytest.approx(0)
    assert found.effective_heads == pytest.approx(n)
    assert found.half_heads == math.ceil(n / 2)
    assert found.above == n


@pytest.mark.parametrize("mean", [np.zeros((2, 3)), np.full((2, 3), -0.2)])
def test_a_map_without_mass_has_no_figures(mean: np.ndarray) -> None:
    assert concentration(mean) == Concentration(6, 0, 0.0, None, None, None, None, None, None)
    x, y = lorenz(mean)
    np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(depth_profile(mean), np.zeros(10))


def test_negative_means_count_as_nothing() -> None:
    assert concentration(np.array([[0.5, -0.4, 0.2]])) == concentration(np.array([[0.5, 0, 0.2]]))
    np.testing.assert_allclose(depth_profile(np.array([[0.5, -0.5], [0.5, 0]]), 2), [0.5, 0.5])


@given(st.integers(2, 400), st.floats(1e-300, 1e300))
def test_one_head_has_all(n: int, score: float) -> None:
    mean = np.zeros((1, n))
    mean[0, n // 2] = score
    found = concentration(mean)
    assert found.gini == pytest.approx((n - 1) / n)
    assert found.hoyer == found.top_1pct_share == found.top_5pct_share == pytest.approx(1)
    assert found.effective_heads == pytest.approx(1)
    assert found.half_heads == 1


@given(MAPS, st.randoms(use_true_random=False))
def test_order_of_heads_changes_nothing(mean: np.ndarray, random: object) -> None:
    mixed = mean[0].tolist()
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert concentration(np.array([mixed])) == pytest.approx(concentration(mean))


@given(MAPS, st.floats(1e-6, 1e6))
def test_scale_changes_only_who_is_above(mean: np.ndarray, factor: float) -> None:
    one, other = concentration(mean), concentration(mean * factor)
    for name in set(RELATIVE) - {"half_heads"}:
        assert getattr(other, name) == pytest.approx(getattr(one, name), abs=1e-9)
    assert other.above == int((mean * factor >= 0.1 - 1e-12).sum())


@given(MAPS, st.integers(-20, 20))
def test_scale_by_a_power_of_two_changes_no_count(mean: np.ndarray, power: int) -> None:
    mean = np.round(mean, 6)  # so that no scaled score is below the smallest float
    assert concentration(mean * 2.0**power).half_heads == concentration(mean).half_heads


@given(MAPS)
def test_ranges(mean: np.ndarray) -> None:
    found, n = concentration(mean), mean.size
    for name, low, high in (
        ("above_share", 0, 1),
        ("gini", 0, (n - 1) / n),
        ("hoyer", 0, 1),
        ("top_1pct_share", 1 / n, 1),
        ("top_5pct_share", found.top_1pct_share, 1),
        ("half_heads", 1, math.ceil(n / 2)),
        ("effective_heads", 1, n),
    ):
        assert low - 1e-9 <= getattr(found, name) <= high + 1e-9, name


@given(MAPS)
def test_lorenz(mean: np.ndarray) -> None:
    x, y = lorenz(mean)
    assert (x[0], y[0], x[-1], y[-1], len(x)) == (0, 0, 1, 1, mean.size + 1)
    steps = np.diff(y)
    assert (steps >= -1e-12).all(), "monotone"
    assert (np.diff(steps) >= -1e-12).all(), "convex"
    assert concentration(mean).gini == pytest.approx(1 - 2 * np.trapezoid(y, x), abs=1e-9)


def test_lorenz_by_hand() -> None:
    x, y = lorenz(np.array([[3.0, 0.0], [1.0, 0.0]]))
    np.testing.assert_allclose(x, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(y, [0, 0, 0, 0.25, 1])


def test_depth_profile_by_hand() -> None:
    """Two layers in four parts: each layer fills two. Three layers in two parts: the middle one is shared."""
    np.testing.assert_allclose(depth_profile(np.array([[1.0, 0.0], [2.0, 1.0]]), 4), [1 / 8, 1 / 8, 3 / 8, 3 / 8])
    np.testing.assert_allclose(depth_profile(np.array([[1.0], [2.0], [1.0]]), 2), [0.5, 0.5])
    np.testing.assert_allclose(depth_profile(np.array([[0.0], [0.0], [5.0]]), 3), [0, 0, 1])
    with pytest.raises(ValueError, match="a profile of 0 parts"):
        depth_profile(np.ones((2, 2)), 0)


@given(st.integers(1, 40), st.integers(1, 20))
def test_depth_profile_of_even_layers_is_even(layers: int, bins: int) -> None:
    np.testing.assert_allclose(depth_profile(np.ones((layers, 3)), bins), np.full(bins, 1 / bins))


def test_intervals_hold_the_figures() -> None:
    values = np.random.default_rng(1).random((40, 3, 20)) ** 6
    point = concentration(values.mean(axis=0))._asdict()
    found = intervals(values)
    assert set(found) == set(point) - {"n_heads"}
    for name, interval in found.items():
        assert interval is not None
        assert interval[0] <= point[name] <= interval[1], name
    assert found["gini"][0] < found["gini"][1]  # type: ignore[index]
    assert found == intervals(values), "the same draws each time"


def test_intervals_are_points_where_trials_are_equal() -> None:
    for name, interval in intervals(np.repeat([[[0.5, 0.25, 0.0]]], 5, axis=0)).items():
        assert interval is not None
        assert interval[0] == pytest.approx(interval[1]), name


def test_intervals_need_three_trials_and_a_figure() -> None:
    assert set(intervals(np.ones((2, 1, 3))).values()) == {None}
    found = intervals(np.zeros((5, 1, 3)))
    assert found["above"] == (0, 0)
    assert all(found[name] is None for name in RELATIVE)


def test_draws_without_mass_are_left_out() -> None:
    """In about a third of the draws the one trial that copied is missing; the figures are of the others."""
    values = np.zeros((3, 1, 4))
    values[0] = [0.9, 0.3, 0.0, 0.0]
    assert intervals(values)["gini"] == pytest.approx((0.625, 0.625))


def test_copies_of_trials_count_once_where_asked() -> None:
    values = np.random.default_rng(2).random((6, 2, 5)) ** 4
    copied = np.repeat(values, 20, axis=0)
    narrow, wide, alone = intervals(copied), intervals(copied, distinct=True), intervals(values, distinct=True)
    for name in ("gini", "hoyer", "effective_heads"):
        assert wide[name] == pytest.approx(alone[name])
        assert wide[name][1] - wide[name][0] > 2 * (narrow[name][1] - narrow[name][0])  # type: ignore[index]
    assert intervals(copied[:40], distinct=True)["gini"] is None, "two different trials"


def test_distinct_keeps_the_weight_of_copies() -> None:
    """The figure itself is of all trials; the draws lie round it, not round that of the different trials."""
    values = np.zeros((40, 1, 2))
    values[:, 0, 0] = 1
    values[30:, 0, 1] = np.linspace(0.1, 1, 10)
    low, high = intervals(values, distinct=True)["top_1pct_share"]  # type: ignore[misc]
    assert low < concentration(values.mean(axis=0)).top_1pct_share < high  # type: ignore[operator]


@with_published
@pytest.mark.parametrize(
    ("name", "threshold", "above", "trials", "distinct", "highest"),
    [("Llama-3.1-8B-Instruct", 0.1, 33, 342, 59, 1.0), ("Qwen3-8B", 0.05, 98, 600, 98, 1.94)],
)
def test_published_files(name: str, threshold: float, above: int, trials: int, distinct: int, highest: float) -> None:
    scores = HeadScores.load(PUBLISHED / f"{name}.json")
    assert concentration(scores.mean, threshold).above == above
    assert (scores.n_trials, len(np.unique(scores.values.reshape(trials, -1), axis=0))) == (trials, distinct)
    assert scores.values.max() == pytest.approx(highest, abs=0.005)
    narrow, wide = intervals(scores.values, threshold), intervals(scores.values, threshold, distinct=True)
    for figure in ("above", "gini", "hoyer", "effective_heads"):
        assert np.ptp(wide[figure]) > np.ptp(narrow[figure]), figure  # type: ignore[arg-type]
