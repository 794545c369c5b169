"""Figures: values in, a Plotly figure out. No Streamlit, no model; the rows of data behind each are in tables.py.

One style for all: white ground, one hue from white (0) to dark (the most), orange for what is selected. Layer 0 is at
the bottom, as the residual stream flows upwards. Texts of models and of files are escaped: Plotly reads HTML.
"""

import html
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from retmask.heads import Grid, HeadId
from retmask.scores import THRESHOLD, HeadScores
from retmask.tables import Row, Trace, breakdown_rows, copy_rows, dose_rows, head_rows, recall_rows, trace_rows

if TYPE_CHECKING:
    from retmask.retrieval import Trial

INK, MUTED, EMPTY, TEAL, ORANGE, PURPLE = "#1f2937", "#6b7280", "#e5e9eb", "#0f766e", "#d55e00", "#6d28d9"
HUE = [(0.0, "#ffffff"), (0.25, "#b5dcd8"), (0.5, "#5fb0a9"), (0.75, "#0f766e"), (1.0, "#063f3b")]
MOST_ROWS = 40  # of a raster; heads beyond copied least
_MOST_TICKS = 80  # tokens named under an axis; of more, every second, third ...
_BAND = "rgba(31,41,55,0.1)"
_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def ordinal(n: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st ..."""
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def percent(share: float) -> str:
    """A share (0-1) for people: 50 %, 12.5 %, 11.1 %."""
    return f"{100 * share:.3g} %"


def head_heatmap(
    scores: HeadScores,
    selected: Collection[HeadId] = (),
    focus: HeadId | None = None,
    dragmode: str = "pan",
    stamp: int = 0,
) -> go.Figure:
    """The layer x head map: mean scores from 0 to the most, selected heads outlined, key/value groups ruled off.

    The last trace holds an invisible point a head, with customdata [layer, head, stamp], for clicks, boxes and lassos
    (a heatmap itself cannot be clicked in Streamlit); `selectedpoints` is empty, so that every redraw lets go.
    """
    grid, heads = scores.grid, scores.grid.heads()
    cell = min(30.0, max(14.0, 590 / grid.n_layers))
    figure = go.Figure(
        [
            _cells(scores),
            _outlines(selected, ORANGE, 2.5),
            _outlines([focus] if focus else [], INK, 1.5, "dot"),
            go.Scatter(
                x=[head.head for head in heads],
                y=[head.layer for head in heads],
                customdata=[[head.layer, head.head, stamp] for head in heads],
                text=_head_texts(scores, selected),
                hovertemplate="%{text}<extra></extra>",
                mode="markers",
                marker={"symbol": "square", "size": cell - 3, "color": ORANGE, "opacity": 0},
                selected={"marker": {"opacity": 0.6}},
                unselected={"marker": {"opacity": 0}},
                selectedpoints=[],
            ),
        ]
    )
    _style(figure, height=round(cell * grid.n_layers + 100), top=54, bottom=44)
    figure.update_layout(dragmode=dragmode, hoverdistance=-1, plot_bgcolor=EMPTY, selectionrevision=stamp)
    figure.update_xaxes(title="head", range=[-0.5, grid.n_heads - 0.5], **_ticks(grid.n_heads))
    figure.update_yaxes(title="layer", range=[-0.5, grid.n_layers - 0.5], **_ticks(grid.n_layers))
    _rule_groups(figure, grid)
    return figure


def rank_curve(scores: HeadScores, selected: Collection[HeadId] = ()) -> go.Figure:
    """All heads by rank (log axis) with their mean scores and 95 % intervals; selected heads and 0.1 are marked."""
    rows = head_rows(scores, selected)
    texts = [f"{row['name']}: {row['mean']:.3f}, {ordinal(row['rank'])}" for row in rows]
    ranks, means = [row["rank"] for row in rows], [row["mean"] for row in rows]
    marked = [i for i, row in enumerate(rows) if row["selected"]]
    band = [row["high"] for row in rows] + [row["low"] for row in reversed(rows)]
    figure = go.Figure(
        [
            go.Scatter(x=ranks + ranks[::-1], y=band, fill="toself", fillcolor="rgba(15,118,110,0.15)",
                       mode="none", hoverinfo="skip"),
            go.Scatter(x=ranks, y=means, text=texts, mode="lines+markers", line={"color": TEAL, "width": 1.5},
                       marker={"size": 4}, hovertemplate="%{text}<extra></extra>"),
            go.Scatter(x=[ranks[i] for i in marked], y=[means[i] for i in marked], text=[texts[i] for i in marked],
                       mode="markers", marker={"color": ORANGE, "size": 7}, hovertemplate="%{text}<extra></extra>"),
        ]
    )  # fmt: skip
    _style(figure, height=230)
    figure.add_hline(THRESHOLD, line={"color": MUTED, "width": 1, "dash": "dash"})
    end = float(np.log10(len(rows)))
    figure.update_xaxes(title="rank", type="log", range=[-0.05, end + 0.05], showgrid=True, gridcolor=EMPTY,
                        tickvals=_log_ticks(len(rows)))  # fmt: skip
    figure.update_yaxes(title="retrieval score", rangemode="tozero", showgrid=True, gridcolor=EMPTY)
    return figure


def needle_grid(trials: Iterable["Trial"]) -> go.Figure:
    """Mean recall (0-1) at every length (tokens) and depth; what has not been tried yet stays grey."""
    rows = recall_rows(trials)
    lengths, depths = sorted({row["length"] for row in rows}), sorted({row["depth"] for row in rows})
    at = {(row["depth"], row["length"]): row for row in rows}
    cells = [[at.get((depth, length)) for length in lengths] for depth in depths]
    figure = go.Figure(
        go.Heatmap(
            x=[f"{length:,}" for length in lengths],
            y=[percent(depth) for depth in depths],
            z=[[row and row["recall"] for row in line] for line in cells],
            text=[[row and _recall_text(row) for row in line] for line in cells],
            texttemplate="%{z:.2f}" if len(lengths) <= 10 else None,
            hovertemplate="%{text}<extra></extra>",
            hoverongaps=False,
            zmin=0, zmax=1, colorscale=HUE, xgap=1, ygap=1,
            colorbar=_colorbar("recall"),
        )
    )  # fmt: skip
    _style(figure, height=max(200, 26 * len(depths) + 90))
    figure.update_layout(plot_bgcolor=EMPTY)
    figure.update_xaxes(title="context (tokens)", type="category", ticks="")
    figure.update_yaxes(title="depth", type="category", autorange="reversed", ticks="")
    return figure


def head_breakdown(trials: Iterable["Trial"], head: HeadId) -> go.Figure:
    """A head's mean score by needle, by length and by depth, side by side on one axis."""
    rows = breakdown_rows(trials, head)
    figure = go.Figure()
    for number, by in enumerate(("needle", "length", "depth"), start=1):
        part = [row for row in rows if row["by"] == by]
        figure.add_bar(
            x=[_level(row, n) for n, row in enumerate(part, start=1)],
            y=[row["score"] for row in part],
            text=[_bar_text(row) for row in part],
            hovertemplate="%{text}<extra></extra>",
            textposition="none",
            marker={"color": TEAL},
            xaxis=f"x{number}",
        )
    _style(figure, height=230, bottom=48)
    for number, title in enumerate(("needle", "length (tokens)", "depth (%)"), start=1):
        left = (number - 1) * 0.345
        axis = {"domain": [left, left + 0.31], "title": title, "type": "category", "tickangle": 0}
        figure.update_layout({f"xaxis{number}": axis | {"fixedrange": True, "tickfont": {"size": 11}, "ticks": ""}})
    figure.update_yaxes(title="score", rangemode="tozero", showgrid=True, gridcolor=EMPTY)
    return figure


def copy_map(trial: "Trial", head: HeadId) -> go.Figure:
    """The answer's tokens (down) against the scored needle tokens (across): a dot where the head copied."""
    rows = copy_rows(trial, head)
    last = max([row["step"] for row in rows], default=0)
    answer = trial.response_tokens[: max(last + 3, 8)]
    start, n = trial.needle_span[0], len(trial.needle_tokens)
    figure = go.Figure(
        go.Scatter(
            x=[row["position"] - start for row in rows],
            y=[row["step"] for row in rows],
            text=[f"{_token(row['answer_token'])} copied from position {row['position']:,}" for row in rows],
            hovertemplate="%{text}<extra></extra>",
            mode="markers",
            marker={"color": TEAL, "size": 13},
        )
    )
    _style(figure, height=20 * len(answer) + 110, top=90, bottom=16)
    figure.update_layout(margin_r=56)
    figure.update_xaxes(side="top", range=[-0.5, n - 0.5], showgrid=True, gridcolor=EMPTY, tickangle=-60,
                        tickvals=list(range(n)), ticktext=[_token(text) for text in trial.needle_tokens])  # fmt: skip
    figure.update_yaxes(range=[len(answer) - 0.5, -0.5], showgrid=True, gridcolor=EMPTY,
                        tickvals=list(range(len(answer))), ticktext=[_token(text) for text in answer])  # fmt: skip
    return figure


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
    _style(figure, height=300, top=36)
    figure.update_layout(showlegend=True, xaxis_domain=[0, 0.44], legend=_LEGEND | {"traceorder": "reversed"})
    figure.update_xaxes(title="masked heads", range=[-0.4, max(len(places), 2) - 0.6], ticks="",
                        tickvals=list(places.values()), ticktext=[str(k) for k in places])  # fmt: skip
    figure.update_yaxes(showgrid=True, gridcolor=EMPTY, ticks="")
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

    figure = go.Figure(
        go.Scatter(
            x=[row["step"] for row in rows],
            y=[places[head] for head in heads],
            customdata=[[row["step"], *head, stamp] for row, head in zip(rows, heads, strict=True)],
            text=[f"{row['head']} copied «{_token(row['token'])}» from position {row['position']:,}" for row in rows],
            hovertemplate="%{text}<extra></extra>",
            mode="markers",
            marker={"color": [color(head) for head in heads],
                    "size": min(11.0, max(5.0, 600 / max(trace.n_steps, 1)))},
            unselected={"marker": {"opacity": 1}},
            selectedpoints=[],
        )
    )  # fmt: skip
    if not places:
        return _nothing(figure, "No head copied anything.")
    _style(figure, height=max(160, 18 * len(places) + 116), top=28, bottom=88)
    figure.update_layout(selectionrevision=stamp)
    figure.update_xaxes(range=[-0.5, trace.n_steps - 0.5], **_token_ticks(tokens))
    figure.update_yaxes(range=[len(places) - 0.5, -0.5], showgrid=True, gridcolor=EMPTY, ticks="",
                        tickvals=list(places.values()), tickfont={"size": 11},
                        ticktext=[f'<span style="color:{color(head)}">{head}</span>' for head in places])  # fmt: skip
    if step is not None:
        figure.add_vrect(step - 0.5, step + 0.5, fillcolor=_BAND, line_width=0, layer="below")
    if head in places:
        figure.add_hrect(places[head] - 0.5, places[head] + 0.5, fillcolor=_BAND, line_width=0, layer="below")
    if len(order) > len(places):
        figure.add_annotation(x=1, y=1, xref="paper", yref="paper", xanchor="right", yanchor="bottom", showarrow=False,
                              text=f"and {len(order) - len(places)} more heads, with no more copies than these",
                              font={"size": 11, "color": MUTED})  # fmt: skip
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
        color = {"masked": ORANGE, "random control": MUTED}.get(name, PURPLE) if name in others else TEAL
        figure.add_scatter(
            x=list(range(len(tokens))),
            y=list(values),
            text=[
                f"{_token(token)}, {html.escape(name)}<br>log-probability {value:.2f} nats"
                + (f"<br>KL divergence {kl[name][step]:.3f} nats" if name in kl else "")
                for step, (token, value) in enumerate(zip(tokens, values, strict=True))
            ],
            hovertemplate="%{text}<extra></extra>",
            name=html.escape(name),
            mode="lines+markers",
            line={"color": color, "width": 1.5},
            marker={"size": 4},
        )
    _style(figure, height=240, top=32, bottom=80)
    figure.update_layout(showlegend=True, legend=_LEGEND)
    figure.update_xaxes(range=[-0.5, len(tokens) - 0.5], **_token_ticks(tokens))
    figure.update_yaxes(title="log-probability", showgrid=True, gridcolor=EMPTY, ticks="", nticks=5)
    return figure


def browser() -> str | None:
    """The Chrome or Chromium that `png` can use; None where there is none."""
    return next(filter(None, map(shutil.which, _BROWSERS)), None)


def png(figure: go.Figure, width: int = 900) -> bytes:
    """The figure as PNG, two pixels a point. ValueError, one sentence, where no Chrome or Chromium is installed."""
    if browser() is None:
        raise ValueError("a PNG needs Chrome or Chromium: install one, or use the camera on the figure itself")
    return bytes(figure.to_image("png", width=width, height=figure.layout.height, scale=2))


def _style(figure: go.Figure, height: int, top: int = 12, bottom: int = 40) -> None:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 52, "r": 12, "t": top, "b": bottom},
        font={"family": "Source Sans Pro, Segoe UI, Helvetica, Arial, sans-serif", "size": 12, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        showlegend=False,
        hoverlabel={"bgcolor": "white", "bordercolor": MUTED, "font": {"color": INK, "size": 13}, "align": "left"},
        bargap=0.25,
    )
    figure.update_xaxes(fixedrange=True, zeroline=False, showgrid=False, title_standoff=6)
    figure.update_yaxes(fixedrange=True, zeroline=False, showgrid=False, title_standoff=8, automargin=True)


