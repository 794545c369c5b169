"""How concentrated score sets are, side by side: curves, dots, and gains against it. Values in, a Plotly figure out.

A set keeps its colour from figure to figure as long as the sets are given in the same order. Names are foreign text.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Real
from plotly.subplots import make_subplots

from retmask.families.concentration import Concentration, depth_profile, lorenz
from retmask.figures.rows import Row
from retmask.figures.style import (
    EMPTY,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    TEAL,
    dress,
    shortened,
    wrapped,
)
from retmask.heads.grid import HeadId
from retmask.heads.scores import THRESHOLD

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


def figure_dots(rows: Sequence[Row], name: str) -> go.Figure:
    """One dot a set with its 95 % interval, for a figure of concentration by its name in FIGURES.

    Rows have `label`, `over`, the figure, and it with `_low` and `_high`, as `rows.set_rows` makes them; None
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


@runtime_checkable
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


def _curve(number: int, name: str, x: Real[np.ndarray, " point"], y: Float[np.ndarray, " point"]) -> go.Scatter:
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
