"""Figures that set several maps of scores side by side: values in, a Plotly figure out. No Streamlit, no model.

A set keeps its colour from figure to figure as long as the sets are given in the same order. Names are foreign text.
"""

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from retmask.figures.rows import Row
from retmask.figures.style import BOTH_WAYS, EMPTY, HUE, INK, MUTED, ORANGE, PURPLE, TEAL, dress, ordinal
from retmask.heads.concentration import Concentration, depth_profile, lorenz
from retmask.heads.grid import HeadId, share_count
from retmask.heads.scores import THRESHOLD, TOP_SHARE, HeadScores

# Found by search: seen with protanopia, deuteranopia and tritanopia (Machado et al. 2009) the nearest two of the twelve
# lie 0.09 apart in OKLab, further than the nearest two of the seven colours of Okabe and Ito (0.08).
SERIES = (
    TEAL, ORANGE, PURPLE, "#41bfd9", "#661f42", "#b20000", "#b2b236", "#2a3a8c", "#628ab2", "#a64dff", "#ff8c9f",
    "#9f8cff",
)  # fmt: skip
DASHES = ("solid", "dash", "dot", "dashdot")
_WIDTH = 640  # pixels: the narrowest page a legend is laid out for
_CHARACTER = 6.4  # pixels, of the legend's type
_NAME = 40  # characters of a name in a legend
_NAMED = 5  # points of a scatter up to which names stand beside them; of more they would lie on each other
_GAP = 74  # pixels between the rows of small maps: the title of an axis, and two lines of a name


class Measure(NamedTuple):
    """How a figure of concentration is called, and whether it is a share (0-1) that is shown as a percentage."""

    title: str
    share: bool = False


FIGURES = {
    "above": Measure("heads above the threshold"),
    "above_share": Measure("heads above the threshold (% of all)", True),
    "gini": Measure("Gini index"),
    "hoyer": Measure("Hoyer sparsity"),
    "top_1pct_share": Measure("held by the best 1 % of heads (% of the sum)", True),
    "top_5pct_share": Measure("held by the best 5 % of heads (% of the sum)", True),
    "half_heads": Measure("heads that hold half of the sum"),
    "effective_heads": Measure("effective number of heads"),
}

Means = Mapping[str, Float[np.ndarray, "layer head"]]


def lorenz_curves(named: Means) -> go.Figure:
    """Of each set the Lorenz curve in %: the weakest heads (across) hold this part of the sum (up), and the diagonal.

    The further a curve hangs below the diagonal, the fewer heads hold the mass.
    """
    figure = go.Figure(go.Scatter(x=[0, 100], y=[0, 100], mode="lines", hoverinfo="skip", showlegend=False,
                                  line={"color": MUTED, "width": 1, "dash": "dash"}))  # fmt: skip
    for number, (name, mean) in enumerate(named.items()):
        x, y = lorenz(mean)
        said = "<b>%{meta}</b><br>the weakest %{x:.1f} % of heads<br>hold %{y:.1f} %<extra></extra>"
        figure.add_trace(_curve(number, name, 100 * x, 100 * y).update(hovertemplate=said))
    _lay_out(figure, list(named))
    figure.update_xaxes(title="heads, weakest first (%)", range=[-1, 101])
    figure.update_yaxes(title="part of the sum (%)", range=[-2, 102])
    return figure


def rank_curves(named: Means, relative: bool = True, threshold: float = THRESHOLD) -> go.Figure:
    """Of each set the mean scores, best head first, and a line at the threshold.

    Across is the rank (log axis), as a percentage of all heads where `relative`, so that models of any size compare.
    """
    figure = go.Figure()
    sizes = [mean.size for mean in named.values()] or [1]
    for number, (name, mean) in enumerate(named.items()):
        order = np.argsort(-mean.ravel(), kind="stable")
        ranks = np.arange(1, mean.size + 1)
        curve = _curve(number, name, 100 * ranks / mean.size if relative else ranks, mean.ravel()[order])
        heads = [str(HeadId(*divmod(int(i), mean.shape[1]))) for i in order]
        curve.update(text=heads, hovertemplate="<b>%{meta}</b><br>%{text}: %{y:.3f}, %{x:.3~g}"
                     + (" % of heads" if relative else "") + "<extra></extra>")  # fmt: skip
        figure.add_trace(curve)
    _lay_out(figure, list(named))
    first, last = (100 / max(sizes), 100) if relative else (1, max(sizes))
    ticks = [m * 10.0**e for e in range(-3, 7) for m in (1, 2, 5)]
    shown = [tick for tick in ticks if 0.9 * first <= tick <= 1.01 * last]
    pad = 0.02 * np.log10(max(last / first, 2))
    figure.update_xaxes(title="rank (% of heads)" if relative else "rank", type="log", tickvals=shown,
                        ticktext=[f"{tick:,.3g}" for tick in shown],
                        range=[float(np.log10(first) - pad), float(np.log10(last) + pad)])  # fmt: skip
    figure.update_yaxes(title="mean score", rangemode="tozero")
    figure.add_hline(threshold, line={"color": MUTED, "width": 1, "dash": "dash"})
    return figure


