"""The tuned model on every page: which it is, how to choose another, and the map of its heads."""

from dataclasses import asdict, replace

import streamlit as st

from app.shared import models, state
from app.shared.maps import HeadMap
from app.shared.models import ModelRef, Tuned
from retmask.detect.job import DETECT, DetectSettings
from retmask.runs.run import Run
from retmask.runs.settings import from_record


def line() -> None:
    """Which model is the tuned one, in the sidebar, with a button to switch it off; nothing where none is."""
    found = state.tuned_model()
    if found is None:
        return
    name, off = st.columns([6, 1], gap=None, vertical_alignment="center")
    about = state.sentence(f"Trained on {found.base}, {found.steps:,} steps")
    name.caption(f"Tuned: {state.sentence(found.id)[:-1]}", help=about)
    off.button(
        "", icon=":material/close:", type="tertiary", key="tuned_off", on_click=state.tune, args=("",),
        help="go on without the tuned model",
    )  # fmt: skip


def choice(ref: ModelRef | None) -> None:
    """Which training's model answers beside a model; a hint where there is none to choose."""
    if ref is None:
        return
    found, known = state.tuned_model(), models.tunings(ref)
    known += [found] if found and found.trained_on(ref) and found.id not in [one.id for one in known] else []
    if known:
        names = {one.id: str(one) for one in known}
        at = list(names).index(found.id) if found and found.id in names else None
        key, answer = state.answering("tuned_choice", found.id if at is not None and found else None, _tune)
        st.selectbox(
            "Tuned model", list(names), at, key=key, format_func=lambda name: names.get(name, name),
            placeholder="choose a training of this model", on_change=answer,
        )  # fmt: skip
    if found is None and not known:
        st.caption("A tuned column can be added once this model has been fine-tuned, on the Train page.")
    elif found and found.ref == ref:
        st.caption(
            state.sentence(f"This map is of the tuned model itself: a map of {found.base} has both side by side")
        )
    elif found and not found.trained_on(ref):
        st.caption(state.sentence(f"The tuned model was trained on {found.base}, so it is left out beside {ref}"))


def _tune(_: str | None, now: str | None) -> None:
    state.tune(now or "")


def detection(shown: HeadMap) -> None:
    """The way from a map to that of the tuned model: its own map, or the detection that makes it."""
    found = state.tuned_for(shown.ref)
    config = _config(found, shown) if found and shown.scores else None
    if found is None or config is None:
        return
    done = _map_of(config)
    with st.container(horizontal=True, vertical_alignment="center"):
        if done:
            st.button("Map of the tuned model", icon=":material/model_training:", key="tuned_map",
                      on_click=state.choose, args=(done.id,))  # fmt: skip
        else:
            st.button(
                "Detect on the tuned model", icon=":material/radar:", key="tuned_detect", on_click=_detect,
                args=(config,), help=f"the same trials with {found}; then this page shows what moved",
            )  # fmt: skip
    said = state.said("tuned")
    if said:
        st.error(said)


def _config(found: Tuned, shown: HeadMap) -> DetectSettings | None:
    """The detection that made a map, of the tuned model; None where the map does not say how it was made."""
    try:
        config = from_record(DetectSettings, shown.record["config"])
    except (KeyError, TypeError, ValueError):
        return None
    return replace(config, **found.ref.settings)


def _map_of(config: DetectSettings) -> Run | None:
    """The newest detection with these settings that goes on or is done."""
    wanted = asdict(config) | {"lengths": list(config.lengths), "depths": list(config.depths)}
    runs = (run for run in Run.all("detect") if run.record.get("config") == wanted)
    return next((run for run in runs if run.status in ("queued", "started", "success")), None)


def _detect(config: DetectSettings) -> None:
    try:
        run = state.start("detect", asdict(config), lambda: DETECT.new(config))
    except (ValueError, OSError) as error:
        state.say(state.sentence(error), "tuned")
        return
    state.choose(run.id)
