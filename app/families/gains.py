"""Concentration against gain on the Families page: does training pay more where few heads hold the retrieval?"""

from collections import Counter
from collections.abc import Hashable, Sequence

import streamlit as st

from app.shared import readers, session
from app.shared.text import draw_figure
from retmask.families.gains import Gain, own_gains, published_gains, warning
from retmask.figures.concentration import FIGURES, gain_scatter
from retmask.figures.rows import Row
from retmask.runs.run import Run

OWN, PAPERS = "Own evaluations", "Papers"


def section() -> None:
    """The scatter of a figure of concentration against measured gains, with how many there are and what they show."""
    own = session.remembered("gains", _stamp(), own_gains)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = figure_of("gain_figure", "gini")
        kept = session.kept("gains_of", OWN if own else PAPERS)
        which = st.segmented_control("Gains of", [OWN, PAPERS], required=True, **kept)
    points = published_gains() if which == PAPERS else own
    if not points:
        st.info(warning(points), icon=":material/info:")
        return
    points = _of_one_measure(points, "gain_way_papers" if which == PAPERS else "gain_way_own")
    drawn = [point for point in points if not _left_out(point, name)]
    if drawn:
        st.info(warning(drawn), icon=":material/info:")
        draw_figure(gain_scatter(drawn, name), f"gain-{name}", lambda: rows(points), key="chart-gain")
    reasons = Counter(why for point in points if (why := _left_out(point, name)))
    if reasons:
        listed = ", ".join(f"{n} {why}" for why, n in reasons.items())
        st.caption(f"Points that are not drawn: {listed}. The table has them too.")
    _table(points, name)


def _stamp() -> Hashable:
    """What changes when an evaluation has results, or a detection scores for its model."""
    files = {"evaluate": "results.json", "detect": "scores.json"}
    return tuple((run.id, readers.file_stamp(run.path / file)) for kind, file in files.items() for run in Run.all(kind))


def _left_out(point: Gain, name: str) -> str:
    """Why a point cannot be drawn over that figure, empty where it can be."""
    if not point.figures:
        return "without a score set of the base model"
    if getattr(point.figures, name) is None:
        return "whose base model scores 0 in all heads"
    return "" if point.before else "with 0 before, of which a gain is no percentage"


def _of_one_measure(points: Sequence[Gain], place: str) -> list[Gain]:
    """The points that were measured in the way that is picked: others stand on another scale."""
    ways = list(dict.fromkeys(map(_measured, points)))
    if session.value(place) not in ways:
        session.fill(**{place: ways[0]})
    if len(ways) > 1:
        st.selectbox("Measured as", ways, width=420, **session.kept(place, ways[0]))
    way = session.value(place)
    return [point for point in points if _measured(point) == way]


def figure_of(place: str, default: str) -> str:
    """The figure of concentration that is picked there."""
    titles = {name: figure.title for name, figure in FIGURES.items()}
    kept = session.kept(place, default) | {"width": 420}
    return str(st.selectbox("Figure of concentration", list(titles), format_func=lambda name: titles[name], **kept))


def _table(points: Sequence[Gain], name: str) -> None:
    """A row a point: the model, the figure, and what was measured."""
    number = st.column_config.NumberColumn
    config = {
        "concentration": number(format="%.3g", help=FIGURES[name].title),
        "gain": number(format="%+.3g"),
        "n": number(width=50, help="prompts, where the source says how many"),
    }
    rows = [_row(point, name) for point in points]
    st.dataframe(rows, column_config=config, hide_index=True, key="table-gains")


def _row(point: Gain, name: str) -> Row:
    value = point.figures and getattr(point.figures, name)
    return {
        "model": point.model,
        "concentration": None if value is None else float(value),
        **{field: getattr(point, field) for field in ("before", "after", "gain")},
        "95 % over needles": _interval(point),
        "n": point.n,
        "measured": _measured(point),
        **{field: getattr(point, field) for field in ("scores", "source")},
    }


def _measured(point: Gain) -> str:
    """In which way a gain was measured, and in which unit."""
    return f"{point.measured} ({point.unit})"


def _interval(point: Gain) -> str:
    return "" if point.low is None or point.high is None else f"{point.low:+.2f} to {point.high:+.2f}"


def rows(points: Sequence[Gain]) -> list[Row]:
    """One row a point: what is known of the gain, and the figures of concentration under their names."""
    blank = dict.fromkeys(FIGURES)
    return [
        {key: value for key, value in point._asdict().items() if key != "figures"}
        | (point.figures._asdict() if point.figures else blank)
        for point in points
    ]
