"""Whether a model fits, known from its config before anything of it is loaded; where it goes and in what type."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from transformers import AutoModelForCausalLM
from transformers.utils.import_utils import is_flash_attn_2_available

from retmask.files import brief, unknown
from retmask.model.weights import grid_of, read_config, resolve
from retmask.runs.faults import is_out_of_memory

WORKING_ROOM = 1.2  # what weights and cache need is multiplied by this for activations and the allocator
LEAST_CHUNK = 64  # tokens that eager attention, which stores chunk x context for every head, reads at once at least
_ACTIVATIONS = 42  # floats a token, layer and hidden unit that a training pass keeps: measured, and some room
_UNLIMITED = 2**60  # what version 1 of cgroups says where there is no limit is more than this


class Estimate(NamedTuple):
    """What a model needs at a context length, in bytes, and what is free: known before anything is loaded.

    `longest` is the context that it was made for, in tokens: no more is ever advised.
    """

    name: str
    context_tokens: int
    weights_bytes: int
    cache_bytes: int
    free_bytes: int
    dtype: str
    place: str
    scores_bytes: int = 0
    longest: int = 2**31

    @property
    def needed_bytes(self) -> int:
        """Weights, two caches (a prompt and what it shares with others), attention scores, and a fifth more."""
        return int(WORKING_ROOM * (self.weights_bytes + 2 * self.cache_bytes + self.scores_bytes))

    @property
    def fits(self) -> bool:
        """Whether what is needed is free."""
        return self.needed_bytes <= self.free_bytes

    @property
    def sentence(self) -> str:
        """What it needs, what there is and, where that is too little, what to choose instead."""
        scores = f", {_gib(self.scores_bytes)} of attention scores" if self.scores_bytes else ""
        says = (
            f"{self.name} at {self.context_tokens:,} tokens needs about {_gib(self.needed_bytes)} "
            f"({_gib(self.weights_bytes)} of {self.dtype} weights, twice {_gib(self.cache_bytes)} of cache{scores}) "
            f"and {_gib(self.free_bytes)} is free on {self.place}"
        )
        if self.fits:
            return says + "."
        left = self.free_bytes / WORKING_ROOM - self.weights_bytes
        tokens = int(left * self.context_tokens / (2 * self.cache_bytes + self.scores_bytes)) // 128 * 128
        if tokens >= 128:
            return f"{says}: choose at most {min(tokens, self.longest):,} tokens."
        return f"{says}: choose {'bfloat16, ' if self.dtype == 'float32' else ''}a smaller model or another device."

    def check(self) -> None:
        """ValueError with what it needs, what there is and what to choose instead, if it does not fit."""
        if not self.fits:
            raise ValueError(self.sentence)


def estimate(
    name: str, context_tokens: int, dtype: str | None = None, device: str | None = None, revision: str | None = None
) -> Estimate:
    """What a model would need, from its config alone. ValueError if there is no such model."""
    place = choose_device(device)
    source = resolve(name, revision)
    return estimate_for(source.name, read_config(source, False), context_tokens, choose_dtype(dtype, place), place)


def estimate_for(
    name: str,
    config: Any,
    context_tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool = False,
) -> Estimate:
    """The estimate for a transformers config. ValueError if the model is of no causal kind, or needs untrusted code."""
    empty = empty_model(name, config, trust_remote_code)
    weights = count_weights(empty) * dtype.itemsize
    cache = cache_bytes(config, context_tokens, dtype)
    eager = empty.config._attn_implementation == "eager"
    return Estimate(
        name=name,
        context_tokens=context_tokens,
        weights_bytes=weights,
        cache_bytes=cache,
        free_bytes=free_bytes(device),
        dtype=str(dtype).removeprefix("torch."),
        place=f"this machine's {device.type}",
        scores_bytes=scores_bytes(config, min(context_tokens, LEAST_CHUNK), context_tokens, dtype) if eager else 0,
        longest=longest_context(config),
    )


def count_weights(model: Any) -> int:
    """How many numbers a model's weights are; it may be on the meta device."""
    return sum(parameter.numel() for parameter in model.parameters())


def empty_model(name: str, config: Any, trust_remote_code: bool = False, attention: str | None = None) -> Any:
    """The model of a transformers config on the meta device: its layers, without weights.

    ValueError if it is of no causal kind, needs untrusted code, or cannot compute attention that way.
    """
    how = {"attn_implementation": attention} if attention else {}
    with torch.device("meta"):
        try:
            return AutoModelForCausalLM.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code, **how)
        except Exception as error:
            if "trust_remote_code" in str(error):
                raise ValueError(
                    f"{name} needs code from its own repository: allow it with --trust-remote-code, if you trust it"
                ) from None
            raise ValueError(no_model(name, config, error)) from error


def no_model(name: str, config: Any, error: Exception) -> str:
    """Why a model cannot be built or loaded, in a sentence."""
    quantised: Any = getattr(config, "quantization_config", None)
    if is_out_of_memory(error):
        return f"{name} does not fit into the memory that is free: choose a smaller model or another device"
    if quantised:
        kind = quantised.get("quant_method") if isinstance(quantised, Mapping) else quantised.quant_method
        return f"{name} is quantised ({kind}) and cannot be read here: choose its unquantised weights or a .gguf of it"
    return f"{name} is no causal language model that can be read: {brief(error, 150)}"