def _cells(scores: HeadScores) -> go.Heatmap:
    peak = float(scores.mean.max())
    return go.Heatmap(
        z=scores.mean.round(6).tolist(),
        zmin=0, zmax=peak or 1.0, colorscale=HUE, xgap=1, ygap=1, hoverinfo="skip",
        colorbar=_colorbar("retrieval score"),
    )  # fmt: skip


def _colorbar(title: str) -> dict[str, Any]:
    return {"title": {"text": title, "side": "right"}, "thickness": 12, "outlinewidth": 0, "xpad": 8, "nticks": 6}


def _outlines(heads: Iterable[HeadId], color: str, width: float, dash: str = "solid") -> go.Scatter:
    """One line trace that walks round every cell."""
    x: list[float | None] = []
    y: list[float | None] = []
    for head in heads:
        left, right = head.head - 0.46, head.head + 0.46
        low, high = head.layer - 0.45, head.layer + 0.45
        x += [left, right, right, left, left, None]
        y += [low, low, high, high, low, None]
    return go.Scatter(x=x, y=y, mode="lines", line={"color": color, "width": width, "dash": dash}, hoverinfo="skip")


def _head_texts(scores: HeadScores, selected: Collection[HeadId]) -> list[str]:
    """What hovering over each head says, layer by layer."""
    low, high = scores.interval
    texts = []
    for head in scores.grid.heads():
        group = scores.grid.kv_group(head)
        lines = [
            f"<b>{head}</b>{' · selected' if head in selected else ''}",
            f"mean {scores.mean[head]:.3f} [{low[head]:.3f}, {high[head]:.3f}]",
            f"{ordinal(int(scores.rank[head]))} of {scores.grid.size:,}",
            f"copied in {percent(scores.activation[head])} of {scores.n_trials} trials",
            *([] if group is None else [f"key/value group {group}"]),
        ]
        texts.append("<br>".join(lines))
    return texts


