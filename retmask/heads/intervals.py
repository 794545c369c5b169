"""The one place where intervals come from: a bootstrap over clusters of values that are alike. No model, no torch.

Prompts of one needle are alike, so twenty of them are not twenty observations: a cluster is drawn with all its values.
The percentile bootstrap of few clusters is too narrow: that of 3 is the range of their own means, and 3 draws from any
symmetric distribution have its middle outside of their range one time in four. So the number of clusters goes with
every interval, and with fewer than 3 there is none.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

LEVEL = 0.95
FEWEST = 3  # clusters; draws of fewer say nothing
DRAWS = 1000
_CHUNK = 100  # draws at a time, which bounds the memory

Figures = Callable[[Float[np.ndarray, "draw *shape"]], Float[np.ndarray, "draw *figure"]]


class Clusters(NamedTuple):
    """The number of the cluster of each value, from 0 and none left out, and what a cluster is, such as «needle»."""

    of: Int[np.ndarray, " value"]
    unit: str

    @property
    def n(self) -> int:
        """How many clusters there are."""
        return int(self.of.max(initial=-1)) + 1

    @property
    def words(self) -> str:
        """What intervals are over, such as «3 needles»."""
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
    values: Float[np.ndarray, "value *shape"],
    drawn_by: Clusters,
    figures: Figures | None = None,
    draws: int = DRAWS,
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
    totals = _totals(values, drawn_by)
    weights = np.array_split(_weights(drawn_by, draws), max(1, draws // _CHUNK))
    parts = [make(_means(part, totals, values.shape[1:])) for part in weights]
    found = np.where(np.isnan(point), 0.0, np.concatenate(parts))
    quantile = np.nanquantile if np.isnan(found).any() else np.quantile
    low, high = quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Interval(np.minimum(low, point), np.maximum(high, point), drawn_by.n, drawn_by.unit)


def resampled(
    values: Float[np.ndarray, "value *shape"], drawn_by: Clusters, draws: int = DRAWS
) -> Float[np.ndarray, "draw *shape"]:
    """The mean over values in each bootstrap draw of the clusters, always the same draws."""
    return _means(_weights(drawn_by, draws), _totals(values, drawn_by), values.shape[1:])


def over(n: int, unit: str) -> str:
    """So many clusters in words: «3 needles», «1 needle»."""
    return f"{n} {unit}{'s' * (n != 1)}"


def span(low: float | None, high: float | None, form: str = ".2f") -> str:
    """The ends of an interval in words, such as «0.40 to 0.60»; «–» where there is none."""
    return "–" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def none_over(n: int, unit: str) -> str:
    """Why there is no interval over so few clusters."""
    return f"no interval: it takes {FEWEST} {unit}s or more, and there {'is' if n == 1 else 'are'} {over(n, unit)}"


def _weights(drawn_by: Clusters, draws: int) -> Int[np.ndarray, "draw cluster"]:
    """How often each cluster counts in each draw."""
    n = drawn_by.n
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=draws)


class _Totals(NamedTuple):
    """Of each cluster the sum of its values, laid flat, and how many they are."""

    sums: Float[np.ndarray, "cluster flat"]
    sizes: Int[np.ndarray, " cluster"]


def _totals(values: Float[np.ndarray, "value *shape"], drawn_by: Clusters) -> _Totals:
    member = drawn_by.of == np.arange(drawn_by.n)[:, None]
    return _Totals(member.astype(float) @ values.reshape(len(values), -1), member.sum(axis=1))


def _means(
    weights: Int[np.ndarray, "draw cluster"], totals: _Totals, shape: tuple[int, ...]
) -> Float[np.ndarray, "draw *shape"]:
    means = weights.astype(float) @ totals.sums / (weights @ totals.sizes)[:, None]
    return np.asarray(means).reshape(len(weights), *shape)
