"""What the studies share: which detections they read, panels of dots and of lines, and how a result is kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from retmask.figures.rows import to_csv
from retmask.figures.style import SERIES, browser, dress, panel_title, whiskers
from retmask.files import write_atomic
from retmask.heads.sets import ScoreSet, labels, read_set

RESULTS = Path(__file__).parent / "results"
BUILT_IN = ("smollm2-135m", "gemma-3-270m")
_LINE, _ROW, _TOP, _BOTTOM = 15, 16, 62, 44  # pixels: a dot's line, the room round a label, above and below the panels
_SCALE = 1.5  # pixels of a PNG a point: sharp enough, and under 150 KB
_SPREAD = 0.62  # how much of a label's height its dots take


class Dot(NamedTuple):
    """A value with its 95 % interval, where there is one: on which line of a panel it stands, and of which series."""

    label: str
    series: str
    value: float
    low: float | None = None
    high: float | None = None


class Curve(NamedTuple):
    """A line through points of a series; with `low` and `high` a 95 % band."""

    series: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dash: str = "solid"


class Panel(NamedTuple):
    """One part of a figure: its title, what it shows, the titles and the settings of its axes."""

    title: str
    shown: Sequence[Dot] | Sequence[Curve]
    x: Mapping[str, Any] = {}
    y: Mapping[str, Any] = {}


def opened(sources: Sequence[str], with_trials: bool = True) -> dict[str, ScoreSet]:
    """The score sets by the names of their models, by longer ones where two are of one model.

    A source is a built-in model, a run, a file, a folder or an https address. ValueError for a set without the trials
    that it was made from, unless it may be.
    """
    sets = [read_set(source) for source in sources]
    for score_set in sets:
        if with_trials and not score_set.trials():
            raise ValueError(f"{score_set.source} has no trials.jsonl beside it: give the folder of a detection")
    models = [score_set.model for score_set in sets]
    return dict(zip(models if len(set(models)) == len(sets) else labels(sets), sets, strict=True))


def panels(parts: Sequence[Panel], height: int = 0) -> go.Figure:
    """The parts beside each other, with one legend. A series has one colour in all of them."""
    names = list(dict.fromkeys(mark.series for part in parts for mark in part.shown))
    labels = [list(dict.fromkeys(mark.label for mark in part.shown if isinstance(mark, Dot))) for part in parts]
    figure = make_subplots(1, len(parts), horizontal_spacing=0.4 / len(parts) if any(labels) else 0.08)
    tall = max(len(lines) * (_ROW + _LINE * len(names)) for lines in labels) + _TOP + _BOTTOM
    dress(figure, height=height or max(tall, 300), top=_TOP, bottom=_BOTTOM)
    for column, (part, lines) in enumerate(zip(parts, labels, strict=True), start=1):
        for trace in (trace for mark in part.shown for trace in _traces(mark, names, lines)):
            figure.add_trace(trace, row=1, col=column)
        n = len(lines)
        down = {"tickvals": list(range(n)), "ticktext": lines, "range": [n - 0.5, -0.5]} if lines else {}
        figure.update_xaxes({"showgrid": True, **part.x}, row=1, col=column)
        figure.update_yaxes({"showgrid": True, **down, **part.y}, row=1, col=column)
        panel_title(figure, column, part.title, size=13, lift=6)
    _legend(figure)
    return figure


def _traces(mark: Dot | Curve, names: list[str], labels: list[str]) -> list[go.Scatter]:
    """A dot with its whiskers, or a band and its line."""
    place = names.index(mark.series)
    color = SERIES[place % len(SERIES)]
    common = {"name": mark.series, "legendgroup": mark.series}
    if isinstance(mark, Dot):
        lift = (place - (len(names) - 1) / 2) * _SPREAD / max(len(names), 1)
        dot = go.Scatter(x=[mark.value], y=[labels.index(mark.label) + lift], mode="markers", **common)
        dot.update(cliponaxis=False, marker={"color": color, "size": 8})
        if mark.low is not None and mark.high is not None:
            dot.update(error_x=whiskers([mark.value], [mark.low], [mark.high], width=3, color=color))
        return [dot]
    line = go.Scatter(x=mark.x, y=mark.y, mode="lines", line={"color": color, "width": 2, "dash": mark.dash}, **common)
    if not mark.low:
        return [line]
    band = go.Scatter(x=[*mark.x, *reversed(mark.x)], y=[*mark.high, *reversed(mark.low)], mode="none", **common)
    band.update(fill="toself", fillcolor=color, opacity=0.18, hoverinfo="skip", showlegend=False)
    return [band, line]


def _legend(figure: go.Figure) -> None:
    """One entry a series, above the panels."""
    known: set[str] = set()
    for trace in figure.data:
        if trace.showlegend is not False:
            trace.showlegend = trace.name not in known
            known.add(trace.name)
    figure.update_layout(
        showlegend=True, legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"}
    )


def save(
    figure: go.Figure, rows: Sequence[dict[str, Any]], name: str, folder: Path = RESULTS, width: int = 900
) -> None:
    """Keep a study's table and figure as `name`.csv, .png and .html.

    The page needs plotly.min.js, which is put beside it. Without a Chrome or Chromium there is no PNG, and that is
    said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{name}.csv", to_csv(rows))
    figure.write_html(folder / f"{name}.html", include_plotlyjs="directory")
    if browser() is None:
        print(f"{name}.png was not written: a PNG needs Chrome or Chromium")
    else:
        figure.write_image(folder / f"{name}.png", width=width, height=figure.layout.height, scale=_SCALE)
    print(f"the table and the figure are {name}.csv, .png and .html in {folder}")


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as a table in Markdown."""
    if not rows:
        return
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join("" if value is None else str(value) for value in row.values()) + " |")
    print(flush=True)


def rounded(value: float | None, digits: int = 4) -> float | None:
    """The value to so many digits after the point; None stays None."""
    return None if value is None else round(float(value), digits)
