"""A selection of heads as text in the page's address."""

import base64

import numpy as np

from retmask.heads.grid import Grid
from retmask.heads.masks import HeadMask

MOST_NAMED = 40  # heads that are spelt out; more go as a bit map


def to_url(selected: HeadMask, grid: Grid) -> str | None:
    """A selection as text for the URL: `L17H3,L18H6:0.5`, or for many masked heads `~` and a bit map; None for none."""
    if not len(selected):
        return None
    if len(selected) <= MOST_NAMED or any(selected.scales.values()):
        return str(selected)
    bits = np.packbits(selected.array(grid).ravel() == 0)
    return "~" + base64.urlsafe_b64encode(bits.tobytes()).decode().rstrip("=")


def from_url(text: str, grid: Grid) -> HeadMask:
    """The selection that `to_url` wrote. ValueError for anything else."""
    if not text.startswith("~"):
        return HeadMask.parse(text, grid)
    try:
        packed = base64.b64decode(text[1:] + "=" * (-len(text[1:]) % 4), altchars=b"-_", validate=True)
    except ValueError:
        packed = b""
    if len(packed) != -(-grid.size // 8):
        raise ValueError(f"the selection in the address is not one of a {grid} grid")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8))[: grid.size]
    return HeadMask.of(head for head, bit in zip(grid.heads(), bits, strict=True) if bit)
