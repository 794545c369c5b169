"""Figures of what masking does: the dose curve, which heads copied which token, log-probabilities token by token."""

import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from retmask.figures import style
from retmask.figures.rows import Row, Trace, dose_rows, trace_rows
from retmask.figures.style import ABOVE, EMPTY, HOVER, MUTED, ORANGE, PURPLE, TEAL, dress
from retmask.heads.grid import HeadId, heads_words
from retmask.heads.intervals import span
from retmask.heads.rules import CONTROL, MASKED

MOST_ROWS = 40  # of a raster; heads beyond copied least
_MOST_TICKS = 80  # tokens named under an axis; of more, every second, third ...
_BAND = "rgba(31,41,55,0.1)"


def dose_curve(points: Iterable[Mapping[str, Any]]) -> go.Figure:
    """Recall (0-1, with 95 % intervals) and perplexity against how many heads are masked: the top heads, random heads.

    The point with no head masked belongs to both curves. Points may be missing: a run in progress draws what it has.
    """
    rows = dose_rows(points)
    places = {k: place for place, k in enumerate(sorted({row["k"] for row in rows}))}
    figure = go.Figure(layout={"xaxis2": {"domain": [0.56, 1]}, "yaxis2": {"anchor": "x2"}})
    for panel, value in (("", "recall"), ("2", "perplexity")):
        for line in (*_random_lines(rows, places, value), _top_line(rows, places, value)):
            line.update(xaxis=f"x{panel}", yaxis=f"y{panel}", showlegend=not panel, legendgroup=line.name)
            figure.add_trace(line)
    dress(figure, height=300, top=36)
    figure.update_layout(showlegend=True, xaxis_domain=[0, 0.44], legend=ABOVE | {"traceorder": "reversed"})
    ticks = {"tickvals": list(places.values()), "ticktext": [str(k) for k in places]}
    figure.update_xaxes(ticks, title="masked heads", range=[-0.4, max(len(places), 2) - 0.6])
    figure.update_yaxes(showgrid=True)
    figure.update_layout(yaxis={"title": "recall", "range": [-0.03, 1.03], "tickvals": [0, 0.25, 0.5, 0.75, 1]})
    figure.update_layout(yaxis2={"title": "perplexity"} | _from_zero_or_log([row["perplexity"] for row in rows]))
    return figure