def _ticks(n: int) -> dict[str, Any]:
    step = 1 if n <= 20 else 2 if n <= 40 else 5
    return {"tickvals": list(range(0, n, step)), "ticks": "", "tickfont": {"size": 11}}


def _log_ticks(n: int) -> list[int]:
    ticks = [m * 10**e for e in range(len(str(n))) for m in (1, 2, 5)]
    return [tick for tick in ticks if tick <= n]


def _rule_groups(figure: go.Figure, grid: Grid) -> None:
    """Lines between groups of heads that share a key/value head, and their numbers above."""
    n = grid.n_kv_heads
    if not n or n >= grid.n_heads:
        return
    size = grid.n_heads / n
    name = "KV {}" if n <= 8 else "{}"
    for group in range(n):
        edge = group * size - 0.5
        if group:
            figure.add_shape(type="line", x0=edge, x1=edge, y0=-0.5, y1=grid.n_layers - 0.5,
                             line={"color": INK, "width": 1.5})  # fmt: skip
        figure.add_annotation(x=edge + size / 2, y=1, yref="paper", yanchor="bottom", showarrow=False,
                              text=name.format(group), font={"size": 11, "color": MUTED})  # fmt: skip


def _recall_text(row: Row) -> str:
    return (
        f"{row['length']:,} tokens, depth {percent(row['depth'])}<br>mean recall {row['recall']:.2f}<br>"
        f"{row['found']} of {row['trials']} trials found the needle"
    )


