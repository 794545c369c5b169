"""How far score sets agree: a matrix of every two, and the best heads of two maps on one grid. A Plotly figure out."""

import html
import textwrap
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from retmask.figures import style
from retmask.figures.maps import cell_size, grid_axes, outlines
from retmask.figures.style import ABOVE, BOTH_WAYS, EMPTY, HOVER, HUE, INK, ORANGE, PURPLE, TEAL, dress
from retmask.heads.grid import HeadId, share_count
from retmask.heads.scores import TOP_SHARE, HeadScores


def agreement_map(
    names: Sequence[str],
    matrix: Sequence[Sequence[float | None]],
    title: str,
    why: Sequence[Sequence[str]] | None = None,
) -> go.Figure:
    """A symmetric matrix of agreements as numbers on a colour, from 0 to 1, from -1 where one is negative.

    A cell of None stays empty and hovering says why, as `why` (same shape) has it; for other cells, `why` adds a line.
    """
    n = len(names)
    negative = any(value is not None and value < 0 for line in matrix for value in line)
    texts = [[_pair_text(names, matrix, why, i, j) for j in range(n)] for i in range(n)]
    cells = go.Heatmap(z=[list(line) for line in matrix], text=texts, hovertemplate=HOVER, hoverongaps=True)
    cells.update(texttemplate="%{z:.2f}" if n <= 16 else None, xgap=2, ygap=2)
    cells.update(zmin=-1 if negative else 0, zmax=1, colorscale=BOTH_WAYS if negative else HUE)
    figure = go.Figure(cells.update(colorbar=style.colorbar(html.escape(title, quote=False), 34 * max(n, 4))))
    dress(figure, height=max(34 * n, 136) + 44, top=32, bottom=12)
    figure.update_layout(plot_bgcolor=EMPTY)
    short = [style.wrapped(name, 34) for name in names]
    numbered = any(len(name) > 9 for name in names)
    places = list(range(n))
    across = [str(i + 1) for i in places] if numbered else short
    down = [f"{name}  {i + 1}" for i, name in enumerate(short)] if numbered else short
    figure.update_xaxes(tickvals=places, ticktext=across, side="top", range=[-0.5, n - 0.5], tickangle=0)
    figure.update_yaxes(tickvals=places, ticktext=down, range=[n - 0.5, -0.5])
    return figure


def overlap_map(a: HeadScores, b: HeadScores, name_a: str, name_b: str, k: int | None = None) -> go.Figure:
    """On one grid the heads that are among the best `k` of only one map, of only the other, and of both.

    `k` is the best 5 % of the grid unless given, and at most the number of heads above 0 in either map, as for
    `agreement`. Both maps are of one grid.
    """
    assert a.values.shape[1:] == b.values.shape[1:], "maps that overlap are of one grid"
    grid, k = a.grid, share_count(a.grid.size, TOP_SHARE) if k is None else k
    k = min(k, *(int((scores.mean > 0).sum()) for scores in (a, b)))
    of_a, of_b = set(a.top(k)), set(b.top(k))
    names = style.shortened(name_a, 30), style.shortened(name_b, 30)
    kinds = (
        ("only " + names[0], of_a - of_b, ORANGE),
        ("in both", of_a & of_b, TEAL),
        ("only " + names[1], of_b - of_a, PURPLE),
    )
    cells = np.zeros(grid[:2], dtype=int)
    for number, (_, heads, _) in enumerate(kinds, start=1):
        for head in heads:
            cells[head] = number
    texts = [
        [_overlap_text(HeadId(layer, head), (a, b), names, kind, k) for head, kind in enumerate(row)]
        for layer, row in enumerate(cells)
    ]
    colors = ("#ffffff", *(color for _, _, color in kinds))
    scale = [(edge / 4, color) for i, color in enumerate(colors) for edge in (i, i + 1)]
    figure = go.Figure(go.Heatmap(z=cells.tolist(), zmin=0, zmax=3, colorscale=scale, showscale=False, xgap=1, ygap=1))
    figure.update_traces(text=texts, hovertemplate=HOVER)
    for name, heads, color in kinds:
        both = name == "in both"
        figure.add_trace(outlines(sorted(heads), INK if both else color, 2))
        marker = {"symbol": "square", "size": 11, "color": color, "line": {"color": INK, "width": 2 * both}}
        entry = go.Scatter(x=[None], y=[None], mode="markers", name=f"{name} ({len(heads)})", marker=marker)
        figure.add_trace(entry.update(showlegend=True))
    dress(figure, height=round(cell_size(grid) * grid.n_layers + 90), top=46, bottom=44)
    legend = ABOVE | {"y": 1.0, "itemclick": False, "itemdoubleclick": False}
    figure.update_layout(showlegend=True, plot_bgcolor=EMPTY, legend=legend)
    grid_axes(figure, grid)
    return figure


def _pair_text(
    names: Sequence[str], matrix: Sequence[Sequence[float | None]], why: Sequence[Sequence[str]] | None, i: int, j: int
) -> str:
    """What hovering over a cell of a matrix says."""
    value, reason = matrix[i][j], why[i][j] if why else ""
    lines = [f"<b>{style.shortened(names[i], 60)}</b>", f"<b>{style.shortened(names[j], 60)}</b>"] if i != j else []
    lines = lines or [f"<b>{style.shortened(names[i], 60)}</b>, with itself"]
    lines += [f"{value:.3f}"] if value is not None else [] if reason else ["not comparable"]
    return "<br>".join([*lines, *(html.escape(line, quote=False) for line in textwrap.wrap(reason[:300], 60))])


def _overlap_text(head: HeadId, maps: tuple[HeadScores, HeadScores], names: tuple[str, str], kind: int, k: int) -> str:
    """What hovering over a head of an overlap says."""
    place = ("in neither", f"only in {names[0]}", "in both", f"only in {names[1]}")[kind]
    lines = [f"<b>{head}</b> among the best {k}: {place}"]
    for name, scores in zip(names, maps, strict=True):
        lines.append(f"{name}: mean {scores.mean[head]:.3f}, {style.ordinal(int(scores.rank[head]))}")
    return "<br>".join(lines)
