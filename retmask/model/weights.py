"""Where a model's weights come from: a built-in name, a Hub id, a folder or a .gguf file, made ready to load.

Only safetensors and GGUF: a pickle can run code when it is read.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from retmask.files import brief, expanded, home, meant, read_object, sha256, sha256_text, write_atomic
from retmask.heads.grid import Grid, model_grid, read_grid
from retmask.model.gguf import BUILT_IN, built_in, check_installed, converted

_SNAPSHOT = re.compile(r"models--(.+)/snapshots/([0-9a-f]{40})")  # a model's folder in the Hub's cache
_COMMIT = re.compile("[0-9a-f]{40}")
ADAPTER = "adapter_model.safetensors"  # the weights in an adapter's folder
_PATIENCE = 5  # seconds that the Hub may take to say whether it has a model


@dataclass(frozen=True)
class Source:
    """A model that can be loaded.

    Its name, a folder or Hub id, the Hub's commit (or the revision that was asked for, where that is not known), the
    folder in which its files are, or will be once they are downloaded (None where that is not known), and the SHA-256
    of the file that it was converted from, if it was.
    """

    name: str
    folder: str
    revision: str | None = None
    files: Path | None = None
    converted_from: str | None = None

    @cached_property
    def sha256(self) -> str | None:
        """What tells these weights from all others: see `fingerprint`. None for what is not on this machine yet.

        Every byte is read the first time, some seconds for 16 GB.
        """
        if self.converted_from or self.files is None:
            return self.converted_from
        files = weight_files(self.files)
        return fingerprint(files) if files and all(file.is_file() for file in files) else None


def resolve(name_or_path: str, revision: str | None = None) -> Source:
    """Where that model is, converted first if it is GGUF. ValueError, one sentence, if it is nowhere or unsafe."""
    name = name_or_path.strip()
    if name in BUILT_IN:
        return Source(name, str(built_in(name)), converted_from=BUILT_IN[name].sha256)
    path = _local(name)
    if path is None:
        return _on_hub(name, revision)
    if path.is_dir():
        return _folder(path)
    sha256 = digest(path)
    return Source(path.stem, str(converted(path.stem, path, sha256)), converted_from=sha256)


def check_there(name_or_path: str, adapter: str = "", revision: str = "") -> None:
    """ValueError, the one of loading, for a model that is neither here nor on the Hub, or an adapter of another.

    For before a run is made: nothing is converted or downloaded, and weights are read only to tell whose an adapter is.
    """
    name = name_or_path.strip()
    if name in BUILT_IN:
        check_installed(name)
        source = Source(name, "", converted_from=BUILT_IN[name].sha256)
    elif (path := _local(name)) is None:
        if name not in _downloaded():
            _check_hub(name, None)
        source = _of_hub(name, revision or None, _cached(name, revision or None))
    elif path.is_dir():
        source = _folder(path)
    else:
        source = Source(path.stem, "", converted_from=digest(path) if adapter else None)
    if adapter:
        check_adapter(adapter, source)


def _local(name: str) -> Path | None:
    """The folder or .gguf file of that name; None for one that can be a Hub id. ValueError for neither."""
    if not name:
        raise ValueError(f"there is no model without a name: give {', '.join(BUILT_IN)}, a folder or a Hub id")
    path = expanded(name)
    if path.suffix == ".gguf" and not path.is_file():
        raise ValueError(f"there is no file {path}{meant(name, _here(name))}")
    if path.suffix == ".gguf" or path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise _nowhere(name, f"there is no model at {name}")
    return None


def _nowhere(name: str, says: str) -> ValueError:
    return ValueError(f"{says}: give {', '.join(BUILT_IN)}, a folder or a Hub id{meant(name, _here(name))}")


def _here(name: str) -> list[str]:
    """The models on this machine that a mistyped name may mean: built-in, of the Hub, or where it would lie."""
    with suppress(OSError, ValueError):
        beside = [str(Path(name).with_name(path.name)) for path in expanded(name).parent.iterdir() if _is_model(path)]
        return [*BUILT_IN, *_downloaded(), *beside]
    return [*BUILT_IN, *_downloaded()]


def _is_model(path: Path) -> bool:
    return path.suffix == ".gguf" or (path / "config.json").is_file()


def _downloaded() -> Iterator[str]:
    """The Hub's models that lie in its cache, whole or in part."""
    from huggingface_hub import constants

    for folder in Path(constants.HF_HUB_CACHE).glob("models--*/snapshots"):
        yield folder.parent.name.removeprefix("models--").replace("--", "/")


