"""The Runs page: every long job, one of them closely, or several beside each other."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.evaluate import training
from app.runs.run import COLOURS, closely, followed, link, look_at_run, named, run_ids
from app.shared import address, selection, session
from app.shared.text import sentence
from retmask.runs import overview
from retmask.runs.overview import Summary
from retmask.runs.run import STATUSES, Run, parent_ids

HIGH, TALL = 35, 66  # pixels of a row; from 65 on its texts wrap, in up to three lines
KINDS = ("detect", "dose", "ablate", "pairs", "train", "evaluate")


def _open_map(run: Run) -> None:
    selection.choose(run.id)


def _open_curve(run: Run) -> None:
    """The map whose heads a curve masks: the curve is shown below its comparison."""
    selection.choose(run.parents[0] if run.parents else str(run.config.get("scores", "")))


def _open_pairs(run: Run) -> None:
    address.go_to(pairs=run.reference, gate=None)


def _open_training(run: Run) -> None:
    address.go_to(train=run.reference)


def _open_measured(run: Run) -> None:
    """The training whose model an evaluation has measured: its page shows the figures."""
    address.go_to(train=_measured(run))


def _measured(run: Run) -> str:
    """The training that made the model which an evaluation has measured; empty where it is none of the runs."""
    names = parent_ids(folder) if (folder := training.measures(run)) else []
    known = [name for name in names if (made := named(name)) and made.record.get("kind") == "train"]
    return next(iter(known), "")


OPEN: dict[str, Callable[[Run], None]] = {  # what to choose before its page
    "detect": _open_map,
    "dose": _open_curve,
    "pairs": _open_pairs,
    "train": _open_training,
    "evaluate": _open_measured,
}


def page(pages: Mapping[str, StreamlitPage]) -> None:
    """Draw the page; `pages` are those on which runs are looked at, by kind."""
    st.header("Runs", anchor=False)
    said = session.said("runs")
    if said:
        st.info(said)
    runs = Run.all()
    if not runs:
        _empty(pages)
        return
    st.caption(
        "Whatever takes longer than a moment is a run. It goes on without this page, is kept in a folder of its own, "
        "and can go on where it was. One run at a time has a device; the others wait in line."
    )
    shown = _filtered([overview.summary(run) for run in runs])
    _table(shown)
    _looked_at(pages)


def _empty(pages: Mapping[str, StreamlitPage]) -> None:
    st.info(
        "There are no runs yet. The first one may be a detection: it finds the retrieval heads of a model, and takes a "
        'minute or so with the preset "quick".'
    )
    if st.button("Detect the heads of a model", type="primary", icon=":material/radar:", key="runs_first"):
        session.open_form()
        st.switch_page(pages["detect"])


def _filtered(rows: list[Summary]) -> list[Summary]:
    """The runs of the kinds and statuses that are chosen; of all where none is."""
    kinds = [*KINDS, *sorted({row.kind for row in rows} - {*KINDS})]
    with st.container(horizontal=True, gap="medium"):
        kind = st.pills("Kind", kinds, selection_mode="multi", **session.kept("runs_kind", []))
        status = st.pills("Status", STATUSES, selection_mode="multi", **session.kept("runs_status", []))
    return [row for row in rows if (row.kind in kind or not kind) and (row.status in status or not status)]


def _table(rows: list[Summary]) -> None:
    """The runs, newest first; a click on rows looks at them."""
    if not rows:
        st.caption("No run is of this kind and status.")
        return
    ids = [row.run for row in rows]
    chosen = [ids.index(name) for name in run_ids() if name in ids]
    key = f"runs-{hash(tuple(ids))}-{followed()}"
    columns = {
        "run": (265, [row.run for row in rows]),
        "status": (85, [[row.status] for row in rows]),  # a list is drawn as a coloured badge
        "progress": (250, [row.why or row.words for row in rows]),
        "took": (70, ["" if row.seconds is None else overview.duration(row.seconds) for row in rows]),
        "begun": (115, [overview.when(row.started or row.created)[5:] for row in rows]),
        "kind": (60, [row.kind for row in rows]),
        "model": (105, [Path(row.model).name for row in rows]),
        "made from": (205, ["; ".join(map(overview.title, row.parents)) for row in rows]),
    }
    wrap = any(
        len(text) * 6 > columns[name][0] for name in ("run", "progress", "made from") for text in columns[name][1]
    )
    high = TALL if wrap else HIGH
    shown = {name: st.column_config.TextColumn(width=width) for name, (width, _) in columns.items()}
    colours = [COLOURS[status] for status in STATUSES]
    shown["status"] = st.column_config.MultiselectColumn(width=columns["status"][0], options=STATUSES, color=colours)
    st.dataframe(
        {name: values for name, (_, values) in columns.items()},
        hide_index=True, key=key, selection_mode="multi-row",
        on_select=session.newest("runs", key, lambda event: _picked(event, ids)),
        selection_default={"selection": {"rows": chosen}}, height=min(38 + high * len(rows), 500), row_height=high,
        column_config=shown,
    )  # fmt: skip


def _picked(event: Any, ids: list[str]) -> None:
    look_at_run(*(ids[row] for row in event["selection"]["rows"] if row < len(ids)))


def _looked_at(pages: Mapping[str, StreamlitPage]) -> None:
    """The run that is chosen, or those that are, beside each other."""
    known = [(name, named(name)) for name in dict.fromkeys(run_ids())]
    for name, one in known:
        if one is None:
            st.warning(f"There is no run {sentence(name)[:-1]} any more.")
    runs = [one for _, one in known if one]
    if len(runs) == 1:
        closely(runs[0], _opens(runs[0], pages))
    elif runs:
        _beside(runs)
    else:
        st.caption("Choose a run in the table to see more of it, or several to compare them.")


def _opens(run: Run, pages: Mapping[str, StreamlitPage]) -> tuple[StreamlitPage, Callable[[Run], None]] | None:
    """The page that shows a run's result, and what chooses it there; None where none does."""
    kind = str(run.record.get("kind"))
    page = pages.get("train" if kind == "evaluate" and _measured(run) else kind)
    return (page, OPEN[kind]) if page and kind in OPEN else None


def _beside(runs: list[Run]) -> None:
    """Several runs: their figures, and the settings in which they differ."""
    st.subheader(f"{len(runs)} runs beside each other", anchor=False, divider="gray")
    with st.container(horizontal=True, gap="small"):
        for one in runs:
            link(one.id, "beside")
    for title, rows in (
        ("The figures they have come to", overview.results(runs)),
        ("The settings in which they differ", overview.differences(runs)),
    ):
        st.markdown(f"**{title}**")
        if rows:
            names = list(rows[0])
            st.dataframe({name: [row[name] for row in rows] for name in names}, hide_index=True, height="content")
        else:
            st.caption("None.")