def trace_raster(
    trace: Trace,
    tokens: Sequence[str],
    marked: Collection[HeadId] = (),
    step: int | None = None,
    head: HeadId | None = None,
    stamp: int = 0,
) -> go.Figure:
    """Which heads (down, most copies on top) copied at which generated token (across); bands show `step` and `head`.

    `tokens` are the texts of the generated tokens; `marked` heads are orange. The last trace holds a point a copy, with
    customdata [step, layer, head, stamp], for clicks; `selectedpoints` is empty, so that every redraw lets go.
    """
    order = sorted((head for head, steps in trace.copied.items() if steps), key=lambda h: (-len(trace.copied[h]), h))
    places = {head: place for place, head in enumerate(order[:MOST_ROWS])}
    rows = [row for row in trace_rows(trace, tokens) if HeadId(row["layer"], row["head_index"]) in places]
    heads = [HeadId(row["layer"], row["head_index"]) for row in rows]

    def color(head: HeadId) -> str:
        return ORANGE if head in marked else TEAL

    texts = [f'{row["head"]} copied "{style.readable(row["token"])}" from position {row["position"]:,}' for row in rows]
    dots = go.Scatter(x=[row["step"] for row in rows], y=[places[head] for head in heads], mode="markers")
    dots.update(customdata=[[row["step"], *head, stamp] for row, head in zip(rows, heads, strict=True)])
    size = min(11.0, max(5.0, 600 / max(trace.n_steps, 1)))
    dots.update(marker={"color": [color(head) for head in heads], "size": size}, text=texts, hovertemplate=HOVER)
    figure = go.Figure(dots.update(unselected={"marker": {"opacity": 1}}, selectedpoints=[]))
    if not places:
        return _nothing(figure, "No head copied anything.")
    dress(figure, height=max(160, 18 * len(places) + 116), top=28, bottom=88)
    figure.update_layout(selectionrevision=stamp)
    figure.update_xaxes(range=[-0.5, trace.n_steps - 0.5], **_token_ticks(tokens))
    names = [f'<span style="color:{color(head)}">{head}</span>' for head in places]
    figure.update_yaxes(tickvals=list(places.values()), ticktext=names, tickfont={"size": 11})
    figure.update_yaxes(range=[len(places) - 0.5, -0.5], showgrid=True)
    if step is not None:
        figure.add_vrect(step - 0.5, step + 0.5, fillcolor=_BAND, line_width=0, layer="below")
    if head in places:
        figure.add_hrect(places[head] - 0.5, places[head] + 0.5, fillcolor=_BAND, line_width=0, layer="below")
    if len(order) > len(places):
        note = f"and {len(order) - len(places)} more heads, with no more copies than these"
        corner = {"x": 0, "y": 1, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        figure.add_annotation(**corner, text=note, showarrow=False, font={"size": 11, "color": MUTED})
    return figure


def logprob_lines(
    own: Sequence[float],
    others: Mapping[str, Sequence[float]],
    tokens: Sequence[str],
    kl: Mapping[str, Sequence[float]],
) -> go.Figure:
    """The log-probability (nats) of each token of a text, under the model that wrote it and under others, by name.

    `kl` are the divergences (nats a token) of the others, by the same names: hovering tells them.
    """
    figure = go.Figure()
    for name, values in {"the model that wrote it": own, **others}.items():
        color = {MASKED: ORANGE, CONTROL: MUTED}.get(name, PURPLE) if name in others else TEAL
        texts = [
            f"{style.readable(token)}, {html.escape(name, quote=False)}<br>log-probability {value:.2f} nats"
            + (f"<br>KL divergence {kl[name][step]:.3f} nats" if name in kl else "")
            for step, (token, value) in enumerate(zip(tokens, values, strict=True))
        ]
        line = go.Scatter(x=list(range(len(tokens))), y=list(values), mode="lines+markers", marker={"size": 4})
        line.update(name=html.escape(name, quote=False), line={"color": color, "width": 1.5})
        figure.add_trace(line.update(text=texts, hovertemplate=HOVER))
    dress(figure, height=240, top=32, bottom=80)
    figure.update_layout(showlegend=True, legend=ABOVE)
    figure.update_xaxes(range=[-0.5, len(tokens) - 0.5], **_token_ticks(tokens))
    figure.update_yaxes(title="log-probability", showgrid=True, nticks=5)
    return figure


def _top_line(rows: Iterable[Row], places: Mapping[int, int], value: str) -> go.Scatter:
    """The curve of the top heads, recall with its intervals."""
    top = [row for row in rows if row["kind"] == "top"]
    line = go.Scatter(x=[places[row["k"]] for row in top], y=[row[value] for row in top], mode="lines+markers")
    line.update(name="top heads", line={"color": TEAL, "width": 2}, marker={"size": 8}, cliponaxis=False)
    line.update(text=[_dose_text(row, value) for row in top], hovertemplate=HOVER)
    if value == "recall":
        ends = ([row[name] for row in top] for name in ("recall", "low", "high"))
        line.update(error_y=style.whiskers(*ends, color=TEAL, thickness=1, width=3))
    return line


def _random_lines(rows: Sequence[Row], places: Mapping[int, int], value: str) -> list[go.Scatter]:
    """Range, mean and single draws of random heads; nothing before there is a draw."""
    draws = [row for row in rows if row["kind"] == "random"]
    if not draws:
        return []
    at = {k: [row[value] for row in (draws if k else rows) if row["k"] == k] for k in places}
    at = {k: values for k, values in at.items() if values}
    x = [places[k] for k in at]
    low, high, means = ([float(of(values)) for values in at.values()] for of in (min, max, np.mean))
    texts = [
        f"{heads_words(k, 'random')} masked<br>mean {_measured(value, mean)}" for k, mean in zip(at, means, strict=True)
    ]
    band = go.Scatter(x=x + x[::-1], y=high + low[::-1], mode="none", fill="toself", fillcolor=EMPTY)
    mean = go.Scatter(x=x, y=means, mode="lines", line={"color": MUTED, "width": 1.5, "dash": "dash"})
    dots = go.Scatter(x=[places[row["k"]] for row in draws], y=[row[value] for row in draws], mode="markers")
    dots.update(marker={"color": MUTED, "size": 5, "opacity": 0.6}, text=[_dose_text(row, value) for row in draws])
    return [
        band.update(name="range of the draws", hoverinfo="skip"),
        mean.update(name="their mean", text=texts, hovertemplate=HOVER),
        dots.update(name="random heads", hovertemplate=HOVER),
    ]


def _dose_text(row: Row, value: str) -> str:
    """What hovering over a point of the masking curve says."""
    seed = "" if row["seed"] is None else f", seed {row['seed']}"
    what = f"{heads_words(row['k'], row['kind'])} masked{seed}" if row["k"] else "no head masked"
    bounded = value == "recall" and row["low"] is not None
    interval = f"<br>95 % {span(row['low'], row['high'])} over {row['over']}" if bounded else ""
    return f"{what}<br>{_measured(value, row[value])}{interval}"


def _measured(name: str, value: float) -> str:
    return f"{name} {value:.2f}" if name == "recall" else f"{name} {value:,.4g}"


def _from_zero_or_log(values: Collection[float]) -> dict[str, Any]:
    """An axis from 0; a logarithmic one where the values (at least 1) differ more than fivefold."""
    low, high = min(values, default=1), max(values, default=1)
    if high <= 5 * low:
        return {"rangemode": "tozero"}
    ticks = [tick for tick in style.log_ticks(int(2 * high)) if tick > low / 2]
    if len(ticks) <= 9:
        return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:,}" for tick in ticks]}
    powers = range(len(str(ticks[0])) - 1, len(str(ticks[-1])), -(-len(ticks) // 24))
    return {"type": "log", "tickvals": [10.0**e for e in powers], "ticktext": [f"10<sup>{e}</sup>" for e in powers]}


def _nothing(figure: go.Figure, sentence: str) -> go.Figure:
    """The figure with a sentence in the place of its axes."""
    dress(figure, height=160)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    middle = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False}
    figure.add_annotation(**middle, text=sentence, font={"size": 13, "color": MUTED})
    return figure


def _token_ticks(tokens: Sequence[str]) -> dict[str, Any]:
    """Tokens under an axis of steps, as many as there is room for."""
    steps = range(0, len(tokens), -(-len(tokens) // _MOST_TICKS) or 1)
    texts = [style.readable(tokens[step], 12) for step in steps]
    ticks = {"tickvals": list(steps), "ticktext": texts, "tickangle": -90, "tickfont": {"size": 10}}
    return ticks | {"automargin": True}