def _check_hub(name: str, revision: str | None) -> None:
    """ValueError where the Hub has no such model, or cannot be reached and its cache has none; asked once.

    Its own client asks for half a minute, and again for the next file. What else it answers, reading the config says.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        if not _cached(name, revision):
            get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=_PATIENCE)
    except GatedRepoError:  # one of the next
        return
    except (RepositoryNotFoundError, HFValidationError):
        private = "or it is private (`hf auth login`)" if "/" in name else "and no file or folder of that name"
        raise _nowhere(name, f"there is no model {name} on the Hub, {private}") from None
    except HfHubHTTPError:
        return
    except Exception:  # several libraries' own, by what is wrong with the network
        where = "on this machine, and the Hub cannot be reached" + f" for revision {revision}" * bool(revision)
        raise _nowhere(name, f"there is no model {name} {where}") from None


def read_config(source: Source, trust_remote_code: bool) -> Any:
    """The model's transformers config. ValueError if it cannot be had, needs code that is not trusted, or has no heads.

    What it says of this machine's business (how to compute attention) is left out, and so is a padding token that the
    vocabulary does not have.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            source.folder, revision=source.revision, trust_remote_code=trust_remote_code
        )
        for part in (config, config.get_text_config()):
            part._attn_implementation = None
            pad, size = getattr(part, "pad_token_id", None), getattr(part, "vocab_size", None)
            if isinstance(pad, int) and isinstance(size, int) and not -size <= pad < size:
                part.pad_token_id = None
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{source.name} needs code from its own repository: allow it with --trust-remote-code, if you trust it"
            ) from None
        raise ValueError(
            f"there is no model {source.name} that can be read, here or on the Hub: {brief(error)}"
        ) from error
    try:
        grid_of(config)
    except ValueError as error:
        raise ValueError(f"{source.name} ({config.model_type}): {error}") from None
    return config


def grid_of(config: Any) -> Grid:
    """The head grid in a transformers config. ValueError where it has no heads, or not as many in every layer."""
    text = config.get_text_config()
    grid = read_grid(lambda name: getattr(text, name, None))
    if grid is None:
        raise ValueError("it has no attention heads, or not as many in every layer")
    return grid


def _on_hub(name: str, revision: str | None) -> Source:
    """A model of the Hub, at the commit that its revision is now, so that all of it comes from one."""
    _check_hub(name, revision)
    from transformers.utils.hub import cached_file

    file = None
    with suppress(Exception):  # reading the config will say what is wrong
        file = cached_file(name, "config.json", revision=revision)
    return _of_hub(name, revision, file)


def _cached(name: str, revision: str | None) -> str | None:
    """The config.json of a model of the Hub in its cache; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(name, "config.json", revision=revision)
    return file if isinstance(file, str) else None


def _of_hub(name: str, revision: str | None, file: str | None) -> Source:
    """A model of the Hub whose config.json is that file; None where it is not downloaded."""
    folder = Path(file or "").parent
    snapshot = _snapshot(folder)
    return Source(name, name, snapshot[1], folder) if file and snapshot else Source(name, name, revision)


def _snapshot(folder: Path) -> tuple[str, str] | None:
    """The Hub id and the commit of a folder in the Hub's cache; None for any other folder."""
    at = folder.absolute()
    names = ("/".join(path.parts[-3:]) for path in (at, at.resolve()))
    match = next(filter(None, map(_SNAPSHOT.fullmatch, names)), None)
    return (match[1].replace("--", "/"), match[2]) if match else None


def _folder(path: Path) -> Source:
    """A local folder in the Hub's layout. ValueError if there is nothing in it that is safe to load."""
    _check_config(path)
    files = weight_files(path)
    if not files:
        pickles = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern)]
        content = f"only {pickles[0]}, a pickle that could run code" if pickles else "no weights"
        raise ValueError(f"{path} holds {content}: convert them to safetensors first")
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} of its {len(files)} files, such as {missing[0]}: download again")
    name, revision = _snapshot(path) or (path.name or path.resolve().name, None)
    return Source(name, str(path), revision, path)


