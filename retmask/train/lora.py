"""Which layers of a model an adapter goes to, found in its own module tree, and how many numbers are trained."""

import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from retmask.train.settings import TrainSettings

# PEFT and TRL ask transformers by its old name; the warning of that is for programmers
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)

_ATTENTION = re.compile(r"Attention\d*$")  # how every family's class is called; a layer of attention and MLP is not


def attention_layers(model: Any) -> list[str]:
    """The names of the linear layers inside the attention of a transformers model's text part, in its order.

    ValueError, one sentence, where it has none.
    """
    found = list(dict.fromkeys(_linear_in_attention(model)))
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no attention whose linear layers could get an adapter: choose target all"
        )
    return found


def _linear_in_attention(model: Any) -> Iterator[str]:
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    text = next((f"{name}." for name, module in model.named_modules() if name and module is decoder), "")
    for name, module in model.named_modules():
        if name.startswith(text) and _ATTENTION.search(type(module).__name__):
            yield from (f"{name}.{inner}" for inner, layer in module.named_modules() if _is_linear(layer))


def _is_linear(module: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D  # what GPT-2 calls a linear layer

    return isinstance(module, torch.nn.Linear | Conv1D)


def _endings(wanted: Sequence[str], everything: Sequence[str]) -> list[str]:
    """The shortest ends of these names, at dots, that no other name has: as people write them (q_proj, attn.c_proj)."""
    others = set(everything) - set(wanted)
    found: dict[str, None] = {}
    for name in wanted:
        parts = name.split(".")
        ends = (".".join(parts[-size:]) for size in range(1, len(parts) + 1))
        found[next(end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others))] = None
    return list(found)


def lora(config: TrainSettings, model: Any) -> Any:
    """PEFT's settings of the adapter that is trained on this model. ValueError where no layer can get it."""
    from peft import LoraConfig

    names = [name for name, _ in model.named_modules()]
    attention = config.target == "attention"
    if not attention and not any(_is_linear(module) for module in model.modules()):
        raise ValueError(f"{type(model).__name__} has no linear layers that could get an adapter: choose method full")
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # only ever divided by the rank
        lora_dropout=config.dropout,
        target_modules=_endings(attention_layers(model), names) if attention else "all-linear",
        task_type="CAUSAL_LM",
    )


def trained_numbers(config: TrainSettings, model: Any) -> int:
    """How many numbers a training changes: of all weights, or of the adapter that PEFT puts into the model.

    The model, on the meta device, is taken over. ValueError where PEFT has no place for an adapter.
    """
    if config.method == "lora":
        from peft import get_peft_model

        try:
            model = get_peft_model(model, lora(config, model))
        except (RuntimeError, NotImplementedError, TypeError, AttributeError) as error:
            raise ValueError(f"no adapter can be put into {type(model).__name__}: {error}") from error
    return sum(one.numel() for one in model.parameters() if one.requires_grad)
