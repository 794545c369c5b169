"""The two views of one set of weights: transformers to run fast, TransformerLens to look inside.

The only file that knows TransformerLens.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten
from typing import Any

import torch

from retmask.cache import new_cache
from retmask.heads import HeadId, HeadMask
from retmask.hooks import forking, reading, watch
from retmask.linear import speed_up
from retmask.memory import attention_kinds
from retmask.model import LensModel, fork_plan
from retmask.weights import Source


def wrap(hf: Any, tokenizer: Any, name: str, source: Source | None = None) -> LensModel:
    """The two views of a transformers model, which is taken over. ValueError if TransformerLens cannot bridge it."""
    with warnings.catch_warnings(), _quiet("transformer_lens"):
        warnings.simplefilter("ignore")
        from transformer_lens.model_bridge import TransformerBridge

        hf.eval().requires_grad_(False)
        hf.config.architectures = hf.config.architectures or [type(hf).__name__]  # none in models made from a config
        native, twins = second_view(hf)
        try:
            bridge = TransformerBridge.boot_transformers(
                source.folder if source else name,
                hf_model=hf,
                tokenizer=copy.copy(tokenizer),
                dtype=hf.dtype,
                device=str(hf.device),
            )
        except (ValueError, NotImplementedError, KeyError, AttributeError, RuntimeError) as error:
            raise ValueError(f"TransformerLens cannot look into {name}: {shorten(str(error), 200)}") from error
    # cuDNN's attention plans anew for every length, and a decode step has a new length: 24 ms a layer on an H100
    torch.backends.cuda.enable_cudnn_sdp(False)
    model = LensModel(
        name=name,
        revision=getattr(hf.config, "_commit_hash", None) or (source.revision if source else None),
        sha256=source.sha256 if source else None,
        tokenizer=tokenizer,
        native=native,
        bridge=bridge,
        stop_ids=_stop_ids(native, tokenizer),
    )
    _set_attention(model)
    watch(bridge, twins, model.grid.n_heads)
    speed_up(native)
    model.parity = _parity(model)
    model.forks = _can_fork(model)
    return model


def second_view(hf: Any) -> tuple[Any, dict[int, Any]]:
    """A copy of a module tree that shares every parameter and buffer with it, and the copies by their original's id."""
    copies: dict[int, Any] = {id(tensor): tensor for tensor in [*hf.parameters(), *hf.buffers()]}
    return copy.deepcopy(hf, copies), copies


@torch.no_grad()
def _parity(model: LensModel) -> float:
    """The largest difference of the two views' logits. ValueError if the bridge shows no attention patterns."""
    vocabulary = model.native.config.get_text_config().vocab_size
    ids = torch.arange(24, device=model.device)[None] * 37 % min(vocabulary, 5000)
    with reading() as read:
        through = model.bridge(ids)
    if len(read) < model.grid.n_layers:
        raise ValueError(
            f"TransformerLens shows attention patterns of {len(read)} of {model.grid.n_layers} layers of {model.name}: "
            "models with other kinds of layers cannot be scored"
        )
    logits = model.native(input_ids=ids).logits.float()
    difference = float((logits - through.float()).abs().max())
    if model.dtype_name == "float32" and difference > 0.01 * float(logits.abs().max()):
        raise ValueError(
            f"TransformerLens sees another {model.name} than transformers runs: their logits differ by {difference:.2g}"
        )
    return difference


@torch.no_grad()
def _can_fork(model: LensModel) -> bool:
    """Whether a pass whose second row begins halfway gives what a pass of two whole rows gives."""
    half = HeadMask.of([HeadId(model.grid.n_layers // 2, 0)])
    masks = [HeadMask(), half]
    ids = list(range(3, 19))
    whole = model.forward([ids, ids], new_cache(16), masks)
    _, rows = fork_plan(masks, model.grid.n_layers)
    try:
        with forking(rows):
            forked = model.forward([ids], new_cache(16), masks)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AssertionError):
        return False  # layers of another make: the rows are then computed one by one
    close: bool = torch.allclose(forked, whole, rtol=0.02, atol=0.02 * float(whole.abs().max()))
    return forked.shape == whole.shape and close


@torch.no_grad()
def fold(model: LensModel, mask: HeadMask) -> None:
    """Scale the heads in the weights themselves: their columns of o_proj, in both views. The bias is left alone."""
    for layer, scales in enumerate(mask.array(model.grid)):
        o_proj = model.bridge.blocks[layer].attn.o.original_component
        by_head = torch.tensor(scales, dtype=o_proj.weight.dtype, device=o_proj.weight.device)
        if (by_head != 1).any():
            inputs = o_proj.weight if isinstance(o_proj, torch.nn.Linear) else o_proj.weight.T  # GPT-2 stores [in, out]
            columns = by_head.repeat_interleave(inputs.shape[1] // model.grid.n_heads)
            inputs.mul_(columns)


def _stop_ids(native: Any, tokenizer: Any) -> frozenset[int]:
    """All tokens that end an answer, from the generation settings, the config and the tokenizer."""
    found: set[int] = set()
    for owner in (native.generation_config, native.config.get_text_config(), tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        found |= set(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return frozenset(found)


def _set_attention(model: LensModel) -> None:
    """The fastest attention that the model's class has."""
    for kind in attention_kinds(model.device, model.native.dtype):
        try:
            return model.native.set_attn_implementation(kind)  # type: ignore[no-any-return]
        except ValueError:
            continue


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """While open, that library logs errors only."""
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
