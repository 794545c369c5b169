"""Keys and values of prompts: with room to append, stacked into batches, and shared where prompts begin alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """Keys and values in a buffer with room at the end: a step appends, where a DynamicLayer copies everything."""

    def __init__(self, room: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = room
        self._buffers: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append states [row, head, pos, dim] and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        have = self.get_seq_length()
        end = have + key_states.shape[-2]
        if not self._buffers or end > self._buffers[0].shape[-2]:
            self._grow(key_states, value_states, have, max(end, self.room, have * 5 // 4 if have else 0))
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., have:end, :] = states
        self.keys, self.values = (buffer[..., :end, :] for buffer in self._buffers)
        return self.keys, self.values

    def _grow(self, keys: Tensor, values: Tensor, have: int, room: int) -> None:
        old = (self.keys, self.values)
        self._buffers = [x.new_empty(*x.shape[:-2], room, x.shape[-1]) for x in (keys, values)]
        for buffer, states in zip(self._buffers, old, strict=True):
            if have and states is not None:
                buffer[..., :have, :] = states

    def fill(self, rows: Sequence[tuple[Tensor, Tensor]], room: int) -> None:
        """Start with copies of these keys and values, each [row, head, pos, dim].

        They all end at one position: before the beginning of a shorter one there are zeros.
        """
        keys, values = rows[0]
        self.lazy_initialization(keys, values)
        length, n = max(k.shape[-2] for k, _ in rows), sum(len(k) for k, _ in rows)
        shapes = [(n, x.shape[1], max(room, length), x.shape[3]) for x in (keys, values)]
        self._buffers = [x.new_empty(shape) for x, shape in zip((keys, values), shapes, strict=True)]
        at = 0
        for row in rows:
            start, end = length - row[0].shape[-2], at + len(row[0])
            for buffer, states in zip(self._buffers, row, strict=True):
                buffer[at:end, :, :start] = 0
                buffer[at:end, :, start:length] = states
            at = end
        self.keys, self.values = (buffer[..., :length, :] for buffer in self._buffers)


def new_cache(room: int) -> Cache:
    """An empty cache that keeps every position of every layer, also of sliding ones, with room for `room` tokens.

    Sliding layers then mask instead of forgetting, so a cache can be cut back to any position.
    """
    return Cache(layer_class_to_replicate=lambda: RoomyLayer(room))  # type: ignore[arg-type]


def stack(rows: Sequence[Cache], room: int, length: int | None = None) -> Cache:
    """One cache of the rows' first `length` positions (default: all).

    Where the rows are of different lengths they all end at one position, and `starts` says where each begins.
    """
    cache = new_cache(room)
    for layers in zip(*(row.layers for row in rows), strict=True):
        layer = RoomyLayer(room)
        layer.fill([(row.keys[..., :length, :], row.values[..., :length, :]) for row in layers], room)
        cache.layers.append(layer)
    return cache


def lengthened(cache: Cache, length: int, louder: Sequence[int], times: float) -> Cache:
    """A cache of that many positions: what this one holds over and over, cut off at the front.

    In each layer the first `louder` values are that many times as large.
    """
    longer = new_cache(length)
    layers: list[Any] = list(cache.layers)
    for layer, first in zip(layers, louder, strict=True):
        again = -(-length // layer.keys.shape[2])
        keys, values = (states.repeat(1, 1, again, 1)[:, :, -length:] for states in (layer.keys, layer.values))
        copied = RoomyLayer(length)
        copied.fill([(keys, torch.cat([values[:, :, :first] * times, values[:, :, first:]], 2))], length)
        longer.layers.append(copied)
    return longer


def starts(lengths: Sequence[int]) -> list[int]:
    """Where rows of these lengths begin in a cache in which they all end at one position."""
    return [max(lengths) - length for length in lengths]


def take(cache: Cache, rows: Sequence[int], room: int, give_up: bool = False) -> Cache:
    """A cache of copies of these rows; of a layer's first row where the layer does not have that many.

    With `give_up` the old cache is let go of layer by layer, so that the two are never in memory together.
    """
    full = new_cache(room)
    layers: list[Any] = list(cache.layers)
    for layer in layers:
        copied = RoomyLayer(room)
        have = [row if row < len(layer.keys) else 0 for row in rows]
        copied.fill([(layer.keys[i : i + 1], layer.values[i : i + 1]) for i in have], room)
        full.layers.append(copied)
        if give_up:
            layer.keys = layer.values = None
            layer._buffers = []
    return full


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two prompts have in common from the start."""
    n = min(len(a), len(b))
    different = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(different[0]) if len(different) else n


@dataclass
class Trunk:
    """The longest beginning that prompts share, and its cache, which grows as far as it is asked for."""

    token_ids: tuple[int, ...] = ()
    cache: Cache = field(default_factory=lambda: new_cache(0))


def longest_shared(prompts: Sequence[Sequence[int]]) -> Trunk:
    """The longest beginning that any two of the prompts share, nothing of it prefilled yet."""
    ordered = sorted(tuple(prompt) for prompt in prompts)  # neighbours in this order share the most
    length, prompt = max(((shared(a, b), b) for a, b in pairwise(ordered)), default=(0, ()), key=lambda pair: pair[0])
    return Trunk(prompt[:length], new_cache(length))
