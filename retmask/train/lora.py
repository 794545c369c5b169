"""Which layers of a model an adapter goes to, found in its own module tree, and how many numbers are trained."""

import re
import warnings
from typing import Any

from retmask.train.settings import TrainSettings

# PEFT and TRL ask transformers by its old name; the warning of that is for programmers
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)

_ATTENTION = re.compile(r"Attention\d*$")  # how every family's class is called; a layer of attention and MLP is not


def attention_layers(model: Any) -> list[str]:
    """The names of the linear layers inside the attention of a transformers model's text part, in its order.

    ValueError, one sentence, where it has none.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    text = next((f"{name}." for name, module in model.named_modules() if name and module is decoder), "")
    names = {
        f"{name}.{inner}": None  # in order, each once: attention may lie in attention
        for name, module in model.named_modules()
        if name.startswith(text) and _ATTENTION.search(type(module).__name__)
        for inner, layer in module.named_modules()
        if _is_linear(layer)
    }
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no attention whose linear layers could get an adapter: choose target all"
        )
    return list(names)


def _is_linear(module: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D  # what GPT-2 calls a linear layer

    return isinstance(module, torch.nn.Linear | Conv1D)


def lora(settings: TrainSettings, model: Any) -> Any:
    """PEFT's settings of the adapter that is trained on this model. ValueError where no layer can get it.

    PEFT writes many names as their shortest ends that mean the same (q_proj).
    """
    from peft import LoraConfig

    if settings.target == "all" and not any(map(_is_linear, model.modules())):
        raise ValueError(f"{type(model).__name__} has no linear layers that could get an adapter: choose method full")
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # only ever divided by the rank
        lora_dropout=settings.dropout,
        target_modules="all-linear" if settings.target == "all" else attention_layers(model),
        task_type="CAUSAL_LM",
    )


def trained_numbers(settings: TrainSettings, model: Any) -> int:
    """How many numbers a training changes: of all weights, or of the adapter that PEFT puts into the model.

    The model, on the meta device, is taken over. ValueError where PEFT has no place for an adapter.
    """
    if settings.method == "lora":
        from peft import get_peft_model

        try:
            model = get_peft_model(model, lora(settings, model))
        except (RuntimeError, NotImplementedError, TypeError, AttributeError) as error:
            raise ValueError(f"no adapter can be put into {type(model).__name__}: {error}") from error
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
