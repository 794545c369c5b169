"""Figures of a map of heads and of the trials behind it: values in, a Plotly figure out. No Streamlit, no model.

The rows of data behind each are in tables.py. Layer 0 is at the bottom, as the residual stream flows upwards.
"""

import html
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from retmask.figures.rows import Row, breakdown_rows, copy_rows, head_rows, moved_rows, recall_rows
from retmask.figures.style import (
    BOTH_WAYS,
    EMPTY,
    HUE,
    INK,
    MUTED,
    ORANGE,
    TEAL,
    dress,
    log_ticks,
    ordinal,
    percent,
    readable,
)
from retmask.heads.grid import Grid, HeadId
from retmask.heads.intervals import span
from retmask.heads.moved import Moved
from retmask.heads.scores import THRESHOLD, HeadScores

if TYPE_CHECKING:
    from retmask.heads.trials import Trial


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
            _outlines(selected, ORANGE, 2.5),
            _outlines([focus] if focus else [], INK, 1.5, "dot"),
            points,
        ]
    )
    _lay_out(figure, grid)
    figure.update_layout(dragmode=dragmode, selectionrevision=stamp)
    return figure


def difference_map(found: Moved, marked: int = 10) -> go.Figure:
    """The layer x head map of what moved: mean scores after minus before, white where nothing did, to read only.

    The scale goes as far down as up; of the heads whose change holds, those that moved most are outlined.
    """
    grid, rows, change = found.after.grid, moved_rows(found), found.change
    peak = float(np.abs(change).max()) or 1.0
    texts = {row["name"]: _moved_text(row) for row in rows}
    most = [HeadId(row["layer"], row["head"]) for row in rows[:marked] if row["holds"]]
    figure = go.Figure(
        [
            _cells(change, -peak, peak, BOTH_WAYS, "change of the score"),
            _outlines(most, INK, 1.5),
            _points(grid, [texts[str(head)] for head in grid.heads()]),
        ]
    )
    _lay_out(figure, grid)
    return figure


def rank_curve(scores: HeadScores, selected: Collection[HeadId] = ()) -> go.Figure:
    """All heads by rank (log axis) with their mean scores and 95 % intervals; selected heads and 0.1 are marked.

    There is no band where there are no intervals.
    """
    rows = head_rows(scores, selected)
    texts = [f"{row['name']}: {row['mean']:.3f}, {ordinal(row['rank'])}" for row in rows]
    ranks, means = [row["rank"] for row in rows], [row["mean"] for row in rows]
    marked = [i for i, row in enumerate(rows) if row["selected"]]
    known = scores.interval is not None
    band = [row["high"] for row in rows] + [row["low"] for row in reversed(rows)]
    figure = go.Figure(
        [
            go.Scatter(x=ranks + ranks[::-1] if known else [], y=band if known else [], fill="toself",
                       fillcolor="rgba(15,118,110,0.15)", mode="none", hoverinfo="skip"),
            go.Scatter(x=ranks, y=means, text=texts, mode="lines+markers", line={"color": TEAL, "width": 1.5},
                       marker={"size": 4}, hovertemplate="%{text}<extra></extra>"),
            go.Scatter(x=[ranks[i] for i in marked], y=[means[i] for i in marked], text=[texts[i] for i in marked],
                       mode="markers", marker={"color": ORANGE, "size": 7}, hovertemplate="%{text}<extra></extra>"),
        ]
    )  # fmt: skip
    dress(figure, height=230)
    figure.add_hline(THRESHOLD, line={"color": MUTED, "width": 1, "dash": "dash"})
    end = float(np.log10(len(rows)))
    figure.update_xaxes(title="rank", type="log", range=[-0.05, end + 0.05], showgrid=True, gridcolor=EMPTY,
                        tickvals=log_ticks(len(rows)))  # fmt: skip
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
    dress(figure, height=max(200, 26 * len(depths) + 90))
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
    dress(figure, height=230, bottom=48)
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
            text=[f"{readable(row['answer_token'])} copied from position {row['position']:,}" for row in rows],
            hovertemplate="%{text}<extra></extra>",
            mode="markers",
            marker={"color": TEAL, "size": 13},
        )
    )
    dress(figure, height=20 * len(answer) + 110, top=90, bottom=16)
    figure.update_layout(margin_r=56)
    figure.update_xaxes(side="top", range=[-0.5, n - 0.5], showgrid=True, gridcolor=EMPTY, tickangle=-60,
                        tickvals=list(range(n)), ticktext=[readable(text) for text in trial.needle_tokens])  # fmt: skip
    figure.update_yaxes(range=[len(answer) - 0.5, -0.5], showgrid=True, gridcolor=EMPTY,
                        tickvals=list(range(len(answer))), ticktext=[readable(text) for text in answer])  # fmt: skip
    return figure


