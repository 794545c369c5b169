"""Models from a name, a folder or a file: checked, loaded and made ready to run, read and mask."""

from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from retmask.bridge import wrap
from retmask.files import expanded, sha256
from retmask.memory import check_fit, choose_device, choose_dtype, estimate_for
from retmask.model import LensModel
from retmask.weights import Source, read_config, resolve


def load(
    name_or_path: str = "smollm2-135m",
    *,
    revision: str | None = None,
    adapter: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    context_tokens: int = 2048,
    trust_remote_code: bool = False,
) -> LensModel:
    """A model ready to run, read and mask.

    `name_or_path` is a built-in name, a Hub id (with `revision`), a folder with safetensors, or a .gguf file; `adapter`
    a PEFT folder that is merged into it. Device and dtype are chosen where not given: CUDA and bfloat16, else CPU and
    float32. ValueError, one sentence, where the model is not there, not readable without running its code (unless
    `trust_remote_code`), not supported by TransformerLens, or does not fit into memory at `context_tokens`.
    """
    disable_progress_bar()
    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    source = resolve(name_or_path, revision)
    config = read_config(source, trust_remote_code)
    check_fit(estimate_for(source.name, config, context_tokens, kind, place, trust_remote_code))
    hf = _load_weights(source, config, place, kind, trust_remote_code)
    if adapter:
        hf = _merge(hf, adapter)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder, revision=source.revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{source.name} has no tokenizer that can be read: {shorten(str(error), 150)}") from error
    return wrap(hf, tokenizer, source.name + (f" + {adapter}" if adapter else ""), source)


def facts(model: LensModel, adapter: str = "") -> dict[str, Any]:
    """What a result must be recorded with: which weights it was measured on, and in what type."""
    return {
        "model": model.name,
        "revision": model.revision,
        "sha256": model.sha256,
        "adapter_sha256": sha256(expanded(adapter) / "adapter_model.safetensors") if adapter else None,
        "dtype": model.dtype_name,
    }


def _load_weights(source: Source, config: Any, device: torch.device, dtype: torch.dtype, trusted: bool) -> Any:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            config=config,
            revision=source.revision,
            dtype=dtype,
            device_map={"": str(device)},
            use_safetensors=True,
            trust_remote_code=trusted,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ValueError(f"the weights of {source.name} cannot be loaded: {shorten(str(error), 200)}") from error
    model, found = loaded
    missing = sorted(found["missing_keys"])
    if missing:  # transformers would go on with random numbers in their place
        raise ValueError(
            f"the weights of {source.name} are incomplete: {len(missing)} are missing, such as {missing[0]}"
        )
    return model


def _merge(hf: Any, adapter: str) -> Any:
    """The model with a PEFT adapter folded into its weights. ValueError if the folder is none, or does not fit."""
    from peft import PeftModel

    folder = expanded(adapter)
    if not (folder / "adapter_config.json").is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise ValueError(f"{adapter} is no adapter: adapter_config.json and adapter_model.safetensors are needed")
    try:
        return PeftModel.from_pretrained(hf, str(folder), use_safetensors=True).merge_and_unload()
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"the adapter {adapter} does not fit this model: {shorten(str(error), 200)}") from error
