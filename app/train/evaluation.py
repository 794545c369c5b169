"""What a training changed: needle recall of unmasked | masked | tuned on prompts that nothing before has used."""

from typing import Any, Literal

import streamlit as st

from app.shared import jobs, session
from retmask.evaluate.job import EVALUATE, EvaluateSettings, measured
from retmask.evaluate.suite import NEEDLES
from retmask.files import mapping, number, read_object
from retmask.heads.intervals import over, span
from retmask.heads.rules import TUNED, UNMASKED, MaskRule
from retmask.runs.overview import duration
from retmask.runs.run import Run
from retmask.train.results import result

TRIALS = 120
NAMES = jobs.Names("measure", "The measurement", "What it has measured is kept.")


def section(run: Run) -> None:
    """What was measured of a training's result, or the button that measures it."""
    st.subheader("What changed", anchor=False, divider="gray")
    last = _last(run)
    stale = last is not None and str(last.record.get("created", "")) < str(run.record.get("ended") or "")
    if last is None:
        st.caption(
            f"Needle recall of the model as it was, masked and tuned on {TRIALS} prompts whose needles, depths and "
            f"haystack neither detection nor pairs have used: {_takes(run)}."
        )
    elif last.status == "success":
        _figures(last)
    if stale:
        st.warning("This was measured before the training went on: the adapter has changed since.")
    if last and (last.is_active or not stale):  # what is resumed would go on with the adapter as it was
        jobs.status_block(last, NAMES)
    if not (last and last.is_active):
        label, icon = "Measure it again" if last else "Measure what changed", ":material/straighten:"
        kind: Literal["primary", "secondary"] = "secondary" if last and not stale else "primary"
        st.button(label, icon=icon, key="measure", on_click=_start, args=(run,), type=kind)
    session.show_said("measure")


def _takes(run: Run) -> str:
    """About how long the measurement takes, by the last answers of the model here, else by the speed of the training.

    A trained token takes about four times a read one; answering takes half as long as reading the prompts.
    """
    conditions = 3 if mapping(run.record.get("made_with")).get("mask") else 2
    tokens = conditions * TRIALS * EvaluateSettings.context_tokens
    last: dict[str, Any] = next((line for line in reversed(run.latest) if line.get("stage") == "steps"), {})
    speed = 4 * number(last.get("tokens_per_s"))
    seconds = jobs.seconds_for(tokens, str(run.config.get("model"))) or (1.5 * tokens / speed if speed > 0 else None)
    return f"about {duration(seconds)}" if seconds else "some minutes on two CPU cores with the default model"


def _last(run: Run) -> Run | None:
    """The newest measurement of what this training has made: others may only have its pairs or heads in common."""
    folder = result(run)
    evaluations = (child for child in run.children if child.record.get("kind") == "evaluate")
    return next((each for each in evaluations if folder and measured(each) == folder.resolve()), None)


def config(run: Run) -> EvaluateSettings:
    """The evaluation of what a training has made, with the heads masked that its pairs were made with.

    ValueError where it has made nothing.
    """
    folder, settings, made = result(run), run.config, mapping(run.record.get("made_with"))
    if folder is None:
        raise ValueError(f"{run.id} has made no model yet: let it finish a step")
    mask = made.get("mask")
    return EvaluateSettings(
        suite=NEEDLES,
        model=str(settings["model"]),
        tuned=(str(folder),),
        rule=MaskRule(heads=str(mask)) if mask else MaskRule(),
        trials=TRIALS,
        revision=str(settings.get("revision") or ""),
    )


def _start(run: Run) -> None:
    with jobs.telling("measure"):
        jobs.start(EVALUATE, config(run))


def _figures(run: Run) -> None:
    """The figures of a measurement, and what they say in a sentence."""
    try:
        results = read_object(run.path / "results.json")
        rows = [_row(row) for row in results["conditions"]]
        ways = {(gap["condition"], gap["against"]): gap for gap in results["differences"]}
        gap = ways.get((TUNED, UNMASKED))
        verdict = _verdict(gap) if gap else ""
    except (ValueError, KeyError, TypeError):
        st.error("The results of this measurement cannot be read.")
        return
    number = st.column_config.NumberColumn
    config = {"recall": number(format="%.2f"), "needles found": number(format="percent")}
    st.dataframe(rows, column_config=config, hide_index=True, width=620, key="measured")
    if verdict:
        st.markdown(verdict)
    with st.expander("The command that does the same", key="measured_command"):
        st.code(run.command, language="bash", wrap_lines=True)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A condition as the table has it. An evaluation from before needles were counted drew prompts for its interval."""
    drawn = over(row["needles"], "needle") if "needles" in row else "prompts"
    interval = {f"95 % interval over {drawn}": span(row["low"], row["high"])}
    return {"condition": row["condition"], "recall": row["recall"], **interval, "needles found": row["found"]}


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