def _cells(
    values: Float[np.ndarray, "layer head"], low: float, high: float, scale: list[tuple[float, str]], title: str
) -> go.Heatmap:
    return go.Heatmap(
        z=values.round(6).tolist(),
        zmin=low, zmax=high, colorscale=scale, xgap=1, ygap=1, hoverinfo="skip", colorbar=_colorbar(title),
    )  # fmt: skip


def _cell(grid: Grid) -> float:
    """The side of a cell in pixels."""
    return min(30.0, max(14.0, 590 / grid.n_layers))


def _points(grid: Grid, texts: list[str]) -> go.Scatter:
    """An invisible square on every cell that says a text."""
    heads = grid.heads()
    return go.Scatter(
        x=[head.head for head in heads],
        y=[head.layer for head in heads],
        text=texts,
        hovertemplate="%{text}<extra></extra>",
        mode="markers",
        marker={"symbol": "square", "size": _cell(grid) - 3, "color": ORANGE, "opacity": 0},
    )


def _lay_out(figure: go.Figure, grid: Grid) -> None:
    """Axes, size and groups of a layer x head map."""
    dress(figure, height=round(_cell(grid) * grid.n_layers + 100), top=54, bottom=44)
    figure.update_layout(dragmode="pan", hoverdistance=-1, plot_bgcolor=EMPTY)
    figure.update_xaxes(title="head", range=[-0.5, grid.n_heads - 0.5], **_ticks(grid.n_heads))
    figure.update_yaxes(title="layer", range=[-0.5, grid.n_layers - 0.5], **_ticks(grid.n_layers))
    _rule_groups(figure, grid)


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
    spread = scores.interval
    texts = []
    for head in scores.grid.heads():
        group = scores.grid.kv_group(head)
        lines = [
            f"<b>{head}</b>{' · selected' if head in selected else ''}",
            f"mean {scores.mean[head]:.3f}",
            *(
                []
                if spread is None
                else [f"95 % {span(spread.low[head], spread.high[head], '.3f')} over {scores.clusters.words}"]
            ),
            f"{ordinal(int(scores.rank[head]))} of {scores.grid.size:,}",
            f"{scores.detector.active} in {percent(scores.activation[head])} of {scores.n_trials} trials",
            *([] if group is None else [f"key/value group {group}"]),
        ]
        texts.append("<br>".join(lines))
    return texts


def _moved_text(row: Row) -> str:
    """What hovering over a head of a map of differences says."""
    return "<br>".join(
        [
            f"<b>{row['name']}</b> {row['change']:+.3f}",
            *([] if row["low"] is None else [f"95 % {span(row['low'], row['high'], '+.3f')}"]),
            f"before {row['before']:.3f}, {ordinal(row['before_rank'])}",
            f"after {row['after']:.3f}, {ordinal(row['after_rank'])}",
        ]
    )


def _ticks(n: int) -> dict[str, Any]:
    step = 1 if n <= 20 else 2 if n <= 40 else 5
    return {"tickvals": list(range(0, n, step)), "ticks": "", "tickfont": {"size": 11}}


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
    return "".join(f"{html.escape(line, quote=False)}<br>" for line in lines)
