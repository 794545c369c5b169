"""What the pages share: cached files, the session's typed values, and the URL that keeps them over a reload.

The only user of `st.cache_*` and `st.session_state`.
"""

import json
import re
import secrets
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote, unquote

import ask
import streamlit as st
from address import from_url, to_url
from ask import Setup
from going import Going
from maps import HeadMap, locate, shipped_maps
from models import Holding, ModelRef, Tuned
from models import tuned as find_tuned
from reviewed import Judged, judged

from retmask.detect import DEFAULT_MODEL
from retmask.dpo import DpoConfig
from retmask.heads import Grid, HeadId, HeadMask
from retmask.pairs import ITEMS, REVIEW, Review, read_review
from retmask.retrieval import Trial, read_trials
from retmask.runs import Run
from retmask.scores import HeadScores
from retmask.set_tables import set_rows
from retmask.sets import ScoreSet, read_set
from retmask.tables import Row
from retmask.train import Preflight

if TYPE_CHECKING:
    from retmask.model import LensModel

IN_URL = ("map", "kv", "heads", "head", "c", "run", "pairs", "gate", "train", "tuned", "sets")
Stamp = tuple[tuple[int, int], ...]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Known:
    """What a session keeps of a model that it has loaded: the model itself may have made room for another."""

    ref: ModelRef
    max_tokens: int
    has_template: bool
    tokenizer: Any


def sources() -> list[str]:
    """What the picker offers: shipped maps, runs (newest first), and what is open now if it is neither."""
    names = [*shipped_maps(), *(run.id for run in Run.all("detect"))]
    return names if source() in names else [*names, source()]


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
    try:
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
    except OSError as error:
        raise ValueError(f"{name[:80]} cannot be read: {error.strerror}") from None


def set_names() -> list[str]:
    """The score sets on the Families page: shipped names, runs, paths; on the first view those in the URL, if any."""
    if "sets" not in st.session_state:
        text = place("sets")
        known = [unquote(part) for part in text.split(",") if part]
        st.session_state["sets"] = list(dict.fromkeys(known)) if text else shipped_maps()
    return list(cast(list[str], st.session_state["sets"]))


def choose_sets(names: Iterable[str]) -> None:
    """Look at these score sets from now on."""
    chosen = list(dict.fromkeys(names))
    st.session_state["sets"] = chosen
    _into_url("sets", ",".join(quote(name, safe="/~: ") for name in chosen) or ",")


def sets_widget() -> dict[str, Any]:
    """What makes a multiselect show the score sets on the Families page and change them."""
    key = "shown_sets"
    st.session_state[key] = set_names()
    return {"key": key, "on_change": lambda: choose_sets(value(key))}


def score_set(name: str) -> tuple[ScoreSet, Stamp]:
    """A score set by shipped name, run or path, and the stamp (`set_stamp`) of its files when it was read.

    It is read anew only when its files change. ValueError, one sentence, also for an address of the network: the
    page's own address may come from anybody.
    """
    if "://" in name:
        raise ValueError(f"{name[:80]} is not fetched unasked: open it with «Add a set», which keeps a copy")
    stamp = set_stamp(name)
    return _read_set(name, stamp), stamp


def set_row(name: str, stamp: Stamp, found: ScoreSet, threshold: float) -> Row:
    """The figures of a score set and their intervals, made anew only when its stamp or the threshold changes.

    No file is read: the set may have gone since it was.
    """
    return dict(_set_row(name, stamp, threshold, found))


def set_stamp(name: str) -> Stamp:
    """What changes when a file of a score set is written. ValueError, one sentence, for what is no path."""
    try:
        path = locate(name)
        folder = path if path.is_dir() else path.parent
        beside = ("scores.json", "full_attention_heads.tsv", "run.json", "trials.jsonl")
        return _stamp(path, *(folder / file for file in beside))
    except OSError as error:
        raise ValueError(f"{name[:80]} cannot be read: {error.strerror}") from None


