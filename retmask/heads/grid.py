"""A model's layer x head grid, a head's name on it, and the grids of published models. No model, no torch.

Layers and heads count from 0. Heads are query heads, also under grouped-query attention.
"""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from retmask.files import expanded, read_object, shipped

_HEAD = re.compile(r"(?:L(\d{1,4})H(\d{1,4})|(\d{1,4})-(\d{1,4}))", re.IGNORECASE)
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")  # Llama and most, GPT-2, MPT, GPT-Neo
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")


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


def known_grid(name: str) -> Grid | None:
    """The grid of the published model that a name holds as whole words, None where it holds none.

    "Llama-3-8B-Instruct-Gradient-1048k" is a Llama-3-8B. No file of that name is looked for: it may be foreign.
    """
    published = read_object(shipped("grids.json"))
    held = [model for model in published if re.search(rf"(?<![a-z0-9.]){re.escape(model)}(?![a-z0-9.])", name, re.I)]
    return Grid(*published[max(held, key=len)]) if held else None


def model_grid(model: str) -> Grid:
    """The grid of a model: a folder with its config.json, or the name of a published one. ValueError for neither."""
    config = read_object(expanded(model) / "config.json")
    nested = config.get("text_config")
    text = nested if isinstance(nested, dict) else config
    grid = read_grid(text.get) or known_grid(model)
    if grid is None:
        raise ValueError(f"the head grid of {model[-80:]!r} is not known: give a model's folder with its config.json")
    return grid


def read_grid(field: Callable[[str], Any]) -> Grid | None:
    """The grid that a model's config states, None where it states none; `field` gives a field of its text part by name.

    ValueError where its layers have different numbers of heads.
    """
    by_layer = field("num_attention_heads_per_layer")
    if isinstance(by_layer, list) and len(set(by_layer)) > 1:
        counts = ", ".join(map(str, sorted(set(by_layer))))
        raise ValueError(f"the layers of this model have different numbers of heads ({counts}), which is not supported")
    layers, heads = (next(filter(None, map(field, names)), None) for names in (_LAYERS, _HEADS))
    sizes = [layers, heads, field("num_key_value_heads") or heads]
    sound = [size for size in sizes if isinstance(size, int) and size > 0]
    return Grid(*sound) if len(sound) == len(sizes) else None


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
