"""Models from a name, a folder or a file: checked, loaded and made ready to run, read and mask."""

import copy
import gc
import warnings
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from retmask.files import brief, expanded
from retmask.model.bridge import wrap
from retmask.model.fit import attention_kinds, choose_device, choose_dtype, empty_model, estimate_for, no_model
from retmask.model.lens import LensModel
from retmask.model.parity import differ, some_ids
from retmask.model.weights import ADAPTER, Source, check_adapter, digest, read_config, resolve
from retmask.runs.faults import is_out_of_memory

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
    estimate_for(source.name, config, context_tokens, kind, place, trust_remote_code).check()
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
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        return load(name_or_path, revision=revision, adapter=folder, **how)
    if not (path / "config.json").is_file():
        raise ValueError(f"{folder} is no adapter and no model: give the folder that `retmask train` has written")
    return load(str(path), **how)


class Plan(NamedTuple):
    """A model to train as it will be, known before anything of it is loaded: from where, of what layers, how.

    `empty` is the model on the meta device; `attention` how it computes attention; `trusted` whether its own code runs.
    """

    source: Source
    config: Any
    empty: Any
    attention: str
    dtype: torch.dtype
    trusted: bool

    @property
    def vocabulary(self) -> int:
        """How many tokens the model knows."""
        return int(self.empty.get_input_embeddings().weight.shape[0])


def plan(
    name_or_path: str,
    *,
    revision: str | None = None,
    device: torch.device,
    dtype: torch.dtype,
    attention: str | None = None,
    trust_remote_code: bool = False,
) -> Plan:
    """What `load_plain` would load. Attention as asked for, else the fastest that the model's class has there.

    ValueError, one sentence, where there is no such model, or its class cannot compute attention as asked for.
    """
    source = resolve(name_or_path, revision)
    config = read_config(source, trust_remote_code)
    _check_quantised(source.name, config)
    for kind in (attention,) if attention else attention_kinds(device, dtype):
        with suppress(ValueError):
            empty = empty_model(source.name, config, trust_remote_code, kind)
            return Plan(source, config, empty, kind, dtype, trust_remote_code)
    empty_model(source.name, config, trust_remote_code)  # what is wrong may be another thing
    raise ValueError(f"{source.name} cannot compute attention by {attention} here: leave that setting out")


def _check_quantised(name: str, config: Any) -> None:
    """ValueError where weights are quantised in a way that what is installed here cannot read."""
    settings = getattr(config, "quantization_config", None)
    if not settings:
        return
    from transformers.quantizers.auto import AutoHfQuantizer

    try:
        AutoHfQuantizer.from_config(copy.deepcopy(settings), pre_quantized=True).validate_environment()
    except Exception as error:
        raise ValueError(no_model(name, config, error)) from error


def load_plain(planned: Plan, device: str | None) -> tuple[Any, Any]:
    """A plain transformers model to train, and its tokenizer; without `device` left to the trainer.

    ValueError as `load`.
    """
    disable_progress_bar()
    source, trusted = planned.source, planned.trusted
    model = _load_weights(source, planned.config, device, planned.dtype, trusted, planned.attention)
    return model, load_tokenizer(source, trusted)


def read_back(folder: Path, dtype: torch.dtype, trusted: bool) -> Any:
    """The plain transformers model in a folder that has been written, on the CPU. ValueError as `load`."""
    disable_progress_bar()
    source = resolve(str(folder))
    return _load_weights(source, read_config(source, trusted), "cpu", dtype, trusted).eval()