def _check_config(path: Path) -> None:
    """ValueError where a folder is no model's, or an adapter's, or both."""
    file = path / "config.json"
    adapter = (path / "adapter_config.json").is_file()
    if adapter and not file.is_file():
        raise ValueError(f"{path} is an adapter: load its base model and give this folder as the adapter")
    if not file.is_file():
        raise ValueError(f"{path} is no model folder: there is no config.json in it")
    if adapter:  # transformers would load the two as one, and save the adapter alone
        raise ValueError(
            f"{path} holds a model and an adapter: move the adapter_* files into a folder of their own, and load the "
            "model by itself or with that folder as the adapter"
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {brief(error, 100)}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} is no JSON object: download the model again")


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads a folder's weights from, in order, whether they are there or not.

    Others may lie beside them: adapters, the same weights in one more form.
    """
    named = read_object(folder / "config.json").get("transformers_weights")
    for name in (named, "model.safetensors", "model.safetensors.index.json"):
        file = folder / name if isinstance(name, str) else None
        if file is None or not file.is_file():
            continue
        if file.suffix == ".safetensors":
            return [file]
        shards = read_object(file).get("weight_map")
        if not isinstance(shards, Mapping) or not all(isinstance(shard, str) for shard in shards.values()):
            raise ValueError(f"{file} does not say which file holds which weights: download the model again")
        return [folder / shard for shard in sorted(set(shards.values()))]
    return sorted(folder.glob("*.safetensors"))


def fingerprint(files: list[Path]) -> str:
    """The SHA-256 of one file; of several, of their SHA-256s, one a line: every byte of every file counts."""
    digests = [digest(file) for file in files]
    return digests[0] if len(digests) == 1 else sha256_text("\n".join(digests))


def digest(file: Path) -> str:
    """A file's SHA-256, kept under RETMASK_HOME for as long as the file stays the same one: inode, size and times."""
    stat = file.stat()  # of what a link leads to; ctime too, since a person can put the other time back
    kept = home() / "digests" / f"{stat.st_dev}-{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}"
    with suppress(OSError, ValueError):
        if re.fullmatch("[0-9a-f]{64}", value := kept.read_text(encoding="ascii")):
            return value
    value = sha256(file)
    with suppress(OSError):  # a home that is full or not to be written costs time, not the result
        write_atomic(kept, value)
    return value


def check_adapter(adapter: str, source: Source) -> None:
    """ValueError for a folder that is no adapter, or whose settings (or our trainer's card) name other weights."""
    settings, card = (expanded(adapter) / name for name in ("adapter_config.json", "retmask.json"))
    if not settings.is_file() or not settings.with_name(ADAPTER).is_file():
        raise ValueError(f"{adapter} is no adapter: adapter_config.json and {ADAPTER} are needed")
    file, keys = (card, ("base", "base_sha256")) if card.is_file() else (settings, ("base_model_name_or_path", ""))
    record = read_object(file)
    if file == card and not set(keys) <= set(record):
        raise ValueError(f"{file} does not say what the adapter was trained on: train again, or delete it")
    values = (record.get(key) for key in (*keys, "revision"))
    base, sha256, commit = (value if isinstance(value, str) else "" for value in values)
    if reason := _misfit(base, commit, sha256, source):
        raise ValueError(
            f"the adapter {adapter} was trained on {base} {reason}: load it with the model that it was trained on, or "
            f"change {file.name} if you know that they are the same"
        )


def _misfit(base: str, commit: str, sha256: str, source: Source) -> str:
    """Why an adapter that was trained on that base does not belong to these weights; empty if it may.

    By the SHA-256 where both are known, else by the names and commits of the Hub; what is not known is empty.
    """
    base, commit = _snapshot(Path(base)) or (base, commit)
    if sha256 and source.sha256:
        if sha256 == source.sha256:
            return ""
        return f"with SHA-256 {sha256[:12]}…, and {source.name} has {source.sha256[:12]}…"
    if not _hub_id(source.name):
        return ""
    if _hub_id(base) and base.lower() != source.name.lower():
        return f"and this is {source.name}"
    commits = [name for name in (commit, source.revision) if name and _COMMIT.fullmatch(name)]
    if len(set(commits)) == 2:
        return f"at commit {commits[0][:12]}, and this is {commits[1][:12]} (choose it with --revision)"
    return ""


def _hub_id(name: str) -> bool:
    """Whether a name is one of the Hub's, with its owner."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not name.startswith(".") and not Path(name).exists()


def folder_grid(model: str) -> Grid | None:
    """The grid of a built-in model or of the one in a folder, as `model_grid`; None where that is not known for sure.

    For checks before a model is loaded: a name that only holds a published one's may be another model's.
    """
    if model not in BUILT_IN and not (expanded(model) / "config.json").is_file():
        return None
    try:
        return model_grid(model)
    except ValueError:
        return None
