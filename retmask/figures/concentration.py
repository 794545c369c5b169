"""How concentrated score sets are, side by side: curves, dots, and gains against it. Values in, a Plotly figure out.

A set keeps its colour from figure to figure as long as the sets are given in the same order. Names are foreign text.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Real
from plotly.subplots import make_subplots

from retmask.families.concentration import depth_profile, lorenz
from retmask.families.gains import Gain
from retmask.figures import style
from retmask.figures.rows import Row
from retmask.figures.style import HOVER, MUTED, SERIES, dress
from retmask.heads.grid import HeadId
from retmask.heads.scores import THRESHOLD

DASHES = ("solid", "dash", "dot", "dashdot")
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
    diagonal = {"color": MUTED, "width": 1, "dash": "dash"}
    figure = go.Figure(go.Scatter(x=[0, 100], y=[0, 100], mode="lines", hoverinfo="skip", line=diagonal))
    figure.update_traces(showlegend=False)
    hover = "<b>%{meta}</b><br>the weakest %{x:.1f} % of heads<br>hold %{y:.1f} %<extra></extra>"
    for number, (name, mean) in enumerate(named.items()):
        heads, held = lorenz(mean)
        figure.add_trace(_curve(number, name, 100 * heads, 100 * held).update(hovertemplate=hover))
    _lay_out(figure, list(named))
    figure.update_xaxes(title="heads, weakest first (%)", range=[-1, 101])
    figure.update_yaxes(title="part of the sum (%)", range=[-2, 102])
    return figure


def rank_curves(named: Means, relative: bool = True, threshold: float = THRESHOLD) -> go.Figure:
    """Of each set the mean scores, best head first, and a line at the threshold.

    Across is the rank (log axis), as a percentage of all heads where `relative`, so that models of any size compare.
    """
    figure = go.Figure()
    hover = "<b>%{meta}</b><br>%{text}: %{y:.3f}, %{x:.3~g}" + " % of heads" * relative + "<extra></extra>"
    for number, (name, mean) in enumerate(named.items()):
        order = np.argsort(-mean.ravel(), kind="stable")
        ranks = np.arange(1, mean.size + 1)
        curve = _curve(number, name, 100 * ranks / mean.size if relative else ranks, mean.ravel()[order])
        heads = [str(HeadId(*divmod(int(i), mean.shape[1]))) for i in order]
        figure.add_trace(curve.update(text=heads, hovertemplate=hover))
    _lay_out(figure, list(named))
    most = max((mean.size for mean in named.values()), default=1)
    first, last = (100 / most, 100) if relative else (1, most)
    ticks = [m * 10.0**e for e in range(-3, 7) for m in (1, 2, 5) if 0.9 * first <= m * 10.0**e <= 1.01 * last]
    pad = 0.02 * np.log10(max(last / first, 2))
    span = [float(np.log10(first) - pad), float(np.log10(last) + pad)]
    figure.update_xaxes(title="rank (% of heads)" if relative else "rank", type="log", range=span)
    figure.update_xaxes(tickvals=ticks, ticktext=[f"{tick:,.3g}" for tick in ticks])
    figure.update_yaxes(title="mean score", rangemode="tozero")
    figure.add_hline(threshold)
    return figure


def depth_profiles(named: Means, bins: int = 10) -> go.Figure:
    """Of each set the part of its sum (%) that lies in each of `bins` parts of the model's depth, 0 bottom, 1 top."""
    figure = go.Figure()
    middles = (np.arange(bins) + 0.5) / bins
    spans = [f"depth {i / bins:.2g} to {(i + 1) / bins:.2g}" for i in range(bins)]
    hover = "<b>%{meta}</b><br>%{text}: %{y:.1f} %<extra></extra>"
    for number, (name, mean) in enumerate(named.items()):
        curve = _curve(number, name, middles, 100 * depth_profile(mean, bins))
        curve.update(text=spans, mode="lines+markers", marker={"size": 5}, cliponaxis=False, hovertemplate=hover)
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
        style.panel_title(figure, column, title, size=13, lift=6)
    figure.add_hline(threshold, row=1, col=2)
    return figure


