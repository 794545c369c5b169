"""A model's layer x head grid, a head's name on it, and a choice of heads. No model, no torch.

Layers and heads count from 0. Heads are query heads, also under grouped-query attention.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_HEAD = re.compile(r"(?:L(\d{1,4})H(\d{1,4})|(\d{1,4})-(\d{1,4}))", re.IGNORECASE)


class HeadId(NamedTuple):
    """A query head. Prints `L15H30`; `HeadId.parse` also reads `15-30`, the form of published score files."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"

    @property
    def key(self) -> str:
        """`layer-head`, the key in score files."""
        return f"{self.layer}-{self.head}"

    @classmethod
    def parse(cls, text: str) -> "HeadId":
        """The head that `text` names. ValueError if it names none."""
        match = _HEAD.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text.strip()[:40]!r} is not a head: write L17H3 or 17-3")
        layer, head = (match[1], match[2]) if match[1] is not None else (match[3], match[4])
        return cls(int(layer), int(head))


class Grid(NamedTuple):
    """The size of a model's attention: layers x query heads, and how many key/value heads they share."""

    n_layers: int
    n_heads: int
    n_kv_heads: int | None = None

    @property
    def size(self) -> int:
        """How many query heads there are."""
        return self.n_layers * self.n_heads

    def __str__(self) -> str:
        return f"{self.n_layers} x {self.n_heads}"

    def has(self, head: HeadId) -> bool:
        """Whether the head is on this grid."""
        return head.layer < self.n_layers and head.head < self.n_heads

    def check(self, heads: Iterable[HeadId]) -> None:
        """ValueError naming the first head that is not on this grid."""
        for head in heads:
            if not self.has(head):
                raise ValueError(f"head {head} is outside this model's {self} grid")

    def heads(self) -> list[HeadId]:
        """All heads, layer by layer."""
        return [HeadId(layer, head) for layer in range(self.n_layers) for head in range(self.n_heads)]

    def kv_group(self, head: HeadId) -> int | None:
        """Which key/value head this query head reads, None where that is not known."""
        return None if not self.n_kv_heads else head.head * self.n_kv_heads // self.n_heads


def heads_words(n: int, which: str = "") -> str:
    """So many heads in words: "1 head", "14 best heads"."""
    return " ".join(filter(None, (f"{n:,}", which, "head" if n == 1 else "heads")))


def share_count(n: int, share: float) -> int:
    """How many of `n` heads a share (0-1) means: rounded half up, at least 1. 5 % of 270 is 14.

    ValueError if the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of {share} is not possible: choose one above 0 and at most 1")
    return max(1, math.floor(n * share + 0.5))


@dataclass(frozen=True)
class HeadMask:
    """Chosen heads and a scale for each: 0 = masked (a true zero of the head's output), 1 = untouched, at most 2.

    Heads that are not named are untouched; the empty mask is «unmasked».
    """

    scales: Mapping[HeadId, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for head, scale in self.scales.items():
            if not 0 <= scale <= 2:
                raise ValueError(f"scale {scale} of {head} is outside 0 to 2: 0 masks, 1 leaves untouched")
        # so that a mask is the one it prints
        object.__setattr__(self, "scales", {head: round(float(scale), 4) for head, scale in self.scales.items()})

    @classmethod
    def of(cls, heads: Iterable[HeadId], scale: float = 0.0) -> "HeadMask":
        """These heads, all at one scale."""
        return cls(dict.fromkeys(sorted(set(heads)), scale))

    @classmethod
    def parse(cls, text: str, grid: Grid) -> "HeadMask":
        """A typed list such as `L17H3, 18-6:0.5`: masked, or scaled to what follows the colon.

        ValueError for what is no head, no scale or not on the grid.
        """
        scales: dict[HeadId, float] = {}
        for part in re.split(r"[,;\s]+", text.strip()):
            name, colon, scale = part.partition(":")
            if not part:
                continue
            if colon and not re.fullmatch(r"\d+\.?\d*|\.\d+", scale):
                raise ValueError(f"{part[:40]!r} has no scale after the colon: write L17H3:0.5")
            scales[HeadId.parse(name)] = float(scale) if colon else 0.0
        grid.check(scales)
        return cls(dict(sorted(scales.items())))

    @classmethod
    def random(
        cls, grid: Grid, k: int, seed: int, excluding: Iterable[HeadId] = (), layer_matched: Iterable[HeadId] = ()
    ) -> "HeadMask":
        """`k` heads drawn without replacement, the same for the same seed, none of them in `excluding`.

        With `layer_matched`, as many heads of each layer as that set has (`k` must be its size).
        ValueError where not enough heads are left.
        """
        rng = np.random.default_rng(seed)
        left_out = set(excluding)
        pool = [head for head in grid.heads() if head not in left_out]
        layers = [head.layer for head in layer_matched]
        if layers and len(layers) != k:
            raise ValueError(f"{k} heads cannot match the layers of {len(layers)}")
        draws = [(pool, k, "")]
        if layers:
            draws = [
                ([head for head in pool if head.layer == layer], layers.count(layer), f" in layer {layer}")
                for layer in sorted(set(layers))
            ]
        chosen: list[HeadId] = []
        for candidates, n, where in draws:
            if n > len(candidates):
                raise ValueError(f"{n} random heads asked for{where}, {len(candidates)} are left to draw")
            chosen += [candidates[i] for i in rng.choice(len(candidates), n, replace=False)]
        return cls.of(chosen)

    @property
    def heads(self) -> tuple[HeadId, ...]:
        """The named heads in order of layer and head."""
        return tuple(sorted(self.scales))

    def scaled(self, scale: float) -> "HeadMask":
        """The same heads, all at one scale."""
        return HeadMask.of(self.scales, scale)

    @property
    def first_layer(self) -> int | None:
        """The lowest layer in which a head is not left untouched; None for a mask that changes nothing."""
        return min((head.layer for head, scale in self.scales.items() if scale != 1), default=None)

    def array(self, grid: Grid) -> Float[np.ndarray, "layer head"]:
        """The scale of every head of a grid, 1 where none is named. ValueError if a head is not on the grid."""
        grid.check(self.heads)
        out = np.ones((grid.n_layers, grid.n_heads))
        for head, scale in self.scales.items():
            out[head] = scale
        return out

    def __len__(self) -> int:
        return len(self.scales)

    def __str__(self) -> str:
        return ",".join(
            f"{head}:{self.scales[head]:.4f}".rstrip("0").rstrip(".") if self.scales[head] else str(head)
            for head in self.heads
        )
