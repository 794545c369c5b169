"""Figures of a training, step by step: lines of its progress in, a Plotly figure out.

Teal is the chosen answer (the model's own), orange the rejected one (with heads masked), as everywhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from retmask.figures.style import HOVER, INK, ORANGE, PURPLE, TEAL, dress, panel_title
from retmask.files import is_number, number

MOST_POINTS = 400  # drawn of a curve: of more steps, every second, third ...
_FEW = 60  # steps up to which each has a dot
_ROW, _GAP, _TOP, _BOTTOM = 150, 62, 30, 44  # pixels


class Line(NamedTuple):
    """A curve of a panel: which value of a step it shows, what it is called, its colour."""

    value: str
    name: str
    color: str


class Panel(NamedTuple):
    """A small chart: its title, its curves, what its vertical axis is like, and where it has a dashed line."""

    title: str
    lines: tuple[Line, ...]
    axis: Mapping[str, Any] = {}
    level: float | None = None


_CHOSEN, _REJECTED = f'<span style="color:{TEAL}">chosen</span>', f'<span style="color:{ORANGE}">rejected</span>'
_REWARDS = (Line("chosen", "chosen", TEAL), Line("rejected", "rejected", ORANGE))
_LOGPS = (Line("logps_chosen", "chosen", TEAL), Line("logps_rejected", "rejected", ORANGE))
_SHARE = {"range": [-0.05, 1.05], "tickvals": [0, 0.5, 1]}
_FROM_0 = {"rangemode": "tozero"}
PANELS = {
    "loss": Panel("loss", (Line("loss", "loss", INK),), _FROM_0),
    "accuracy": Panel("reward accuracy: pairs with chosen ahead", (Line("accuracy", "accuracy", INK),), _SHARE, 0.5),
    "rewards": Panel(f"rewards of {_CHOSEN} and {_REJECTED}", _REWARDS, level=0.0),
    "margin": Panel("margin: chosen minus rejected reward", (Line("margin", "margin", PURPLE),), level=0.0),
    "logps": Panel(f"log-probabilities of {_CHOSEN} and {_REJECTED} (nats)", _LOGPS),
    "grad_norm": Panel("gradient norm", (Line("grad_norm", "norm", INK),), _FROM_0),
    "lr": Panel("learning rate", (Line("lr", "learning rate", INK),), _FROM_0 | {"exponentformat": "e", "nticks": 5}),
    "tokens_per_s": Panel(
        "tokens a second", (Line("tokens_per_s", "tokens a second", INK),), _FROM_0 | {"tickformat": ",~r"}
    ),
}
LEARNING = ("loss", "accuracy", "rewards", "margin")
BEHIND = ("logps", "grad_norm", "lr", "tokens_per_s")


def training_curves(
    steps: Sequence[Mapping[str, Any]], panels: Sequence[str] = (*LEARNING, *BEHIND), columns: int = 2
) -> go.Figure:
    """Small charts over the steps of a training, `columns` side by side; `panels` are names in PANELS.

    `steps` are lines of progress.jsonl as `train.steps` gives them, each step once; values may be missing.
    """
    steps = [step for step in steps if is_number(step.get("done"))]
    shown = thinned(steps, MOST_POINTS)
    rows = -(-len(panels) // columns)
    inner = rows * _ROW + (rows - 1) * _GAP
    figure = make_subplots(rows, columns, horizontal_spacing=0.09, vertical_spacing=_GAP / inner)
    dress(figure, height=_TOP + inner + _BOTTOM, top=_TOP, bottom=_BOTTOM)
    for place, name in enumerate(panels):
        at = {"row": place // columns + 1, "col": place % columns + 1}
        panel = PANELS[name]
        for line in panel.lines:
            figure.add_trace(_scatter(line, shown), **at)
        if panel.level is not None:
            figure.add_hline(panel.level, line={"dash": "dot"}, **at)
        figure.update_yaxes(panel.axis, showgrid=True, automargin=False, **at)
        panel_title(figure, place + 1, panel.title)
    figure.update_xaxes(_steps_axis(steps))
    figure.update_xaxes(title={"text": "step", "font": {"size": 12}}, row=rows)
    return figure


def thinned(steps: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """At most about `most` of the steps, evenly, always with the first and the last."""
    apart = max(1, -(-len(steps) // most))
    return [step for i, step in enumerate(steps) if i % apart == 0 or i == len(steps) - 1]


def _scatter(line: Line, steps: Sequence[Mapping[str, Any]]) -> go.Scatter:
    done = [int(step["done"]) for step in steps]
    values = [number(step.get(line.value), None) for step in steps]
    few = len(steps) <= _FEW
    curve = go.Scatter(x=done, y=values, name=line.name, mode="lines+markers" if few else "lines", cliponaxis=False)
    curve.update(line={"color": line.color, "width": 1.75 if few else 1}, marker={"size": 5}, hovertemplate=HOVER)
    texts = ["" if y is None else f"step {x:,}<br>{line.name} {y:.4g}" for x, y in zip(done, values, strict=True)]
    return curve.update(text=texts)


def _steps_axis(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An axis to the last step that is planned, but never more than four times as far as what is done."""
    numbers = [int(step["done"]) for step in steps] or [0]
    done, planned = numbers[-1], number(steps[-1].get("total"), None) if steps else None
    first = min(1, numbers[0])
    last = max(done, min(int(planned or 0), 4 * done), first + 1)
    pad = (last - first) * 0.03
    ticks = {"dtick": 1} if last - first <= 8 else {"nticks": 6}
    return {"range": [first - pad, last + pad], "tickformat": ",d", **ticks}