def depth_profiles(named: Means, bins: int = 10) -> go.Figure:
    """Of each set the part of its sum (%) that lies in each of `bins` parts of the model's depth, 0 bottom, 1 top."""
    figure = go.Figure()
    middles = (np.arange(bins) + 0.5) / bins
    spans = [f"depth {i / bins:.2g} to {(i + 1) / bins:.2g}" for i in range(bins)]
    for number, (name, mean) in enumerate(named.items()):
        curve = _curve(number, name, middles, 100 * depth_profile(mean, bins))
        curve.update(text=spans, mode="lines+markers", marker={"size": 5}, cliponaxis=False,
                     hovertemplate="<b>%{meta}</b><br>%{text}: %{y:.1f} %<extra></extra>")  # fmt: skip
        figure.add_trace(curve)
    _lay_out(figure, list(named))
    figure.update_xaxes(title="relative depth (0 bottom, 1 top)", range=[0, 1], tickvals=[0, 0.25, 0.5, 0.75, 1])
    figure.update_yaxes(title="part of the sum (%)", rangemode="tozero")
    return figure


def curves_together(named: Means, bins: int = 10, threshold: float = THRESHOLD) -> go.Figure:
    """Lorenz curves, rank curves and depth profiles of the same sets beside each other, with one legend."""
    parts = [lorenz_curves(named), rank_curves(named, threshold=threshold), depth_profiles(named, bins)]
    titles = ("how few heads hold the sum", "scores by rank", "where in the depth")
    figure = make_subplots(1, 3, horizontal_spacing=0.09)
    _lay_out(figure, list(named), top=34)
    figure.update_layout(legend={"itemclick": False, "itemdoubleclick": False})  # it would hide one of three curves
    for column, (part, title) in enumerate(zip(parts, titles, strict=True), start=1):
        for trace in part.data:
            trace.update(showlegend=column == 1 and trace.showlegend is not False)
            figure.add_trace(trace, row=1, col=column)
        for axis in ("xaxis", "yaxis"):
            own = getattr(part.layout, axis).to_plotly_json()
            figure.update_layout({f"{axis}{column}": {k: v for k, v in own.items() if k not in ("anchor", "domain")}})
        figure.update_layout({f"xaxis{column}": {"title": {"standoff": None}}})
        left = figure.layout[f"xaxis{column}"].domain[0]
        figure.add_annotation(x=left, y=1, xref="paper", yref="paper", xanchor="left", yanchor="bottom", yshift=6,
                              text=title, showarrow=False, font={"size": 13, "color": INK})  # fmt: skip
    figure.add_hline(threshold, line={"color": MUTED, "width": 1, "dash": "dash"}, row=1, col=2)
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
    figure = make_subplots(rows, columns, horizontal_spacing=(0.08, 0.08, 0.06, 0.05)[columns - 1],
                           vertical_spacing=_GAP / inner)  # fmt: skip
    dress(figure, height=inner + 100, top=56, bottom=44)
    peak = max((_peak(scores) for scores in named.values()), default=1.0)
    figure.update_layout(
        coloraxis={"colorscale": HUE, "cmin": 0, "cmax": peak, "colorbar": _colorbar("mean score", min(inner, 320))},
        plot_bgcolor=EMPTY,
    )
    for place, (name, scores) in enumerate(named.items()):
        row, column = place // columns + 1, place % columns + 1
        figure.add_trace(_map(name, scores, common), row=row, col=column)
        at = {"row": row, "col": column}
        figure.update_xaxes(range=[-0.5, scores.grid.n_heads - 0.5], **_ticks(scores.grid.n_heads), **at)
        figure.update_yaxes(range=[-0.5, scores.grid.n_layers - 0.5], **_ticks(scores.grid.n_layers), **at)
        if place + columns >= len(named):
            figure.update_xaxes(title="head", **at)
        if column == 1:
            figure.update_yaxes(title="layer", **at)
        title = name if common else f"{name}, 0 to {_peak(scores):.3g}"
        _title(figure, place, wrapped(title, (90, 50, 32, 24)[columns - 1]))
    return figure


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
    short = [wrapped(name, 34) for name in names]
    numbered = any(len(name) > 9 for name in names)
    figure = go.Figure(
        go.Heatmap(
            z=[list(line) for line in matrix],
            text=[[_pair_text(names, matrix, why, i, j) for j in range(n)] for i in range(n)],
            texttemplate="%{z:.2f}" if n <= 16 else None,
            hovertemplate="%{text}<extra></extra>",
            hoverongaps=True,
            zmin=-1 if negative else 0, zmax=1, colorscale=BOTH_WAYS if negative else HUE, xgap=2, ygap=2,
            colorbar=_colorbar(html.escape(title, quote=False), 34 * max(n, 4)),
        )
    )  # fmt: skip
    dress(figure, height=max(34 * n, 136) + 44, top=32, bottom=12)
    figure.update_layout(plot_bgcolor=EMPTY)
    places = list(range(n))
    across = [str(i + 1) for i in places] if numbered else short
    down = [f"{name}  {i + 1}" for i, name in enumerate(short)] if numbered else short
    figure.update_xaxes(tickvals=places, ticktext=across, side="top", ticks="", range=[-0.5, n - 0.5], tickangle=0)
    figure.update_yaxes(tickvals=places, ticktext=down, ticks="", range=[n - 0.5, -0.5])
    return figure


