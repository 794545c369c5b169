"""How far maps of one model's heads agree: between detectors, counting rules, kinds of trials, and samples of trials.

A head that scores nothing is in no top: where fewer heads than asked for are above 0, the top is smaller.

Heads that tie at the cut of a top share the places that are left: each belongs to it by (places left) / (heads tied),
heads above the cut by 1. Two tops then share the sum of the products of these memberships, which is what they would
share on average if each drew its places among the tied heads at random. Where a head stands says nothing.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from retmask.heads.grid import Grid, share_count
from retmask.heads.intervals import middle
from retmask.heads.scores import TOP_SHARE, HeadScores, spearman
from retmask.heads.sets import ScoreSet

T = TypeVar("T")


class Agreement(NamedTuple):
    """How far two maps of the same heads agree.

    `spearman`: rank correlation over all heads (-1 to 1), None where one map is flat or a list without scores.
    `jaccard`: |A ∩ B| / |A ∪ B| of the two tops of `k` heads (0-1). `overlap`: |A ∩ B| / k (0-1); chance gives
    k / n_heads. `k` is at most the number of heads above 0 in either map; where that is 0, both figures are 0. Where
    heads tie at the cut, |A ∩ B| is the expected one, as this module's docstring says: a map that ties there does not
    agree fully even with itself. `n_heads` is None for two lists of heads whose model's grid is not known.
    """

    spearman: float | None
    jaccard: float
    overlap: float
    k: int
    n_heads: int | None


class Overlap(NamedTuple):
    """Overlap (0-1) of top heads over random samples of `n_trials` trials: the mean, and the middle 95 % of draws."""

    n_trials: int
    mean: float
    low: float
    high: float


def agreement(first: HeadScores, second: HeadScores, k: int | None = None) -> Agreement:
    """How far two maps on one grid agree, on all heads and on the best `k` (5 % of the heads by default).

    ValueError, one sentence, where the grids differ or `k` is no number of their heads.
    """
    second.check_grid(first.grid, first.model)
    n = first.grid.size
    asked = share_count(n, TOP_SHARE) if k is None else k
    if not 1 <= asked <= n:
        raise ValueError(f"the best {asked} of {n} heads cannot be compared: choose 1 to {n}")
    means = np.stack([first.mean.ravel(), second.mean.ravel()])
    size = min(asked, *map(int, (_settled(means) > 0).sum(axis=1)))
    shared = float(np.prod(_memberships(means, size), axis=0).sum()) if size else 0.0
    return Agreement(
        spearman=spearman(first.mean, second.mean),
        jaccard=shared / (2 * size - shared) if size else 0.0,
        overlap=shared / size if size else 0.0,
        k=size,
        n_heads=n,
    )


def set_agreement(first: ScoreSet, second: ScoreSet, k: int | None = None) -> Agreement:
    """How far two score sets of one model agree, whatever they are; `sets.strangers` tells whether they may be of two.

    A list of heads is laid on the other set's grid; it has no Spearman, and `k` is at most its length, which it is by
    default where no grid is known. ValueError, one sentence, where one set is of key/value heads and the other of query
    heads, or where their grids cannot be those of one model.
    """
    pair = on_one_grid(first, second)
    grid = first.grid or second.grid
    result = agreement(*pair, k or (None if grid else min(scores.n_ranked for scores in pair)))
    result = result if grid else result._replace(n_heads=None)
    return result._replace(spearman=None) if first.ranking or second.ranking else result


def on_one_grid(first: ScoreSet, second: ScoreSet) -> tuple[HeadScores, HeadScores]:
    """The scores of two sets on one grid: that of either, else the smallest that holds two lists.

    ValueError where they are of different kinds of heads, or do not fit.
    """
    if first.level != second.level:
        raise ValueError(
            "gates of key/value heads and scores of query heads are not compared head by head: a gate stands for a "
            "whole group of query heads"
        )
    if first.level == "kv":
        second.scores.check_grid(first.scores.grid, first.model)
        return first.scores, second.scores
    smallest = Grid(
        max(score_set.scores.grid.n_layers for score_set in (first, second)),
        max(score_set.scores.grid.n_heads for score_set in (first, second)),
    )
    grid = first.grid or second.grid or smallest
    return first.on(grid).scores, second.on(grid).scores


def split_half(
    values: Float[np.ndarray, "trial layer head"],
    share: float = TOP_SHARE,
    draws: int = 200,
    seed: int = 0,
    size: int | None = None,
) -> Overlap | None:
    """How far the top `share` (0-1) of heads of two random halves of the trials overlap, or of two samples of `size`.

    The samples share no trial; of an odd number one trial is in no half. A half says less than the whole, so this is
    less than what two detections as large as the whole would share; copies of a trial in both halves make it more.
    The top has as many heads in every sample. None for fewer than 2 trials or where every score is 0. ValueError where
    there are no two samples of that size.
    """
    flat = values.reshape(len(values), -1)
    half, k = len(flat) // 2 if size is None else size, top_size(flat, share)
    if size is not None and not 1 <= size <= len(flat) // 2:
        raise ValueError(f"{len(flat)} trials have no two samples of {size}: choose 1 to {len(flat) // 2}")
    if not half or not k:
        return None
    places = orders(len(flat), draws, seed)
    first_half = tops(flat, places < half, k)
    second_half = tops(flat, (places >= half) & (places < 2 * half), k)
    return overlap_of(half, (first_half * second_half).sum(axis=1) / k)


def top_size(flat: Float[np.ndarray, "trial head"], share: float) -> int:
    return min(share_count(flat.shape[1], share), int((_settled(flat.mean(axis=0)) > 0).sum()))


def orders(n: int, draws: int, seed: int) -> Int[np.ndarray, "draw trial"]:
    """Each trial's place in a random order, draw by draw."""
    return np.asarray(np.random.default_rng(seed).random((draws, n)).argsort(axis=1))


def tops(
    flat: Float[np.ndarray, "trial head"], chosen: Bool[np.ndarray, "draw trial"], k: int
) -> Float[np.ndarray, "draw head"]:
    """How far each head belongs (0-1) to the best `k` of each choice of trials."""
    return _memberships(chosen @ flat / chosen.sum(axis=1, keepdims=True), k)


def _memberships(means: Float[np.ndarray, "map head"], k: int) -> Float[np.ndarray, "map head"]:
    """How far each head belongs (0-1) to the best `k` of each map; ties at the cut share its places."""
    means = _settled(means)
    cut = -np.partition(-means, k - 1, axis=1)[:, k - 1 : k]
    above, tied = means > cut, means == cut
    part = (k - above.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True)
    return np.where(means > 0, above + tied * part, 0.0)


def _settled(means: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """Means without what the order of summing leaves, so that equal scores stay equal."""
    return np.asarray(np.round(means, 12))


def overlap_of(n_trials: int, shares: Float[np.ndarray, " draw"]) -> Overlap:
    return Overlap(n_trials, float(shares.mean()), *middle(shares))


Agreements = dict[tuple[int, int], Agreement | str]  # of the things with these numbers, or why it cannot be told


def every_two(things: Sequence[T], agree: Callable[[T, T], Agreement]) -> Agreements:
    """The agreement of every two, the first number below the second, or what its ValueError says."""
    out: Agreements = {}
    for j, second in enumerate(things):
        for i, first in enumerate(things[:j]):
            try:
                out[i, j] = agree(first, second)
            except ValueError as error:
                out[i, j] = str(error)
    return out
