"""The table of runs: a row each, newest first; a click on rows looks at them."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st

from app.runs import lineage
from app.shared import session
from retmask.runs.overview import Summary
from retmask.runs.run import STATUSES

HIGH, TALL, MOST = 35, 66, 500  # pixels of a row (from 65 on its texts wrap, in up to three lines) and of the table
LETTER = 6  # pixels, about
KINDS = ("detect", "dose", "ablate", "pairs", "train", "evaluate")
COLOURS: dict[str, Any] = dict(zip(STATUSES, ("gray", "blue", "green", "orange", "red"), strict=True))


class Column(NamedTuple):
    """How a column of the table is shown, and what it holds."""

    config: Any
    values: list[Any]


def section(runs: list[Summary]) -> None:
    """The runs of the kinds and statuses that are chosen; of all where none is."""
    kinds = [*KINDS, *sorted({run.kind for run in runs} - {*KINDS})]
    with st.container(horizontal=True, gap="medium"):
        kind = st.pills("Kind", kinds, selection_mode="multi", **session.kept("runs_kind", []))
        status = st.pills("Status", STATUSES, selection_mode="multi", **session.kept("runs_status", []))
    shown = [run for run in runs if (run.kind in kind or not kind) and (run.status in status or not status)]
    if shown:
        _table(shown)
    else:
        st.caption("No run is of this kind and status.")


def _table(runs: Sequence[Summary]) -> None:
    ids = [run.run for run in runs]
    key = f"runs-{hash(tuple(ids))}-{session.RUNS_FOLLOWED.get()}"  # a new one, as it keeps what was chosen in it
    columns = _columns(runs)
    high = TALL if any(map(_wraps, columns.values())) else HIGH
    st.dataframe(
        {name: column.values for name, column in columns.items()},
        column_config={name: column.config for name, column in columns.items()},
        key=key,
        selection_mode="multi-row",
        on_select=session.newest("runs_picked", key, lambda event: picked(event, ids)),
        selection_default={"selection": {"rows": [ids.index(name) for name in lineage.run_ids() if name in ids]}},
        height=min(38 + high * len(runs), MOST),
        row_height=high,
        hide_index=True,
    )


def _columns(runs: Sequence[Summary]) -> dict[str, Column]:
    """What stands in each column, and how."""
    text, column = st.column_config.TextColumn, st.column_config
    badge = column.MultiselectColumn(width=85, options=STATUSES, color=[COLOURS[status] for status in STATUSES])
    return {
        "run": Column(text(width=265), [run.run for run in runs]),
        "status": Column(badge, [[run.status] for run in runs]),  # a list is drawn as a coloured badge
        "progress": Column(text(width=250), [run.why or run.words for run in runs]),
        "took": Column(text(width=70, help="hours:minutes:seconds"), _took([run.seconds for run in runs])),
        "begun": Column(
            column.DatetimeColumn(width=100, format="MM-DD HH:mm"), [_time(run.started or run.created) for run in runs]
        ),
        "kind": Column(text(width=70), [run.kind for run in runs]),
        "model": Column(text(width=105), [Path(run.model).name for run in runs]),
        "made from": Column(text(width=205), ["; ".join(run.parents) for run in runs]),
    }


def _took(seconds: Sequence[float | None]) -> list[str]:
    """Durations as h:mm:ss, with as many digits of hours as the longest has, so that they sort; empty for none."""
    digits = len(str(int(max((each or 0 for each in seconds), default=0) / 3600)))
    return ["" if each is None else _clock(round(each), digits) for each in seconds]


def _clock(seconds: int, digits: int) -> str:
    return f"{seconds // 3600:0{digits}}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _time(time_iso: str) -> datetime | None:
    """A time of a record in this machine's zone; None for none."""
    try:
        return datetime.fromisoformat(time_iso).astimezone().replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None


def _wraps(column: Column) -> bool:
    """Whether a text of a column needs more than a line."""
    texts = (value for value in column.values if isinstance(value, str))
    return column.config["width"] > 200 and any(len(text) * LETTER > column.config["width"] for text in texts)


def picked(event: Any, ids: Sequence[str]) -> None:
    """Look at the runs whose rows are chosen."""
    lineage.look_at_run(*(ids[row] for row in event["selection"]["rows"] if row < len(ids)))
