"""Models from a name, a folder or a file: checked, loaded and made ready to run, read and mask."""

import gc
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.import_utils import is_flash_attn_2_available
from transformers.utils.logging import disable_progress_bar

from retmask.bridge import wrap
from retmask.files import expanded, sha256
from retmask.memory import check_fit, choose_device, choose_dtype, estimate_for
from retmask.model import LensModel
from retmask.weights import Source, read_config, resolve

ADAPTER = "adapter_model.safetensors"
Shapes = Mapping[str, tuple[int, ...]]


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
    `trust_remote_code`), not supported by TransformerLens, or does not fit into memory at `context_tokens`, and where
    the adapter is damaged, was trained on other weights, or has not the very tensors that its settings make.
    """
    disable_progress_bar()
    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    source = resolve(name_or_path, revision)
    config = read_config(source, trust_remote_code)
    check_fit(estimate_for(source.name, config, context_tokens, kind, place, trust_remote_code))
    hf = _load_weights(source, config, str(place), kind, trust_remote_code)
    if adapter:
        hf = _merge(hf, adapter, source)
    tokenizer = load_tokenizer(source, trust_remote_code)
    return wrap(hf, tokenizer, source.name + (f" + {adapter}" if adapter else ""), source)


def load_tuned(name_or_path: str, folder: str, *, revision: str | None = None, **how: Any) -> LensModel:
    """The fine-tuned model in a folder: an adapter merged into the model of that name, or the model that lies there.

    `how` as `load` takes it. ValueError, one sentence, where the folder is neither, or as `load`.
    """
    path = expanded(folder)
    if (path / "adapter_config.json").is_file():
        return load(name_or_path, revision=revision, adapter=folder, **how)
    if not (path / "config.json").is_file():
        raise ValueError(f"{folder} is no adapter and no model: give the folder that `retmask train` has written")
    return load(str(path), **how)


def load_plain(
    name_or_path: str,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
    attention: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any, Source]:
    """A plain transformers model to train, its tokenizer and where it comes from; without `device` left to the trainer.

    `attention`: FlashAttention-2 where not given and installed. ValueError as `load`.
    """
    disable_progress_bar()
    source = resolve(name_or_path, revision)
    config = read_config(source, trust_remote_code)
    on_gpu = device is None and dtype != torch.float32
    chosen = attention or ("flash_attention_2" if on_gpu and is_flash_attn_2_available() else "sdpa")
    model = _load_weights(source, config, device, dtype, trust_remote_code, chosen)
    return model, load_tokenizer(source, trust_remote_code), source


def load_tokenizer(source: Source, trusted: bool) -> Any:
    """The tokenizer of a source. ValueError where it cannot be read."""
    try:
        return AutoTokenizer.from_pretrained(source.folder, revision=source.revision, trust_remote_code=trusted)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{source.name} has no tokenizer that can be read: {shorten(str(error), 150)}") from error


def facts(model: LensModel, adapter: str = "") -> dict[str, Any]:
    """What a result must be recorded with: which weights it was measured on, and in what type."""
    return {
        "model": model.name,
        "revision": model.revision,
        "sha256": model.sha256,
        "adapter_sha256": sha256(expanded(adapter) / ADAPTER) if adapter else None,
        "dtype": model.dtype_name,
    }


def release() -> None:
    """Give back the memory of models that nobody holds any more, on a GPU to other processes too."""
    gc.collect()  # a model and its hooks hold each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _load_weights(
    source: Source, config: Any, device: str | None, dtype: torch.dtype, trusted: bool, attention: str | None = None
) -> Any:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            config=config,
            revision=source.revision,
            dtype=dtype,
            device_map={"": device} if device else None,
            **({"attn_implementation": attention} if attention else {}),
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


def _merge(hf: Any, adapter: str, source: Source) -> Any:
    """The model with a PEFT adapter folded into its weights. ValueError if the folder is none, or does not fit."""
    from peft import PeftModel, get_peft_model_state_dict

    folder = expanded(adapter)
    if not (folder / "adapter_config.json").is_file() or not (folder / ADAPTER).is_file():
        raise ValueError(f"{adapter} is no adapter: adapter_config.json and {ADAPTER} are needed")
    _check_base(folder, source)
    try:
        held = _shapes(folder / ADAPTER)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT only warns of what does not fit: it is refused below
            model: Any = PeftModel.from_pretrained(
                hf, str(folder), use_safetensors=True, ignore_mismatched_sizes=True, torch_device=str(hf.device)
            )
            wanted = {
                name: tuple(x.shape)
                for name, x in get_peft_model_state_dict(model, save_embedding_layers=False).items()
            }
            known = {name: tuple(x.shape) for name, x in model.state_dict().items()} | wanted
            reason = _unfit(held, wanted, known)
            merged = None if reason else model.merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
        reason = f"PEFT finds no {error}" if isinstance(error, KeyError) else shorten(str(error), 200)
        raise ValueError(f"the adapter {adapter} cannot be merged into {source.name}: {reason}") from error
    if reason:
        raise ValueError(f"the adapter {adapter} is damaged or made for another model than {source.name}: {reason}")
    return merged


def _check_base(folder: Path, source: Source) -> None:
    """ValueError where the card that our trainer left beside an adapter names other weights than these as its base."""
    card = folder / "retmask.json"
    if not card.is_file():
        return
    try:
        record = json.loads(card.read_text(encoding="utf-8"))
        base, digest = record["base"], record["base_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{card} does not say what the adapter was trained on: train again, or delete it") from None
    if digest and source.sha256 and digest != source.sha256:
        raise ValueError(
            f"the adapter {folder} was trained on {base} with SHA-256 {str(digest)[:12]}…, and {source.name} has "
            f"{source.sha256[:12]}…: load it with the model that it was trained on"
        )


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors in a safetensors file."""
    with safe_open(file, "pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def _unfit(held: Shapes, wanted: Shapes, known: Shapes) -> str:
    """Why an adapter's tensors do not fit: those it holds, those the model wants, all the model has; empty if they do.

    An adapter may also hold the embeddings themselves, which are in the model and not wanted.
    """
    missing, foreign = sorted(wanted.keys() - held.keys()), sorted(held.keys() - known.keys())
    if missing:
        return f"{len(missing)} of its {len(wanted)} tensors are missing, such as {missing[0]}"
    if foreign:
        return f"it holds {len(foreign)} tensors that the model has no place for, such as {foreign[0]}"
    other = sorted(name for name in held if held[name] != known[name])
    return f"{other[0]} is {_by(held[other[0]])} and would have to be {_by(known[other[0]])}" if other else ""


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
