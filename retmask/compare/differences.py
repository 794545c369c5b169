"""Where two answers differ: the step at which they part, and the words that changed."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal

from retmask.text.recall import pieces

Change = tuple[Literal["same", "lost", "added"], str]


def first_divergence(left: Sequence[int], right: Sequence[int]) -> int | None:
    """The first step at which two answers differ, also by one of them ending there; None if they are the same."""
    for step, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return step
    return None if len(left) == len(right) else min(len(left), len(right))


def changes(before: str, after: str) -> list[Change]:
    """The words of two texts in one row: those in both, those lost from `before`, those added in `after`."""
    old, new = pieces(before), pieces(after)
    out: list[Change] = []
    matcher = SequenceMatcher(None, [word.strip() for word in old], [word.strip() for word in new], autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            out.append(("same", "".join(new[c:d])))
            continue
        out += [("lost", "".join(old[a:b]))] if b > a else []
        out += [("added", "".join(new[c:d]))] if d > c else []
    return out
