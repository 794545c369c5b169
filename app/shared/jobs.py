"""Jobs on every page: starting them, THE block that says how one stands and what can be done, what runs now."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st

from app.shared import selection, session
from app.shared.session import Question
from app.shared.text import guarded, plain, says, sentence
from retmask.evaluate.job import asks_suite, contacted, sends
from retmask.files import expanded, home, number
from retmask.runs.engine import cancel, spawn
from retmask.runs.job import Job
from retmask.runs.overview import label, progress, stage, standing
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
Signs = tuple[list[tuple[str, Status, str | int]], list[tuple[str, float]]]
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

    The page of a training draws its steps anew by itself, and that of an evaluation its table.
    """
    signs = [(run.id, run.status, stage(run) if _draws_itself(run) else run.progress_size) for run in runs]
    return signs, sorted(asked_to_stop())


def _draws_itself(run: Run) -> bool:
    kind = run.record.get("kind")
    return kind == "train" or (kind == "evaluate" and asks_suite(run))


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
        bar(run)
        with st.container(horizontal=True):
            if kind == "detect" and selection.source() != run.id:
                st.button("Show", key=f"show-{run.id}", on_click=selection.choose, args=(run.id,), type="tertiary")
            stop_button(run, "sidebar")


class Names(NamedTuple):
    """What a page calls its runs: `place` names the widgets and where sentences are said, `kept` what of it remains."""

    place: str
    what: str = "This run"
    kept: str = "What it had finished is kept."
    resume: str = "Resume"


Draw = Callable[[Run], None]


def status_block(run: Run, names: Names, stop: Draw | None = None, buttons: Draw | None = None) -> None:
    """How a run stands that is not finished, and what this allows: Stop while it goes on, Resume later.

    A page draws its own by `stop`, in place of Stop, and by `buttons`, beside it. What is not among this app's own
    runs is only looked at.
    """
    status = run.status
    if status == "error":
        st.error(f"{names.what} failed. Its last words:")
        st.code(run.last_words, language=None, wrap_lines=True)
        log_end(run, names.place)
    elif status == "cancelled":
        kept = "Nothing was written." if writes_at_its_end(run) else names.kept
        st.info(f"{names.what} was stopped ({sentence(progress(run, status)[1])[:-1]}). {kept}")
    with st.container(horizontal=True, vertical_alignment="center"):
        if status in ACTIVE:
            with st.container(width=500):
                st.fragment(guarded(_progress), run_every=2)(run)
        if status in ACTIVE and ours(run):
            stop(run) if stop else stop_button(run, names.place)
        elif status != "success" and ours(run) and not stopping(run):
            resume_button(run, names)
        if buttons:
            buttons(run)
    session.show_said(names.place)


def _progress(run: Run) -> None:
    """How far a run is; the whole page is drawn when it is over."""
    if not run.is_active:
        st.rerun(scope="app")
    bar(run)


def bar(run: Run) -> None:
    """How far a run is, behind whom it waits, and how long it takes still."""
    share, text = progress(run)
    st.progress(share, sentence(text)[:-1])


def log_end(run: Run, place: str) -> None:
    """The end of its log, folded away; nothing where there is none."""
    if log := run.log_tail(40):
        with st.expander("The end of its log", key=f"{place}_log"):
            st.code(log, language=None, wrap_lines=True, height=min(400, 60 + 22 * log.count("\n")))


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
    status_block(run, Names(f"{what}_run", f"This {what}"))
    if run.status == "success":
        st.success("It is written. To load it:")
        st.code(LOADS.format(repr(run.config["out"])), language="python", wrap_lines=True)


def writes_at_its_end(run: Run) -> bool:
    """Whether nothing is written before all of it is: of an export that is stopped, nothing is kept."""
    return run.record.get("kind") == "ablate"


def resume_button(run: Run, names: Names) -> None:
    """The button that lets a run go on where it was: what is finished is kept."""
    kept, icon = None if writes_at_its_end(run) else "what it has finished is kept", ":material/play_arrow:"
    key = f"{names.place}_resume"
    st.button(names.resume, icon=icon, key=key, on_click=again, args=(run, names.place), help=kept)


def stop_button(run: Run, place: str) -> None:
    """The button that stops a run; where it is asked already and takes its time, the one that ends it at once."""
    asked, slow = stopping(run), run.record.get("kind") == "train"
    label = ("Stop now" if slow else "Stopping…") if asked else "Stop"
    key, do = f"{place}_stop{'_now' * asked}-{run.id}", partial(end, run, partial(cancel, run), place)
    look: dict[str, Any] = {"type": "tertiary"} if place == "sidebar" else {"icon": ":material/stop:"}
    help = LOST if asked and slow else None
    st.button(label, key=key, disabled=asked and not slow, on_click=do, help=help, **look)


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
        servers = contacted(run)
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
def one_at_a_time() -> threading.Lock:
    """What a session holds while it makes a run, or a version of one: no other session makes one then."""
    return threading.Lock()


def asked_to_stop() -> set[tuple[str, float]]:
    """The runs that have been asked to stop in this session: the id of each, and when its worker was started."""
    return session.STOPPING.keep()


def find_run(name: str, kind: str) -> Run:
    """The run of that kind by its id, or in that folder. ValueError, one sentence, for what is none."""
    run = Run.find(name)
    if run.record.get("kind") != kind:
        raise ValueError(f"{name} is a run of another kind: choose one of `retmask {kind}`")
    return run


def run_picker(
    title: str,
    runs: Sequence[Run],
    chosen: Run | None,
    choose: Callable[[str], None],
    facts: Callable[[Run], Sequence[str]] = lambda run: (),
) -> None:
    """The runs to choose from. Streamlit tells choices by their labels: where these change, it is another widget."""
    labels = {run.reference: label(run, *facts(run), standing(run)) for run in runs}
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