def figure_dots(rows: Sequence[Row], name: str) -> go.Figure:
    """One dot a set with its 95 % interval, for a figure of concentration by its name in FIGURES.

    Rows have `label`, `over`, the figure, and it with `_low` and `_high`, as `set_tables.set_rows` makes them; None
    where a set has no figure or no interval.
    """
    what = FIGURES[name]
    times = 100 if what.share else 1
    figure = go.Figure()
    for place, row in enumerate(rows):
        value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
        if value is None:
            continue
        spread = {} if low is None or high is None else {"array": [times * (high - value)],
                                                         "arrayminus": [times * (value - low)]}  # fmt: skip
        color = SERIES[place % len(SERIES)]
        between = (
            f"<br>95 % from {times * low:.4g} to {times * high:.4g} over {row['over']}" if spread else "<br>no interval"
        )
        figure.add_scatter(
            x=[times * value], y=[place], mode="markers", marker={"color": color, "size": 9},
            error_x={"color": color, "thickness": 1.5, "width": 4, **spread} if spread else None,
            text=[f"<b>{shortened(str(row['label']), 80)}</b><br>{times * value:.4g}{between}"],
            hovertemplate="%{text}<extra></extra>", cliponaxis=False,
        )  # fmt: skip
    dress(figure, height=34 * max(len(rows), 1) + 64, bottom=44)
    figure.update_xaxes(title=what.title, showgrid=True, gridcolor=EMPTY, ticks="", nticks=8)
    figure.update_yaxes(range=[len(rows) - 0.5, -0.5], tickvals=list(range(len(rows))), ticks="", showgrid=True,
                        gridcolor=EMPTY, ticktext=[wrapped(str(row["label"]), 40) for row in rows])  # fmt: skip
    return figure


class Point(Protocol):
    """What the scatter needs of a measured gain; `low` and `high` are None where no interval is known."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def figures(self) -> Concentration | None:
        """The concentration of its scores before training."""

    @property
    def before(self) -> float:
        """What was measured before training."""

    @property
    def gain(self) -> float:
        """After minus before."""

    @property
    def low(self) -> float | None:
        """The lower end of the gain's 95 % interval."""

    @property
    def high(self) -> float | None:
        """The upper end."""

    @property
    def n(self) -> int | None:
        """How many prompts it was measured on."""


