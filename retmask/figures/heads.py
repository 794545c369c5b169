"""Heads by rank, and the trials behind their scores: recall, one head's scores and copies. A Plotly figure out.

The rows of data behind each are in rows.py.
"""

import html
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from retmask.figures import style
from retmask.figures.rows import Row, breakdown_rows, copy_rows, head_rows, recall_rows
from retmask.figures.style import EMPTY, HOVER, HUE, ORANGE, TEAL, dress
from retmask.heads.grid import HeadId
from retmask.heads.scores import THRESHOLD, HeadScores
from retmask.heads.trials import Trial


def rank_curve(scores: HeadScores, selected: Collection[HeadId] = ()) -> go.Figure:
    """All heads by rank (log axis) with their mean scores and 95 % intervals; selected heads and 0.1 are marked.

    There is no band where there are no intervals.
    """
    rows = head_rows(scores, selected)
    texts = [f"{row['name']}: {row['mean']:.3f}, {style.ordinal(row['rank'])}" for row in rows]
    ranks, means = [row["rank"] for row in rows], [row["mean"] for row in rows]
    marked = [i for i, row in enumerate(rows) if row["selected"]]
    band = [row["high"] for row in rows] + [row["low"] for row in reversed(rows)]
    band, around = (band, ranks + ranks[::-1]) if scores.interval else ([], [])
    figure = go.Figure(go.Scatter(x=around, y=band, fill="toself", fillcolor="rgba(15,118,110,0.15)", hoverinfo="skip"))
    figure.update_traces(mode="none")
    curve = go.Scatter(x=ranks, y=means, text=texts, mode="lines+markers", line={"color": TEAL, "width": 1.5})
    figure.add_trace(curve.update(marker={"size": 4}, hovertemplate=HOVER))
    dots = go.Scatter(x=[ranks[i] for i in marked], y=[means[i] for i in marked], text=[texts[i] for i in marked])
    figure.add_trace(dots.update(mode="markers", marker={"color": ORANGE, "size": 7}, hovertemplate=HOVER))
    dress(figure, height=230)
    figure.add_hline(THRESHOLD)
    axis = {"type": "log", "range": [-0.05, float(np.log10(len(rows))) + 0.05], "tickvals": style.log_ticks(len(rows))}
    figure.update_xaxes(axis, title="rank", showgrid=True)
    figure.update_yaxes(title="retrieval score", rangemode="tozero", showgrid=True)
    return figure


def needle_grid(trials: Iterable[Trial]) -> go.Figure:
    """Mean recall (0-1) at every length (tokens) and depth; what has not been tried yet stays grey."""
    rows = recall_rows(trials)
    depths = {depth: style.percent(depth) for depth in sorted({row["depth"] for row in rows})}
    return length_depth_grid(rows, "recall", depths, _recall_text)


def length_depth_grid(
    rows: Sequence[Row], value: str, depths: Mapping[float, str], text: Callable[[Row], str]
) -> go.Figure:
    """A figure of rows (0-1) at every length (tokens, across) and depth (down); what has no row is grey.

    `depths` are those that are drawn, with what each is called, and `text` is what a cell says when it is pointed at.
    """
    lengths = sorted({row["length"] for row in rows})
    at = {(row["depth"], row["length"]): row for row in rows}
    cells = [[at.get((depth, length)) for length in lengths] for depth in depths]
    shares = go.Heatmap(x=[f"{length:,}" for length in lengths], y=list(depths.values()))
    shares.update(z=[[row and row[value] for row in line] for line in cells], zmin=0, zmax=1, colorscale=HUE)
    shares.update(text=[[row and text(row) for row in line] for line in cells], hovertemplate=HOVER)
    shares.update(texttemplate="%{z:.2f}" if len(lengths) <= 10 else None, hoverongaps=False, xgap=1, ygap=1)
    figure = go.Figure(shares.update(colorbar=style.colorbar(value)))
    dress(figure, height=max(200, 26 * len(depths) + 90))
    figure.update_layout(plot_bgcolor=EMPTY)
    figure.update_xaxes(title="context (tokens)", type="category")
    figure.update_yaxes(title="depth", type="category", autorange="reversed")
    return figure


