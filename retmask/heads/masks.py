"""Masks: chosen heads and their scales, and the JSON files that keep them under a name. No model, no torch."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from retmask.files import expanded, home, inside, meant, write_json
from retmask.heads.grid import Grid, HeadId


@dataclass(frozen=True)
class HeadMask:
    """Chosen heads and a scale for each: 0 = masked (a true zero of the head's output), 1 = untouched, at most 2.

    Heads that are not named are untouched; the empty mask is "unmasked".
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


def save_mask(name: str, mask: HeadMask, grid: Grid, model: str = "") -> Path:
    """Keep a mask under a name in `RETMASK_HOME/masks`; the path of its file.

    The file: `{"model", "grid": [layers, heads], "scales": {"17-3": 0.0}}`. ValueError for a name that is none, or that
    another mask has.
    """
    path = mask_path(name)
    if path.exists() and load_mask(str(path), grid) != mask:
        raise ValueError(f"there is another mask named {name}: choose another name")
    write_json(path, mask_record(mask, grid, model))
    return path


def mask_record(mask: HeadMask, grid: Grid, model: str = "") -> dict[str, object]:
    """What a mask's file holds."""
    scales = {head.key: float(mask.scales[head]) for head in mask.heads}
    return {"model": model, "grid": [grid.n_layers, grid.n_heads], "scales": scales}


def load_mask(name_or_path: str, grid: Grid | None = None) -> HeadMask:
    """A saved mask by name, or the mask in a file (also one that `retmask ablate` wrote).

    ValueError, one sentence, for what is no mask or, where a grid is given, is one for another.
    """
    path = expanded(name_or_path)
    if not path.is_file():
        path = mask_path(name_or_path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record = record.get("mask", record)
        n_layers, n_heads = record["grid"]
        grid = grid or Grid(int(n_layers), int(n_heads))
        scales = {HeadId.parse(key): float(scale) for key, scale in record["scales"].items()}
    except FileNotFoundError:
        saved, near = ", ".join(saved_masks()) or "none is saved yet", meant(name_or_path, saved_masks())
        raise ValueError(f"there is no mask {name_or_path}: give a file or a saved name ({saved}){near}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no mask file: {error}") from None
    if (n_layers, n_heads) != grid[:2]:
        raise ValueError(f"{path.stem} masks a {n_layers} x {n_heads} grid and this model has {grid}: use another mask")
    grid.check(scales)
    return HeadMask(dict(sorted(scales.items())))


def saved_masks() -> list[str]:
    """The names of the saved masks."""
    return sorted(file.stem for file in (home() / "masks").glob("*.json"))


def mask_path(name: str) -> Path:
    """Where the mask of that name is kept. ValueError for a name that could lead elsewhere."""
    return inside(home() / "masks", name, "mask name", ".json")
