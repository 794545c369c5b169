"""Jobs on every page: starting them, THE block that says how one stands and what can be done, what runs now."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import streamlit as st

from app.shared import selection, session
from app.shared.session import Question
from app.shared.text import guarded, plain, says, sentence
from retmask.files import expanded, home, number
from retmask.pairs.job import contacted, sends
from retmask.runs.engine import cancel, spawn
from retmask.runs.job import Job
from retmask.runs.overview import model_of, progress
from retmask.runs.run import ACTIVE, Run, Status
from retmask.runs.settings import same

DOING = {  # kinds of runs; the name of a model follows
    "detect": "Detecting",
    "dose": "Dose curve of",
    "ablate": "Exporting",
    "pairs": "Making pairs with",
    "train": "Training",
    "evaluate": "Evaluating",
}

ENDED = {"success": "is finished", "error": "has failed: the Runs page says why", "cancelled": "is stopped"}
LOST = "it finishes its step and saves: what it did since its last checkpoint is lost otherwise"
LOADS = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({0})
tokenizer = AutoTokenizer.from_pretrained({0})"""
Signs = tuple[list[tuple[str, Status, int]], list[tuple[str, float]]]
ICONS = {"success": ":material/check_circle:", "error": ":material/error:", "cancelled": ":material/stop_circle:"}


def active(*kinds: str) -> list[Run]:
    """The runs of these kinds (default: of all) that go on now or are about to."""
    return [run for run in Run.all() if (not kinds or run.record.get("kind") in kinds) and run.is_active]


def watch() -> None:
    """What runs, every two seconds anew while anything does; the whole page follows when a run has something new.

    While nothing does, it looks every ten: the command line may begin a run.
    """
    runs = active()
    _notice(runs)
    failed = session.NOT_ENDED.keep()
    while failed:
        place, words = failed.pop()
        session.say(words, place)
    session.draw_question()
    st.fragment(guarded(_watch), run_every=2 if runs or asked_to_stop() else 10)(_signs(runs))
    session.show_said("sidebar")


def _watch(drawn: Signs) -> None:
    """Progress; `drawn` are the signs of the runs when the page was drawn."""
    runs = active()
    for run in runs:
        _running(run)
    if _signs(runs) != drawn:
        st.rerun(scope="app")


def _signs(runs: list[Run]) -> Signs:
    """What changes when a run has something new to show, or what was asked to stop has been let go.

    The page of a training draws its steps anew by itself.
    """
    sizes = [(run.id, run.status, 0 if run.record.get("kind") == "train" else run.progress_size) for run in runs]
    return sizes, sorted(asked_to_stop())


def _notice(runs: list[Run]) -> None:
    """Say on any page, once, what has become of the runs that went on when this session last looked."""
    going = {run.reference for run in runs}
    for run in (Run(home() / "runs" / name) for name in session.WENT_ON.get() - going):
        status = run.status if run.record else ""
        if status in ENDED:
            st.toast(f"{sentence(run.id)[:-1]} {ENDED[status]}", icon=ICONS[status], duration="long")
    session.WENT_ON.put(going)


def _running(run: Run) -> None:
    kind = str(run.record.get("kind"))
    with st.container(border=True):
        st.markdown(f"**{DOING.get(kind, kind)}** `{plain(run.config.get('model', ''))}`")
        st.progress(*progress(run))
        with st.container(horizontal=True):
            if kind == "detect" and selection.source() != run.id:
                st.button("Show", key=f"show-{run.id}", on_click=selection.choose, args=(run.id,), type="tertiary")
            stop_button(run, "sidebar")


class Names(NamedTuple):
    """What a page calls its runs: `place` names the widgets and where sentences are said, `kept` what of it remains."""

    place: str
    what: str = "This run"
    kept: str = "What it had finished is kept."


