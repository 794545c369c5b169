"""Concentration against gain on the Families page: does training pay more where few heads hold the retrieval?"""

from collections import Counter
from collections.abc import Hashable, Sequence

import streamlit as st

from app.shared import readers, session
from app.shared.figure import draw_figure
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
        said = ", ".join(f"{n} {why}" for why, n in reasons.items())
        st.caption(f"Points that are not drawn: {said}. The table has them too.")
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
    ways = list(dict.fromkeys(f"{point.measured} ({point.unit})" for point in points))
    if session.value(place) not in ways:
        session.fill(**{place: ways[0]})
    if len(ways) > 1:
        st.selectbox("Measured as", ways, width=420, **session.kept(place, ways[0]))
    way = session.value(place)
    return [point for point in points if f"{point.measured} ({point.unit})" == way]


def figure_of(place: str, default: str) -> str:
    """The figure of concentration that is picked there."""
    picked = st.selectbox(
        "Figure of concentration", list(FIGURES), width=420,
        format_func=lambda name: FIGURES[name].title, **session.kept(place, default),
    )  # fmt: skip
    return picked or default


def _table(points: Sequence[Gain], name: str) -> None:
    """A row a point: the model, the figure, and what was measured."""
    figures = [point.figures and getattr(point.figures, name) for point in points]
    st.dataframe(
        {
            "model": [point.model for point in points],
            "concentration": [None if value is None else float(value) for value in figures],
            "before": [point.before for point in points],
            "after": [point.after for point in points],
            "gain": [point.gain for point in points],
            "95 % over needles": [_interval(point) for point in points],
            "n": [point.n for point in points],
            "measured": [f"{point.measured} ({point.unit})" for point in points],
            "scores": [point.scores for point in points],
            "source": [point.source for point in points],
        },
        column_config={
            "concentration": st.column_config.NumberColumn(format="%.3g", help=FIGURES[name].title),
            "gain": st.column_config.NumberColumn(format="%+.3g"),
            "n": st.column_config.NumberColumn(width=50, help="prompts, where the source says how many"),
        },
        hide_index=True, key="table-gains",
    )  # fmt: skip


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
