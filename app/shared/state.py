"""What the pages share: cached files, the session's typed values, and the URL that keeps them over a reload.

The only user of `st.cache_*` and `st.session_state`.
"""

import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote, unquote

import streamlit as st

from app.compare import ask
from app.compare.ask import Setup
from app.compare.going import Going
from app.pairs.decisions import Judged, judged
from app.shared.address import from_url, to_url
from app.shared.maps import HeadMap, locate, opened_files, shipped_maps
from app.shared.models import Holding, ModelRef, Tuned
from app.shared.models import tuned as find_tuned
from retmask.detect.job import DEFAULT_MODEL
from retmask.figures.rows import Row, set_rows
from retmask.heads.grid import Grid, HeadId
from retmask.heads.masks import HeadMask
from retmask.heads.scores import HeadScores
from retmask.heads.sets import ScoreSet, open_scores, read_set
from retmask.heads.trials import Trial, read_trials
from retmask.pairs.pair import ITEMS
from retmask.pairs.review import REVIEW, Review, read_review
from retmask.runs import faults
from retmask.runs.run import Run, whole
from retmask.train.preflight import Preflight
from retmask.train.settings import DpoConfig

if TYPE_CHECKING:
    from retmask.model.lens import LensModel

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
    """What the picker offers: shipped maps, runs and opened files (newest first), and what was open in this session."""
    looked_at = st.session_state.setdefault("looked_at", {})
    looked_at[source()] = None
    return list(dict.fromkeys([*shipped_maps(), *(run.id for run in Run.all("detect")), *opened_files(), *looked_at]))


def forget(folder: Path) -> None:
    """Offer no map of that folder any more: it is deleted."""
    looked_at = st.session_state.get("looked_at", {})
    for name in [name for name in looked_at if name == folder.name or folder in (Path(name), *Path(name).parents)]:
        del looked_at[name]


def source() -> str:
    """The name, run or path of the map that is looked at."""
    return str(st.session_state.setdefault("source", _source_at_start()))


def _source_at_start() -> str:
    """The map that the address named when the session began, or the default model's."""
    return _address_at_start().get("map") or next(iter(shipped_maps()), DEFAULT_MODEL)


def choose(name: str, kv_heads: int | None = None) -> None:
    """Look at another map from now on, and at what is selected on it."""
    st.session_state["source"] = name
    _replace("ask_tuned")
    _into_url("map", name)
    _into_url("kv", str(kv_heads) if kv_heads else None)
    _selected()


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
    _replace("shown_sets")
    _take_sets(names)


def _take_sets(names: Iterable[str]) -> None:
    chosen = list(dict.fromkeys(names))
    st.session_state["sets"] = chosen
    _into_url("sets", ",".join(quote(name, safe="/~: ") for name in chosen) or ",")


def sets_widget() -> dict[str, Any]:
    """What makes a multiselect show the score sets on the Families page and change them."""
    key, changed = _replaceable("shown_sets", _take_sets)
    st.session_state[key] = set_names()
    return {"key": key, "on_change": changed}


def score_set(name: str) -> tuple[ScoreSet, Stamp]:
    """A score set by shipped name, run or path, and the stamp (`set_stamp`) of its files when it was read.

    It is read anew only when its files change. ValueError, one sentence, also for an address of the network: the
    page's own address may come from anybody.
    """
    if "://" in name:
        raise ValueError(f'{name[:80]} is not fetched unasked: open it with "Add a set", which keeps a copy')
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


@dataclass(frozen=True)
class Step:
    """A selection, and the options of `retmask heads` that it was made by; none for one made by hand."""

    mask: HeadMask
    options: tuple[str, ...] = ()


def mask(grid: Grid) -> HeadMask:
    """The heads that are selected on the map that is looked at; each map has its own."""
    return _steps(grid)[-1].mask


def select(
    heads: Iterable[HeadId], grid: Grid, options: Sequence[str] = (), at: Mapping[HeadId, float] | None = None
) -> None:
    """Select exactly these heads, some of them `at` scales; `options` of `retmask heads` do the same. One `undo`.

    Else heads that stay keep their scale, and new ones get the scale that all selected heads have, or are masked.
    """
    before = mask(grid).scales
    scale = next(iter(before.values())) if len(set(before.values())) == 1 else 0.0
    known = {**before, **(at or {})}
    set_mask(HeadMask({head: known.get(head, scale) for head in sorted(set(heads))}), grid, options)