def mask(grid: Grid) -> HeadMask:
    """The selected heads; on the first view those in the URL."""
    return _history(grid)[-1]


def select(heads: Iterable[HeadId], grid: Grid, options: Sequence[str] = ()) -> None:
    """Select exactly these heads; `options` of `retmask heads` do the same. One step for `undo`.

    Heads that stay keep their scale; new ones get the scale that all selected heads have, else they are masked.
    """
    known = mask(grid).scales
    scales = set(known.values())
    scale = scales.pop() if len(scales) == 1 else 0.0
    set_mask(HeadMask({head: known.get(head, scale) for head in sorted(set(heads))}), grid, options)


def set_mask(chosen: HeadMask, grid: Grid, options: Sequence[str] = ()) -> None:
    """Select these heads at these scales."""
    if chosen != mask(grid):
        _history(grid).append(chosen)
    _draw_anew()
    if options or not _same_heads(chosen):
        st.session_state["rule"] = (chosen.heads, tuple(options))
    _into_url("heads", to_url(chosen, grid))


def rescale(scale: float | None, grid: Grid) -> None:
    """Put all selected heads at one scale, to four decimals."""
    if scale is not None:
        set_mask(mask(grid).scaled(round(scale, 4)), grid)


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
    selected = mask(grid)
    if not len(selected):
        return ()
    _, options = st.session_state.get("rule", ((), ()))
    return tuple(options) if options and _same_heads(selected) else ("--heads", ",".join(map(str, selected.heads)))


def _same_heads(chosen: HeadMask) -> bool:
    """Whether a rule has made this selection: whatever the scales are."""
    return bool(st.session_state.get("rule", ((), ()))[0] == chosen.heads)


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


def run_ids() -> list[str]:
    """The ids of the runs that are looked at; on the first view those in the URL. There need not be such runs."""
    text = str(st.session_state.setdefault("runs", st.query_params.get("run", "")))
    return [name for name in text.split(",") if name]


def look_at_run(*ids: str) -> None:
    """Look at a run, or at several beside each other."""
    st.session_state["runs"] = ",".join(ids)
    _into_url("run", ",".join(ids) or None)


def picked_points(event: Any) -> list[HeadId]:
    """The heads in a map's selection event that are new in it."""
    return [HeadId(layer, head) for layer, head in _new_points(event, "map")]


def picked_copy(event: Any) -> tuple[int, HeadId] | None:
    """The step and the head of the dot in a trace that has just been clicked."""
    points = _new_points(event, "trace")
    return (points[-1][0], HeadId(*points[-1][1:])) if points else None


def _new_points(event: Any, chart: str) -> list[tuple[int, ...]]:
    """The customdata of the points in a selection event that are new in it, without the stamp at their ends.

    An event repeats the points of the one before it when both come from the same drawing (shift-click, or a click
    before the answer to the last is drawn); only what was added since then is meant.
    """
    found = [point["customdata"] for point in event.get("selection", {}).get("points", []) if point.get("customdata")]
    stamps = {tuple(map(int, values[:-1])): int(values[-1]) for values in found}
    stamp, now = max(stamps.values(), default=-1), set(stamps)
    key = f"points-{chart}"
    last_stamp, last = cast(tuple[int, set[tuple[int, ...]]], st.session_state.get(key, (-1, set())))
    st.session_state[key] = (stamp, now)
    _draw_anew()
    return sorted(now - last if stamp == last_stamp and last < now else now)


def drawing() -> int:
    """A number that goes up with every answer to the map and every change of the selection.

    Widgets that show what also changes elsewhere have it in their keys: a value that the browser sent before it
    knew of the change then belongs to a widget that is gone, and cannot undo it.
    """
    return int(st.session_state.setdefault("drawing", 0))


def value(key: str, default: Any = None) -> Any:
    """What a widget holds now, by its key."""
    return st.session_state.get(key, default)


def put(key: str, value: Any) -> None:
    """Keep a value of the session."""
    st.session_state[key] = value


