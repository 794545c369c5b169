"""What the pages share: cached files, the session's typed values, and the URL that keeps them over a reload.

The only user of `st.cache_*` and `st.session_state`.
"""

import base64
import hashlib
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import streamlit as st

from retmask.files import home, shipped
from retmask.heads import Grid, HeadId, HeadMask
from retmask.jobs import DEFAULT_MODEL
from retmask.retrieval import Trial, read_trials
from retmask.runs import Run, run_path
from retmask.scores import HeadScores

MOST_NAMED = 40  # heads that are spelt out in the URL; more go as a bit map
Stamp = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class HeadMap:
    """What is looked at: the scores (None while no trial has found its needle), what is known of them, the trials."""

    source: str
    path: Path
    scores: HeadScores | None
    trials: Sequence[Trial]
    record: dict[str, Any]
    run: Run | None

    @property
    def model(self) -> str:
        """The model's name, for people."""
        return self.scores.model if self.scores else str(self.record.get("config", {}).get("model", self.source))

    @property
    def grid(self) -> Grid | None:
        """The head grid, None as long as nothing says it."""
        if self.scores:
            return self.scores.grid
        known = self.record.get("head_grid")
        return Grid(**known) if isinstance(known, dict) else None

    def command(self, *options: str) -> str:
        """The command line that shows this map, with options."""
        name = self.source if self.source in shipped_maps() else str(self.path)
        return shlex.join(["retmask", "heads", name, *options])


def shipped_maps() -> list[str]:
    """The names of the maps that come with the project, the default model's first."""
    folder = shipped("maps")
    names = [file.parent.name for file in folder.glob("*/scores.json")] if folder.is_dir() else []
    return sorted(names, key=lambda name: (name != DEFAULT_MODEL, name))


def sources() -> list[str]:
    """What the picker offers: shipped maps, runs (newest first), and what is open now if it is neither."""
    names = [*shipped_maps(), *(run.id for run in Run.all("detect"))]
    return names if source() in names else [*names, source()]


def label(name: str) -> str:
    """A map's name for people: a shipped one's model, a run's model and start (UTC), a file's name.

    It never changes for as long as the map is there: Streamlit tells choices by their labels.
    """
    if name in shipped_maps():
        return f"{name} (shipped)"
    path = locate(name)
    record = Run(path).record
    if not record:
        return path.name
    when = str(record.get("created", ""))[5:19].replace("T", " ")
    return f"{record.get('config', {}).get('model', name)} · {when}"


def locate(name: str) -> Path:
    """Where a map lies: the folder of a shipped map or of a run, or the path that `name` is."""
    if name in shipped_maps():
        return shipped("maps", name)
    try:
        path = run_path(name)
    except ValueError:
        return Path(name).expanduser()
    return path if path.is_dir() else Path(name).expanduser()


def source() -> str:
    """The name, run or path of the map that is looked at."""
    fallback = next(iter(shipped_maps()), DEFAULT_MODEL)
    return str(st.session_state.setdefault("source", st.query_params.get("map", fallback)))


def choose(name: str, kv_heads: int | None = None) -> None:
    """Look at another map from now on. The selection stays where the grid is the same."""
    st.session_state["source"] = name
    _into_url("map", name)
    _into_url("kv", str(kv_heads) if kv_heads else None)


def current() -> HeadMap:
    """The map that is looked at. ValueError, one sentence, where there is none."""
    return open_map(source(), _kv_heads())


def open_map(name: str, kv_heads: int | None = None) -> HeadMap:
    """A map by shipped name, run or path; `kv_heads` for files that do not say how heads are grouped.

    ValueError, one sentence, for what is no score file.
    """
    path = locate(name)
    folder = path if path.is_dir() else path.parent
    ours = path.is_dir() or path.name == "scores.json"
    run = Run(folder) if ours and (folder / "run.json").is_file() else None
    file = path / "scores.json" if path.is_dir() else path
    scores = None
    if run is None or file.is_file():
        scores = _load_scores(str(path), _stamp(file, folder / "run.json"), kv_heads)
    trials = _load_trials(str(folder), _stamp(folder / "trials.jsonl")) if run else ()
    return HeadMap(name, path, scores, trials, run.record if run else {}, run)