def status_block(run: Run, names: Names, resume: str = "Resume") -> None:
    """How a run stands that is not finished, and what can be done about it: Stop while it goes on, Resume later.

    Nothing for one that is finished, but for what could not be done. What is not among this app's own runs is only
    looked at.
    """
    status = run.status
    share, words = progress(run, status)
    if status in ACTIVE:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.progress(share, sentence(words)[:-1], width=500)
            if ours(run):
                stop_button(run, names.place)
    elif status == "error":
        st.error(f"{names.what} failed. Its last words:")
        st.code(run.last_words, language=None, wrap_lines=True)
        log = run.log_tail()
        if log:
            with st.expander("The end of its log", key=f"{names.place}_log"):
                st.code(log, language=None)
    elif status == "cancelled":
        st.info(f"{names.what} was stopped ({sentence(words)[:-1]}). {names.kept}")
    if status in ("cancelled", "error") and ours(run) and not stopping(run):
        resume_button(run, names.place, resume)
    session.show_said(names.place)


def folder_field(usual: str, key: str, **look: Any) -> str:
    """The whole path of the folder that is typed; empty where none is, or, with a sentence on the page, none can be."""
    folder = st.text_input("Folder", usual, key=key, **look).strip()
    try:
        return str(expanded(folder).resolve()) if folder else ""
    except ValueError as error:
        st.error(sentence(error))
        return ""


def checkpoint_block(run: Run, what: str) -> None:
    """What became of the checkpoint that a run writes, an "export" or a "merge", and how it is loaded."""
    status_block(run, Names(f"{what}_run", f"This {what}", "Nothing was written."))
    if run.status == "success":
        st.success("It is written. To load it:")
        st.code(LOADS.format(repr(run.config["out"])), language="python", wrap_lines=True)


def writes_at_its_end(run: Run) -> bool:
    """Whether nothing is written before all of it is: of an export that is stopped, nothing is kept."""
    return run.record.get("kind") == "ablate"


def resume_button(run: Run, place: str, label: str = "Resume") -> None:
    """The button that lets a run go on where it was: what is finished is kept."""
    kept, icon = None if writes_at_its_end(run) else "what it has finished is kept", ":material/play_arrow:"
    st.button(label, icon=icon, key=f"{place}_resume", on_click=again, args=(run, place), help=kept)


def stop_button(run: Run, place: str) -> None:
    """The button that stops a run; where it is asked already and takes its time, the one that ends it at once."""
    asked, slow = stopping(run), run.record.get("kind") == "train"
    label = ("Stop now" if slow else "Stopping…") if asked else "Stop"
    key, lost = f"{place}_stop{'_now' * asked}-{run.id}", LOST if asked and slow else None
    is_late = asked and not slow
    st.button(
        label,
        key=key,
        disabled=is_late,
        type="tertiary",
        on_click=end,
        args=(run, partial(cancel, run), place),
        help=lost,
    )


def stopping(run: Run) -> bool:
    """Whether the run's present worker has been asked to stop, by this session or anybody."""
    return _worker(run) in asked_to_stop() or run.asked


def end(run: Run, by: Callable[[], None], place: str) -> None:
    """Stop the run's worker `by` what ends it, without making the page wait for it.

    Where it cannot be ended, `session.said` says why at that place, at the next drawing.
    """
    known, failed, worker = asked_to_stop(), session.NOT_ENDED.keep(), _worker(run)

    def stop() -> None:
        try:
            by()
        except (ValueError, OSError) as error:
            failed.append((place, sentence(says(error))))
        finally:
            known.discard(worker)  # where it could not be stopped, the button is there again

    known.add(worker)
    threading.Thread(target=stop, daemon=True).start()


def _worker(run: Run) -> tuple[str, float]:
    """What tells a run's present worker from the one of a later resume."""
    return run.id, number(run.record.get("spawned"))


def ours(run: Run) -> bool:
    """Whether the run lies among this app's own. A folder from elsewhere is looked at, never worked on."""
    return run.path.resolve().parent == home() / "runs"


def again(run: Run, place: str = "") -> None:
    """Let a run that was stopped or failed go on where it was; where it cannot, `session.said` says why, at a place.

    One that sends prompts to servers is asked about first: its folder may come from anybody.
    """
    with telling(place):
        servers = contacted(run)
        if not servers:
            spawn(run)
            return
        asks = "A key goes only to the host that it was given for."
        yes = partial(_go_on, run, place, servers)
        session.ask(Question("Send prompts to servers?", asks, "Send and resume", yes, sends(run), is_loss=False))