def sentence(error: Exception | str) -> str:
    """What an error says, as a sentence that Markdown shows as it is, whatever a file or a person put into it."""
    text = str(error).rstrip(".") + "."
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~$:])", r"\\\1", text)


def say(words: str, where: str = "") -> None:
    """Show a sentence, as `sentence` makes it, at the next drawing, once; `where` names one of several places."""
    st.session_state[f"said{where}"] = words


def said(where: str = "") -> str:
    """The sentence to show there now, empty for none."""
    return str(st.session_state.pop(f"said{where}", ""))


def place(name: str) -> str:
    """What the address says of a page's place, such as the run that it looks at; empty for nothing."""
    return str(st.session_state.setdefault("address", {}).get(name, ""))


def go_to(**places: str | None) -> None:
    """Look at another place from now on, by its name in `IN_URL`; None for none."""
    for name, text in places.items():
        _into_url(name, text)


def pairs_of(folder: Path) -> tuple[Judged, ...]:
    """The pairs in a run's folder with what the gate says of each, read anew only when there are more."""
    return _load_pairs(str(folder), _stamp(folder / ITEMS))


def review_of(folder: Path) -> Review:
    """A person's decisions on the pairs in a run's folder."""
    return _load_review(str(folder), _stamp(folder / REVIEW))


def form_open() -> bool:
    """Whether the detection form is shown."""
    return bool(st.session_state.get("form_open", False))


def toggle_form() -> None:
    """Show the detection form, or put it away."""
    st.session_state["form_open"] = not form_open()


def setup() -> Setup:
    """The settings of the Compare page; on the first view those that the address names, or the defaults."""
    if "setup" not in st.session_state:
        known = st.query_params.get("c", "")
        st.session_state["setup"] = ask.read(known) if known else Setup(tuned=tuned())
    return cast(Setup, st.session_state["setup"])


def change(**values: Any) -> None:
    """Change settings of the Compare page and keep them on disk, so that a reload finds them."""
    changed = replace(setup(), **values)
    if changed != setup():
        st.session_state["setup"] = changed
        ask.keep(_setup_id(), changed)
        _into_url("c", _setup_id())


def widget(name: str) -> dict[str, Any]:
    """What makes a widget show a setting of the Compare page and change it.

    The widget's own value is dropped whenever another page is drawn; it is set anew from the setting.
    """
    key = f"ask_{name}"
    st.session_state.setdefault(key, getattr(setup(), name))
    return {"key": key, "on_change": _take, "args": (name, key)}


def kept(name: str, default: Any) -> dict[str, Any]:
    """What makes a widget keep its value in the session while other pages are drawn."""
    key = f"shown_{name}"
    st.session_state.setdefault(key, st.session_state.setdefault(name, default))
    return {"key": key, "on_change": lambda: put(name, value(key))}


def fill(**values: Any) -> None:
    """Put values into widgets that `kept` keeps, by name; before they are drawn."""
    for name, filled in values.items():
        st.session_state[name] = st.session_state[f"shown_{name}"] = filled


def show(**values: Any) -> None:
    """Change settings and what their widgets show."""
    change(**values)
    for name, value in values.items():
        st.session_state[f"ask_{name}"] = value


def text_file() -> Path:
    """Where the text of one's own lies for the command line: written when it is asked for."""
    return ask.keep_text(_setup_id(), setup().text)


def want() -> None:
    """Ask for a new comparison, made by the next drawing of the Compare page."""
    st.session_state["wanted"], st.session_state["failed"] = True, ""


def wanted() -> bool:
    """Whether a new comparison has been asked for and not been made."""
    return bool(st.session_state.get("wanted", False))


def fail(error: Exception | str) -> None:
    """Give up the comparison that was asked for; `failed` says why until the next is asked for."""
    st.session_state["wanted"], st.session_state["failed"] = False, sentence(error)


def failed() -> str:
    """Why the last comparison could not be made, as a sentence; empty if it could."""
    return str(st.session_state.get("failed", ""))


