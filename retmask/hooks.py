"""Reading attention patterns and masking heads, on either view of a model, without disturbing anybody else.

The hooks are put in once and stay. They act only where the calling thread has a `reading` or a `scaling` open: hooks
that are added and removed around a call would act on other threads' passes too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_scales: ContextVar["Scales | None"] = ContextVar("scales", default=None)
_forks: ContextVar[dict[int, int] | None] = ContextVar("forks", default=None)  # layer -> rows from there on
_reading: ContextVar["Reading | None"] = ContextVar("reading", default=None)


class Reading(NamedTuple):
    """What is taken of each pattern [row, head, query, key], and what has been taken, by layer."""

    take: Callable[[Tensor], Tensor]
    taken: dict[int, Tensor]


class Scales(NamedTuple):
    """What a mask does now: a scale for every head, and the layers in which one is not 1. One row stands for all."""

    values: Float[Tensor, "row layer head"]
    layers: frozenset[int]


def most(pattern: Float[Tensor, "row head query key"]) -> Int[Tensor, "row head query"]:
    """The position that each head attends to most."""
    return pattern.argmax(-1)


@contextmanager
def reading(take: Callable[[Tensor], Tensor] = most) -> Iterator[dict[int, Tensor]]:
    """While open, passes through a bridge in this thread leave here, by layer, what `take` makes of each pattern."""
    now = Reading(take, {})
    token = _reading.set(now)
    try:
        yield now.taken
    finally:
        _reading.reset(token)


@contextmanager
def scaling(values: Float[Tensor, "row layer head"]) -> Iterator[None]:
    """While open, passes in this thread scale the output of every head: one row for each batch row, or one for all.

    Where every scale is 1 nothing is computed, so the passes are those of the unmasked model bit for bit.
    """
    layers = frozenset((values != 1).any(2).any(0).nonzero().flatten().tolist())
    token = _scales.set(Scales(values, layers) if layers else None)
    try:
        yield
    finally:
        _scales.reset(token)


@contextmanager
def forking(rows: dict[int, int]) -> Iterator[None]:
    """While open, native passes in this thread take in one row and have `rows[layer]` from that layer on.

    The new rows are copies of the first; masks belong to the rows in this order.
    """
    token = _forks.set(rows)
    try:
        yield
    finally:
        _forks.reset(token)


def _scaled(z: Tensor, layer: int) -> Tensor | None:
    """Head outputs [row, pos, head, dim] times the scales now in force; None where nothing changes."""
    scales = _scales.get()
    if scales is None or layer not in scales.layers:
        return None
    values = scales.values[: len(z)] if _forks.get() else scales.values
    assert len(values) in (1, len(z)), f"{len(values)} masks for a batch of {len(z)} rows"
    return z * values[:, layer, None, :, None]


def watch(bridge: Any, twins: dict[int, Any], n_heads: int) -> None:
    """Put the permanent hooks in.

    `twins` maps the id of a module under the bridge to the native module that shares its weights.
    """
    for layer, block in enumerate(bridge.blocks):
        block.attn.hook_pattern.add_perma_hook(partial(_read_pattern, layer=layer))
        block.attn.hook_z.add_perma_hook(partial(_scale_z, layer=layer))
        o_proj = twins[id(block.attn.o.original_component)]
        o_proj.register_forward_pre_hook(partial(_scale_native, layer=layer, n_heads=n_heads))
        native = twins[id(block.original_component)]
        native.register_forward_pre_hook(partial(_fork, layer=layer), with_kwargs=True)


def _fork(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], layer: int) -> Any:
    rows = (_forks.get() or {}).get(layer)
    if rows is None:
        return None
    hidden = args[0] if args else kwargs["hidden_states"]
    hidden = torch.cat([hidden, hidden[:1].expand(rows - len(hidden), *hidden.shape[1:])])
    return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})


def _read_pattern(pattern: Float[Tensor, "row head query key"], hook: Any, layer: int) -> None:
    now = _reading.get()
    if now is not None:
        now.taken[layer] = now.take(pattern)


def _scale_z(z: Float[Tensor, "row pos head dim"], hook: Any, layer: int) -> Tensor | None:
    return _scaled(z, layer)


def _scale_native(module: Any, args: tuple[Tensor, ...], layer: int, n_heads: int) -> tuple[Tensor] | None:
    z = args[0]
    scaled = _scaled(z.unflatten(-1, (n_heads, -1)), layer)
    return None if scaled is None else (scaled.flatten(-2),)
