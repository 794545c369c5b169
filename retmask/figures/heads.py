"""Heads by rank, and the trials behind their scores: recall, one head's scores and copies. A Plotly figure out.

The rows of data behind each are in rows.py.
"""

import html
from collections.abc import Collection, Iterable

import numpy as np
import plotly.graph_objects as go

from retmask.figures.rows import Row, breakdown_rows, copy_rows, head_rows, recall_rows
from retmask.figures.style import (
    EMPTY,
    HUE,
    MUTED,
    ORANGE,
    TEAL,
    colorbar,
    dress,
    log_ticks,
    ordinal,
    percent,
    readable,
)
from retmask.heads.grid import HeadId
from retmask.heads.scores import THRESHOLD, HeadScores
from retmask.heads.trials import Trial


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


def needle_grid(trials: Iterable[Trial]) -> go.Figure:
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
            colorbar=colorbar("recall"),
        )
    )  # fmt: skip
    dress(figure, height=max(200, 26 * len(depths) + 90))
    figure.update_layout(plot_bgcolor=EMPTY)
    figure.update_xaxes(title="context (tokens)", type="category", ticks="")
    figure.update_yaxes(title="depth", type="category", autorange="reversed", ticks="")
    return figure


def head_breakdown(trials: Iterable[Trial], head: HeadId) -> go.Figure:
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


def copy_map(trial: Trial, head: HeadId) -> go.Figure:
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