def head_breakdown(trials: Iterable[Trial], head: HeadId) -> go.Figure:
    """A head's mean score by needle, by length and by depth, side by side on one axis."""
    rows = breakdown_rows(trials, head)
    figure = go.Figure()
    for number, by in enumerate(("needle", "length", "depth"), start=1):
        part = [row for row in rows if row["by"] == by]
        bars = go.Bar(x=[_level(row, n) for n, row in enumerate(part, start=1)], y=[row["score"] for row in part])
        bars.update(text=[_bar_text(row) for row in part], textposition="none", hovertemplate=HOVER)
        figure.add_trace(bars.update(marker={"color": TEAL}, xaxis=f"x{number}"))
    dress(figure, height=230, bottom=48)
    for number, title in enumerate(("needle", "length (tokens)", "depth (%)"), start=1):
        left = (number - 1) * 0.345
        axis = {"domain": [left, left + 0.31], "title": title, "type": "category", "tickangle": 0}
        figure.update_layout({f"xaxis{number}": axis | {"tickfont": {"size": 11}}})
    figure.update_yaxes(title="score", rangemode="tozero", showgrid=True)
    return figure


def copy_map(trial: Trial, head: HeadId) -> go.Figure:
    """The answer's tokens (down) against the scored needle tokens (across): a dot where the head copied."""
    rows = copy_rows(trial, head)
    last = max([row["step"] for row in rows], default=0)
    answer = trial.response_tokens[: max(last + 3, 8)]
    start, n = trial.needle_span[0], len(trial.needle_tokens)
    texts = [f"{style.readable(row['answer_token'])} copied from position {row['position']:,}" for row in rows]
    dots = go.Scatter(x=[row["position"] - start for row in rows], y=[row["step"] for row in rows], mode="markers")
    figure = go.Figure(dots.update(text=texts, hovertemplate=HOVER, marker={"color": TEAL, "size": 13}))
    dress(figure, height=20 * len(answer) + 110, top=90, bottom=16)
    figure.update_layout(margin_r=56)
    across, down = ([style.readable(text) for text in tokens] for tokens in (trial.needle_tokens, answer))
    figure.update_xaxes(side="top", tickangle=-60, tickvals=list(range(n)), ticktext=across, range=[-0.5, n - 0.5])
    figure.update_yaxes(tickvals=list(range(len(answer))), ticktext=down, range=[len(answer) - 0.5, -0.5])
    figure.update_xaxes(showgrid=True)
    figure.update_yaxes(showgrid=True)
    return figure


def _recall_text(row: Row) -> str:
    return (
        f"{row['length']:,} tokens, depth {style.percent(row['depth'])}<br>mean recall {row['recall']:.2f}<br>"
        f"{row['found']} of {row['trials']} trials found the needle"
    )


def _level(row: Row, number: int) -> str:
    """The name of a bar."""
    if row["by"] == "needle":
        return str(number)
    return f"{row['value']:,}" if row["by"] == "length" else f"{100 * row['value']:.3g}"


def _bar_text(row: Row) -> str:
    """What hovering over a bar says."""
    by, value = row["by"], row["value"]
    place = f"{value:,} tokens<br>" if by == "length" else f"depth {style.percent(value)}<br>" if by == "depth" else ""
    return f"{place or _wrapped(value)}{row['score']:.3f} in {row['trials']} successful trials"


def _wrapped(text: str, width: int = 60) -> str:
    """Foreign text for a hover: escaped, cut at 240 characters, every line with a line break after it."""
    lines = [text[i : i + width] for i in range(0, min(len(text), 240), width)]
    return "".join(f"{html.escape(line, quote=False)}<br>" for line in lines)
