"""One run closely: how it stands, what can be done with it, and what is in its folder."""

from collections.abc import Callable
from functools import partial

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.runs import files, lineage
from app.runs.table import COLOURS
from app.shared import address, jobs, maps, selection, session
from app.shared.session import Question
from app.shared.text import guarded, sentence
from retmask.runs import overview
from retmask.runs.engine import remove
from retmask.runs.overview import Summary
from retmask.runs.run import Run, parent_ids

PLACE = "runs"  # names widgets, and where sentences are said


def section(run: Run, page: StreamlitPage | None, show: Callable[[Run], None]) -> None:
    """Draw a run; `page` is where its result is shown, and `show` what chooses it there."""
    summary, holder = overview.summary(run), overview.behind(run)
    st.subheader(run.id, anchor=False, divider="gray")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(summary.status, color=COLOURS[summary.status])
        st.markdown(" · ".join(_facts(summary, holder)), width="content")
        if holder:
            lineage.link(holder, "behind")
    jobs.status_block(run, jobs.Names(PLACE), buttons=partial(_buttons, page=page, show=show))
    lineage.section(run)
    files.section(run)
    if run.command:
        st.markdown("**The command that does the same**")
        st.code(run.command, language="bash", wrap_lines=True)
    with st.expander("Its record (run.json)", key="runs_record"):
        st.json(run.record, expanded=1)
    if summary.is_active:
        st.fragment(guarded(jobs.log_end), run_every=2)(run, PLACE)
    elif summary.status != "error":  # there it stands with its last words
        jobs.log_end(run, PLACE)


def _facts(run: Summary, holder: str) -> list[str]:
    """How far a run is that is over, when it began and ended, how long it took, and that it waits, in words."""
    facts = [] if run.is_active else [sentence(run.words)[:-1]]
    facts += [f"begun {overview.when(run.started)}"] if run.started else [f"made {overview.when(run.created)}"]
    facts += [f"ended {overview.when(run.ended)}"] if run.started and run.ended and not run.is_active else []
    took = overview.duration(run.seconds) if run.seconds is not None else ""
    facts += [f"{took} so far" if run.status == "started" else f"took {took}"] if took else []
    return facts + ["waiting behind"] * bool(holder)


def _buttons(run: Run, page: StreamlitPage | None, show: Callable[[Run], None]) -> None:
    """What can be done with a run here: its result looked at, and all of it deleted."""
    icon = ":material/open_in_new:"
    if page and st.button(f"Open in {page.title}", type="primary", icon=icon, key="runs_open"):
        show(run)
        st.switch_page(page)
    if not run.is_active:
        st.button("Delete", icon=":material/delete:", key="runs_delete", on_click=_ask, args=(run,))


def _ask(run: Run) -> None:
    """Ask before a run is deleted, and say what goes and what stays."""
    size = overview.size(sum(output.size for output in overview.outputs(run)))
    children = ", ".join(f"`{child.id}`" for child in run.children)
    asks = f"Delete `{run.id}` with all that it wrote, {size}?"
    asks += f"\n\nWhat was made from it stays: {children}." if children else ""
    session.ask(Question("Delete this run?", asks, "Delete", lambda: _delete(run)))


def _delete(run: Run) -> None:
    looked_at = run.reference in parent_ids(selection.source())
    try:
        remove(run)
    except (ValueError, OSError) as error:
        session.say(sentence(error), PLACE)
        return
    lineage.look_at_run()
    selection.forget(run.path)
    if address.place("train") == run.reference:
        address.go_to(train=None)
    if address.place("pairs") == run.reference:
        address.go_to(pairs=None, gate=None)
    if looked_at:
        selection.choose(maps.shipped_maps()[0])
    session.say(f"The run {sentence(run.id)[:-1]} is deleted.", PLACE)