def set_mask(chosen: HeadMask, grid: Grid, options: Sequence[str] = ()) -> None:
    """Select these heads at these scales; the same heads at other scales are still those of the rule that made them."""
    steps = _steps(grid)
    last = steps[-1]
    step = Step(chosen, tuple(options) or (last.options if last.mask.heads == chosen.heads else ()))
    steps[-1:] = [step] if chosen == last.mask else [last, step]
    _selected()


def rescale(scale: float | None, grid: Grid) -> None:
    """Put all selected heads at one scale, to four decimals."""
    if scale is not None:
        set_mask(mask(grid).scaled(round(scale, 4)), grid)


def undo(grid: Grid) -> None:
    """Take back the last change of the selection."""
    if can_undo(grid):
        _steps(grid).pop()
        _selected()


def can_undo(grid: Grid) -> bool:
    """Whether there is a change to take back."""
    return len(_steps(grid)) > 1


def rule(grid: Grid) -> tuple[str, ...]:
    """Options of `retmask heads` that give the selection: the rule that made it, else the list of its heads."""
    step = _steps(grid)[-1]
    return step.options or (("--heads", ",".join(map(str, step.mask.heads))) if len(step.mask) else ())


def focus(grid: Grid) -> HeadId | None:
    """The head that is looked at closely, None where none has been chosen."""
    text = st.session_state.setdefault("focus", place("head"))
    try:
        head = HeadId.parse(text)
    except ValueError:
        return None
    return head if grid.has(head) else None


def look_at(head: HeadId) -> None:
    """Look closely at a head."""
    st.session_state["focus"] = str(head)
    draw_anew()
    _into_url("head", str(head))


def look_at_copy(step: int | None = None, head: HeadId | None = None) -> None:
    """Look closely at a token of an answer, or at a head in its trace, or both."""
    known = {"trace_step": step, "trace_head": head}
    st.session_state.update({name: what for name, what in known.items() if what is not None})
    draw_anew()


def run_ids() -> list[str]:
    """The ids of the runs that are looked at; on the first view those in the URL. There need not be such runs."""
    text = str(st.session_state.setdefault("runs", place("run")))
    return [name for name in text.split(",") if name]


def look_at_run(*ids: str) -> None:
    """Look at a run, or at several beside each other."""
    st.session_state["runs"] = ",".join(ids)
    _into_url("run", ",".join(ids) or None)


def answering(kind: str, drawn: T, do: Callable[[T, T], None]) -> tuple[str, Callable[[], None]]:
    """The key of a widget that shows `drawn`, and the callback that does what a person has changed in it.

    For widgets that show what also changes elsewhere: each drawing has a new one. The browser sends the values of all
    its widgets with whatever it asks for, also with the look at the runs every two seconds, and for as long as it has
    not drawn the new ones these are the old ones. Streamlit, which has forgotten them, takes each for a change and
    calls back. So `do` is called with what the widget held before and holds now, and only where that is news.
    """
    number = drawing()
    key = f"{kind}-{number}"

    def answer() -> None:
        seen = cast(dict[str, tuple[int, T]], st.session_state.setdefault("seen", {}))
        last, before = seen.get(kind, (-1, drawn))
        before = before if last == number else drawn
        if key in st.session_state and number >= last and st.session_state[key] != before:
            seen[kind] = number, st.session_state[key]
            do(before, st.session_state[key])

    return key, answer


def newest(kind: str, key: str, do: Callable[[Any], None]) -> Callable[[], None]:
    """A callback with what the widget of that key holds; nothing once another of its kind has been drawn.

    As with `answering`: what a browser still sends of the one before must not take back what was chosen since.
    """
    put(f"newest_{kind}", key)
    return lambda: do(value(key)) if value(f"newest_{kind}") == key and key in st.session_state else None


def picked(before: Any, event: Any) -> list[tuple[int, ...]]:
    """The customdata, without the stamp at its end, of the points that are new in a chart's selection event.

    An event repeats the points of the one before it when both come from the same drawing (shift-click, or a click
    before the answer to the last is drawn); only what was added since then is meant.
    """
    last, now = _points(before), _points(event)
    return sorted(now - last if last <= now else now)


def _points(event: Any) -> set[tuple[int, ...]]:
    points = event.get("selection", {}).get("points", []) if event else []
    return {tuple(map(int, point["customdata"][:-1])) for point in points if point.get("customdata")}