def stop() -> None:
    """Leave the comparison where it is."""
    st.session_state["wanted"] = False
    running = going()
    if running:
        running.stop()


def going() -> Going | None:
    """The comparison that is on its way or was made last."""
    return cast(Going | None, st.session_state.get("going"))


def begin(comparison: Going) -> None:
    """Put a comparison in the place of the last."""
    last = going()
    if last:
        last.stop()
    st.session_state["going"] = comparison
    st.session_state["wanted"] = False


def model(ref: ModelRef, beside: ModelRef | None = None) -> "LensModel":
    """A model, loaded once and shared by all sessions; of those in memory only `beside` is sure to stay.

    ValueError, one sentence, where it cannot be loaded.
    """
    others = [beside] if beside else []
    found = _holding().get(ref, others)
    has_template = bool(getattr(found.tokenizer, "chat_template", None))
    known = {one: what for one, what in st.session_state.get("loaded", {}).items() if one in others}
    st.session_state["loaded"] = known | {ref: Known(ref, found.max_tokens, has_template, found.tokenizer)}
    return found


def loaded(ref: ModelRef | None) -> Known | None:
    """What is known of the model, if it is of those that this session has loaded last. Never loads it."""
    return cast(Known | None, st.session_state.get("loaded", {}).get(ref))


def tune(name: str) -> None:
    """Make what a training made «the tuned model» on all pages from now on, by its id; empty for none.

    A training that has made nothing, or is gone, is none.
    """
    found = find_tuned(name)
    st.session_state["tuned"] = found.id if found else ""
    _into_url("tuned", found.id if found else None)
    change(tuned=tuned())


def tuned() -> str:
    """The id of the training whose model is «the tuned model»; empty for none."""
    found = tuned_model()
    return found.id if found else ""


def tuned_model() -> Tuned | None:
    """The tuned model; on the first view that in the URL. None for none, also where it has been deleted."""
    return find_tuned(str(st.session_state.setdefault("tuned", st.query_params.get("tuned", ""))))


def tuned_for(ref: ModelRef | None) -> Tuned | None:
    """The tuned model, where it was trained on that one."""
    found = tuned_model()
    return found if found and found.trained_on(ref) else None


def setup_for(ref: ModelRef | None) -> Setup:
    """The settings of the Compare page as they hold for a model: without a tuned one that is not of it."""
    found = tuned_for(ref)
    return replace(setup(), tuned=setup().tuned if found and found.id == setup().tuned else "")


def tuned_switch(ref: ModelRef | None) -> dict[str, Any]:
    """What makes a toggle switch the column of the tuned model on and off."""
    key = "ask_tuned"
    st.session_state[key] = bool(setup_for(ref).tuned)
    return {"key": key, "on_change": lambda: change(tuned=tuned() if value(key) else "")}


def remembered(place: str, key: Hashable, make: Callable[[], T]) -> T:
    """What `make` gives, made anew only when the key has changed; the session keeps the last one of each place."""
    known = st.session_state.get(f"remembered_{place}")
    if known is None or known[0] != key:
        known = st.session_state[f"remembered_{place}"] = (key, make())
    return cast(T, known[1])


def stopping() -> set[tuple[str, float]]:
    """The runs that have been asked to stop in this session: the id of each, and when its worker was started."""
    return cast(set[tuple[str, float]], st.session_state.setdefault("stopping", set()))


def start(kind: str, settings: Mapping[str, Any], make: Callable[[], Run]) -> Run:
    """The run that `make` makes, started; where one of these settings goes on already, that.

    A second click, or another session's, finds the first one's run: they take turns. ValueError or OSError as `make`
    and `Run.spawn` have it.
    """
    text = json.dumps(settings, sort_keys=True)
    wanted, begun = json.loads(text).items(), _begun()
    with one_at_a_time():
        last = begun.get(f"{kind} {text}")  # its record may name a path or a model in another way
        alike = (run for run in Run.all(kind) if run.path == last or wanted <= run.config.items())
        there = next((run for run in alike if run.status in ("queued", "started")), None)
        if there:
            return there
        run = make()
        run.spawn()
        begun[f"{kind} {text}"] = run.path
        return run


