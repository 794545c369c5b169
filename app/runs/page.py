"""The Runs page: every long job, one of them closely, or several beside each other."""

from collections.abc import Mapping

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.runs import lineage, run, table
from app.runs.lineage import named
from app.shared import address, selection, session
from app.shared.text import sentence
from retmask.evaluate.job import asks_suite, measured
from retmask.runs import overview
from retmask.runs.run import Run, parent_ids


def page(pages: Mapping[str, StreamlitPage]) -> None:
    """Draw the page; `pages` are those on which runs are looked at, by kind."""
    st.header("Runs", anchor=False)
    said = session.said(run.PLACE)
    if said:
        st.info(said)
    runs = Run.all()
    if not runs:
        _empty(pages["detect"])
        return
    st.caption(
        "Whatever takes longer than a moment is a run. It goes on without this page, is kept in a folder of its own, "
        "and can go on where it was. One run at a time has a device; the others wait in line."
    )
    table.section([overview.summary(each) for each in runs])
    _looked_at(pages)


def _empty(heads_page: StreamlitPage) -> None:
    st.info(
        "There are no runs yet. The first one may be a detection: it finds the retrieval heads of a model, and takes a "
        'minute or so with the preset "quick".'
    )
    if st.button("Detect the heads of a model", type="primary", icon=":material/radar:", key="runs_first"):
        session.DETECTION_FORM.put(True)
        st.switch_page(heads_page)


def _looked_at(pages: Mapping[str, StreamlitPage]) -> None:
    """The run that is chosen, or those that are, beside each other."""
    chosen = {name: named(name) for name in lineage.run_ids()}
    for name in [name for name in chosen if chosen[name] is None]:
        st.warning(f"There is no run {sentence(name)[:-1]} any more.")
    runs = [each for each in chosen.values() if each]
    if len(runs) == 1:
        run.section(runs[0], _page_of(runs[0], pages), _show)
    elif runs:
        _beside(runs)
    else:
        st.caption("Choose a run in the table to see more of it, or several to compare them.")


def _page_of(looked_at: Run, pages: Mapping[str, StreamlitPage]) -> StreamlitPage | None:
    """The page that shows a run's result; None where none does."""
    kind = str(looked_at.record.get("kind"))
    if kind == "evaluate" and not asks_suite(looked_at):
        kind = "train" if _measured_training(looked_at) else ""
    return pages.get(kind)


def _show(looked_at: Run) -> None:
    """Choose a run on the page that shows its result: of a curve its map, of needle recall the training it measured."""
    match looked_at.record.get("kind"):
        case "detect":
            selection.choose(looked_at.id)
        case "dose":
            selection.choose(looked_at.parents[0] if looked_at.parents else str(looked_at.config.get("scores", "")))
        case "pairs":
            address.go_to(pairs=looked_at.reference, gate=None)
        case "train":
            address.go_to(train=looked_at.reference)
        case "evaluate" if asks_suite(looked_at):
            address.go_to(evaluate=looked_at.reference, item=None)
        case "evaluate":
            address.go_to(train=_measured_training(looked_at))


def _measured_training(evaluation: Run) -> str:
    """The training that made the model which an evaluation has measured; empty where it is none of the runs."""
    names = [name for folder in measured(evaluation)[:1] for name in parent_ids(folder)]
    return next((name for name in names if (made := named(name)) and made.record.get("kind") == "train"), "")


def _beside(runs: list[Run]) -> None:
    """Several runs: their figures, and the settings in which they differ."""
    st.subheader(f"{len(runs)} runs beside each other", anchor=False, divider="gray")
    with st.container(horizontal=True, gap="small"):
        for each in runs:
            lineage.link(each.id, "beside")
    figures, settings = overview.results(runs), overview.differences(runs)
    for title, rows in {
        "The figures they have come to": figures,
        "The settings in which they differ": settings,
    }.items():
        st.markdown(f"**{title}**")
        if rows:
            st.dataframe({name: [row[name] for row in rows] for name in rows[0]}, hide_index=True, height="content")
        else:
            st.caption("None.")