def _level(row: Row, number: int) -> str:
    """The name of a bar."""
    if row["by"] == "needle":
        return str(number)
    return f"{row['value']:,}" if row["by"] == "length" else f"{100 * row['value']:.3g}"


def _bar_text(row: Row) -> str:
    """What hovering over a bar says."""
    what = {
        "needle": lambda value: _wrapped(value),
        "length": lambda value: f"{value:,} tokens<br>",
        "depth": lambda value: f"depth {percent(value)}<br>",
    }[row["by"]](row["value"])
    return f"{what}{row['score']:.3f} in {row['trials']} successful trials"


def _wrapped(text: str, width: int = 60) -> str:
    """Foreign text for a hover: escaped, cut at 240 characters, every line with a line break after it."""
    lines = [text[i : i + width] for i in range(0, min(len(text), 240), width)]
    return "".join(f"{html.escape(line)}<br>" for line in lines)


def _top_line(rows: Iterable[Row], places: Mapping[int, int], value: str) -> go.Scatter:
    """The curve of the top heads, recall with its intervals."""
    top = [row for row in rows if row["kind"] == "top"]
    bars = {
        "array": [row["high"] - row["recall"] for row in top],
        "arrayminus": [row["recall"] - row["low"] for row in top],
        "color": TEAL, "thickness": 1, "width": 3,
    }  # fmt: skip
    return go.Scatter(
        x=[places[row["k"]] for row in top],
        y=[row[value] for row in top],
        error_y=bars if value == "recall" else None,
        text=[_dose_text(row, value) for row in top],
        hovertemplate="%{text}<extra></extra>",
        name="top heads",
        mode="lines+markers",
        line={"color": TEAL, "width": 2},
        marker={"size": 8},
        cliponaxis=False,
    )