def figure_dots(rows: Sequence[Row], name: str) -> go.Figure:
    """One dot a set with its 95 % interval, for a figure of concentration by its name in FIGURES.

    Rows have `label`, `over`, the figure, and it with `_low` and `_high`, as `rows.set_rows` makes them; None
    where a set has no figure or no interval.
    """
    measure = FIGURES[name]
    times = 100 if measure.share else 1
    figure = go.Figure()
    for place, row in enumerate(rows):
        value, low, high = (
            None if row[key] is None else times * row[key] for key in (name, f"{name}_low", f"{name}_high")
        )
        if value is None:
            continue
        color = SERIES[place % len(SERIES)]
        between = "no interval" if low is None else f"95 % from {low:.4g} to {high:.4g} over {row['over']}"
        dot = go.Scatter(x=[value], y=[place], mode="markers", marker={"color": color, "size": 9}, cliponaxis=False)
        dot.update(
            text=[f"<b>{style.shortened(str(row['label']), 80)}</b><br>{value:.4g}<br>{between}"], hovertemplate=HOVER
        )
        figure.add_trace(
            dot if low is None else dot.update(error_x=style.whiskers([value], [low], [high], color=color))
        )
    dress(figure, height=34 * max(len(rows), 1) + 64, bottom=44)
    labels = [style.wrapped(str(row["label"]), 40) for row in rows]
    figure.update_xaxes(title=measure.title, showgrid=True, nticks=8)
    figure.update_yaxes(showgrid=True, range=[len(rows) - 0.5, -0.5], tickvals=list(range(len(rows))), ticktext=labels)
    return figure


def gain_scatter(points: Sequence[Gain], name: str) -> go.Figure:
    """A figure of concentration (across) against the gain of training in % of what was before (up), a dot a point.

    Points without that figure, or with 0 before, are left out; how many are drawn stands in the corner.
    """
    measure = FIGURES[name]
    values = [(point, getattr(point.figures, name)) for point in points if point.figures and point.before]
    drawn = [(point, 100 * value if measure.share else value) for point, value in values if value is not None]
    figure = go.Figure()
    for number, (point, value) in enumerate(drawn):
        times = 100 / point.before
        gain = times * point.gain
        prompts = f"{point.n} prompts" if point.n else "number of prompts not known"
        hover = f"<b>{style.shortened(point.model, 80)}</b><br>{measure.title} {value:.4g}<br>{gain:+.1f} %, {prompts}"
        dot = go.Scatter(x=[value], y=[gain], mode="markers+text" if len(drawn) <= _NAMED else "markers")
        dot.update(marker={"color": SERIES[number % len(SERIES)], "size": 10}, cliponaxis=False)
        dot.update(text=[f"  {style.shortened(point.model, 28)}"], textposition="middle right")
        dot.update(hovertext=[hover], hoverinfo="text")
        if point.low is not None and point.high is not None:
            dot.update(error_y=style.whiskers([gain], [times * point.low], [times * point.high]))
        figure.add_trace(dot)
    dress(figure, height=360, top=28)
    figure.add_hline(0)
    corner = {"x": 1, "y": 1, "xref": "paper", "yref": "paper", "xanchor": "right", "yanchor": "bottom"}
    figure.add_annotation(**corner, text=f"n = {len(drawn)}", showarrow=False, font={"color": MUTED})
    across = [value for _, value in drawn]
    pad = 0.25 * (max(across) - min(across)) or 0.03 * abs(across[0]) or 0.1 if across else 1
    span = [min(across) - pad, max(across) + 2 * pad] if across else [0, 1]
    figure.update_xaxes(title=measure.title, range=span, showgrid=True)
    figure.update_yaxes(title="gain (% of before)", showgrid=True, rangemode="tozero")
    return figure


def _curve(number: int, name: str, x: Real[np.ndarray, " point"], y: Float[np.ndarray, " point"]) -> go.Scatter:
    """The line of the set with that number, in its colour; `meta` holds its name for the hover."""
    line = {"color": SERIES[number % len(SERIES)], "width": 2, "dash": DASHES[number // len(SERIES) % len(DASHES)]}
    curve = go.Scatter(x=x.round(5).tolist(), y=y.round(5).tolist(), mode="lines", line=line, showlegend=True)
    return curve.update(name=style.shortened(name, style.NAME), meta=style.shortened(name, 80))


def _lay_out(figure: go.Figure, names: Sequence[str], top: int = 12) -> None:
    """The style of the curves, their names below."""
    style.names_below(figure, names, 270, top)
    figure.update_xaxes(showgrid=True)
    figure.update_yaxes(showgrid=True)
