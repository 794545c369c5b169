"""The one place where intervals come from: a bootstrap over clusters of values that are alike. No model, no torch.

Prompts of one needle are alike, so twenty of them are not twenty observations: a cluster is drawn with all its values.
The percentile bootstrap of few clusters is too narrow: that of 3 is the range of their own means, and 3 draws from any
symmetric distribution have its middle outside of their range one time in four. So the number of clusters goes with
every interval, and with fewer than 3 there is none.
"""

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

LEVEL = 0.95
FEWEST = 3  # clusters; draws of fewer say nothing
DRAWS = 1000
_CHUNK = 100  # draws at a time, which bounds the memory
_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)

Figures = Callable[[Float[np.ndarray, "draw *shape"]], Float[np.ndarray, "draw *figure"]]


class Clusters(NamedTuple):
    """The number of the cluster of each value, from 0 and none left out, and what a cluster is, such as "needle"."""

    of: Int[np.ndarray, " value"]
    unit: str

    @property
    def n(self) -> int:
        """How many clusters there are."""
        return int(self.of.max(initial=-1)) + 1

    @property
    def words(self) -> str:
        """What intervals are over, such as "3 needles"."""
        return over(self.n, self.unit)


class Interval(NamedTuple):
    """The ends of 95 % intervals, how many clusters were drawn, and what a cluster is."""

    low: Float[np.ndarray, "*figure"]
    high: Float[np.ndarray, "*figure"]
    n: int
    unit: str


