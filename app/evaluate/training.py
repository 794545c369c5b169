"""What a training changed: needle recall of unmasked | masked | tuned on prompts that nothing before has used."""

from pathlib import Path
from typing import Any

import streamlit as st

from app.shared import jobs, session
from app.shared.text import sentence
from retmask.evaluate.job import EVALUATE, EvaluateSettings
from retmask.files import expanded, mapping, number, read_object
from retmask.heads.intervals import over, span
from retmask.heads.rules import TUNED, UNMASKED, MaskRule
from retmask.runs.overview import duration, progress
from retmask.runs.pace import seconds_for
from retmask.runs.run import Run
from retmask.train.results import result

TRIALS = 120


def section(run: Run) -> None:
    """What was measured of a training's result, or the button that measures it."""
    st.subheader("What changed", anchor=False, divider="gray")
    last = _last(run)
    status = last.status if last else ""
    stale = last is not None and str(last.record.get("created", "")) < str(run.record.get("ended") or "")
    if last is None:
        st.caption(
            f"Needle recall of the model as it was, masked and tuned on {TRIALS} prompts whose needles, depths and "
            f"haystack neither detection nor pairs have used: {_takes(run)}."
        )
    elif status in ("queued", "started"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.progress(*progress(last), width=500)
            jobs.stop_button(last, "measure")
    elif status == "success":
        _found(last)
    elif status == "error":
        st.error("The measurement failed. Its last words:")
        st.code(last.last_words, language=None, wrap_lines=True)
    else:
        st.info("The measurement was cancelled; what it has measured is kept.")
    if stale:
        st.warning("This was measured before the training went on: the adapter has changed since.")
    _buttons(run, last, status, stale)


def _takes(run: Run) -> str:
    """About how long the measurement takes, by the last answers of the model here, else by the speed of the training.

    A trained token takes about four times a read one; answering takes half as long as reading the prompts.
    """
    conditions = 3 if mapping(run.record.get("made_with")).get("mask") else 2
    tokens = conditions * TRIALS * EvaluateSettings.context_tokens
    last = next((line for line in reversed(run.latest) if line.get("stage") == "steps"), {})
    speed = 4 * number(last.get("tokens_per_s"))
    known = seconds_for(tokens, str(run.config.get("model")))
    seconds = known or (1.5 * tokens / speed if speed > 0 else None)
    return f"about {duration(seconds)}" if seconds else "some minutes on two CPU cores with the default model"


def _last(run: Run) -> Run | None:
    """The newest measurement of what this training has made: others may only have its pairs or heads in common."""
    folder = result(run)
    known = (one for one in run.children if one.record.get("kind") == "evaluate")
    return next((one for one in known if folder and measures(one) == folder.resolve()), None)


def measures(run: Run) -> Path | None:
    """The folder of the model that an evaluation has measured first; None where it says none."""
    folders = run.config.get("tuned")
    name = str(folders[0]).rpartition("=")[2] if isinstance(folders, list) and folders else ""
    try:
        return expanded(name).resolve() if name else None
    except (ValueError, OSError):
        return None


def _buttons(run: Run, last: Run | None, status: str, stale: bool) -> None:
    if status in ("queued", "started"):
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        if last and status != "success" and not stale and jobs.ours(last):
            st.button("Go on measuring", key="measure_again", on_click=jobs.again, args=(last, "measured"))
        st.button(
            "Measure it again" if last else "Measure what changed", icon=":material/straighten:", key="measure",
            on_click=_start, args=(run,), type="secondary" if last and not stale else "primary",
        )  # fmt: skip
    said = session.said("measured")
    if said:
        st.error(said)


def config(run: Run) -> EvaluateSettings:
    """The evaluation of what a training has made, with the heads masked that its pairs were made with.

    ValueError where it has made nothing.
    """
    folder, settings, made = result(run), run.config, mapping(run.record.get("made_with"))
    if folder is None:
        raise ValueError(f"{run.id} has made no model yet: let it finish a step")
    mask = made.get("mask")
    return EvaluateSettings(
        model=str(settings["model"]),
        tuned=(str(folder),),
        rule=MaskRule(heads=str(mask)) if mask else MaskRule(),
        trials=TRIALS,
        revision=str(settings.get("revision") or ""),
    )


def _start(run: Run) -> None:
    try:
        wanted = config(run)
        jobs.start(EVALUATE, wanted)
    except (ValueError, OSError, KeyError) as error:
        session.say(sentence(error), "measured")


def _found(run: Run) -> None:
    """The figures of a measurement, and what they say in a sentence."""
    try:
        found = read_object(run.path / "results.json")
        rows, gaps = found["conditions"], found["differences"]
        gap = next((one for one in gaps if (one["condition"], one["against"]) == (TUNED, UNMASKED)), None)
        table = {
            "condition": [row["condition"] for row in rows],
            "recall": [f"{row['recall']:.2f}" for row in rows],
            f"95 % interval over {_over(rows)}": [span(row["low"], row["high"]) for row in rows],
            "needles found": [f"{row['found']:.0%}" for row in rows],
        }
        words = _verdict(gap) if gap else ""
    except (ValueError, KeyError, TypeError):
        st.error("The results of this measurement cannot be read.")
        return
    st.dataframe(table, hide_index=True, width=620, key="measured")
    if words:
        st.markdown(words)
    with st.expander("The command that does the same", key="measured_command"):
        st.code(run.command, language="bash", wrap_lines=True)


def _verdict(gap: dict[str, Any]) -> str:
    """What the paired difference says."""
    low, high = gap["needle_low"], gap["needle_high"]
    chance = "" if low is None or low > 0 or high < 0 else "The interval over needles holds 0: this may be chance. "
    if low is None:
        chance = "There are fewer than 3 needles, too few for an interval: this may be chance. "
    return (
        f"Recall changed by **{gap['mean']:+.2f}** (95 % {span(gap['low'], gap['high'], '+.2f')} over prompts, "
        f"{span(low, high, '+.2f')} over needles): better on {gap['better']} prompts, worse on {gap['worse']}. {chance}"
        "A gain is only a gain of the method if a control (pairs of random heads) gains less."
    )


def _over(rows: list[dict[str, Any]]) -> str:
    """What the intervals of the conditions are over: an evaluation from before needles were counted drew prompts."""
    return over(rows[0]["needles"], "needle") if "needles" in rows[0] else "prompts"
