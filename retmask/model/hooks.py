"""Reading attention patterns and masking heads, on either view of a model, without disturbing anybody else.

The hooks are put in once and stay. They act only where the calling thread has a `reading` or a `scaling` open for that
model: hooks that are added and removed around a call would act on other threads' passes too. Each is to be open around
a pass and no longer: held across a `yield` it would act on what the consumer runs meanwhile.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from os import PathLike
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache

_T = TypeVar("_T")
_NOTHING: Mapping[int, Any] = MappingProxyType({})
# by the id of the bridge they belong to, so that a pass through another model does not see them
_scales: ContextVar[Mapping[int, "Scales | None"]] = ContextVar("scales", default=_NOTHING)
_forks: ContextVar[Mapping[int, dict[int, int]]] = ContextVar("forks", default=_NOTHING)  # layer -> rows from there on
_reading: ContextVar[Mapping[int, "Reading"]] = ContextVar("reading", default=_NOTHING)


class Reading(NamedTuple):
    """What is taken of each pattern [row head query key], what has been taken, by layer, and how many keys each has."""

    take: Callable[[Tensor], Tensor]
    taken: dict[int, Tensor]
    keys: int | None


class NativeView(Protocol):
    """What is used of a transformers model."""

    config: Any
    generation_config: Any

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    @property
    def dtype(self) -> torch.dtype:
        """Their type."""

    def __call__(self, *, input_ids: Int[Tensor, "row pos"], use_cache: bool, **how: Any) -> Any:
        """A pass over ids: `logits` [row pos vocabulary], and the cache."""

    def get_input_embeddings(self) -> Any:
        """The embedding, whose `weight` has a row a token."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights."""

    def set_attn_implementation(self, attn_implementation: str) -> Any:
        """Compute attention that way from now on. ValueError where its class cannot."""

    def save_pretrained(self, save_directory: str | PathLike[str]) -> Any:
        """Write it into a folder."""


class BridgeView(Protocol):
    """What is used of TransformerLens' view of the model: a block a layer, each with `attn`."""

    blocks: Any

    def __call__(
        self, input_ids: Int[Tensor, "row pos"], *, past_key_values: Cache, use_cache: bool, **how: Any
    ) -> Any:
        """A pass over ids on a cache, which grows: the logits, or None with `return_type=None`."""


class HookPoint(Protocol):
    """A place in a pass where TransformerLens lets a tensor be read and changed."""

    def add_perma_hook(self, hook: Callable[..., Tensor | None]) -> None:
        """Call that with every tensor that passes, and take what it gives instead; it is never removed."""


class Attention(Protocol):
    """A layer's attention in TransformerLens' view: its patterns and the heads' outputs before `o_proj`."""

    hook_pattern: HookPoint
    hook_z: HookPoint


class Layer(NamedTuple):
    """The modules of one layer that are hooked: the bridge's attention, and the native view's layer and `o_proj`."""

    attention: Attention
    native: nn.Module
    o_proj: nn.Module


class Scales(NamedTuple):
    """What a mask does now: a scale for every head, and the layers in which one is not 1. One row stands for all."""

    values: Float[Tensor, "row layer head"]
    layers: frozenset[int]


def most(pattern: Float[Tensor, "row head query key"]) -> Int[Tensor, "row head query"]:
    """The position that each head attends to most."""
    return pattern.argmax(-1)


@contextmanager
def _in_force(what: ContextVar[Mapping[int, _T]], bridge: BridgeView, value: _T) -> Iterator[None]:
    """While open, that holds for passes of this model in this thread."""
    token = what.set({**what.get(), id(bridge): value})
    try:
        yield
    finally:
        what.reset(token)


@contextmanager
def reading(
    bridge: BridgeView, take: Callable[[Tensor], Tensor] = most, keys: int | None = None
) -> Iterator[dict[int, Tensor]]:
    """While open, passes through the bridge in this thread leave here, by layer, what `take` makes of each pattern.

    With `keys` every pattern must have that many: positions in it are then positions in the cache.
    """
    begun = Reading(take, {}, keys)
    with _in_force(_reading, bridge, begun):
        yield begun.taken


@contextmanager
def scaling(bridge: BridgeView, values: Float[Tensor, "row layer head"]) -> Iterator[None]:
    """While open, passes of that model in this thread scale the output of its heads: a row for each batch row, or one.

    Where every scale is 1 nothing is computed, so the passes are those of the unmasked model bit for bit.
    """
    layers = frozenset((values != 1).any(2).any(0).nonzero().flatten().tolist())
    with _in_force(_scales, bridge, Scales(values, layers) if layers else None):
        yield


@contextmanager
def forking(bridge: BridgeView, rows: dict[int, int]) -> Iterator[None]:
    """While open, native passes of that model in this thread take in one row and have `rows[layer]` from that layer on.

    The new rows are copies of the first; masks belong to the rows in this order.
    """
    with _in_force(_forks, bridge, rows):
        yield


def _scaled(z: Float[Tensor, "row pos head dim"], owner: int, layer: int) -> Float[Tensor, "row pos head dim"] | None:
    """Head outputs times the scales now in force; None where nothing changes."""
    scales = _scales.get().get(owner)
    if scales is None or layer not in scales.layers:
        return None
    values = scales.values[: len(z)] if _forks.get().get(owner) else scales.values
    assert len(values) in (1, len(z)), f"{len(values)} masks for a batch of {len(z)} rows"
    return z * values[:, layer, None, :, None]


def watch(bridge: BridgeView, layers: Sequence["Layer"], n_heads: int) -> None:
    """Put the permanent hooks in."""
    owner = id(bridge)
    for number, layer in enumerate(layers):
        layer.attention.hook_pattern.add_perma_hook(partial(_read_pattern, owner=owner, layer=number))
        layer.attention.hook_z.add_perma_hook(partial(_scale_z, owner=owner, layer=number, n_heads=n_heads))
        layer.o_proj.register_forward_pre_hook(partial(_scale_native, owner=owner, layer=number, n_heads=n_heads))
        layer.native.register_forward_pre_hook(partial(_fork, owner=owner, layer=number), with_kwargs=True)


def _fork(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], owner: int, layer: int) -> Any:
    rows = _forks.get().get(owner, _NOTHING).get(layer)
    if rows is None:
        return None
    hidden = args[0] if args else kwargs["hidden_states"]
    hidden = torch.cat([hidden, hidden[:1].expand(rows - len(hidden), *hidden.shape[1:])])
    return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})


def _read_pattern(pattern: Float[Tensor, "row head query key"], hook: Any, owner: int, layer: int) -> None:
    reading = _reading.get().get(owner)
    if reading is not None:
        keys = pattern.shape[-1]
        assert reading.keys in (None, keys), f"{keys} of {reading.keys} keys in layer {layer}"
        reading.taken[layer] = reading.take(pattern)


def _scale_z(z: Tensor, hook: Any, owner: int, layer: int, n_heads: int) -> Tensor | None:
    # [row, pos, head, dim], or flat where TransformerLens takes other sizes for this layer's
    by_head = z if z.dim() == 4 else z.unflatten(-1, (n_heads, -1))
    scaled = _scaled(by_head, owner, layer)
    return None if scaled is None else scaled.reshape(z.shape)


def _scale_native(module: Any, args: tuple[Tensor, ...], owner: int, layer: int, n_heads: int) -> tuple[Tensor] | None:
    z = args[0]
    scaled = _scaled(z.unflatten(-1, (n_heads, -1)), owner, layer)
    return None if scaled is None else (scaled.flatten(-2),)
