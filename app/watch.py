"""What runs now: looked at every two seconds, from the sidebar of every page."""

import threading
from typing import Any

import state
import streamlit as st

from retmask.files import home
from retmask.overview import progress
from retmask.runs import Run

DOING = {  # kinds of runs; the name of a model follows
    "detect": "Detecting",
    "dose": "Dose curve of",
    "ablate": "Exporting",
    "pairs": "Making pairs with",
    "train": "Training",
    "evaluate": "Evaluating",
}


def active(*kinds: str) -> list[Run]:
    """The runs of these kinds (default: of all) that go on now or are about to."""
    runs = [run for run in Run.all() if not kinds or run.record.get("kind") in kinds]
    return [run for run in runs if run.status in ("queued", "started")]


def watch() -> None:
    """What runs, every two seconds anew while anything does; the whole page follows when a run has something new."""
    runs = active()
    if runs:
        st.fragment(_watch, run_every=2)(_signs(runs))


def _watch(drawn: list[tuple[str, str, int]]) -> None:
    """Progress; `drawn` are the signs of the runs when the page was drawn."""
    runs = active()
    for run in runs:
        _running(run)
    if _signs(runs) != drawn:
        st.rerun(scope="app")


def _signs(runs: list[Run]) -> list[tuple[str, str, int]]:
    """What changes when a run has something new to show. The page of a training draws its steps anew by itself."""
    return [(run.id, run.status, 0 if run.record.get("kind") == "train" else len(run.progress)) for run in runs]


def _running(run: Run) -> None:
    record = run.record
    with st.container(border=True):
        doing = DOING.get(str(record.get("kind")), str(record.get("kind")))
        st.markdown(f"**{doing}** `{_plain(record.get('config', {}).get('model', ''))}`")
        share, text = progress(run)
        st.progress(share, text)
        with st.container(horizontal=True):
            if record.get("kind") == "detect" and state.source() != run.id:
                st.button("Show", key=f"show-{run.id}", on_click=state.choose, args=(run.id,), type="tertiary")
            stop(run, f"cancel-{run.id}")


def stop(run: Run, key: str) -> None:
    """The button that cancels a run."""
    stopping = run.id in state.stopping()
    st.button(
        "Stopping…" if stopping else "Cancel", key=key, disabled=stopping, type="tertiary",
        on_click=_cancel, args=(run,),
    )  # fmt: skip


def _cancel(run: Run) -> None:
    """Ask the worker to stop, without making the page wait for it."""
    state.stopping().add(run.id)
    threading.Thread(target=run.cancel, daemon=True).start()


def ours(run: Run) -> bool:
    """Whether the run lies among this app's own. A folder from elsewhere is looked at, never worked on."""
    return run.path.resolve().parent == home() / "runs"


def again(run: Run) -> None:
    """Let a run that was cancelled or failed go on where it was."""
    state.stopping().discard(run.id)
    run.spawn()


def _plain(text: Any) -> str:
    """Text that stays one piece of code in Markdown."""
    return str(text).replace("`", "'")[:80]
