"""What a training has made: how well it does on the pairs held out, its files and card, and where to go with it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.shared import jobs, maps, models, selection, session
from app.shared.models import ModelRef
from app.shared.text import sentence
from app.train import evaluation, merge
from app.train.evaluation import Measure
from retmask.detect.job import DETECT, DetectSettings
from retmask.figures import style
from retmask.files import is_number, mapping, read_object
from retmask.heads.intervals import proportion_interval
from retmask.runs.run import Run
from retmask.runs.settings import from_preset, from_record
from retmask.train.checkpoints import ADAPTER
from retmask.train.results import result

MOST_CARD = 100_000  # characters of a card that are shown
TUNES = "from then on Compare has a column for it, and the map shows what moved"
DETECTS = "a map of its heads, on the grid of the map that the pairs were made with"


def section(
    run: Run, compare_page: StreamlitPage, heads_page: StreamlitPage, *, tune: Callable[[str], None], measure: Measure
) -> None:
    """The result of a training that is over; nothing where there is none, or it is just being deleted."""
    folder = result(run)
    if folder is None or run.record.get("discarded"):
        return
    is_adapter = folder.name == ADAPTER
    st.subheader(f"The {'adapter' if is_adapter else 'model'}{_step_of(folder)}", anchor=False, divider="gray")
    _held_out(run)
    _use(run, compare_page, heads_page, tune)
    evaluation.section(run, measure)
    with st.expander("Its card and files", key="train_card"):
        _card(folder)
        _files(folder)
    if is_adapter and run.config.get("model"):
        merge.section(run.id, ModelRef.of_config(run.config), folder)


def _step_of(folder: Path) -> str:
    """After which step it was saved: a training that was stopped, resumed and cancelled still has that of the stop."""
    step = read_object(folder / "retmask.json").get("steps")
    return f" as it was after step {step:,}" if isinstance(step, int) else ""


def _held_out(run: Run) -> None:
    """The reward accuracy on the pairs that were held out, with its interval."""
    held, sizes = (mapping(run.record.get(name)) for name in ("held_out", "preflight"))
    accuracy, n = held.get("rewards/accuracies"), sizes.get("held_out")
    if not is_number(accuracy) or not 0 <= accuracy <= 1 or not isinstance(n, int) or n < 1:
        st.caption("No reward accuracy was measured: no pairs were held out, or it was stopped before.")
        return
    low, high = proportion_interval(accuracy, n)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.metric("Held-out reward accuracy", f"{accuracy:.2f}", width="content")
        st.caption(
            f"Of {n:,} pairs that it was not trained on, it prefers the chosen answer in {_percent(accuracy)} "
            f"(95 % interval {_percent(low)} to {_percent(high)}). Whether it retrieves better is for the "
            "comparison to say."
        )


def _percent(share: float) -> str:
    return style.percent(round(share, 2))


def _use(run: Run, compare_page: StreamlitPage, heads_page: StreamlitPage, tune: Callable[[str], None]) -> None:
    """Where to go with it: beside the model as it was, or to the map of its heads."""
    with st.container(horizontal=True, vertical_alignment="center"):
        loaded = models.tuned_id() == run.reference
        look: dict[str, Any] = {
            "icon": ":material/model_training:",
            "type": "primary",
            "help": TUNES,
            "disabled": loaded,
        }
        label = "It is loaded as tuned" if loaded else "Load as tuned"
        st.button(label, key="train_tune", on_click=tune, args=(run.reference,), **look)
        st.page_link(compare_page, label="Compare", icon=":material/compare_arrows:", width="content")
        asked = st.button("Detect on the tuned model", icon=":material/radar:", key="train_detect", help=DETECTS)
        if asked and _detect(run):
            st.switch_page(heads_page)
    session.show_said("trained")


def _detect(run: Run) -> bool:
    """Begin the detection and look at its map; whether it could be begun."""
    try:
        wanted = detection(run)
        with st.spinner("Starting…"):
            begun = jobs.start(DETECT, wanted)
    except (ValueError, OSError, KeyError, TypeError) as error:
        st.error(sentence(error))
        return False
    selection.choose(begun.id)
    return True


def detection(run: Run) -> DetectSettings:
    """The detection of what a training has made: on the grid of the map whose heads were masked, else "laptop".

    ValueError where it has made nothing.
    """
    tuned = models.tuned(run.reference)
    if tuned is None:
        raise ValueError(f"{run.id} has made no model yet: let it finish a step")
    origin = _map_of(run)
    base = from_record(DetectSettings, origin) if origin else from_preset(DetectSettings, "laptop")
    return replace(base, **tuned.ref.settings)


def _map_of(run: Run, seen: tuple[Run, ...] = ()) -> dict[str, Any]:
    """The settings of the detection that a training goes back to, by its pairs; empty where none is known."""
    for name in run.parents:
        try:
            parent = Run.find(name)
        except ValueError:
            continue
        if parent in (run, *seen):  # a record that makes no sense
            continue
        if parent.record.get("kind") == "detect":
            return parent.config
        rule = parent.config.get("rule")
        scores = str(mapping(rule).get("scores") or "")
        shipped = Run(maps.locate(scores)).config if scores in maps.shipped_maps() else {}
        if origin := _map_of(parent, (run, *seen)) or shipped:
            return origin
    return {}


def _card(folder: Path) -> None:
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")[:MOST_CARD]
        st.code(text, language=None, wrap_lines=True, height=360)


def _files(folder: Path) -> None:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    rows = [{"file": str(file.relative_to(folder)), "size": file.stat().st_size} for file in files]
    config = {"size": st.column_config.NumberColumn(format="bytes")}
    st.dataframe(rows, column_config=config, hide_index=True, width=560, key="train_files")
    st.caption(f"They lie in `{str(folder).replace('`', '')}`.")