def _random_lines(rows: Sequence[Row], places: Mapping[int, int], value: str) -> list[go.Scatter]:
    """Range, mean and single draws of random heads; nothing before there is a draw."""
    draws = [row for row in rows if row["kind"] == "random"]
    if not draws:
        return []
    at = {k: [row[value] for row in (draws if k else rows) if row["k"] == k] for k in places}
    at = {k: values for k, values in at.items() if values}
    x = [places[k] for k in at]
    low, high, means = ([float(of(values)) for values in at.values()] for of in (min, max, np.mean))
    texts = [f"{k} random heads masked<br>mean {_measured(value, mean)}" for k, mean in zip(at, means, strict=True)]
    return [
        go.Scatter(x=x + x[::-1], y=high + low[::-1], name="range of the draws", mode="none", fill="toself",
                   fillcolor=EMPTY, hoverinfo="skip"),
        go.Scatter(x=x, y=means, name="their mean", mode="lines", line={"color": MUTED, "width": 1.5, "dash": "dash"},
                   text=texts, hovertemplate="%{text}<extra></extra>"),
        go.Scatter(x=[places[row["k"]] for row in draws], y=[row[value] for row in draws], name="random heads",
                   mode="markers", marker={"color": MUTED, "size": 5, "opacity": 0.6},
                   text=[_dose_text(row, value) for row in draws], hovertemplate="%{text}<extra></extra>"),
    ]  # fmt: skip


def _dose_text(row: Row, value: str) -> str:
    """What hovering over a point of the masking curve says."""
    seed = "" if row["seed"] is None else f", seed {row['seed']}"
    what = f"{row['k']} {row['kind']} heads masked{seed}" if row["k"] else "no head masked"
    interval = f" [{row['low']:.2f}, {row['high']:.2f}]" if value == "recall" else ""
    return f"{what}<br>{_measured(value, row[value])}{interval}"


def _measured(name: str, value: float) -> str:
    return f"{name} {value:.2f}" if name == "recall" else f"{name} {value:,.4g}"


def _from_zero_or_log(values: Collection[float]) -> dict[str, Any]:
    """An axis from 0; a logarithmic one where the values (at least 1) differ more than fivefold."""
    low, high = min(values, default=1), max(values, default=1)
    if high <= 5 * low:
        return {"rangemode": "tozero"}
    ticks = [tick for tick in _log_ticks(int(2 * high)) if tick > low / 2]
    if len(ticks) <= 9:
        return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:,}" for tick in ticks]}
    powers = range(len(str(ticks[0])) - 1, len(str(ticks[-1])), -(-len(ticks) // 24))
    return {"type": "log", "tickvals": [10.0**e for e in powers], "ticktext": [f"10<sup>{e}</sup>" for e in powers]}


def _nothing(figure: go.Figure, sentence: str) -> go.Figure:
    """The figure with a sentence in the place of its axes."""
    _style(figure, height=160)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, text=sentence,
                          font={"size": 13, "color": MUTED})  # fmt: skip
    return figure


def _token_ticks(tokens: Sequence[str]) -> dict[str, Any]:
    """Tokens under an axis of steps, as many as there is room for."""
    steps = range(0, len(tokens), -(-len(tokens) // _MOST_TICKS) or 1)
    texts = [_token(tokens[step], 12) for step in steps]
    return {"tickvals": list(steps), "ticktext": texts, "tickangle": -90, "tickfont": {"size": 10}, "ticks": "",
            "automargin": True}  # fmt: skip


def _token(text: str, most: int = 24) -> str:
    """A token to read: its spaces and line ends shown, escaped, cut at `most` characters."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
    return html.escape(shown if len(shown) <= most else shown[: most - 1] + "…") or "∅"