def scores_bytes(config: Any, queries: int, keys: int, dtype: torch.dtype) -> int:
    """What one layer holds at most while eager attention reads `queries` tokens of one row that see `keys` tokens.

    Scores of every head in the weights' type before and after the softmax, and the softmax in float32.
    """
    return grid_of(config).n_heads * queries * keys * (2 * dtype.itemsize + 4)


def kept_bytes(
    config: Any, tokens: int, length: int, *, attention: str, checkpointing: bool, dtype: torch.dtype
) -> int:
    """What a training pass over so many tokens, in rows of that length, keeps for the way back.

    With `checkpointing` whole layers are kept for two at a time, and of the others what goes into them.
    """
    n_layers, n_heads, _ = grid_of(config)
    whole = 2 if checkpointing else n_layers
    kept = tokens * config.get_text_config().hidden_size * (_ACTIVATIONS * whole + n_layers)
    if attention == "eager":  # scores, their softmax and what dropout leaves of it
        kept += 3 * whole * tokens * length * n_heads
    return int(kept * dtype.itemsize)


def attention_kinds(device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """How attention can be computed there, the fastest first; a model's class need not know all of them.

    FlashAttention-2 where it is installed, the weights are of half precision and the GPU can (Ampere or later); then
    SDPA; and eager attention for models that have no other, such as those with soft-capped scores.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    able = device.type == "cuda" and half and torch.cuda.get_device_capability(device) >= (8, 0)
    return (*(["flash_attention_2"] if able and is_flash_attn_2_available() else []), "sdpa", "eager")


def free_bytes(device: torch.device) -> int:
    """The memory that is free on a device now; on a CPU no more than this process's container or job may still take."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return max(0, min([int(psutil.virtual_memory().available), *cgroup_rooms()]))


def total_bytes(device: torch.device) -> int:
    """The memory that a process here may have of a device when nobody else has any: no more than its limits."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in cgroup_limits())])


def cgroup_rooms(of: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """The bytes that are left of every limit on this process's control group and those above it (containers, Slurm)."""
    yield from (limit - used for limit, used in cgroup_limits(of, root))


def cgroup_limits(
    of: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> Iterator[tuple[int, int]]:
    """The same limits, and what is used of each, in bytes.

    Versions 1 and 2. Used is what the kernel counts without the file cache that it would give back first. Nothing where
    there are no limits, or no control groups.
    """
    lines: list[str] = []
    with suppress(OSError):
        lines = of.read_text(encoding="utf-8").splitlines()
    for kinds, path in (line.split(":", 2)[1:] for line in lines if line.count(":") >= 2):
        if not kinds or "memory" in kinds.split(","):
            version, top = (_V1, root / "memory") if kinds else (_V2, root)
            parts = [part for part in path.split("/") if part not in ("", "..")]
            for above in range(len(parts) + 1):  # in a container only some of them can be seen
                yield from _limits(top.joinpath(*parts[:above]), version)


class _Version(NamedTuple):
    """The files and the field in which a version of cgroups says limits, usage and reclaimable cache, in bytes."""

    limits: tuple[str, ...]
    used: str
    cache: str


_V1 = _Version(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Version(("memory.max", "memory.high"), "memory.current", "inactive_file")


def _limits(folder: Path, version: _Version) -> Iterator[tuple[int, int]]:
    with suppress(OSError, ValueError):
        used = int((folder / version.used).read_text(encoding="utf-8"))
        fields = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
        used -= min(used, int(fields.get(version.cache, 0)))
        for name in version.limits:
            with suppress(OSError, ValueError):  # a limit that is not set is no number, or not there
                limit = int((folder / name).read_text(encoding="utf-8"))
                if limit < _UNLIMITED:
                    yield limit, used


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.0f} MiB"


def choose_device(name: str | None) -> torch.device:
    """That device, by default CUDA where there is one. ValueError for one that is unknown or not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is unknown: choose cpu, cuda or cuda:0") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device {name!r} cannot run a model here: choose cpu, cuda or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no {name} here: leave the device out, or choose cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("there is no mps here: leave the device out, or choose cpu")
    return device


def choose_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """That type of weights, by default bfloat16 on CUDA and float32 elsewhere. ValueError for an unknown one."""
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in types:
        raise unknown("dtype", name, types)
    return types[name]


def longest_context(config: Any) -> int:
    """The longest context, in tokens, that a transformers config says its model is made for.

    For YaRN (arXiv 2309.00071) its factor times the original length, where that is more: cards that say how to switch
    it on leave `max_position_embeddings` as it was.
    """
    text = config.get_text_config()
    own = int(getattr(text, "max_position_embeddings", None) or 2**31)
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [rope, *(each for each in rope.values() if isinstance(each, dict))]  # one for all layers, or by layer type
    yarn = [each for each in kinds if each.get("rope_type") == "yarn"]
    return max([own, *(int(each["factor"] * (each.get("original_max_position_embeddings") or own)) for each in yarn)])


def cache_bytes(config: Any, tokens: int, dtype: torch.dtype) -> int:
    """The size of one row's keys and values at that length, all positions kept in all layers."""
    text = config.get_text_config()
    n_layers, n_heads, kv_heads = grid_of(config)
    d_head = getattr(text, "head_dim", None) or text.hidden_size // n_heads
    return int(2 * n_layers * (kv_heads or n_heads) * d_head * tokens * dtype.itemsize)
