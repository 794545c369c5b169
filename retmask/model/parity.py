"""Whether the two views of a loaded model are one model, head by head: measured at load, before anything relies on it.

The passes that are compared are those that the project makes: on the native view's cache, past a sliding window, with
another scale on every head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from textwrap import shorten
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache

from retmask.heads.grid import HeadId
from retmask.heads.masks import HeadMask
from retmask.model.cache import lengthened, new_cache, stack
from retmask.model.fit import cache_bytes, free_bytes
from retmask.model.hooks import NativeView, forking, reading
from retmask.model.lens import LensModel, fork_plan
from retmask.runs.faults import is_out_of_memory

PREFIX, TAIL = 16, 8  # tokens that are read before the cache is handed on, and after
# how far apart the same logits may be, as a part of their spread: computed alike, and by kernels that round otherwise
BOUND = {torch.float32: 0.002, torch.float16: 0.02, torch.bfloat16: 0.1}
ROUNDING = {torch.float32: 0.002, torch.float16: 0.05, torch.bfloat16: 0.3}
_FORMS = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}  # between two forms of a model, as `differ`
_LOUDER = 100.0  # where a view looks past its window, it is to be heard

_Logits = Float[Tensor, "row pos token"]


class _Tails(NamedTuple):
    """The logits at the same last tokens: natively, natively with eager attention, and through the bridge."""

    native: _Logits
    eager: _Logits
    bridged: _Logits


@torch.no_grad()
def check_parity(model: LensModel) -> float:
    """The largest difference between the logits of the two views, on one cache and under one mask.

    ValueError with the reason where they are further apart than rounding brings them, where the model does not go on
    from its cache, or where TransformerLens shows other heads or other keys than there are.
    """
    ids, mask = _some_ids(model), _every_head(model)
    cache = new_cache(len(ids))
    with _reason("its layers keep more than keys and values"):
        model.forward([ids[:PREFIX]], cache, [mask])
        layers: list[Any] = list(cache.layers)
        kept = [layer.get_seq_length() for layer in layers].count(PREFIX)
    if kept != model.grid.n_layers:
        raise ValueError(f"{model.grid.n_layers - kept} of its {model.grid.n_layers} layers keep no keys and values")
    tails = _tails(model, cache, ids, mask)
    whole = model.forward([ids], new_cache(len(ids)), [mask], keep=TAIL)[:, -TAIL:].float()
    if not _apart(tails.native, whole) <= ROUNDING[model.native.dtype]:
        raise ValueError("from its cache it answers otherwise than from the whole text")
    difference = _difference(model, len(ids), tails)
    window = _window(model)
    if window > PREFIX and 4 * cache_bytes(model.native.config, window, model.native.dtype) < free_bytes(model.device):
        hidden = [PREFIX * windowed for windowed in _windowed(model)]  # positions that no query of the tail sees
        longer = lengthened(cache, window + PREFIX, hidden, _LOUDER)
        difference = max(difference, _difference(model, window + len(ids), _tails(model, longer, ids, mask)))
    return difference


@contextmanager
def _reason(says: str) -> Iterator[None]:
    """Whatever layers of another make come to grief with becomes a ValueError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) or is_out_of_memory(error):
            raise
        raise ValueError(f"{says} ({type(error).__name__}: {shorten(str(error), 120)})") from error


@contextmanager
def _eagerly(native: NativeView) -> Iterator[None]:
    """While open, the native view attends step by step, as TransformerLens does: to the bit, also in half precision."""
    kind = native.config._attn_implementation
    native.set_attn_implementation("eager")
    try:
        yield
    finally:
        native.set_attn_implementation(kind)


def _some_ids(model: LensModel) -> list[int]:
    return [at * 37 % min(model.vocabulary, 5000) for at in range(PREFIX + TAIL)]


def _every_head(model: LensModel) -> HeadMask:
    """A mask that scales every head, and heads side by side differently."""
    n_layers, n_heads = model.grid[:2]
    return HeadMask({HeadId(i, j): 0.2 + (7 * i + 4 * j) % 11 / 11 for i in range(n_layers) for j in range(n_heads)})


def _tails(model: LensModel, cache: Cache, ids: list[int], mask: HeadMask) -> _Tails:
    """The logits at the last ids, each on a copy of the cache."""
    keys = cache.get_seq_length() + TAIL

    def natively() -> _Logits:
        return model.forward([ids[PREFIX:]], stack([cache], keys), [mask], keep=TAIL)[:, -TAIL:].float()

    native = eager = natively()
    if model.attention != "eager":
        with _eagerly(model.native):
            eager = natively()
    tail, copy = torch.tensor([ids[PREFIX:]], device=model.device), stack([cache], keys)
    with (
        _reason("TransformerLens does not go on from its cache"),
        model.lock,
        model.masked([mask]),
        reading(model.bridge, partial(_expect, model, keys)) as read,
    ):
        bridged = model.bridge(tail, past_key_values=copy, use_cache=True)[:, -TAIL:].float()
    if len(read) != model.grid.n_layers:
        raise ValueError(f"TransformerLens shows attention patterns of {len(read)} of its {model.grid.n_layers} layers")
    return _Tails(native, eager, bridged)