def _go_on(run: Run, place: str, servers: Sequence[str]) -> None:
    """Let a run go on, which may ask these servers."""
    with telling(place):
        spawn(run, servers)


@contextmanager
def telling(place: str) -> Iterator[None]:
    """What breaks here is said at a place: a callback has no page to stand on, and it would be a traceback."""
    try:
        yield
    except Exception as error:
        session.say(sentence(says(error)), place)


def start(job: Job[Any], settings: Any) -> Run:
    """A run with these settings, started; where one goes on already, that.

    A second click, or another session's, finds the first one's run: they take turns. ValueError or OSError as `Job.new`
    and `engine.spawn` have it.
    """
    key, begun = (job.kind, settings), _begun()
    with one_at_a_time():  # a record may name a path or a model in another way
        alike = (run for run in Run.all(job.kind) if run.path == begun.get(key) or same(settings, run.config))
        there = next((run for run in alike if run.is_active), None)
        if there:
            return there
        run = job.new(settings)
        servers = [url for name in ("server", "masked_server") if (url := getattr(settings, name, ""))]
        spawn(run, *[servers] if servers else [])
        begun[key] = run.path
        return run


def begin(job: Job[Any], settings: Any, place: str) -> Run | None:
    """As `start`; where it cannot be, None, and `session.said` says why at that place."""
    with telling(place):
        return start(job, settings)
    return None


def starting(job: Job[Any], settings: Any, place: str) -> dict[str, Any]:
    """What makes a button `begin` a run."""
    return {"on_click": begin, "args": (job, settings, place)}


@st.cache_resource(show_spinner=False)
def _begun() -> dict[tuple[str, Any], Path]:
    return {}


@st.cache_resource(show_spinner=False)
def one_at_a_time() -> Lock:
    """What a session holds while it makes a run, or a version of one: no other session makes one then."""
    return Lock()


def asked_to_stop() -> set[tuple[str, float]]:
    """The runs that have been asked to stop in this session: the id of each, and when its worker was started."""
    return session.STOPPING.keep()


_STANDS = {"queued": "waiting", "started": "running", "cancelled": "stopped", "error": "failed"}


def find_run(name: str, kind: str) -> Run:
    """The run of that kind by its id, or in that folder. ValueError, one sentence, for what is none."""
    run = Run.find(name)
    if run.record.get("kind") != kind:
        raise ValueError(f"{name} is a run of another kind: choose one of `retmask {kind}`")
    return run


def run_label(run: Run, *facts: str) -> str:
    """A run for people: its name, its model where that does not say it, facts, and how it stands if not finished."""
    model, status = Path(model_of(run.record)).name, run.status
    stands = [_STANDS[status]] if status in _STANDS else []
    return " · ".join([run.reference, *([model] if model and model not in run.id else []), *facts, *stands])


def run_picker(
    title: str,
    runs: Sequence[Run],
    chosen: Run | None,
    choose: Callable[[str], None],
    facts: Callable[[Run], Sequence[str]] = lambda run: (),
) -> None:
    """The runs to choose from. Streamlit tells choices by their labels: where these change, it is another widget."""
    labels = {run.reference: run_label(run, *facts(run)) for run in runs}
    names = list(labels)
    key = f"{title}-{chosen.reference if chosen else ''}-{hash(tuple(labels.values()))}"
    at = names.index(chosen.reference) if chosen else None
    changed = session.newest(title, key, lambda name: choose(name) if name in labels else None)
    st.selectbox(title, names, at, key=key, format_func=lambda name: labels[name], width=560, on_change=changed)


def seconds_for(tokens: int, model: str, device: str = "") -> float | None:
    """Seconds that prompts of so many context tokens in all may take, their answers included and loading not.

    At the pace of the newest run of the model on that device which has recorded one, None where none has.
    """
    for run in Run.all():
        pace = number(run.record.get("pace"))
        if pace > 0 and (run.config.get("model"), run.config.get("device", "")) == (model, device):
            return pace * tokens
    return None
