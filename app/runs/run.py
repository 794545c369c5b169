"""One run closely: how it stands, what can be done with it, and what is in its folder."""

from collections.abc import Callable

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
SAYS = {
    "queued": "It has not begun",
    "started": "It goes on, with this page or without it",
    "success": "It is finished",
    "cancelled": "What it had finished is kept",
    "error": "It failed",
}


def section(run: Run, page: StreamlitPage | None, show: Callable[[Run], None]) -> None:
    """Draw a run; `page` is where its result is shown, and `show` what chooses it there."""
    summary = overview.summary(run)
    st.subheader(run.id, anchor=False, divider="gray")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(summary.status, color=COLOURS[summary.status])
        st.markdown(" · ".join(_facts(summary)))
    holder = overview.behind(run)
    if holder:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown("Waiting behind", width="content")
            lineage.link(holder, "behind")
    elif summary.is_active:
        st.fragment(guarded(_progress), run_every=2)(run)
    elif summary.status == "error":
        st.caption("Its last words:")
        st.code(run.last_words, language=None, wrap_lines=True)
    _buttons(run, summary, page, show)
    lineage.section(run)
    files.section(run)
    if run.command:
        st.markdown("**The command that does the same**")
        st.code(run.command, language="bash", wrap_lines=True)
    with st.expander("Its record (run.json)", key="runs_record"):
        st.json(run.record, expanded=1)
    if not summary.is_active:
        _log(run)


def _facts(run: Summary) -> list[str]:
    """How a run stands, when it began and ended, and how long it took, in words."""
    over = not run.is_active
    says = "It was stopped" if run.kind == "ablate" and run.status == "cancelled" else SAYS[run.status]
    facts = [says] + ([sentence(run.words)[:-1]] if over else [])
    facts += [f"begun {overview.when(run.started)}"] if run.started else [f"made {overview.when(run.created)}"]
    facts += [f"ended {overview.when(run.ended)}"] if run.started and run.ended and over else []
    took = overview.duration(run.seconds) if run.seconds is not None else ""
    return facts + ([f"{took} so far" if run.status == "started" else f"took {took}"] if took else [])


def _progress(run: Run) -> None:
    """How far a run is, and the end of its log, as it goes."""
    share, text = overview.progress(run)
    st.progress(share, sentence(text)[:-1])
    _log(run)


def _log(run: Run) -> None:
    log = run.log_tail(40)
    if log:
        with st.expander("The end of its log", key="runs_log"):
            st.code(log, language=None, wrap_lines=True, height=min(400, 60 + 22 * log.count("\n")))


def _buttons(run: Run, summary: Summary, page: StreamlitPage | None, show: Callable[[Run], None]) -> None:
    """What can be done with a run."""
    with st.container(horizontal=True, vertical_alignment="center"):
        icon = ":material/open_in_new:"
        if page and st.button(f"Open in {page.title}", type="primary", icon=icon, key="runs_open"):
            show(run)
            st.switch_page(page)
        if summary.is_active:
            jobs.stop_button(run, PLACE)
            return
        if summary.status != "success" and not jobs.stopping(run):
            jobs.resume_button(run, PLACE)
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
