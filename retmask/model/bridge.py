"""The two views of one set of weights: transformers to run fast, TransformerLens to look inside.

The only file that knows TransformerLens.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from retmask.heads.masks import HeadMask
from retmask.model.fit import attention_kinds
from retmask.model.hooks import BridgeView, Layer, NativeView, watch
from retmask.model.lens import LensModel
from retmask.model.parity import can_fork, check_parity
from retmask.model.weights import Source, grid_of
from retmask.runs.faults import is_out_of_memory
from retmask.text.tokenizer import Tokenizer

MOST_ROWS = 4  # of a product that `few_rows` computes: from 5 rows on the usual way is as fast


def wrap(hf: Any, tokenizer: Tokenizer, name: str, source: Source | None = None) -> LensModel:
    """The two views of a transformers model, which is taken over. ValueError if TransformerLens cannot bridge it."""
    hf.eval().requires_grad_(False)
    native, twins = second_view(hf)
    # cuDNN's attention plans anew for every length, and a decode step has a new length: 24 ms a layer on an H100
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        bridge = _bridge(hf)
        layers = _layers(bridge, twins, grid_of(native.config).n_layers)
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
        watch(bridge, layers, model.grid.n_heads)
        speed_up(native)
        model.parity = check_parity(model)
        model.forks = can_fork(model)
    except Exception as error:  # whatever a model of another make comes to grief with
        if is_out_of_memory(error):
            raise
        reason = shorten(str(error), 250) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{name} ({hf.config.model_type}) cannot be read and masked head by head: {reason}") from error
    return model


def _bridge(hf: Any) -> BridgeView:
    """TransformerLens' view of the model. ValueError if it has none.

    Not by its `boot_transformers`: that installs torchvision with pip for models that also see, runs code from model
    folders for some architectures, and writes end, begin and pad tokens into the tokenizer. Without a tokenizer the
    bridge takes token ids, which is all that it is given here.
    """
    with warnings.catch_warnings(), _quiet("transformer_lens"):
        warnings.simplefilter("ignore")
        from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
        from transformer_lens.model_bridge.sources import build_bridge_from_module
        from transformer_lens.utilities.attn_implementation import force_eager_attention

        names = [type(hf).__name__, *(hf.config.architectures or [])]
        architecture = next((name for name in names if name in SUPPORTED_ARCHITECTURES), None)
        if architecture is None:
            raise ValueError(f"TransformerLens does not know {names[0]}")
        hf.config.architectures = [architecture]
        force_eager_attention(hf)  # else there are no attention patterns
        config = copy.deepcopy(hf.config)
        bridge = build_bridge_from_module(hf, architecture, hf_config=config, dtype=hf.dtype, device=str(hf.device))
    if hf.dtype != torch.float32:
        for block in bridge.blocks:
            for hook in ("hook_rot_q", "hook_rot_k"):  # OLMo's come in float32, which transformers casts back
                if hasattr(block, "attn") and hasattr(block.attn, hook):
                    getattr(block.attn, hook).add_perma_hook(lambda rotated, hook: rotated.to(hf.dtype))
    return bridge


def _layers(bridge: BridgeView, twins: dict[int, Any], n_layers: int) -> list[Layer]:
    """The modules to hook in each layer. ValueError where there is a layer without attention heads."""
    layers: list[Layer] = []
    for block in getattr(bridge, "blocks", ()):
        attention: Any = getattr(block, "attn", None)
        o_proj = getattr(getattr(attention, "o", None), "original_component", None)
        if o_proj is None or not all(hasattr(attention, hook) for hook in ("hook_pattern", "hook_z")):
            raise ValueError(f"layer {len(layers)} has no attention heads that TransformerLens could show")
        layers.append(Layer(attention, twins[id(block.original_component)], twins[id(o_proj)]))
    if len(layers) != n_layers:
        raise ValueError(f"TransformerLens shows {len(layers)} of its {n_layers} layers")
    return layers


def second_view(hf: Any) -> tuple[Any, dict[int, Any]]:
    """A copy of a module tree that shares every parameter and buffer with it, and the copies by their original's id."""
    copies: dict[int, Any] = {id(tensor): tensor for tensor in [*hf.parameters(), *hf.buffers()]}
    return copy.deepcopy(hf, copies), copies


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


def _stop_ids(native: NativeView, tokenizer: Tokenizer) -> frozenset[int]:
    """All tokens that end an answer, from the generation settings, the config and the tokenizer."""
    owners = (native.generation_config, native.config.get_text_config(), tokenizer)
    stated = (getattr(owner, "eos_token_id", None) for owner in owners)
    return frozenset(token for ids in stated if ids is not None for token in (ids if isinstance(ids, list) else [ids]))


def _set_attention(model: LensModel) -> None:
    """The fastest attention that the model's class has."""
    for kind in attention_kinds(model.device, model.native.dtype):
        try:
            model.native.set_attn_implementation(kind)
            return
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


def speed_up(model: nn.Module) -> None:
    """Let a model's linear layers take few rows the fast way. For float32 on a CPU with MKL; else nothing changes."""
    if not torch.backends.mkl.is_available():
        return
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.forward = MethodType(few_rows, module)  # type: ignore[method-assign]


def few_rows(layer: nn.Linear, x: Tensor) -> Tensor:
    """What the layer gives for x [..., in]: [..., out].

    A decode step multiplies every weight matrix by one vector a row, so it costs what reading the weights costs. On
    CPUs MKL takes one vector slowly and repacks the matrix for two and more; as `W x^T`, with the few columns of x^T
    strided, the same product reads each weight once: on two cores 2 to 6 times faster for 1 to 4 rows.
    """
    rows = x.numel() // x.shape[-1]
    if rows > MOST_ROWS:
        return linear(x, layer.weight, layer.bias)
    flat = x.reshape(rows, -1)
    if rows == 1:
        flat = flat.expand(2, -1)  # a single column would be taken as a vector again
    out = torch.mm(layer.weight, flat.contiguous().T).T[:rows].contiguous()
    if layer.bias is not None:
        out = out + layer.bias
    return out.reshape(*x.shape[:-1], -1)