def _difference(model: LensModel, keys: int, tails: _Tails) -> float:
    """The largest difference of the views' logits. ValueError where it is more than rounding."""
    native, eager, bridged = tails
    difference = float((native - bridged).abs().max())
    if not _apart(bridged, eager) <= BOUND[model.native.dtype]:
        raise ValueError(
            f"TransformerLens sees another model than transformers runs: their logits differ by {difference:.2g} after "
            f"{keys:,} tokens"
        )
    if not _apart(native, eager) <= ROUNDING[model.native.dtype]:
        raise ValueError(f"with attention by {model.attention} it answers otherwise than step by step")
    return difference


def _expect(model: LensModel, keys: int, pattern: Float[Tensor, "row head query key"]) -> Tensor:
    """ValueError where a pattern is not one of the grid's heads over that many keys."""
    _, n_heads, queries, n_keys = pattern.shape
    if n_heads != model.grid.n_heads:
        raise ValueError(f"one of its layers has {n_heads} heads and its config says {model.grid.n_heads}")
    if (queries, n_keys) != (TAIL, keys):
        raise ValueError(f"TransformerLens shows a pattern over {n_keys} of {keys} keys of its cache")
    return pattern[:, :, :, :1]


def _apart(logits: Float[Tensor, "row pos token"], wanted: Float[Tensor, "row pos token"]) -> float:
    """How far two rows of logits are apart, as a part of their spread: the median of the positions."""
    logits, wanted = logits.double(), wanted.double()
    spread = (wanted - wanted.mean(-1, keepdim=True)).norm(dim=-1)
    return float(((logits - wanted).norm(dim=-1) / spread).median())


def _window(model: LensModel) -> int:
    """The widest window or chunk of the config that is shorter than the context; 0 where there is none."""
    text = model.native.config.get_text_config()
    widths = [getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size")]
    room = model.max_tokens - 2 * PREFIX
    return max((width for width in widths if isinstance(width, int) and width < room), default=0)


def _windowed(model: LensModel) -> list[bool]:
    """Which layers attend within the window only; all of them where the config does not say."""
    text = model.native.config.get_text_config()
    kinds = getattr(text, "layer_types", None) or getattr(text, "attention_layers", None) or []
    return [kind not in ("full_attention", "global") for kind in kinds] or [True] * model.grid.n_layers


@torch.no_grad()
def can_fork(model: LensModel) -> bool:
    """Whether a pass whose second row begins halfway gives what a pass of two whole rows gives."""
    half = HeadMask.of([HeadId(model.grid.n_layers // 2, 0)])
    masks = [HeadMask(), half]
    ids = _some_ids(model)[:PREFIX]
    whole = model.forward([ids, ids], new_cache(PREFIX), masks)
    _, rows = fork_plan(masks, model.grid.n_layers)
    try:
        with forking(model.bridge, rows):
            forked = model.forward([ids], new_cache(PREFIX), masks)
    except Exception:
        return False  # layers of another make: the rows are then computed one by one
    close: bool = torch.allclose(forked, whole, rtol=0.02, atol=0.02 * float(whole.abs().max()))
    return forked.shape == whole.shape and close


def some_ids(hf: NativeView, extra: Sequence[int] = ()) -> Int[Tensor, "1 pos"]:
    """Token ids spread over a model's vocabulary, and the extra ones: what two forms of it must answer alike."""
    size = hf.get_input_embeddings().weight.shape[0]
    return torch.tensor([[*(at * 37 * size // 1000 % size for at in range(1, 25)), *extra]], device=hf.device)


def differ(
    logits: Float[Tensor, "1 pos vocabulary"], wanted: Float[Tensor, "1 wanted_pos tokens"], dtype: torch.dtype
) -> str:
    """By what share of what tells tokens apart logits miss those wanted, in percent; empty if by rounding in that type.

    It is the worst position's in float32; in half precision, where a rounding can send a token to other experts, the
    median.
    """
    if logits.shape != wanted.shape:
        return "100%"
    centred = [x.float() - x.float().mean(-1, keepdim=True) for x in (logits, wanted)]
    gaps = (centred[0] - centred[1]).norm(dim=-1) / centred[1].norm(dim=-1).clamp_min(1e-9)
    gap = float(gaps.max() if dtype == torch.float32 else gaps.median())
    return "" if gap <= _FORMS[dtype] else f"{gap:.1%}"
