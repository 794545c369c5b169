"""Whether a model fits, known from its config before anything of it is loaded; where it goes and in what type."""

from textwrap import shorten
from typing import Any, NamedTuple

import psutil
import torch
from transformers import AutoModelForCausalLM

from retmask.cache import cache_bytes
from retmask.weights import read_config, resolve

_WORKING_ROOM = 1.2  # what weights and cache need is multiplied by this for activations and the allocator


class Estimate(NamedTuple):
    """What a model needs at a context length, in bytes, and what is free: known before anything is loaded."""

    name: str
    context_tokens: int
    weights_bytes: int
    cache_bytes: int
    free_bytes: int
    dtype: str
    place: str

    @property
    def needed_bytes(self) -> int:
        """Weights, two caches (a prompt and what it shares with others), and a fifth more to work with."""
        return int(_WORKING_ROOM * (self.weights_bytes + 2 * self.cache_bytes))

    @property
    def fits(self) -> bool:
        """Whether what is needed is free."""
        return self.needed_bytes <= self.free_bytes

    @property
    def sentence(self) -> str:
        """What it needs, what there is and, where that is too little, what to choose instead."""
        says = (
            f"{self.name} at {self.context_tokens:,} tokens needs about {_gib(self.needed_bytes)} "
            f"({_gib(self.weights_bytes)} of {self.dtype} weights, twice {_gib(self.cache_bytes)} of cache) "
            f"and {_gib(self.free_bytes)} is free on {self.place}"
        )
        if self.fits:
            return says + "."
        left = self.free_bytes / _WORKING_ROOM - self.weights_bytes
        tokens = int(left * self.context_tokens / (2 * self.cache_bytes)) // 128 * 128
        if tokens >= 128:
            return f"{says}: choose at most {tokens:,} tokens."
        return f"{says}: choose {'bfloat16, ' if self.dtype == 'float32' else ''}a smaller model or another device."


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
    with torch.device("meta"):
        try:
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        except (ValueError, KeyError, AttributeError, RuntimeError) as error:
            if "trust_remote_code" in str(error):
                raise ValueError(
                    f"{name} needs code from its own repository: allow it with --trust-remote-code, if you trust it"
                ) from None
            raise ValueError(f"{name} is no causal language model: {shorten(str(error), 150)}") from error
    weights = sum(p.numel() for p in empty.parameters()) * dtype.itemsize
    cache = cache_bytes(config, context_tokens, dtype)
    kind = str(dtype).removeprefix("torch.")
    return Estimate(name, context_tokens, weights, cache, free_bytes(device), kind, f"this machine's {device.type}")


def check_fit(wanted: Estimate) -> None:
    """ValueError with what it needs, what there is and what to choose instead, if it does not fit."""
    if not wanted.fits:
        raise ValueError(wanted.sentence)


def free_bytes(device: torch.device) -> int:
    """The memory that is free on a device now."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return int(psutil.virtual_memory().available)


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
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in known:
        raise ValueError(f"dtype {name!r} is unknown: choose {', '.join(known)}")
    return known[name]
