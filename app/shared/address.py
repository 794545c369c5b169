"""The page's address: what it says of a page's place, and a selection of heads as text in it."""

import base64

import numpy as np
import streamlit as st

from app.shared import session
from retmask.heads.grid import Grid
from retmask.heads.masks import HeadMask

IN_URL = ("map", "kv", "heads", "head", "c", "run", "pairs", "gate", "train", "tuned", "sets", "evaluate", "item")
MOST_NAMED = 40  # heads that are spelt out; more go as a bit map


def place(name: str) -> str:
    """What the address says of a page's place, such as the run that it looks at; empty for nothing."""
    return _address().get(name, "")


def go_to(**places: str | None) -> None:
    """Look at another place from now on, by its name in `IN_URL`; None for none."""
    for name, text in places.items():
        write(name, text)


def write(name: str, text: str | None) -> None:
    _address().pop(name, None)
    if text is not None:
        _address()[name] = text
    keep()


def keep() -> None:
    """Make the browser's address say what the session says, at the start of every drawing.

    The browser sends its address with every rerun, as it was when it asked for it: one that was asked for before a
    change has the old one, and a move to another page has none. So the address is read once, when a session begins,
    and only written from then on.
    """
    address = _address()
    if st.query_params.to_dict() != address:
        st.query_params.from_dict(address)


def _address() -> dict[str, str]:
    """What the address says, by the names in `IN_URL`."""
    return session.ADDRESS.keep(lambda: dict(at_start()))


def at_start() -> dict[str, str]:
    """What the address said when the session began."""
    return session.ADDRESS_AT_START.keep(
        lambda: {name: st.query_params[name] for name in IN_URL if name in st.query_params}
    )


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
