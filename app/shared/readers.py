"""Files as values for all sessions, read anew only when they change."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import streamlit as st

from app.shared.maps import HeadMap, locate
from retmask.figures.rows import Row, set_rows
from retmask.files import decode_text, home, inside, stem, write_atomic
from retmask.heads.scores import HeadScores
from retmask.heads.sets import ScoreSet, read_scores, read_set
from retmask.heads.trials import Trial, read_trials
from retmask.runs.run import Run
from retmask.train.preflight import Preflight
from retmask.train.settings import TrainSettings

T = TypeVar("T")
Stamp = tuple[tuple[int, int], ...]
MOST_UPLOAD = 64  # megabytes
SCORE_FILES = ["json", "yaml", "yml", "tsv", "txt"]  # endings


def open_map(name: str, kv_heads: int | None = None) -> HeadMap:
    """A map by shipped name, run or path; `kv_heads` for files that do not say how heads are grouped.

    ValueError, one sentence, for what is no score file.
    """
    try:
        path = locate(name)
        folder = path if path.is_dir() else path.parent
        ours = path.is_dir() or path.name == "scores.json"
        run = Run(folder) if ours and (folder / "run.json").is_file() else None
        file = path / "scores.json" if path.is_dir() else path
        scores = None
        if run is None or file.is_file():
            scores = _load_scores(str(path), _stamp(file, folder / "run.json"), kv_heads)
        trials = cached(_trials, folder, "trials.jsonl") if run else ()
        return HeadMap(name, path, scores, trials, run.record if run else {}, run)
    except OSError as error:
        raise ValueError(f"{name[:80]} cannot be read: {error.strerror}") from None


def score_set(name: str) -> tuple[ScoreSet, Stamp]:
    """A score set by shipped name, run or path, and the stamp (`set_stamp`) of its files when it was read.

    It is read anew only when its files change. ValueError, one sentence, also for an address of the network: the
    page's own address may come from anybody.
    """
    if "://" in name:
        raise ValueError(f'{name[:80]} is not fetched unasked: open it with "Add a set", which keeps a copy')
    stamp = set_stamp(name)
    return _read_set(name, stamp), stamp


def set_row(name: str, stamp: Stamp, score_set: ScoreSet, threshold: float) -> Row:
    """The figures of a score set and their intervals, made anew only when its stamp or the threshold changes.

    No file is read: the set may have gone since it was.
    """
    return dict(_set_row(name, stamp, threshold, score_set))


def set_stamp(name: str) -> Stamp:
    """What changes when a file of a score set is written. ValueError, one sentence, for what is no path."""
    try:
        path = locate(name)
        folder = path if path.is_dir() else path.parent
        beside = ("scores.json", "full_attention_heads.tsv", "run.json", "trials.jsonl")
        return _stamp(path, *(folder / file for file in beside))
    except OSError as error:
        raise ValueError(f"{name[:80]} cannot be read: {error.strerror}") from None


@st.cache_data(show_spinner=False, ttl=20)
def memory(model: str, context_tokens: int) -> tuple[bool, str]:
    """Whether a model and a context fit into memory, and the sentence that says so. ValueError for no such model.

    The first call takes seconds: it imports torch.
    """
    from retmask.model.fit import estimate

    fit = estimate(model, context_tokens)
    return fit.fits, fit.sentence


@st.cache_data(show_spinner=False, ttl=60, max_entries=20)
def preflight(settings: TrainSettings, stamp: Stamp) -> Preflight:
    """What a training would take, at most a minute old; `stamp` is that of the pairs' file (`file_stamp`).

    ValueError where it cannot be told. The first call takes seconds: it imports torch.
    """
    from retmask.train.job import checked

    return checked(settings)


def file_stamp(file: Path) -> Stamp:
    """What changes when a file is written."""
    return _stamp(file)


@st.cache_resource(show_spinner=False, max_entries=12)
def _load_scores(path: str, stamp: Stamp, kv_heads: int | None) -> HeadScores:
    scores = read_scores(path)
    if not kv_heads or scores.n_kv_heads:
        return scores
    if scores.grid.n_heads % kv_heads:
        raise ValueError(f"{scores.grid.n_heads} heads cannot share {kv_heads} key/value heads evenly")
    return replace(scores, n_kv_heads=kv_heads)


@st.cache_resource(show_spinner=False, max_entries=40)
def _read_set(name: str, stamp: Stamp) -> ScoreSet:
    return read_set(name)


@st.cache_resource(show_spinner=False, max_entries=200)
def _set_row(name: str, stamp: Stamp, threshold: float, _found: ScoreSet) -> Row:
    return set_rows([_found], threshold)[0]


def _stamp(*files: Path) -> Stamp:
    """What changes when a file is written: it keeps the caches true."""
    stats = [file.stat() if file.is_file() else None for file in files]
    return tuple((stat.st_mtime_ns, stat.st_size) if stat else (0, 0) for stat in stats)


def keep_upload(name: str, content: bytes, kind: str, check: Callable[[Path], Any]) -> Path:
    """The path of a lasting copy, in the folder of that kind. ValueError, as `check` has it, and no copy if it is none.

    The copy is in UTF-8 whatever the file was in; its name ends in the hash of the content.
    """
    digest = hashlib.sha256(content).hexdigest()[:12]
    path = inside(home() / kind, f"{stem(Path(name).stem, kind)}-{digest}", "file name", Path(name).suffix.lower())
    if path.is_file():
        return path
    write_atomic(path, decode_text(content, name))
    try:
        check(path)
    except ValueError:
        path.unlink()
        raise
    return path


def cached(read: Callable[[Path], T], folder: Path, file: str) -> T:
    """What `read` makes of a folder, made anew only when that file of it changes."""
    return cast(T, _cached(f"{read.__module__}.{read.__qualname__}", str(folder), _stamp(folder / file), read))


@st.cache_resource(show_spinner=False, max_entries=16)
def _cached(name: str, folder: str, stamp: Stamp, _read: Callable[[Path], Any]) -> Any:
    return _read(Path(folder))


def _trials(folder: Path) -> tuple[Trial, ...]:
    return tuple(read_trials(folder))
