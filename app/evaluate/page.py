"""The Evaluate page: start an evaluation, watch its table fill in, and read what differs between its conditions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.evaluate import form, items, result
from app.shared import address, jobs, session
from app.shared.session import Question
from app.shared.text import guarded, sentence
from retmask.evaluate.job import asks_suite
from retmask.runs.engine import cancel, remove
from retmask.runs.overview import label
from retmask.runs.run import Run

NAMES = jobs.Names("evaluation", "This evaluation", "What was answered by then is kept, and counted below.")
LIVE = 5  # seconds between two looks at what was answered


def page(heads_page: StreamlitPage, compare_page: StreamlitPage, ask: Callable[..., None]) -> None:
    """Draw the page; heads are selected on `heads_page`, and on `compare_page` an item is asked again, by `ask`."""
    st.header("Evaluate", anchor=False)
    st.caption(
        "What masking or fine-tuning changes, in nine kinds of long-context questions and a guard of general ability. "
        "All conditions answer the same questions; what counts is the difference to the best control."
    )
    runs = [run for run in Run.all("evaluate") if asks_suite(run)]
    form.section(heads_page, is_first=not runs and not address.place("evaluate"))
    run = _looked_at(runs)
    if run is None:
        return
    _about(run)
    jobs.status_block(run, NAMES, buttons=_buttons)
    beside = _beside(run, runs)
    st.fragment(guarded(result.show), run_every=LIVE if run.is_active else None)(run, beside)
    browser = st.fragment(guarded(items.show))  # who steps through items need not wait for the rest
    browser(run, compare_page, ask, beside)
    with st.expander("How this evaluation was started", key="evaluate_origin"):
        st.code(run.command, language="bash", wrap_lines=True)
        st.code(str(run.path), language=None, wrap_lines=True)


def _looked_at(runs: list[Run]) -> Run | None:
    """The evaluation that the address names, else the newest; with a sentence where there is none such."""
    name = address.place("evaluate").partition(",")[0] or (runs[0].id if runs else "")
    if not name:
        st.info("No evaluation yet: press Start, and the table fills in here.")
        return None
    try:
        run: Run | None = jobs.find_run(name, "evaluate")
    except ValueError as error:
        st.error(sentence(error))
        run = None
    offered = [*runs, *([run] if run and run.reference not in [each.reference for each in runs] else [])]
    if len(offered) > (1 if run else 0):
        jobs.run_picker("Evaluation", offered, run, lambda chosen: address.go_to(evaluate=chosen, item=None))
    return run


def _beside(run: Run, runs: Sequence[Run]) -> list[Run]:
    """The finished evaluations of the same items that are looked at too; asked for where there are any."""
    digest = run.record.get("items_sha256")
    alike = [each for each in runs if each.status == "success" and each.record.get("items_sha256") == digest]
    offered = {each.reference: each for each in alike if each.reference != run.reference}
    if not (digest and offered and run.status == "success"):
        return []
    key, named = f"evaluation_beside-{run.id}", address.place("evaluate").split(",")[1:]
    help = "finished evaluations of the very same items: their conditions stand in the tables below too"
    look: dict[str, Any] = {"format_func": lambda name: label(offered[name]), "help": help, "width": 560}
    chosen = st.multiselect("Beside it", list(offered), [name for name in named if name in offered], key=key, **look)
    if chosen != named:
        address.go_to(evaluate=",".join([run.reference, *chosen]))
    return [offered[name] for name in chosen]


def _about(run: Run) -> None:
    """What is asked of which model."""
    config = run.config
    st.subheader(sentence(str(config.get("model", run.id)))[:-1], anchor=False, divider="gray")
    lengths = config.get("lengths")
    facts = [f"suite {config.get('suite')}", f"seed {config.get('seed')}"]
    facts += [f"{', '.join(f'{n:,}' for n in lengths)} tokens"] if isinstance(lengths, list) and lengths else []
    facts += [f"from {', '.join(run.parents)}"] if run.parents else []
    st.caption(sentence(" · ".join(facts))[:-1])


def _buttons(run: Run) -> None:
    """Its form opened with other settings, and all that it answered discarded."""
    if not jobs.ours(run):
        return
    if not run.is_active:
        label, icon = "Start again with changed settings", ":material/edit:"
        st.button(label, icon=icon, key="evaluation_change", on_click=form.start_from, args=(run,))
    if run.status != "success":
        off, icon = jobs.stopping(run), ":material/delete:"
        st.button("Discard", icon=icon, key="evaluation_discard", disabled=off, on_click=_ask, args=(run,))


def _ask(run: Run) -> None:
    """Ask before an evaluation is stopped and deleted; then the page does not wait for it."""
    asks = f"Delete `{run.id}` with all that it has answered?"
    do, holds = partial(_discard, run), lambda: run.status != "success"
    session.ask(Question("Discard this evaluation?", asks, "Discard", do, holds=holds))


def _discard(run: Run) -> None:
    address.go_to(evaluate=None, item=None)
    jobs.end(run, partial(_end, run), NAMES.place)


def _end(run: Run) -> None:
    if run.is_active:
        cancel(run)
    remove(run)
