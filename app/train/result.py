"""What a training has made: how well it does on the pairs held out, its files and card, and where to go with it."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.evaluate import training
from app.heads import checkpoint
from app.shared import jobs, maps, models, selection, session
from app.shared.models import ModelRef
from app.shared.text import sentence
from retmask.compare.ablate import ABLATE, AblateSettings
from retmask.detect.job import DETECT, DetectSettings
from retmask.figures import style
from retmask.files import expanded, home, is_number, mapping, read_object, stem
from retmask.heads.intervals import proportion_interval
from retmask.runs import overview
from retmask.runs.run import Run
from retmask.runs.settings import from_preset, from_record
from retmask.train.checkpoints import ADAPTER
from retmask.train.results import result

MOST_CARD = 100_000  # characters of a card that are shown


def section(run: Run, compare_page: StreamlitPage, heads_page: StreamlitPage) -> None:
    """The result of a training that is over; nothing where there is none, or it is just being deleted."""
    folder = result(run)
    if folder is None or run.record.get("discarded"):
        return
    is_adapter = folder.name == ADAPTER
    st.subheader(f"The {'adapter' if is_adapter else 'model'}{_step_of(folder)}", anchor=False, divider="gray")
    _held_out(run)
    _use(run, compare_page, heads_page)
    training.section(run)
    with st.expander("Its card and files", key="train_card"):
        _card(folder)
        _files(folder)
    if is_adapter and run.config.get("model"):
        _merge(run.id, ModelRef.of_config(run.config), folder)


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


def _use(run: Run, compare_page: StreamlitPage, heads_page: StreamlitPage) -> None:
    """Where to go with it: beside the model as it was, or to the map of its heads."""
    with st.container(horizontal=True, vertical_alignment="center"):
        loaded = models.tuned_id() == run.reference
        st.button(
            "It is loaded as tuned" if loaded else "Load as tuned", type="primary", disabled=loaded, key="train_tune",
            icon=":material/model_training:", on_click=models.tune, args=(run.reference,),
            help="from then on Compare has a column for it, and the map shows what moved",
        )  # fmt: skip
        st.page_link(compare_page, label="Compare", icon=":material/compare_arrows:", width="content")
        if st.button(
            "Detect on the tuned model", icon=":material/radar:", key="train_detect",
            help="a map of its heads, on the grid of the map that the pairs were made with",
        ) and _detect(run):  # fmt: skip
            st.switch_page(heads_page)
    said = session.said("trained")
    if said:
        st.error(said)


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
    """The detection of what a training has made: on the grid of the map whose heads were masked, else «laptop».

    ValueError where it has made nothing.
    """
    found = models.tuned(run.reference)
    if found is None:
        raise ValueError(f"{run.id} has made no model yet: let it finish a step")
    known = _map_of(run)
    base = from_record(DetectSettings, known) if known else from_preset(DetectSettings, "laptop")
    return replace(base, **found.ref.settings)


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
        found = _map_of(parent, (run, *seen)) or shipped
        if found:
            return found
    return {}


def _card(folder: Path) -> None:
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")[:MOST_CARD]
        st.code(text, language=None, wrap_lines=True, height=360)


def _files(folder: Path) -> None:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    st.dataframe(
        {
            "file": [str(file.relative_to(folder)) for file in files],
            "size": [overview.size(file.stat().st_size) for file in files],
        },
        hide_index=True, width=560, key="train_files",
    )  # fmt: skip
    st.caption(f"They lie in `{str(folder).replace('`', '')}`.")


def _merge(name: str, base: ModelRef, folder: Path) -> None:
    """Write the model with the adapter in its weights, as a checkpoint that needs neither PEFT nor us."""
    st.markdown("**Merge and save**")
    st.caption("A checkpoint with the adapter in its weights, for transformers or any server.")
    text = st.text_input("Folder", str(_default(name)), key=f"merge-{name}", label_visibility="collapsed").strip()
    try:
        out = expanded(text).resolve() if text else None
    except ValueError as error:
        st.error(sentence(error))
        return
    how: dict[str, Any] = {"model": base.name, "revision": base.revision, "adapter": str(folder)}
    settings = AblateSettings(**how, out=str(out)) if out else None
    last = checkpoint.last(settings) if settings else None
    if settings:
        st.code(shlex.join(settings.command), language="bash", wrap_lines=True)
    st.button(
        "Merge and save", icon=":material/save:", key="merge_start", disabled=not out or jobs.is_active(last),
        on_click=_start, args=(settings,),
    )  # fmt: skip
    said = session.said("merge")
    if said:
        st.error(said)
    if out and last:
        checkpoint.outcome(last, str(out), "merge")


def _default(name: str) -> Path:
    """A folder of its own for each training."""
    return home() / "checkpoints" / stem(name, "merged", 60)


def _start(settings: AblateSettings) -> None:
    try:
        jobs.start(ABLATE, settings)
    except (ValueError, OSError) as error:
        session.say(sentence(error), "merge")
