"""Maps of a layer x head grid: one, what moved between two, several side by side. Values in, a Plotly figure out.

The rows of data behind them are in rows.py. Layer 0 is at the bottom, as the residual stream flows upwards.
"""

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from retmask.families.difference import MapDifference
from retmask.figures import style
from retmask.figures.rows import Row, difference_rows
from retmask.figures.style import BOTH_WAYS, EMPTY, HOVER, HUE, INK, MUTED, ORANGE, dress
from retmask.heads.grid import Grid, HeadId
from retmask.heads.intervals import span
from retmask.heads.scores import HeadScores

_GAP = 74  # pixels between the rows of small maps: the title of an axis, and two lines of a name


def head_heatmap(
    scores: HeadScores,
    selected: Collection[HeadId] = (),
    focus: HeadId | None = None,
    dragmode: str = "pan",
    stamp: int = 0,
) -> go.Figure:
    """The layer x head map: mean scores from 0 to the most, selected heads outlined, key/value groups ruled off.

    Where scores are or may be below 0 the scale goes as far down as up, white at 0.
    The last trace holds an invisible point a head, with customdata [layer, head, stamp], for clicks, boxes and lassos
    (a heatmap itself cannot be clicked in Streamlit); `selectedpoints` is empty, so that every redraw lets go.
    """
    grid, heads = scores.grid, scores.grid.heads()
    peak = float(np.abs(scores.mean).max()) or 1.0
    cells = (0.0, peak, HUE) if scores.mean.min() >= 0 and not scores.detector.signed else (-peak, peak, BOTH_WAYS)
    points = _points(grid, _head_texts(scores, selected))
    points.update(
        customdata=[[head.layer, head.head, stamp] for head in heads],
        selected={"marker": {"opacity": 0.6}},
        unselected={"marker": {"opacity": 0}},
        selectedpoints=[],
    )
    figure = go.Figure(
        [
            _cells(scores.mean, *cells, "retrieval score"),
            outlines(selected, ORANGE, 2.5),
            outlines([focus] if focus else [], INK, 1.5, "dot"),
            points,
        ]
    )
    _lay_out(figure, grid)
    figure.update_layout(dragmode=dragmode, selectionrevision=stamp)
    return figure


def difference_map(moved: MapDifference, marked: int = 10) -> go.Figure:
    """The layer x head map of what moved: mean scores after minus before, white where nothing did, to read only.

    The scale goes as far down as up; of the heads whose change holds, those that moved most are outlined.
    """
    grid, rows, change = moved.after.grid, difference_rows(moved), moved.change
    peak = float(np.abs(change).max()) or 1.0
    texts = {row["name"]: _moved_text(row) for row in rows}
    most = [HeadId(row["layer"], row["head"]) for row in rows[:marked] if row["holds"]]
    figure = go.Figure(
        [
            _cells(change, -peak, peak, BOTH_WAYS, "change of the score"),
            outlines(most, INK, 1.5),
            _points(grid, [texts[str(head)] for head in grid.heads()]),
        ]
    )
    _lay_out(figure, grid)
    return figure