def gain_scatter(points: Sequence[Point], name: str) -> go.Figure:
    """A figure of concentration (across) against the gain of training in % of what was before (up), a dot a point.

    Points without that figure, or with 0 before, are left out; how many are drawn stands in the corner.
    """
    what = FIGURES[name]
    found = [(point, getattr(point.figures, name)) for point in points if point.figures and point.before]
    drawn = [(point, 100 * value if what.share else value) for point, value in found if value is not None]
    figure = go.Figure()
    for number, (point, value) in enumerate(drawn):
        times = 100 / point.before
        spread = None
        if point.low is not None and point.high is not None:
            spread = {"array": [times * (point.high - point.gain)], "arrayminus": [times * (point.gain - point.low)],
                      "thickness": 1.5, "width": 4}  # fmt: skip
        prompts = f"{point.n} prompts" if point.n else "number of prompts not known"
        figure.add_scatter(
            x=[value], y=[times * point.gain], mode="markers+text" if len(drawn) <= _NAMED else "markers",
            error_y=spread, textposition="middle right",
            marker={"color": SERIES[number % len(SERIES)], "size": 10}, text=[f"  {shortened(point.model, 28)}"],
            hovertext=[f"<b>{shortened(point.model, 80)}</b><br>{what.title} {value:.4g}<br>"
                       f"{times * point.gain:+.1f} %, {prompts}"], hoverinfo="text", cliponaxis=False,
        )  # fmt: skip
    dress(figure, height=360, top=28)
    figure.add_hline(0, line={"color": MUTED, "width": 1, "dash": "dash"})
    figure.add_annotation(x=1, y=1, xref="paper", yref="paper", xanchor="right", yanchor="bottom", showarrow=False,
                          text=f"n = {len(drawn)}", font={"color": MUTED})  # fmt: skip
    values = [value for _, value in drawn]
    pad = 0.25 * (max(values) - min(values)) or 0.03 * abs(values[0]) or 0.1 if values else 1
    span = [min(values) - pad, max(values) + 2 * pad] if values else [0, 1]
    figure.update_xaxes(title=what.title, range=span, showgrid=True, gridcolor=EMPTY, ticks="")
    figure.update_yaxes(title="gain (% of before)", showgrid=True, gridcolor=EMPTY, ticks="", rangemode="tozero")
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
    names = shortened(name_a, 30), shortened(name_b, 30)
    kinds = (
        ("only " + names[0], of_a - of_b, ORANGE),
        ("in both", of_a & of_b, TEAL),
        ("only " + names[1], of_b - of_a, PURPLE),
    )
    number = {head: i for i, (_, heads, _) in enumerate(kinds, start=1) for head in heads}
    cells = [[HeadId(layer, head) for head in range(grid.n_heads)] for layer in range(grid.n_layers)]
    colors = ("#ffffff", *(color for _, _, color in kinds))
    figure = go.Figure(
        go.Heatmap(
            z=[[number.get(head, 0) for head in line] for line in cells],
            text=[[_overlap_text(head, number.get(head, 0), (a, b), names, k) for head in line] for line in cells],
            hovertemplate="%{text}<extra></extra>", showscale=False, xgap=1, ygap=1, zmin=0, zmax=3,
            colorscale=[(edge / 4, color) for i, color in enumerate(colors) for edge in (i, i + 1)],
        )
    )  # fmt: skip
    for name, heads, color in kinds:
        figure.add_trace(_outline(sorted(heads), INK if name == "in both" else color))
        figure.add_scatter(x=[None], y=[None], mode="markers", name=f"{name} ({len(heads)})", showlegend=True,
                           marker={"symbol": "square", "size": 11, "color": color,
                                   "line": {"color": INK, "width": 2 * (name == "in both")}})  # fmt: skip
    cell = min(30.0, max(14.0, 590 / grid.n_layers))
    dress(figure, height=round(cell * grid.n_layers + 90), top=46, bottom=44)
    figure.update_layout(showlegend=True, plot_bgcolor=EMPTY,
                         legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "itemclick": False,
                                 "itemdoubleclick": False})  # fmt: skip
    figure.update_xaxes(title="head", range=[-0.5, grid.n_heads - 0.5], **_ticks(grid.n_heads))
    figure.update_yaxes(title="layer", range=[-0.5, grid.n_layers - 0.5], **_ticks(grid.n_layers))
    return figure


def shortened(name: str, most: int) -> str:
    """A name for a figure: its middle left out where it has more than `most` characters, escaped."""
    return html.escape(cut(name, most), quote=False)


def wrapped(name: str, width: int) -> str:
    """A name for a figure in at most two lines of so many characters, its middle left out where there are more."""
    lines = textwrap.wrap(" ".join(name.split()), width)
    if len(lines) > 2:
        lines = textwrap.wrap(cut(name, 2 * width - 2), width)
    if len(lines) > 2:  # a break between words has cost more than is there
        short = cut(name, 2 * width)
        lines = [short[:width], short[width:]]
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def cut(name: str, most: int) -> str:
    """A name in one line, its middle left out where it has more than `most` characters."""
    name = " ".join(name.split())
    if len(name) <= most:
        return name
    end = (most - 1) // 2
    return f"{name[: most - 1 - end]}…{name[len(name) - end :]}"