def drawing() -> int:
    """A number that goes up with every change of what is selected or looked at."""
    return int(st.session_state.setdefault("drawing", 0))


def value(key: str, default: Any = None) -> Any:
    """What a widget holds now, by its key."""
    return st.session_state.get(key, default)


def put(key: str, value: Any) -> None:
    """Keep a value of the session."""
    st.session_state[key] = value


def out_of_range(*numbers: tuple[str, str, float, float]) -> str:
    """What is wrong with the first number that a widget holds outside its range, empty for none.

    Each is a widget's key, what it is called, and its range. The widgets themselves must have none: a browser leaves a
    number beyond it in the field and goes on with the one before.
    """
    for key, name, low, high in numbers:
        number = value(_key(key), low)
        if number is None or not low <= number <= high:
            return f"{name} must be a number from {low:,} to {high:,}"
    return ""


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
    return _address().get(name, "")


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


def open_form() -> None:
    """Show the detection form."""
    st.session_state["form_open"] = True


def close_form() -> None:
    """Put the detection form away."""
    st.session_state["form_open"] = False


def setup() -> Setup:
    """The settings of the Compare page; on the first view those that the address names, or the defaults."""
    if "setup" not in st.session_state:
        known = place("c")
        st.session_state["setup"] = ask.read(known) if known else Setup(tuned=tuned())
    return cast(Setup, st.session_state["setup"])


def change(**values: Any) -> None:
    """Change settings of the Compare page and keep them on disk, so that a reload finds them."""
    changed = replace(setup(), **values)
    if changed != setup():
        st.session_state["setup"] = changed
        try:
            _into_url("c", ask.keep(changed))
        except OSError as error:  # a callback has no page to stand on: it would be a traceback
            say(f"{sentence(faults.sentence(error))} The settings are not kept over a reload.", "setup")


def widget(name: str) -> dict[str, Any]:
    """What makes a widget show a setting of the Compare page and change it.

    The widget's own value is dropped whenever another page is drawn; it is set anew from the setting.
    """
    key, changed = _replaceable(f"ask_{name}", lambda held: _take(name, held))
    st.session_state.setdefault(key, getattr(setup(), name))
    return {"key": key, "on_change": changed}


