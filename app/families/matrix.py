"""The agreement of every two of some things as a matrix, and what its measures mean."""

from collections.abc import Sequence

import plotly.graph_objects as go

from retmask.families.agreement import Agreement, Agreements
from retmask.figures.agreement import agreement_map

MEASURES = {
    "Overlap": ("overlap", "the part of the best heads of one that are among the best of the other"),
    "Jaccard": ("jaccard", "of the heads that are among the best of either, the part that both have"),
    "Spearman": ("spearman", "rank correlation of all heads' mean scores, from -1 to 1"),
}


def sentence(measure: str) -> str:
    """What a measure says."""
    field, meaning = MEASURES[measure]
    chance = {"overlap": " By chance it would be k of all heads: 5 % for the best 5 %."}
    return f"{measure}: {meaning}.{chance.get(field, '')}"


def figure(labels: Sequence[str], agreements: Agreements, measure: str) -> go.Figure:
    """The matrix of one measure; what cannot be told is grey, and says why. The diagonal is blank."""
    field, n = MEASURES[measure][0], len(labels)
    cells = [[agreements.get((min(i, j), max(i, j))) for j in range(n)] for i in range(n)]
    values: list[list[float | None]] = [
        [getattr(cell, field) if isinstance(cell, Agreement) else None for cell in row] for row in cells
    ]
    why = [["left blank" if i == j else _why(cell, field) for j, cell in enumerate(row)] for i, row in enumerate(cells)]
    return agreement_map(labels, values, measure, why)


def _why(cell: Agreement | str | None, field: str) -> str:
    """What hovering over a cell adds."""
    if cell is None or isinstance(cell, str):
        return cell or ""
    if field != "spearman":
        return f"best {cell.k} of {cell.n_heads} heads" if cell.n_heads else f"the first {cell.k} of each list"
    return f"over {cell.n_heads} heads" if cell.spearman is not None else "no rank correlation: a list, or a flat map"