def clusters(names: Sequence[Hashable], unit: str) -> Clusters:
    """Values with equal names in one cluster, numbered in the order in which they first come."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return Clusters(np.array([numbers[name] for name in names], dtype=int), unit)


def each(n: int, unit: str) -> Clusters:
    """Every one of `n` values a cluster of its own."""
    return Clusters(np.arange(n), unit)


def alike(values: Float[np.ndarray, "value *shape"], unit: str) -> Clusters:
    """Equal values in one cluster. All values of zeros alone are in one: that widens intervals, and never narrows."""
    rows = values.reshape(len(values), -1)
    return Clusters(np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1), unit)


def interval(
    values: Float[np.ndarray, "value *shape"], drawn_by: Clusters, figures: Figures | None = None, draws: int = DRAWS
) -> Interval | None:
    """95 % percentile-bootstrap intervals of the mean over values, or of figures of that mean; always the same draws.

    `figures` makes of many means at once what is asked of each; nan where a mean has no such figure: such draws are
    left out, and both ends are nan where the mean of all values has none. None with fewer than 3 clusters. Each
    interval is widened where needed, so that it holds the figure itself: figures of a mean over few values are biased,
    and a percentile interval carries that bias.
    """
    if drawn_by.n < FEWEST:
        return None
    make = figures or (lambda means: means)
    point = make(values.mean(axis=0)[None])[0]
    resampled = _bootstrap(values, drawn_by, lambda means: np.where(np.isnan(point), 0.0, make(means)), draws)
    low, high = resampled.confidence_interval
    if np.isnan(low).any():  # scipy has no interval where a draw has no figure
        low, high = np.nanquantile(resampled.bootstrap_distribution, _ENDS, axis=-1)
    return Interval(np.minimum(low, point), np.maximum(high, point), drawn_by.n, drawn_by.unit)


def resampled_means(
    values: Float[np.ndarray, "value *shape"], drawn_by: Clusters, draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, "draw *shape"]:
    """The mean over values in each bootstrap draw of the clusters, for one seed always the same draws.

    A nan is a value that was not measured, and the mean is over the others; nan for a draw without any.
    """
    rng, means, n = np.random.default_rng(seed), _means_of_draws(values, drawn_by), drawn_by.n
    sizes = (min(_CHUNK, draws - start) for start in range(0, draws, _CHUNK))
    return np.concatenate([means(rng.integers(n, size=(size, n))) for size in sizes])  # as scipy draws them


class Estimate(NamedTuple):
    """Means, their bootstrap draws, and with how many degrees of freedom these know their own spread; nan for none.

    The bootstrap of n clusters is too narrow by sqrt((n - 1) / n), and knows a spread from n values only: so the draws
    are spread by the one, and the tails of Student's t take the other (the expanded percentile interval: Hesterberg,
    What Teachers Should Know about the Bootstrap, 2015).
    """

    mean: Float[np.ndarray, " figure"]
    draws: Float[np.ndarray, "draw figure"]
    freedom: Float[np.ndarray, " figure"]

    @property
    def error(self) -> Float[np.ndarray, " figure"]:
        """The standard error of each mean."""
        spread: Float[np.ndarray, " figure"] = self.draws.std(axis=0)
        return spread

    def ends(self) -> tuple[Float[np.ndarray, " figure"], Float[np.ndarray, " figure"]]:
        """The ends of 95 % intervals, each of which holds its mean."""
        from scipy import stats

        tails = stats.norm.cdf(stats.t.ppf(_ENDS[0], np.nan_to_num(self.freedom, nan=1.0)))
        low, high = (np.round(share * (len(self.draws) - 1)).astype(int) for share in (tails, 1 - tails))
        places, every = np.unique([low, high]), np.arange(len(tails))
        ordered = np.partition(self.draws, places, axis=0)  # at these places; much quicker than a quantile of each
        return np.minimum(ordered[low, every], self.mean), np.maximum(ordered[high, every], self.mean)

    def p_values(self) -> Float[np.ndarray, " figure"]:
        """How easily chance alone moves each mean so far from 0, two-sided: the level at which its interval ends at 0.

        At least what so many draws can tell, 2 / (draws + 1) of many clusters, and at least 2 / 2^n of n: so often do
        all of them differ in one direction by chance. With fewer than 6 it is thus above 0.05, whatever the interval.
        """
        from scipy import stats

        beyond = np.minimum((self.draws <= 0).sum(axis=0), (self.draws >= 0).sum(axis=0))
        tail = stats.t.sf(stats.norm.isf((1 + beyond) / (1 + len(self.draws))), self.freedom)
        p: Float[np.ndarray, " figure"] = np.clip(2 * tail, 2.0**-self.freedom, 1)
        return p


def estimate(
    values: Float[np.ndarray, "value figure"], drawn_by: Clusters, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """The mean of each column over the values that were measured (not nan), by clusters.

    The clusters drawn are those that have any; where these are fewer than 3, draws are nan. Another seed makes draws
    that are independent.
    """
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing measured
        mean = np.where(there, values, 0).sum(axis=0) / there.sum(axis=0)
    measured = _sums(there.astype(float), drawn_by) > 0
    n, drawn = measured.sum(axis=0), np.full((draws, len(mean)), np.nan)
    kinds, of = np.unique(measured, axis=1, return_inverse=True)
    for number, kind in enumerate(kinds.T):
        if kind.sum() >= FEWEST:
            columns, rows = np.flatnonzero(of.reshape(-1) == number), np.flatnonzero(kind[drawn_by.of])
            left = Clusters(np.cumsum(kind)[drawn_by.of[rows]] - 1, drawn_by.unit)
            drawn[:, columns] = resampled_means(values[np.ix_(rows, columns)], left, draws, seed)
    wide = np.sqrt(n / np.maximum(1, n - 1))
    return Estimate(mean, mean + (drawn - mean) * wide, np.where(n < FEWEST, np.nan, n - 1.0))


def average(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates, each figure over those that have it, with Satterthwaite's degrees of freedom.

    Where one of them has no draws their mean has none.
    """
    there = ~np.isnan([each.mean for each in estimates])
    with np.errstate(invalid="ignore", divide="ignore"):
        share = there / there.sum(axis=0)
        mean = sum(np.where(there[i], each.mean, 0) * share[i] for i, each in enumerate(estimates))
        draws = sum(np.where(there[i], each.draws, 0) * share[i] for i, each in enumerate(estimates))
        parts = np.where(there, [each.error for each in estimates] * share, 0) ** 2
        freedom = np.where(there, [each.freedom for each in estimates], 1)
        whole = parts.sum(axis=0) ** 2 / (parts**2 / freedom).sum(axis=0)
    return Estimate(np.asarray(mean), np.asarray(draws), np.where(parts.sum(axis=0) == 0, freedom.min(axis=0), whole))


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """p-values corrected for how many there are (Holm 1979); nan stays and does not count."""
    there = np.flatnonzero(~np.isnan(p))
    order = there[np.argsort(p[there], kind="stable")]
    out = np.full(len(p), np.nan)
    out[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return out


def proportion_interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval (Wilson 1927) of a share (0-1) that was counted among `n`, each an observation of its own."""
    from scipy import stats

    ends = stats.binomtest(round(share * n), n).proportion_ci(LEVEL, method="wilson")
    return float(ends.low), float(ends.high)


def middle(draws: Float[np.ndarray, " draw"]) -> tuple[float, float]:
    """The ends of the middle 95 % of draws."""
    low, high = np.quantile(draws, _ENDS)
    return float(low), float(high)


def ends(spread: Interval | None, digits: int = 6) -> tuple[float | None, float | None]:
    """The rounded ends of one interval; None where there is none."""
    return (None, None) if spread is None else (round(float(spread.low), digits), round(float(spread.high), digits))


def over(n: int, unit: str) -> str:
    """So many clusters in words: "3 needles", "1 needle"."""
    return f"{n} {unit}{'s' * (n != 1)}"


def span(low: float | None, high: float | None, form: str = ".2f") -> str:
    """The ends of an interval in words, such as "0.40 to 0.60"; "–" where there is none."""
    return "–" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def none_over(n: int, unit: str) -> str:
    """Why there is no interval over so few clusters."""
    return f"no interval: it takes {FEWEST} {unit}s or more, and there {'is' if n == 1 else 'are'} {over(n, unit)}"


def _sums(values: Float[np.ndarray, "value *shape"], drawn_by: Clusters) -> Float[np.ndarray, "cluster *shape"]:
    """The sums of values by cluster."""
    sums = np.zeros((drawn_by.n, *values.shape[1:]))
    np.add.at(sums, drawn_by.of, values)
    return sums


def _means_of_draws(
    values: Float[np.ndarray, "value *shape"], drawn_by: Clusters
) -> Callable[[Int[np.ndarray, "draw cluster"]], Float[np.ndarray, "draw *shape"]]:
    """What makes the mean over values of each draw of clusters, which come with all their values; nan without any."""
    flat, n = values.reshape(len(values), -1), drawn_by.n
    missing = np.isnan(flat)
    sums = _sums(np.where(missing, 0.0, flat), drawn_by)
    sizes = _sums((~missing if missing.any() else ~missing[:, :1]).astype(float), drawn_by)

    def means(drawn: Int[np.ndarray, "draw cluster"]) -> Float[np.ndarray, "draw *shape"]:
        at = drawn + n * np.arange(len(drawn))[:, None]  # a draw's sums are a product of matrices, and quick
        times = np.bincount(at.ravel(), minlength=at.size).reshape(at.shape).astype(float)
        with np.errstate(invalid="ignore"):  # 0 / 0: a draw without any
            drawn_means: Float[np.ndarray, "draw value"] = times @ sums / (times @ sizes)
        return drawn_means.reshape(len(drawn), *values.shape[1:])

    return means


def _bootstrap(values: Float[np.ndarray, "value *shape"], drawn_by: Clusters, figures: Figures, draws: int) -> Any:
    """scipy's percentile bootstrap of clusters; the draws are its last axis."""
    from scipy import stats  # here, since it takes a second and most commands make no interval

    means = _means_of_draws(values, drawn_by)

    def statistic(drawn: Int[np.ndarray, "draw cluster"], axis: int) -> Float[np.ndarray, "*figure draw"]:
        return np.moveaxis(figures(means(drawn)), 0, -1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # of draws without a figure
        return stats.bootstrap(
            (np.arange(drawn_by.n),),
            statistic,
            n_resamples=draws,
            batch=_CHUNK,
            vectorized=True,
            confidence_level=LEVEL,
            method="percentile",
            rng=0,
        )