def _curve(number: int, name: str, x: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"]) -> go.Scatter:
    """The line of the set with that number, in its colour; `meta` holds its name for the hover."""
    return go.Scatter(
        x=x.round(5).tolist(),
        y=y.round(5).tolist(),
        mode="lines",
        name=shortened(name, _NAME),
        meta=shortened(name, 80),
        showlegend=True,
        line={"color": SERIES[number % len(SERIES)], "width": 2, "dash": DASHES[number // len(SERIES) % len(DASHES)]},
    )


def _lay_out(figure: go.Figure, names: Sequence[str], top: int = 12) -> None:
    """The style of the curves: as many columns of names below as fit, and the height that they need."""
    longest = max((len(shortened(name, _NAME)) for name in names), default=1)
    columns = max(1, min(len(names), int(_WIDTH / (46 + _CHARACTER * longest))))
    legend = 20 * -(-len(names) // columns) + 4
    dress(figure, height=270 + top + 48 + legend, top=top, bottom=48 + legend)
    figure.update_layout(
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom",
                "entrywidth": 1 / columns - 0.001, "entrywidthmode": "fraction"},
    )  # fmt: skip
    figure.update_xaxes(showgrid=True, gridcolor=EMPTY, ticks="")
    figure.update_yaxes(showgrid=True, gridcolor=EMPTY, ticks="")


def _map(name: str, scores: HeadScores, common: bool) -> go.Heatmap:
    how: dict[str, Any] = {"coloraxis": "coloraxis"}
    if not common:
        how = {"colorscale": HUE, "zmin": 0, "zmax": _peak(scores), "showscale": False}
    return go.Heatmap(
        z=scores.mean.round(4).tolist(), xgap=1, ygap=1, meta=shortened(name, 80),
        hovertemplate="%{meta}<br><b>L%{y}H%{x}</b> mean %{z:.3f}<extra></extra>", **how,
    )  # fmt: skip


def _peak(scores: HeadScores) -> float:
    """The top of a colour scale that begins at 0, above 0 also where no mean is."""
    return max(float(scores.mean.max()), 0) or 1.0


def _title(figure: go.Figure, place: int, text: str) -> None:
    """A title over the panel with that number, at its left edge."""
    axis = "" if place == 0 else str(place + 1)
    figure.add_annotation(
        x=0, xref=f"x{axis} domain", xanchor="left", y=1, yref=f"y{axis} domain", yanchor="bottom", yshift=3,
        text=text, showarrow=False, font={"size": 12, "color": INK},
    )  # fmt: skip


def _colorbar(title: str, height: float) -> dict[str, Any]:
    return {"title": {"text": title, "side": "right"}, "thickness": 12, "outlinewidth": 0, "xpad": 8, "nticks": 6,
            "len": height, "lenmode": "pixels", "y": 1, "yanchor": "top"}  # fmt: skip


def _ticks(n: int) -> dict[str, Any]:
    step = next(step for step in (1, 2, 4, 8, 16, 10**6) if n <= 9 * step)
    return {"tickvals": list(range(0, n, step)), "ticks": "", "tickfont": {"size": 11}}


def _pair_text(
    names: Sequence[str],
    matrix: Sequence[Sequence[float | None]],
    why: Sequence[Sequence[str]] | None,
    i: int,
    j: int,
) -> str:
    """What hovering over a cell of a matrix says."""
    value, said = matrix[i][j], why[i][j] if why else ""
    lines = [f"<b>{shortened(names[i], 60)}</b>", f"<b>{shortened(names[j], 60)}</b>"] if i != j else []
    lines = lines or [f"<b>{shortened(names[i], 60)}</b>, with itself"]
    lines += [f"{value:.3f}"] if value is not None else [] if said else ["not comparable"]
    words = textwrap.wrap(said[:300], 60)
    return "<br>".join([*lines, *(html.escape(line, quote=False) for line in words)])


def _overlap_text(head: HeadId, kind: int, maps: tuple[HeadScores, HeadScores], names: tuple[str, str], k: int) -> str:
    """What hovering over a head of an overlap says."""
    said = ("in neither", f"only in {names[0]}", "in both", f"only in {names[1]}")[kind]
    lines = [f"<b>{head}</b> among the best {k}: {said}"]
    for name, scores in zip(names, maps, strict=True):
        lines.append(f"{name}: mean {scores.mean[head]:.3f}, {ordinal(int(scores.rank[head]))}")
    return "<br>".join(lines)


def _outline(heads: Sequence[HeadId], color: str) -> go.Scatter:
    """One line that walks round every cell of these heads."""
    x: list[float | None] = []
    y: list[float | None] = []
    for head in heads:
        x += [head.head + side for side in (-0.46, 0.46, 0.46, -0.46, -0.46)] + [None]
        y += [head.layer + side for side in (-0.45, -0.45, 0.45, 0.45, -0.45)] + [None]
    return go.Scatter(x=x, y=y, mode="lines", line={"color": color, "width": 2}, hoverinfo="skip", showlegend=False)