@st.cache_resource(show_spinner=False)
def _begun() -> dict[str, Path]:
    return {}


@st.cache_resource(show_spinner=False)
def one_at_a_time() -> Lock:
    """What a session holds while it makes a run, or a version of one: no other session makes one then."""
    return Lock()


@st.cache_data(show_spinner=False, ttl=20)
def memory(model: str, context_tokens: int) -> tuple[bool, str]:
    """Whether a model and a context fit into memory, and the sentence that says so. ValueError for no such model.

    The first call takes seconds: it imports torch.
    """
    from retmask.memory import estimate

    found = estimate(model, context_tokens)
    return found.fits, found.sentence


@st.cache_data(show_spinner=False, ttl=60, max_entries=20)
def preflight(model: str, pairs: str, stamp: Stamp, config: DpoConfig, revision: str) -> Preflight:
    """What a training would take, at most a minute old; `stamp` is that of the pairs' file (`file_stamp`).

    ValueError where it cannot be told. The first call takes seconds: it imports torch.
    """
    from retmask.train import preflight as look

    return look(model, pairs, config, revision=revision)


def file_stamp(file: Path) -> Stamp:
    """What changes when a file is written."""
    return _stamp(file)


def held() -> tuple[str, int] | None:
    """The models that the app holds in memory, whichever session loaded them, and their bytes; None for none."""
    found = _holding().held()
    weights = [weight for model in found.values() for weight in model.native.parameters()]
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    return (", ".join(map(str, found)), size) if found else None


def unload() -> None:
    """Let go of the models that are held in memory. What was made with them stays on the pages."""
    running = going()
    if running and not running.over:
        stop()
    _holding().drop()
    preflight.clear()  # it has counted the memory that is free now as taken


@st.cache_resource(show_spinner=False)
def _holding() -> Holding:
    return Holding()


@st.cache_resource(show_spinner=False, max_entries=12)
def _load_scores(path: str, stamp: Stamp, kv_heads: int | None) -> HeadScores:
    scores = HeadScores.load(path)
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


@st.cache_resource(show_spinner=False, max_entries=12)
def _load_trials(folder: str, stamp: Stamp) -> tuple[Trial, ...]:
    return tuple(read_trials(Path(folder)))


@st.cache_resource(show_spinner=False, max_entries=4)
def _load_pairs(folder: str, stamp: Stamp) -> tuple[Judged, ...]:
    return judged(Path(folder))


@st.cache_resource(show_spinner=False, max_entries=12)
def _load_review(folder: str, stamp: Stamp) -> Review:
    return read_review(Path(folder))


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


def _setup_id() -> str:
    """The id of this session's settings: that in the address if it can be one."""
    if "setup_id" not in st.session_state:
        known = re.fullmatch("[0-9a-f]{12}", st.query_params.get("c", ""))
        st.session_state["setup_id"] = known[0] if known else secrets.token_hex(6)
    return str(st.session_state["setup_id"])


def _take(name: str, key: str) -> None:
    """Keep what a widget has been set to."""
    if value(key) is not None:
        change(**{name: value(key)})


def _draw_anew() -> None:
    st.session_state["drawing"] = drawing() + 1


def _kv_heads() -> int | None:
    text = st.query_params.get("kv", "")
    return int(text) if re.fullmatch(r"[1-9]\d{0,2}", text) else None


def keep_address() -> None:
    """Put back into the URL what a move to another page takes out of it."""
    known = {name: text for name, text in st.query_params.items() if name in IN_URL}
    for name, text in st.session_state.setdefault("address", known).items():
        if st.query_params.get(name) != text:
            st.query_params[name] = text


def _into_url(name: str, text: str | None) -> None:
    address = st.session_state.setdefault("address", {})
    address.pop(name, None)
    if text is not None:
        address[name] = st.query_params[name] = text
    elif name in st.query_params:
        del st.query_params[name]
