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


def figure(labels: Sequence[str], found: Agreements, measure: str) -> go.Figure:
    """The matrix of one measure; what cannot be told is grey, and says why. The diagonal is blank."""
    field, n = MEASURES[measure][0], len(labels)
    cells = [[found.get((min(i, j), max(i, j))) for j in range(n)] for i in range(n)]
    values: list[list[float | None]] = [
        [getattr(one, field) if isinstance(one, Agreement) else None for one in line] for line in cells
    ]
    why = [["left blank" if i == j else _why(one, field) for j, one in enumerate(line)] for i, line in enumerate(cells)]
    return agreement_map(labels, values, measure, why)


def _why(found: Agreement | str | None, field: str) -> str:
    """What hovering over a cell adds."""
    if found is None or isinstance(found, str):
        return found or ""
    if field != "spearman":
        return f"best {found.k} of {found.n_heads} heads" if found.n_heads else f"the first {found.k} of each list"
    return f"over {found.n_heads} heads" if found.spearman is not None else "no rank correlation: a list, or a flat map"
