"""Detection: the form that starts it, and what became of the run that is looked at."""

import re
import shlex
from functools import partial
from typing import Any, get_args

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.navigation.page import StreamlitPage

from app.shared import jobs, maps, readers, selection, session
from app.shared.text import guarded, sentence
from retmask.detect.job import DETECT, PRESETS, DetectSettings, no_map_sentence, same_prompts_sentence
from retmask.figures import style
from retmask.heads.detectors import DETECTORS, DetectorName
from retmask.heads.intervals import FEWEST
from retmask.heads.scores import HeadScores
from retmask.model.gguf import BUILT_IN
from retmask.runs.settings import from_preset
from retmask.text.haystack import load_haystack

CUSTOM = "custom"
SCORE = "what a head's score is; all are measured on the same prompts"
HAYSTACKS = "pydoc, essays, or a folder of .txt files"
SAYS = {name: "copied needle tokens" if name == "copy" else DETECTORS[name].says for name in get_args(DetectorName)}


@st.dialog("Detect retrieval heads", width="large", on_dismiss=partial(session.DETECTION_FORM.put, False))
@guarded
def form(on_heads: StreamlitPage) -> None:
    """What to detect, the command that does the same, and the button that starts it and leads to its map."""
    model, preset = _model_and_preset()
    grid = _custom() if preset == CUSTOM else {}
    more = _more()
    try:
        config = _config(model, preset, grid, more)
    except (ValueError, OSError) as error:
        st.error(sentence(error))
        st.button("Start", type="primary", disabled=True, key="detect_start")
        return
    n = len(config.lengths) * len(config.depths) * config.n_needles
    st.caption(f"{n} trials of up to {max(config.lengths):,} tokens. The command that does the same:")
    st.code(shlex.join(config.command), language="bash", wrap_lines=True)
    _memory(config)
    if st.button("Start", type="primary", key="detect_start") and _start(config):
        st.switch_page(on_heads)


def _model_and_preset() -> tuple[str, str]:
    left, right = st.columns(2)
    with left:
        says = "choose one, or type a folder, a .gguf file or a Hub id: HuggingFaceTB/SmolLM2-360M-Instruct"
        choice = st.selectbox(
            "Model",
            [*BUILT_IN],
            accept_new_options=True,
            help=says,
            **session.kept("detect_model", next(iter(BUILT_IN))),
        )
    with right:
        preset = st.segmented_control(
            "How much", [*PRESETS, CUSTOM], required=True, **session.kept("detect_preset", "quick")
        )
        preset = preset or "quick"
        st.caption(PRESETS[preset].says if preset in PRESETS else "your own lengths and depths")
    return (choice or "").strip(), preset


def _custom() -> dict[str, str | int]:
    lengths, depths, needles = st.columns([2, 2, 1])
    return {
        "lengths": lengths.text_input("Lengths (tokens)", **session.kept("detect_lengths", "256, 512, 1024")),
        "depths": depths.text_input("Depths (0 to 1)", **session.kept("detect_depths", "0, 0.25, 0.5, 0.75, 1")),
        "n_needles": needles.number_input("Needles", step=1, **session.kept("detect_needles", 3)),
    }


def _more() -> dict[str, Any]:
    """What is detected how, besides the model and the grid: settings of `DetectSettings` by name."""
    with st.expander("Needles, haystack, detector"):
        left, right = st.columns(2)
        look: dict[str, Any] = {"format_func": SAYS.__getitem__, "help": SCORE}
        detector = left.selectbox("Detector", get_args(DetectorName), **look, **session.kept("detect_detector", "copy"))
        counting = DETECTORS["set" if detector == "copy" else detector]
        right.caption(f"{counting.definition} ({counting.source})")
        ours = "those that come with RetMask"
        needles = left.text_input("Needles file", placeholder=ours, **session.kept("detect_needles_file", ""))
        haystack = right.text_input("Haystack", help=HAYSTACKS, **session.kept("detect_haystack", "pydoc"))
        counted = _counting(left) if detector == "copy" else "set"
        label, says = "Stop when the top 5 % are stable", "unchanged over 10 successful trials"
        stable = right.toggle(label, help=says, **session.kept("detect_stable", False))
    texts = {"needles": needles.strip(), "haystack": haystack.strip()}
    return {"detector": detector, "counting": counted, "until_stable": stable, **texts}


def _counting(place: DeltaGenerator) -> str:
    """How copies are counted: `set` or `steps`."""
    says = "set: each needle token counts once, scores are 0 to 1; steps: as in the published code"
    kept = session.kept("detect_counting", "set")
    return place.segmented_control("Counting", ["set", "steps"], required=True, help=says, **kept) or "set"


def _config(model: str, preset: str, grid: dict[str, str | int], more: dict[str, Any]) -> DetectSettings:
    """The settings. ValueError, one sentence, for what cannot be."""
    if not model:
        raise ValueError("Name a model: a folder with its files, or its id on the Hub")
    if preset != CUSTOM:
        n_needles = PRESETS[preset].values["n_needles"]  # also of a file of one's own
        config = from_preset(DetectSettings, preset, model=model, n_needles=n_needles, **more)
    else:
        wrong = session.out_of_range(("detect_needles", "the number of needles", 1, 1000))
        if wrong:
            raise ValueError(wrong)
        lengths = [int(x) for x in _numbers(str(grid["lengths"]), r"\d{1,7}", "a length in whole tokens")]
        depths = [float(x) for x in _numbers(str(grid["depths"]), r"\d*\.?\d+", "a depth from 0 to 1")]
        config = DetectSettings(
            model=model, lengths=tuple(lengths), depths=tuple(depths), n_needles=int(grid["n_needles"]), **more
        )
    config.tasks()
    load_haystack(config.haystack)
    return config


def _numbers(text: str, form: str, meaning: str) -> list[str]:
    parts = [part for part in re.split(r"[,;\s]+", text.strip()) if part]
    for part in parts:
        if not re.fullmatch(form, part):
            raise ValueError(f"{part[:20]!r} is not {meaning}")
    return parts


def _memory(config: DetectSettings) -> None:
    """The memory estimate, made when it is asked for: it takes some seconds the first time."""
    if not st.toggle("Check that it fits into memory", key="detect_memory"):
        return
    try:
        with st.spinner("Looking at the model's size…"):
            fits, says = readers.memory(config.model, max(config.lengths))
    except (ValueError, OSError) as error:
        st.error(sentence(error))
        return
    (st.success if fits else st.warning)(sentence(says))


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