def load_tokenizer(source: Source, trusted: bool) -> Any:
    """The tokenizer of a source. ValueError where it cannot be read."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder, revision=source.revision, trust_remote_code=trusted)
        tokenizer("a")  # some damage shows here only
        return tokenizer
    except Exception as error:
        raise ValueError(f"{source.name} has no tokenizer that can be read: {brief(error, 150)}") from error


def facts(model: LensModel, adapter: str = "") -> dict[str, Any]:
    """What a result must be recorded with: which weights it was measured on, and in what type."""
    return {
        "model": model.name,
        "revision": model.revision,
        "sha256": model.sha256,
        "adapter_sha256": digest(expanded(adapter) / ADAPTER) if adapter else None,
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
    except Exception as error:
        if getattr(config, "quantization_config", None) or is_out_of_memory(error):
            raise ValueError(no_model(source.name, config, error)) from error
        raise ValueError(f"the weights of {source.name} cannot be loaded: {brief(error)}") from error
    model, info = loaded
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"{source.name} holds a model and an adapter: download the two into folders of their own, and load the "
            "model by itself or with the adapter's folder as the adapter"
        )
    if missing := sorted(info["missing_keys"]):  # transformers would go on with random numbers in their place
        raise ValueError(
            f"the weights of {source.name} are incomplete: {len(missing)} are missing, such as {missing[0]}"
        )
    return model


def _merge(hf: Any, adapter: str, source: Source) -> Any:
    """The model with a PEFT adapter folded into its weights. ValueError if the folder is none, or does not fit."""
    folder = expanded(adapter)
    check_adapter(adapter, source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT only warns of what does not fit: it is refused below
            merged, reason = _merged(hf, folder)
    except Exception as error:
        why = f"PEFT finds no {error}" if isinstance(error, KeyError) else brief(error)
        raise ValueError(f"the adapter {adapter} cannot be merged into {source.name}: {why}") from error
    if reason:
        raise ValueError(f"the adapter {adapter} {reason.format(base=source.name)}")
    return merged


class _Merged(NamedTuple):
    """A model with an adapter in its weights, or why there is none."""

    model: Any
    reason: str = ""


@torch.no_grad()
def _merged(hf: Any, folder: Path) -> _Merged:
    """The model with the adapter of a folder in its weights, which answers as PEFT runs the two side by side."""
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict

    settings: Any = PeftConfig.from_pretrained(str(folder))
    if settings.is_prompt_learning or settings.is_adaption_prompt:
        kind = getattr(settings.peft_type, "value", settings.peft_type)
        return _Merged(None, f"is of the kind {kind}, which adds tokens and has no weights to merge: choose a LoRA")
    model: Any = PeftModel.from_pretrained(
        hf, str(folder), use_safetensors=True, ignore_mismatched_sizes=True, torch_device=str(hf.device)
    )
    wanted = {name: tuple(x.shape) for name, x in get_peft_model_state_dict(model, save_embedding_layers=False).items()}
    there = {name: tuple(x.shape) for name, x in model.state_dict().items()} | wanted
    if misfit := _unfit(_shapes(folder / ADAPTER), wanted, there):
        return _Merged(None, f"is damaged or made for another model than {{base}}: {misfit}")
    extra = getattr(settings, "trainable_token_indices", None) or []
    ids = some_ids(hf, [*chain(*extra.values())] if isinstance(extra, dict) else extra)
    beside = model.eval()(input_ids=ids, use_cache=False).logits
    _untie(hf)
    merged = model.merge_and_unload(safe_merge=True)
    head, embedding = merged.get_output_embeddings(), merged.get_input_embeddings()
    shares = head is not None and head.weight.data_ptr() == embedding.weight.data_ptr()
    for part in (merged.config, merged.config.get_text_config()):
        part.tie_word_embeddings = part.tie_word_embeddings and shares
    if gap := differ(merged(input_ids=ids, use_cache=False).logits, beside, hf.dtype):
        return _Merged(None, f"answers otherwise once it is merged into {{base}} (logits differ by {gap}): not done")
    return _Merged(merged)


def _untie(hf: Any) -> None:
    """Give the output its own copy of the embedding's weights where an adapter changes one of the two."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    ends = [hf.get_output_embeddings(), hf.get_input_embeddings()]
    if any(isinstance(end, BaseTunerLayer) for end in ends):
        inner: list[Any] = [end.get_base_layer() if isinstance(end, BaseTunerLayer) else end for end in ends]
        head, embedding = inner
        if head is not None and head.weight is embedding.weight:
            head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors in a safetensors file."""
    with safe_open(file, "pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def _unfit(held: Shapes, wanted: Shapes, there: Shapes) -> str:
    """Why an adapter's tensors do not fit: those it holds, those the model wants, all the model has; empty if they do.

    An adapter may also hold the embeddings themselves, which are in the model and not wanted.
    """
    missing, foreign = sorted(wanted.keys() - held.keys()), sorted(held.keys() - there.keys())
    if missing:
        return f"{len(missing)} of its {len(wanted)} tensors are missing, such as {missing[0]}"
    if foreign:
        return f"it holds {len(foreign)} tensors that the model has no place for, such as {foreign[0]}"
    for name in sorted(held):
        if held[name] != there[name]:
            return f"{name} is {_by(held[name])} and would have to be {_by(there[name])}"
    return ""


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