def small_multiples(named: Mapping[str, HeadScores], common: bool = True) -> go.Figure:
    """A layer x head map of each set, layer 0 at the bottom, up to four a row.

    With `common` all share one colour scale, from 0 to the highest mean of all, and a bar that shows it; else each
    goes from 0 to its own highest mean, which its title says. What is below 0 is white, as 0 is.
    """
    widest = max((scores.grid.n_heads for scores in named.values()), default=1)
    deepest = max((scores.grid.n_layers for scores in named.values()), default=1)
    rows = max(1, -(-len(named) // (4 if widest <= 16 else 3)))
    columns = max(1, -(-len(named) // rows))
    tall = min(max((12, 10, 7, 6)[columns - 1] * deepest, 130), 420)
    inner = rows * tall + (rows - 1) * _GAP
    apart = (0.08, 0.08, 0.06, 0.05)[columns - 1]
    figure = make_subplots(rows, columns, horizontal_spacing=apart, vertical_spacing=_GAP / inner)
    dress(figure, height=inner + 100, top=56, bottom=44)
    peak = max((_peak(scores) for scores in named.values()), default=1.0)
    bar = style.colorbar("mean score", min(inner, 320))
    figure.update_layout(coloraxis={"colorscale": HUE, "cmin": 0, "cmax": peak, "colorbar": bar}, plot_bgcolor=EMPTY)
    for place, (name, scores) in enumerate(named.items()):
        row, column = place // columns + 1, place % columns + 1
        own = {"colorscale": HUE, "zmin": 0, "zmax": _peak(scores), "showscale": False}
        cells = go.Heatmap(z=scores.mean.round(4).tolist(), xgap=1, ygap=1, meta=style.shortened(name, 80))
        cells.update({"coloraxis": "coloraxis"} if common else own)
        cells.update(hovertemplate="%{meta}<br><b>L%{y}H%{x}</b> mean %{z:.3f}<extra></extra>")
        figure.add_trace(cells, row=row, col=column)
        titles = ("head" * (place + columns >= len(named)), "layer" * (column == 1))
        grid_axes(figure, scores.grid, 9, titles, row=row, col=column)
        title = name if common else f"{name}, 0 to {_peak(scores):.3g}"
        style.panel_title(figure, place + 1, style.wrapped(title, (90, 50, 32, 24)[columns - 1]), lift=3)
    return figure


def cell_size(grid: Grid) -> float:
    """The side of a cell in pixels."""
    return min(30.0, max(14.0, 590 / grid.n_layers))


def grid_axes(
    figure: go.Figure, grid: Grid, most: int = 20, titles: tuple[str, str] = ("head", "layer"), **panel: int
) -> None:
    """Heads across and layers up, each with no more than `most` numbers; of all panels, or the one of that row, col."""
    for update, title, n in (
        (figure.update_xaxes, titles[0], grid.n_heads),
        (figure.update_yaxes, titles[1], grid.n_layers),
    ):
        step = next(step for step in (1, 2, 5, 10, 20, 10**6) if n <= most * step)
        places = list(range(0, n, step))
        update(title=title or None, range=[-0.5, n - 0.5], tickvals=places, tickfont={"size": 11}, **panel)


def outlines(heads: Iterable[HeadId], color: str, width: float, dash: str = "solid") -> go.Scatter:
    """One line trace that walks round every cell."""
    x: list[float | None] = []
    y: list[float | None] = []
    for head in heads:
        left, right = head.head - 0.46, head.head + 0.46
        low, high = head.layer - 0.45, head.layer + 0.45
        x += [left, right, right, left, left, None]
        y += [low, low, high, high, low, None]
    walk = go.Scatter(x=x, y=y, mode="lines", line={"color": color, "width": width, "dash": dash})
    return walk.update(hoverinfo="skip", showlegend=False)


def _peak(scores: HeadScores) -> float:
    """The top of a colour scale that begins at 0, above 0 also where no mean is."""
    return max(float(scores.mean.max()), 0) or 1.0


def _cells(
    values: Float[np.ndarray, "layer head"], low: float, high: float, scale: list[tuple[float, str]], title: str
) -> go.Heatmap:
    look = {"xgap": 1, "ygap": 1, "hoverinfo": "skip", "colorscale": scale, "colorbar": style.colorbar(title)}
    return go.Heatmap(z=values.round(6).tolist(), zmin=low, zmax=high, **look)


def _points(grid: Grid, texts: list[str]) -> go.Scatter:
    """An invisible square on every cell that says a text."""
    heads = grid.heads()
    return go.Scatter(
        x=[head.head for head in heads],
        y=[head.layer for head in heads],
        text=texts,
        hovertemplate=HOVER,
        mode="markers",
        marker={"symbol": "square", "size": cell_size(grid) - 3, "color": ORANGE, "opacity": 0},
    )


def _lay_out(figure: go.Figure, grid: Grid) -> None:
    """Axes, size and groups of a layer x head map."""
    dress(figure, height=round(cell_size(grid) * grid.n_layers + 100), top=54, bottom=44)
    figure.update_layout(dragmode="pan", hoverdistance=-1, plot_bgcolor=EMPTY)
    grid_axes(figure, grid)
    _rule_groups(figure, grid)


def _head_texts(scores: HeadScores, selected: Collection[HeadId]) -> list[str]:
    """What hovering over each head says, layer by layer."""
    spread = scores.interval
    texts = []
    for head in scores.grid.heads():
        group = scores.grid.kv_group(head)
        lines = [f"<b>{head}</b>{' · selected' if head in selected else ''}", f"mean {scores.mean[head]:.3f}"]
        if spread:
            lines += [f"95 % {span(spread.low[head], spread.high[head], '.3f')} over {scores.clusters.words}"]
        lines += [
            f"{style.ordinal(int(scores.rank[head]))} of {scores.grid.size:,}",
            f"{scores.detector.active} in {style.percent(scores.activation[head])} of {scores.n_trials} trials",
        ]
        lines += [] if group is None else [f"key/value group {group}"]
        texts.append("<br>".join(lines))
    return texts


def _moved_text(row: Row) -> str:
    """What hovering over a head of a map of differences says."""
    between = "" if row["low"] is None else f"95 % {span(row['low'], row['high'], '+.3f')}<br>"
    return (
        f"<b>{row['name']}</b> {row['change']:+.3f}<br>{between}"
        f"before {row['before']:.3f}, {style.ordinal(row['before_rank'])}<br>"
        f"after {row['after']:.3f}, {style.ordinal(row['after_rank'])}"
    )


def _rule_groups(figure: go.Figure, grid: Grid) -> None:
    """Lines between groups of heads that share a key/value head, and their numbers above."""
    n = grid.n_kv_heads
    if not n or n >= grid.n_heads:
        return
    size = grid.n_heads / n
    number = {"y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False, "font": {"size": 11, "color": MUTED}}
    rule = {"y0": -0.5, "y1": grid.n_layers - 0.5, "line": {"color": INK, "width": 1.5, "dash": "solid"}}
    for group in range(n):
        edge = group * size - 0.5
        if group:
            figure.add_shape(type="line", x0=edge, x1=edge, **rule)
        figure.add_annotation(x=edge + size / 2, text=f"KV {group}" if n <= 8 else str(group), **number)