def kept(name: str, default: Any, then: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """What makes a widget keep its value in the session while other pages are drawn, and does what follows from it."""

    def take(held: Any) -> None:
        put(name, held)
        then()

    key, changed = _replaceable(f"shown_{name}", take)
    st.session_state.setdefault(key, st.session_state.setdefault(name, default))
    return {"key": key, "on_change": changed}


def fill(**values: Any) -> None:
    """Put values into widgets that `kept` keeps, by name; before they are drawn."""
    for name, filled in values.items():
        st.session_state[name] = filled
        if st.session_state.get(_key(f"shown_{name}"), filled) != filled:
            _replace(f"shown_{name}")


def show(**values: Any) -> None:
    """Change settings and what their widgets show."""
    change(**values)
    for name in values:
        _replace(f"ask_{name}")


def text_file() -> Path:
    """Where the text of one's own lies for the command line: written when it is asked for."""
    return ask.keep_text(setup().text)


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
    _replace("ask_tuned")
    draw_anew()
    _into_url("tuned", found.id if found else None)
    change(tuned=tuned())


def tuned() -> str:
    """The id of the training whose model is «the tuned model»; empty for none."""
    found = tuned_model()
    return found.id if found else ""


def tuned_model() -> Tuned | None:
    """The tuned model; on the first view that in the URL. None for none, also where it has been deleted."""
    return find_tuned(str(st.session_state.setdefault("tuned", place("tuned"))))


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
    key, changed = _replaceable("ask_tuned", lambda on: change(tuned=tuned() if on else ""))
    st.session_state[key] = bool(setup_for(ref).tuned)
    return {"key": key, "on_change": changed}


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
    wanted, begun = whole(json.loads(text)).items(), _begun()
    with one_at_a_time():
        last = begun.get(f"{kind} {text}")  # its record may name a path or a model in another way
        alike = (run for run in Run.all(kind) if run.path == last or wanted <= whole(run.config).items())
        there = next((run for run in alike if run.status in ("queued", "started")), None)
        if there:
            return there
        run = make()
        servers = [str(settings[name]) for name in ("server", "masked_server") if settings.get(name)]
        run.spawn(*[servers] if servers else [])
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
    from retmask.model.fit import estimate

    found = estimate(model, context_tokens)
    return found.fits, found.sentence


@st.cache_data(show_spinner=False, ttl=60, max_entries=20)
def preflight(model: str, pairs: str, stamp: Stamp, config: DpoConfig, revision: str, any_pairs: bool) -> Preflight:
    """What a training would take, at most a minute old; `stamp` is that of the pairs' file (`file_stamp`).

    ValueError where it cannot be told. The first call takes seconds: it imports torch.
    """
    from retmask.train.job import checked

    return checked(model, pairs, config, revision=revision, any_pairs=any_pairs)


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
    scores = open_scores(path)
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


def _steps(grid: Grid) -> list[Step]:
    """The selections on the map that is looked at, oldest first; at least one. Its owner: the address only shows it."""
    selections = _selections()
    key = (source(), grid.n_layers, grid.n_heads)
    if key not in selections:
        selections[key] = [Step(_named(grid))]
    return selections[key]


def _selections() -> dict[tuple[str, int, int], list[Step]]:
    """The selections by map; a file that now holds another grid is another map."""
    return cast(dict[tuple[str, int, int], list[Step]], st.session_state.setdefault("selections", {}))


def _named(grid: Grid) -> HeadMask:
    """The heads that the address named when the session began, for the map that it named and for no other."""
    if _selections() or source() != _source_at_start():
        return HeadMask()
    try:
        return from_url(_address_at_start().get("heads", ""), grid)
    except ValueError as error:
        say(sentence(f"the selection in the address was left out: {error}"))
        _into_url("heads", None)
        return HeadMask()


def _selected() -> None:
    """Draw a new selection, and show it in the address."""
    draw_anew()
    _into_url("heads", _selection_text())


def _selection_text() -> str | None:
    """The selection on the map that is looked at, for the address; None for none."""
    here = [(key, steps) for key, steps in _selections().items() if key[0] == source()]
    if not here:
        return None
    (_, n_layers, n_heads), steps = here[-1]
    return to_url(steps[-1].mask, Grid(n_layers, n_heads))


def _take(name: str, held: Any) -> None:
    """Keep what a widget has been set to."""
    if held is not None:
        change(**{name: held})


def _replaceable(name: str, take: Callable[[Any], None]) -> tuple[str, Callable[[], None]]:
    """The key of a widget that the program may set too, and the callback that takes what a person sets it to.

    Each time that the program has set it (`_replace`) it is another widget: what the browser still sends of the one
    before must not take that back, as with `answering`.
    """
    key = _key(name)
    return key, lambda: take(st.session_state[key]) if key == _key(name) and key in st.session_state else None


def _key(name: str) -> str:
    times = st.session_state.get("replaced", {}).get(name, 0)
    return f"{name}-{times}" if times else name


def _replace(name: str) -> None:
    replaced = st.session_state.setdefault("replaced", {})
    replaced[name] = replaced.get(name, 0) + 1


def draw_anew() -> None:
    """Draw widgets that show what also changes elsewhere as new ones, with what is so now."""
    st.session_state["drawing"] = drawing() + 1


def _kv_heads() -> int | None:
    text = place("kv")
    return int(text) if re.fullmatch(r"[1-9]\d{0,2}", text) else None


def keep_address() -> None:
    """Make the browser's address say what the session says, at the start of every drawing.

    The browser sends its address with every rerun, as it was when it asked for it: one that was asked for before a
    change has the old one, and a move to another page has none. So the address is read once, when a session begins,
    and only written from then on.
    """
    address = _address()
    if st.query_params.to_dict() != address:
        st.query_params.from_dict(address)


def _address() -> dict[str, str]:
    """What the address says, by the names in `IN_URL`."""
    known = st.session_state.setdefault("address", dict(_address_at_start()))
    return cast(dict[str, str], known)


def _address_at_start() -> dict[str, str]:
    """What the address said when the session began."""
    if "address_at_start" not in st.session_state:
        found = {name: text for name, text in st.query_params.items() if name in IN_URL}
        st.session_state["address_at_start"] = found
    return cast(dict[str, str], st.session_state["address_at_start"])


def _into_url(name: str, text: str | None) -> None:
    _address().pop(name, None)
    if text is not None:
        _address()[name] = text
    keep_address()
