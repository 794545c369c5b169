"""How few heads hold the mass of a map of scores: figures, their bootstrap intervals, curves. No model, no torch.

All figures but `above` and `above_share` look at the heads' shares of the sum, so scaling a map changes nothing.
Negative means count as 0.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from retmask.heads.grid import share_count
from retmask.heads.intervals import Clusters, interval
from retmask.heads.scores import THRESHOLD, reaches


class Concentration(NamedTuple):
    """Figures of how few heads hold the mass. The last six are None where every score is 0.

    - `above`, `above_share`: heads with a mean of at least the threshold, as a number and as a share (0-1) of all
      (Wu et al. 2024, arXiv 2404.15574, with 0.1).
    - `gini`: 0 = all heads equal, (n-1)/n = one head has all.
    - `hoyer`: (sqrt(n) - l1/l2) / (sqrt(n) - 1), 0 = all equal, 1 = one head has all (Hoyer 2004, JMLR 5, 1457-1469);
      0 for a grid of one head.
    - `top_1pct_share`, `top_5pct_share`: the part of the sum (0-1) that the best 1 % and 5 % of heads hold; how many
      heads that is, `grid.share_count` says.
    - `half_heads`: the fewest heads that hold half of the sum.
    - `effective_heads`: exp of the Shannon entropy of the heads' shares, 1 to n.
    """

    n_heads: int
    above: int
    above_share: float
    gini: float | None
    hoyer: float | None
    top_1pct_share: float | None
    top_5pct_share: float | None
    half_heads: int | None
    effective_heads: float | None


def concentration(mean: Float[np.ndarray, "layer head"], threshold: float = THRESHOLD) -> Concentration:
    """How few heads hold the mass of a map of mean scores."""
    figures = {name: values[0] for name, values in _figures(mean.reshape(1, -1), threshold).items()}
    present = {name: None if np.isnan(value) else float(value) for name, value in figures.items()}
    half = present["half_heads"]
    return Concentration(
        n_heads=mean.size,
        above=int(figures["above"]),
        above_share=float(figures["above_share"]),
        gini=present["gini"],
        hoyer=present["hoyer"],
        top_1pct_share=present["top_1pct_share"],
        top_5pct_share=present["top_5pct_share"],
        half_heads=None if half is None else int(half),
        effective_heads=present["effective_heads"],
    )


def intervals(
    values: Float[np.ndarray, "trial layer head"], drawn_by: Clusters, threshold: float = THRESHOLD
) -> dict[str, tuple[float, float] | None]:
    """95 % bootstrap intervals of the figures over clusters of trials: every field of `Concentration` but `n_heads`.

    None for a figure that is None, and for all of them with fewer than 3 clusters. Read them as the spread between
    clusters, not as exact 95 %: noise spreads a map or sharpens it, and a redrawn sample does so again.
    """
    names = [name for name in Concentration._fields if name != "n_heads"]

    def figures(means: Float[np.ndarray, "map layer head"]) -> Float[np.ndarray, "map figure"]:
        by_name = _figures(means.reshape(len(means), -1), threshold)
        return np.stack([by_name[name] for name in names], axis=1)

    spread = interval(values, drawn_by, figures)
    if spread is None:
        return dict.fromkeys(names)
    ends = zip(names, spread.low.tolist(), spread.high.tolist(), strict=True)
    return {name: None if np.isnan(low) else (low, high) for name, low, high in ends}


def lorenz(mean: Float[np.ndarray, "layer head"]) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
    """The Lorenz curve from (0, 0) to (1, 1): the share of heads, weakest first, and what share of the sum they hold.

    One point more than there are heads. Twice the area between the curve and the diagonal is the Gini index; where
    every score is 0 the curve is the diagonal.
    """
    x = np.linspace(0, 1, mean.size + 1)
    running = np.cumsum(np.sort(_relative(mean.reshape(1, -1))[0]))
    if running[-1] == 0:
        return x, x.copy()
    return x, np.concatenate([[0.0], running / running[-1]])


def depth_profile(mean: Float[np.ndarray, "layer head"], bins: int = 10) -> Float[np.ndarray, " bin"]:
    """The share of the mass (0-1) in each of `bins` equal parts of the depth, first layers first; 0 for an empty map.

    Layer l of n lies from l/n to (l+1)/n, and its mass lies evenly there: models of any number of layers compare.
    ValueError for less than one bin.
    """
    if bins < 1:
        raise ValueError(f"a profile of {bins} parts is not possible: choose 1 or more")
    running = np.concatenate([[0.0], np.cumsum(_relative(mean.reshape(1, -1)).reshape(mean.shape).sum(axis=1))])
    if running[-1] == 0:
        return np.zeros(bins)
    edges = np.linspace(0, 1, len(running))
    return np.diff(np.interp(np.linspace(0, 1, bins + 1), edges, running / running[-1]))


def _relative(means: Float[np.ndarray, "map head"]) -> Float[np.ndarray, "map head"]:
    """Each map as parts of its best head: no sum or square of these is too large or too small for a float."""
    kept = np.maximum(means, 0).astype(np.float64)
    best = kept.max(axis=1, keepdims=True)
    return np.asarray(np.divide(kept, best, out=np.zeros_like(kept), where=best > 0))


def _figures(means: Float[np.ndarray, "map head"], threshold: float) -> dict[str, Float[np.ndarray, " map"]]:
    """The figures of many maps at once, nan where a map has no mass."""
    n = means.shape[1]
    above = reaches(means, threshold).sum(axis=1)
    x = np.sort(_relative(means), axis=1)
    total = x.sum(axis=1)
    ranks: Int[np.ndarray, " head"] = np.arange(1, n + 1)
    with np.errstate(invalid="ignore"):
        shares = x / total[:, None]
        best_first = np.cumsum(shares[:, ::-1], axis=1)
        out = {
            "gini": shares @ (2 * ranks - n - 1) / n,
            "hoyer": (np.sqrt(n) - 1 / np.linalg.norm(shares, axis=1)) / (np.sqrt(n) - 1 or 1),
            "top_1pct_share": best_first[:, share_count(n, 0.01) - 1],
            "top_5pct_share": best_first[:, share_count(n, 0.05) - 1],
            "half_heads": 1.0 + (best_first < 0.5 - 1e-9).sum(axis=1),  # so that equal heads halve exactly
            "effective_heads": np.exp(-(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1)),
        }
    by_share = {name: np.where(total > 0, values, np.nan) for name, values in out.items()}
    return {"above": above.astype(np.float64), "above_share": above / n} | by_share
