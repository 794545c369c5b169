"""The table of an evaluation as HTML that is safe to draw: means with intervals and marks, floors greyed."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from retmask.evaluate.results import perplexities
from retmask.heads.intervals import none_over, span

STYLE = """<style>
.means {overflow-x: auto; max-width: 100%;}
.means table {border-collapse: collapse; font-size: 0.9rem; width: 100%;}
.means th, .means td {padding: 0.3rem 0.55rem; border-bottom: 1px solid #e5e9eb; text-align: right;
  vertical-align: top; line-height: 1.3; white-space: nowrap; border-left: 0; border-right: 0;}
.means th:first-child {position: sticky; left: 0; background: white; text-align: left; white-space: normal;
  overflow-wrap: anywhere; min-width: 8rem; max-width: 16rem; font-weight: 600; z-index: 1;}
.means thead th {color: #6b7280; font-weight: 600;}
.means small {display: block; color: #6b7280; font-size: 0.75rem;}
.means .gain {color: #0f766e; font-weight: 700;}
.means .loss {color: #b45309; font-weight: 700;}
.means tr.floor th, .means tr.floor td {color: #8a929c; font-style: italic; font-weight: 400;}
.means td.overall {background: #f6f8f9; font-weight: 600;}
</style>"""
SIGNS = {"gain": "▲", "loss": "▼"}
SAYS = {
    "gain": "higher than unmasked and than every control: a gain",
    "loss": "lower than unmasked and than every control: a loss",
}


class Figure(NamedTuple):
    """How a figure is called, and what it is."""

    name: str
    says: str


FIGURES = {
    "means": Figure("Score", "Mean score, 0 to 1."),
    "ranks": Figure(
        "Rank", "Share of the wrong answers in the context that the gold answer is likelier than: 0.5 by chance."
    ),
    "logprobs": Figure("Log-probability", "Mean log-probability of the gold answer, a token, in nats."),
    "perplexity": Figure("Perplexity", "Perplexity of held-out prose, and its ratio to unmasked."),
}


def rows_of(results: Mapping[str, Any], figure: str, level: str = "category") -> Sequence[Mapping[str, Any]]:
    """The means of the conditions by category and overall, or by task; for scores the floors behind them."""
    if figure == "perplexity":
        return perplexities(results)
    levels = ("task",) if level == "task" else ("overall", "category")
    rows = [*results[figure], *(results["floors"] if figure == "means" else [])]
    return sorted((row for row in rows if row["level"] in levels), key=lambda row: levels.index(row["level"]))


def by_condition(rows: Sequence[Mapping[str, Any]], marks: Mapping[tuple[str, str], str], floors: Sequence[str]) -> str:
    """A condition a row, a category a column."""
    columns, cells = _columns(rows, "name"), _cells(rows)
    lines = []
    for condition in sorted(_columns(rows, "condition"), key=floors.__contains__):  # some have no overall mean
        of_row = [_cell(cells.get((condition, name)), marks.get((condition, name), "")) for name in columns]
        kind = ' class="floor"' if condition in floors else ""
        lines.append(f"<tr{kind}>{_head(condition)}{''.join(of_row)}</tr>")
    return _table(columns, lines)


def by_task(rows: Sequence[Mapping[str, Any]]) -> str:
    """A task a row, a condition a column."""
    columns, cells = _columns(rows, "condition"), _cells(rows)
    lines = [
        f"<tr>{_head(name)}{''.join(_cell(cells.get((condition, name))) for condition in columns)}</tr>"
        for name in _columns(rows, "name")
    ]
    return _table(columns, lines)


def _columns(rows: Sequence[Mapping[str, Any]], part: str) -> list[str]:
    return list(dict.fromkeys(str(row[part]) for row in rows))


def _cells(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(row["condition"], row["name"]): row for row in rows}


def _table(columns: Sequence[str], lines: Sequence[str]) -> str:
    heads = "".join(map(_head, columns))
    body = f"<thead><tr><th></th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="means"><table>{body}</table></div>'


def _head(name: str) -> str:
    return f'<th title="{escape(name)}">{_broken(name)}</th>'


def _broken(name: str) -> str:
    """A name, cut where it is very long; its parts may stand in lines of their own."""
    return escape(name if len(name) <= 80 else f"{name[:79]}…").replace(":", ":<wbr>").replace("_", "_<wbr>")


def _cell(row: Mapping[str, Any] | None, mark: str = "") -> str:
    if row is None:
        return "<td>–</td>"
    about = f"{row['items']:,} items, {row['clusters']:,} documents"
    if row["low"] is None:
        about += f"; {none_over(row['clusters'], 'document')}" if row["level"] == "task" else "; no interval of a task"
    about += f"; {SAYS[mark]}" if mark else ""
    sign = f'<span class="{mark}">{SIGNS[mark]}</span> ' if mark else ""
    interval = "" if row["low"] is None else f"<small>{span(row['low'], row['high'])}</small>"
    kind = ' class="overall"' if row["level"] == "overall" else ""
    return f'<td{kind} title="{escape(about)}">{sign}{row["mean"]:.2f}{interval}</td>'
