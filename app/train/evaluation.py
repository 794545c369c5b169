"""What a training changed: the way to its evaluation, and the needle recall that was measured here before."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import streamlit as st

from app.shared import address, jobs, session
from app.shared.models import ModelRef, tunings
from app.shared.text import sentence
from retmask.evaluate.job import EvaluateSettings, asks_suite, measured
from retmask.files import mapping, number, read_object
from retmask.heads.intervals import over, span
from retmask.heads.rules import TUNED, UNMASKED
from retmask.runs.overview import standing
from retmask.runs.run import Run
from retmask.train.results import result

NAMES = jobs.Names("measure", "The measurement", "What it has measured is kept.")
Measure = Callable[[EvaluateSettings | None], None]  # opens the page, with these settings or as it is


def section(run: Run, measure: Measure) -> None:
    """What was measured of a training's result, and the button that has more measured, on the page for that."""
    st.subheader("What changed", anchor=False, divider="gray")
    by_suite, last = _last(run, True), _last(run, False)
    if last and last.status == "success":
        _figures(last)
    if any(each and _is_stale(run, each) for each in (by_suite, None if by_suite else last)):
        st.warning("This was measured before the training went on: the adapter has changed since.")
    if last and (last.is_active or not _is_stale(run, last)):  # what is resumed would go on with the adapter as it was
        jobs.status_block(last, NAMES)
    st.caption(
        "An evaluation asks the model as it was, masked and tuned the same long-context questions, which neither "
        "detection nor pairs have used, and a guard of general ability."
    )
    label, icon = "Measure it again" if by_suite or last else "Measure what changed", ":material/straighten:"
    kind: Literal["primary", "secondary"] = "secondary" if by_suite else "primary"
    with st.container(horizontal=True, vertical_alignment="center"):
        if by_suite:
            opens = f"Open its evaluation ({standing(by_suite)})"
            if st.button(opens, icon=":material/fact_check:", key="measured_open", type="primary"):
                address.go_to(evaluate=by_suite.reference, item=None)
                measure(None)
        if st.button(label, icon=icon, key="measure", type=kind):
            _measure(run, measure)
    session.show_said("measure")


def _measure(run: Run, measure: Measure) -> None:
    try:
        settings = config(run)
    except (ValueError, KeyError) as error:
        st.error(sentence(error))
        return
    measure(settings)


def _is_stale(run: Run, evaluation: Run) -> bool:
    return str(evaluation.record.get("created", "")) < str(run.record.get("ended") or "")


def _last(run: Run, by_suite: bool) -> Run | None:
    """The newest evaluation of what this training has made: others may only have its pairs or heads in common."""
    folder = result(run)
    made = (child for child in run.children if child.record.get("kind") == "evaluate" and asks_suite(child) == by_suite)
    return next((each for each in made if folder and folder.resolve() in measured(each)), None)


def config(run: Run) -> EvaluateSettings:
    """The evaluation of what a training has made: tuned, masked as its pairs were made, and the control's if there is.

    A control was trained on pairs of random heads, from the same prompts. ValueError where it has made nothing.
    """
    folder, settings, made = result(run), run.config, mapping(run.record.get("made_with"))
    if folder is None:
        raise ValueError(f"{run.id} has made no model yet: let it finish a step")
    mask, random = made.get("mask"), number(made.get("random")) > 0
    heads = "random control" if random else "masked"
    conditions = [f"{'control' if random else 'tuned'}: tuned={folder}"]
    conditions += [f"{heads}: {'scaled' if ':' in str(mask) else 'masked'}={mask}"] if mask else []
    conditions += [] if random else [f"control: tuned={folder}" for folder in _controls(run)][:1]
    return EvaluateSettings(
        model=str(settings["model"]),
        suite="quick",
        condition=tuple(conditions),
        revision=str(settings.get("revision") or ""),
    )


def _controls(run: Run) -> Iterator[Path]:
    """What was trained like this one on the pairs of random heads to the same prompts, newest first."""
    made = mapping(run.record.get("made_with"))
    for training in tunings(replace(ModelRef.of_config(run.config), adapter="")):
        with_random = mapping(read_object(Path(training.folder) / "retmask.json").get("made_with"))
        prompts = with_random.get("prompts_sha256")
        if number(with_random.get("random")) > 0 and prompts and prompts == made.get("prompts_sha256"):
            yield Path(training.folder)


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