def keep_upload(name: str, content: bytes) -> str:
    """The path of a lasting copy of an uploaded score file. ValueError, and no copy, if it is none."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem).strip("-.")[:60] or "scores"
    HeadScores.from_json(content, stem)
    path = home() / "opened" / hashlib.sha256(content).hexdigest()[:12] / f"{stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def mask(grid: Grid) -> HeadMask:
    """The selected heads; on the first view those in the URL."""
    return _history(grid)[-1]


def select(heads: Iterable[HeadId], grid: Grid, options: Sequence[str] = ()) -> None:
    """Select exactly these heads; `options` of `retmask heads` do the same. One step for `undo`."""
    chosen = HeadMask.of(heads)
    if chosen != mask(grid):
        _history(grid).append(chosen)
    _draw_anew()
    st.session_state["rule"] = (chosen, tuple(options))
    _into_url("heads", to_url(chosen, grid))


def undo(grid: Grid) -> None:
    """Take back the last change of the selection."""
    if can_undo(grid):
        _history(grid).pop()
        _draw_anew()
        _into_url("heads", to_url(mask(grid), grid))


def can_undo(grid: Grid) -> bool:
    """Whether there is a change to take back."""
    return len(_history(grid)) > 1


def rule(grid: Grid) -> tuple[str, ...]:
    """Options of `retmask heads` that give the selection: the rule that made it, else the list of its heads."""
    chosen, options = st.session_state.get("rule", (None, ()))
    if not len(mask(grid)):
        return ()
    return tuple(options) if chosen == mask(grid) and options else ("--heads", str(mask(grid)))


def focus(grid: Grid) -> HeadId | None:
    """The head that is looked at closely, None where none has been chosen."""
    text = st.session_state.setdefault("focus", st.query_params.get("head", ""))
    try:
        head = HeadId.parse(text)
    except ValueError:
        return None
    return head if grid.has(head) else None


def look_at(head: HeadId) -> None:
    """Look closely at a head."""
    st.session_state["focus"] = str(head)
    _into_url("head", str(head))


def picked_points(event: Any) -> list[HeadId]:
    """The heads in a map's selection event that are new in it.

    An event repeats the points of the one before it when both come from the same drawing (shift-click, or a click
    before the answer to the last is drawn); only what was added since then is meant.
    """
    points = [point["customdata"] for point in event.get("selection", {}).get("points", []) if point.get("customdata")]
    heads = {HeadId(int(layer), int(head)): int(stamp) for layer, head, stamp in points}
    stamp = max(heads.values(), default=-1)
    last_stamp, last = cast(tuple[int, set[HeadId]], st.session_state.get("points", (-1, set())))
    st.session_state["points"] = (stamp, set(heads))
    _draw_anew()
    return sorted(set(heads) - last if stamp == last_stamp and last < set(heads) else set(heads))


def drawing() -> int:
    """A number that goes up with every answer to the map and every change of the selection.

    Widgets that show what also changes elsewhere have it in their keys: a value that the browser sent before it
    knew of the change then belongs to a widget that is gone, and cannot undo it.
    """
    return int(st.session_state.setdefault("drawing", 0))


def value(key: str, default: Any = None) -> Any:
    """What a widget holds now, by its key."""
    return st.session_state.get(key, default)


def sentence(error: Exception | str) -> str:
    """What an error says, as a sentence that Markdown shows as it is, whatever a file or a person put into it."""
    text = str(error).rstrip(".") + "."
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~$:])", r"\\\1", text)


def say(words: str) -> None:
    """Show a sentence, as `sentence` makes it, at the next drawing, once."""
    st.session_state["said"] = words


def said() -> str:
    """The sentence to show now, empty for none."""
    return str(st.session_state.pop("said", ""))


def form_open() -> bool:
    """Whether the detection form is shown."""
    return bool(st.session_state.get("form_open", False))


def toggle_form() -> None:
    """Show the detection form, or put it away."""
    st.session_state["form_open"] = not form_open()


def stopping() -> set[str]:
    """The ids of runs that have been asked to stop in this session."""
    return cast(set[str], st.session_state.setdefault("stopping", set()))


def to_url(selected: HeadMask, grid: Grid) -> str | None:
    """A selection as text for the URL: `L17H3,L18H6`, or for many heads `~` and a bit map; None for none."""
    if not len(selected):
        return None
    if len(selected) <= MOST_NAMED:
        return str(selected)
    bits = np.packbits(selected.array(grid).ravel() == 0)
    return "~" + base64.urlsafe_b64encode(bits.tobytes()).decode().rstrip("=")


def from_url(text: str, grid: Grid) -> HeadMask:
    """The selection that `to_url` wrote. ValueError for anything else."""
    if not text.startswith("~"):
        return HeadMask.parse(text, grid)
    try:
        packed = base64.b64decode(text[1:] + "=" * (-len(text[1:]) % 4), altchars=b"-_", validate=True)
    except ValueError:
        packed = b""
    if len(packed) != -(-grid.size // 8):
        raise ValueError(f"the selection in the address is not one of a {grid} grid")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8))[: grid.size]
    return HeadMask.of(head for head, bit in zip(grid.heads(), bits, strict=True) if bit)


@st.cache_data(show_spinner=False, ttl=20)
def memory(model: str, context_tokens: int) -> tuple[bool, str]:
    """Whether a model and a context fit into memory, and the sentence that says so. ValueError for no such model.

    The first call takes seconds: it imports torch.
    """
    from retmask.memory import estimate

    found = estimate(model, context_tokens)
    return found.fits, found.sentence


@st.cache_resource(show_spinner=False, max_entries=12)
def _load_scores(path: str, stamp: Stamp, kv_heads: int | None) -> HeadScores:
    scores = HeadScores.load(path)
    if not kv_heads or scores.n_kv_heads:
        return scores
    if scores.grid.n_heads % kv_heads:
        raise ValueError(f"{scores.grid.n_heads} heads cannot share {kv_heads} key/value heads evenly")
    return replace(scores, n_kv_heads=kv_heads)


@st.cache_resource(show_spinner=False, max_entries=12)
def _load_trials(folder: str, stamp: Stamp) -> tuple[Trial, ...]:
    return tuple(read_trials(Path(folder)))


def _stamp(*files: Path) -> Stamp:
    """What changes when a file is written: it keeps the caches true."""
    known = [file.stat() if file.is_file() else None for file in files]
    return tuple((stat.st_mtime_ns, stat.st_size) if stat else (0, 0) for stat in known)


def _history(grid: Grid) -> list[HeadMask]:
    """The selections on a grid, oldest first; at least one."""
    histories = st.session_state.setdefault("histories", {})
    key = (grid.n_layers, grid.n_heads)
    if key not in histories:
        try:
            first = from_url(st.query_params.get("heads", ""), grid) if not histories else HeadMask()
        except ValueError as error:
            first = HeadMask()
            say(sentence(f"the selection in the address was left out: {error}"))
        histories[key] = [first]
    return cast(list[HeadMask], histories[key])


def _draw_anew() -> None:
    st.session_state["drawing"] = drawing() + 1


def _kv_heads() -> int | None:
    text = st.query_params.get("kv", "")
    return int(text) if re.fullmatch(r"[1-9]\d{0,2}", text) else None


def _into_url(name: str, value: str | None) -> None:
    if value is not None:
        st.query_params[name] = value
    elif name in st.query_params:
        del st.query_params[name]
