"""Detection: the form that starts it, and what became of the run that is looked at."""

from functools import partial

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.shared import jobs, maps, selection, session
from app.shared.form import Form, show_command, show_memory
from app.shared.text import guarded, sentence
from retmask.detect.job import DETECT, DetectSettings, no_map_sentence, same_prompts_sentence
from retmask.figures import style
from retmask.heads.detectors import DETECTORS
from retmask.heads.intervals import FEWEST
from retmask.heads.scores import HeadScores
from retmask.model.gguf import BUILT_IN
from retmask.text.haystack import load_haystack

FORM = Form(DetectSettings, "detect", apart=("model",), first="quick")


@st.dialog("Detect retrieval heads", width="large", on_dismiss=partial(session.DETECTION_FORM.put, False))
@guarded
def form(on_heads: StreamlitPage) -> None:
    """What to detect, the command that does the same, and the button that starts it and leads to its map."""
    model = FORM.widget("model", options=[*BUILT_IN], accept_new_options=True, width="stretch")
    preset = FORM.preset()
    values = FORM.widgets()
    FORM.changed(values, preset)
    try:
        config = FORM.settings(values, model=(model or "").strip())
        n = len(config.tasks())
        load_haystack(config.haystack)
    except (ValueError, OSError) as error:
        st.error(sentence(error))
        st.button("Start", icon=":material/play_arrow:", type="primary", disabled=True, key="detect_start")
        return
    measured = DETECTORS[config.measure]
    st.caption(f"{measured.definition} ({measured.source})")
    show_command(config, f"{n:,} trials of up to {max(config.lengths):,} tokens.")
    show_memory(config.model, max(config.lengths), "detect_memory")
    if st.button("Start", icon=":material/play_arrow:", type="primary", key="detect_start") and _start(config):
        st.switch_page(on_heads)


def _start(config: DetectSettings) -> bool:
    """Begin the detection and look at its map; whether it could be begun."""
    try:
        with st.spinner("Starting…"):
            run = jobs.start(DETECT, config)
    except (ValueError, OSError) as error:
        st.error(sentence(error))
        return False
    session.DETECTION_FORM.put(False)
    selection.choose(run.id)
    return True


def condition(shown: maps.HeadMap) -> None:
    """What became of the run that is looked at; nothing for a map that is finished and whole."""
    run = shown.run
    if run is None or shown.source in maps.shipped_maps():
        return
    kept = "What it found can be used." if shown.scores else "No trial has found its needle yet."
    jobs.status_block(run, jobs.Names("detect", "This detection", kept))
    if run.is_active:
        st.info(_so_far(shown.scores), icon=":material/hourglass_top:")
    if shown.scores is None and (shown.trials or run.status == "success"):
        _no_map(shown)


def _so_far(scores: HeadScores | None) -> str:
    """The map while it is being made: from how many trials, and how surely they tell the top heads."""
    if scores is None:
        return "The map appears with the first trial that finds its needle."
    n, share = scores.n_trials, scores.stability()
    stable = f"how stable its top 5 % is can be said from {FEWEST} needles on"
    if share is not None:
        stable = f"stability of its top 5 %: {style.percent(round(share, 2))}"
    return f"The map so far, from {n} successful trial{'s' * (n > 1)}; {stable}."


def _no_map(shown: maps.HeadMap) -> None:
    """Instead of a map of zeros: why there is none, and what the model answered."""
    st.warning(no_map_sentence(list(shown.trials)))
    if same := same_prompts_sentence(shown.record):
        st.caption(same)
    rows = [(trial.context_tokens, trial.depth, trial.answer, trial.response, trial.recall) for trial in shown.trials]
    names = ("tokens", "depth", "right answer", "the model's answer", "recall")
    st.dataframe(dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}, hide_index=True)
