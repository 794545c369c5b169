"""Which heads copied which token of an answer, and how that changes from token to token.

Retrieval heads are dynamic: a fixed set of heads is not what copies at every step (arXiv 2602.11162).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import numpy as np
from jaxtyping import Int

from retmask.detect.score import copies
from retmask.heads.grid import Grid, HeadId


@dataclass(frozen=True)
class Trace:
    """Which heads copied which generated token from where: head -> {step: position in the prompt}.

    A head copies at a step when the position it attends to most lies in the prompt and holds the token that is
    generated at that step.
    """

    n_steps: int
    grid: Grid
    copied: Mapping[HeadId, Mapping[int, int]]

    @classmethod
    def read(
        cls, attended: Int[np.ndarray, "step layer head"], generated: Sequence[int], prompt_ids: Sequence[int]
    ) -> "Trace":
        """The trace of an answer from the positions its heads attended to most."""
        hit = copies(attended, generated, prompt_ids, (0, len(prompt_ids)))
        copied: dict[HeadId, dict[int, int]] = {}
        for step, layer, head in np.argwhere(hit):
            copied.setdefault(HeadId(int(layer), int(head)), {})[int(step)] = int(attended[step, layer, head])
        return cls(len(generated), Grid(*attended.shape[1:]), dict(sorted(copied.items())))

    def heads_at(self, step: int) -> frozenset[HeadId]:
        """H_t: the heads that copied at a step."""
        return frozenset(head for head, steps in self.copied.items() if step in steps)

    def sources(self, step: int) -> dict[int, tuple[HeadId, ...]]:
        """The positions in the prompt that a step's token was copied from, most heads first, and those heads."""
        sources: dict[int, list[HeadId]] = {}
        for head, steps in self.copied.items():
            if step in steps:
                sources.setdefault(steps[step], []).append(head)
        return {position: tuple(heads) for position, heads in sorted(sources.items(), key=lambda item: -len(item[1]))}

    def overlap(self, static: Iterable[HeadId]) -> float | None:
        """Mean Jaccard index of H_t and a fixed set of heads, over the steps at which any head copied; None for none.

        Jaccard(A, B) = |A ∩ B| / |A ∪ B| (arXiv 2602.11162 compares with the best 20 heads).
        """
        fixed = frozenset(static)
        return _mean(jaccard(heads, fixed) for heads in map(self.heads_at, range(self.n_steps)) if heads)

    def persistence(self) -> float | None:
        """Mean Jaccard index of H_t and H_t+1, over the pairs of steps of which either has copying heads; or None."""
        heads = [self.heads_at(step) for step in range(self.n_steps)]
        return _mean(jaccard(before, after) for before, after in pairwise(heads) if before or after)

    def entropy(self) -> float | None:
        """Entropy in nats of the heads' shares of all copies; 0: one head did all. None if no head copied."""
        counts = np.array([len(steps) for steps in self.copied.values()], dtype=float)
        if not counts.size:
            return None
        shares = counts / counts.sum()
        return abs(float(-(shares * np.log(shares)).sum()))


def jaccard(a: frozenset[HeadId], b: frozenset[HeadId]) -> float:
    """|A ∩ B| / |A ∪ B|; 1 for two empty sets."""
    return len(a & b) / len(a | b) if a | b else 1.0


def _mean(values: Iterable[float]) -> float | None:
    every = list(values)
    return fmean(every) if every else None
