"""What an evaluation says: a forest plot of differences, a grid of lengths and depths, the means as a map.

The rows of data behind each are in rows.py. Names of conditions are foreign text.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from retmask.figures import style
from retmask.figures.heads import length_depth_grid
from retmask.figures.rows import Row, depth_rows
from retmask.figures.style import EMPTY, HOVER, HUE, MUTED, SERIES, dress, whiskers
from retmask.heads.intervals import span

_DOT, _GAP = 15, 12  # pixels: of a condition's line in a category, between categories
_BAND = "#f6f8f9"
_PANELS = {"base": "mean score less that of base", "control": "mean score less that of the best control"}


def forest(rows: Sequence[Row], conditions: Sequence[str]) -> go.Figure:
    """Differences of mean scores with 95 % intervals: a category a band, in it a dot a condition, in its own colour.

    `rows` are those of `rows.forest_rows`: on the left against base, on the right, where there is one, against the best
    control. A full dot is a difference that holds. `conditions` fixes the colours, whichever of them are drawn.
    """
    names = list(dict.fromkeys(row["name"] for row in rows))
    drawn = [name for name in conditions if any(row["condition"] == name for row in rows)]
    panels = [panel for panel in _PANELS if any(row["to"] == panel for row in rows)] or ["base"]
    figure = go.Figure()
    for number, panel in enumerate(panels, start=1):
        for condition in drawn:
            part = [row for row in rows if row["to"] == panel and row["condition"] == condition]
            dots = _dots(part, names, drawn, SERIES[conditions.index(condition) % len(SERIES)])
            own = all(row["to"] == panel for row in rows if row["condition"] == condition)
            dots.update(
                name=style.shortened(condition, style.NAME),
                legendgroup=str(conditions.index(condition)),
                showlegend=number == 1 or own,
            )
            figure.add_trace(dots.update(xaxis=f"x{number}", yaxis=f"y{number}"))
    height = len(names) * (len(drawn) * _DOT + _GAP)
    style.names_below(figure, drawn, height, top=30)
    _axes(figure, [_PANELS[panel] for panel in panels], names)
    return figure


def _dots(rows: Sequence[Row], names: Sequence[str], drawn: Sequence[str], color: str) -> go.Scatter:
    share = _DOT / (len(drawn) * _DOT + _GAP)  # of a band, a condition's line
    means = [row["mean"] for row in rows]
    lift = [drawn.index(row["condition"]) - (len(drawn) - 1) / 2 for row in rows]
    dots = go.Scatter(x=means, y=[names.index(row["name"]) + share * at for row, at in zip(rows, lift, strict=True)])
    ends = whiskers(means, [row["low"] for row in rows], [row["high"] for row in rows], color=color, width=0)
    fill = [color if row["holds"] else "white" for row in rows]
    dots.update(mode="markers", marker={"color": fill, "size": 8, "line": {"color": color, "width": 1.8}})
    return dots.update(error_x=ends, text=[_difference_text(row) for row in rows], hovertemplate=HOVER)


def _difference_text(row: Row) -> str:
    interval = "no interval" if row["low"] is None else f"95 % {span(row['low'], row['high'], '+.2f')}"
    p = "" if row["p"] is None else f", p = {row['p']:.2g} corrected"
    name, against = (style.shortened(str(row[part]), 60) for part in ("condition", "against"))
    counts = f"better on {row['better']}, worse on {row['worse']} of {row['items']} items"
    return f"<b>{row['name']}</b>: {name}<br>{row['mean']:+.2f} to {against}<br>{interval}{p}<br>{counts}"


def _axes(figure: go.Figure, titles: Sequence[str], names: Sequence[str]) -> None:
    """The panels beside each other on one scale, a line at 0, every second category on a ground of its own."""
    width = (1 - 0.04 * (len(titles) - 1)) / len(titles)
    labels = [f"<b>{name}</b>" if name == "overall" else style.shortened(name, 24) for name in names]
    for number, title in enumerate(titles, start=1):
        left = (number - 1) * (width + 0.04)
        across: dict[str, Any] = {
            "domain": [left, left + width],
            "anchor": f"y{number}",
        }
        across |= {"zeroline": True, "zerolinecolor": MUTED, "nticks": 7}
        down: dict[str, Any] = {
            "anchor": f"x{number}",
            "range": [len(names) - 0.5, -0.5],
            "tickvals": list(range(len(names))),
        }
        down |= {"ticktext": labels if number == 1 else [""] * len(names)}
        figure.update_layout(
            {
                f"xaxis{number}": across | {"showgrid": True} | ({"matches": "x"} if number > 1 else {}),
                f"yaxis{number}": down,
            }
        )
        style.panel_title(figure, number, title)
    for place in range(0, len(names), 2):
        band: dict[str, Any] = {
            "x0": 0,
            "x1": 1,
            "xref": "paper",
            "y0": place - 0.5,
            "y1": place + 0.5,
            "line_width": 0,
        }
        figure.add_shape(band, type="rect", fillcolor=_BAND, layer="below")


def score_grid(scores: Iterable[tuple[int, float, float]], bins: int = 5) -> go.Figure:
    """Mean score (0-1) at every length (tokens) and stretch of depth; where no item has been answered it is grey.

    `scores` are length, depth (0-1) and score of each item. Cells keep their width, however few lengths there are.
    """
    rows = depth_rows(scores, bins)
    depths = {
        place / bins: f"{style.percent(place / bins)} to {style.percent((place + 1) / bins)}" for place in range(bins)
    }
    figure = length_depth_grid(rows, "score", depths, _cell_text)
    end = min(1.0, 0.08 + 0.14 * len({row["length"] for row in rows}))
    figure.update_xaxes(domain=[0, end])
    figure.update_traces(colorbar_x=end, colorbar_xanchor="left")
    return figure


def _cell_text(row: Row) -> str:
    depth = f"{style.percent(row['depth'])} to {style.percent(row['to'])}"
    return f"{row['length']:,} tokens, depth {depth}<br>mean score {row['score']:.2f} of {row['items']} items"


def means_map(means: Sequence[Mapping[str, Any]], marks: Mapping[tuple[str, str], str]) -> go.Figure:
    """Mean scores (0-1): a condition a row, a category a column, with 95 % intervals; the table as a picture.

    `means` has the rows of the table, `marks` a sign for what holds, by condition and category.
    """
    rows = list(dict.fromkeys(row["condition"] for row in means))
    columns = list(dict.fromkeys(row["name"] for row in means))
    at = {(row["condition"], row["name"]): row for row in means}
    cells = [[at.get((condition, name)) for name in columns] for condition in rows]
    shares = go.Heatmap(x=columns, y=list(range(len(rows))), zmin=0, zmax=1, colorscale=HUE, xgap=1, ygap=1)
    shares.update(z=[[cell and cell["mean"] for cell in line] for line in cells], hoverongaps=False, showscale=False)
    texts = [[cell and _mean_text(cell, marks) for cell in line] for line in cells]
    shares.update(text=texts, texttemplate="%{text}", hoverinfo="skip")
    figure = go.Figure(shares)
    dress(figure, height=44 * len(rows) + 50, top=34, bottom=12)
    figure.update_layout(plot_bgcolor=EMPTY)
    figure.update_xaxes(type="category", side="top", tickangle=0)
    labels = [style.wrapped(name, 30) for name in rows]
    figure.update_yaxes(range=[len(rows) - 0.5, -0.5], tickvals=list(range(len(rows))), ticktext=labels)
    return figure


def _mean_text(row: Mapping[str, Any], marks: Mapping[tuple[str, str], str]) -> str:
    mark = marks.get((row["condition"], row["name"]), "")
    interval = "" if row["low"] is None else f"<br>{span(row['low'], row['high'])}"
    return f"{row['mean']:.2f}{mark and ' ' + mark}{interval}"
