"""Where two texts differ, as HTML that is safe to draw: in one text, or marked in each of the two."""

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from retmask.compare.differences import Change, changes
from retmask.text.recall import pieces

MOST = 20_000  # characters of a text that are drawn at all
_MOST_MATCHES = 200_000  # pairs of equal words in two texts: beyond, looking for differences takes too long
_TAGS = {"same": "{}", "lost": "<del>{}</del>", "added": "<ins>{}</ins>"}
_MARKS = {"same": "{}", "lost": '<mark class="lost">{}</mark>', "added": '<mark class="added">{}</mark>'}


def in_one(before: str, after: str) -> str:
    """Two texts in one: what was lost struck out, what was added underlined."""
    parts = [(kind, text if text != text.rstrip() else f"{text} ") for kind, text in changes(before, after)]
    return f'<div class="said">{_html(parts, _TAGS)}</div>'


def in_each(first: str, second: str) -> tuple[str, str]:
    """Each of two texts, up to `MOST` characters, with what the other has not marked: lost, and added in the second.

    Texts that hold too many of the same words are not compared: nothing is marked.
    """
    lost, added = sides(first, second)
    return _cut(lost), _cut(added)


def sides(first: str, second: str) -> tuple[list[Change], list[Change]]:
    """Each of two texts in parts: "same" in both, "lost" only in the first, "added" only in the second."""
    counts = [Counter(piece.strip() for piece in pieces(text)) for text in (first, second)]
    if sum(n * counts[1][word] for word, n in counts[0].items()) > _MOST_MATCHES:
        return [("same", first)], [("same", second)]
    found = changes(first, second)
    return _of(first, found, "lost"), _of(second, found, "added")


def _of(text: str, found: Sequence[Change], own: str) -> list[Change]:
    """The parts of one of the texts that were compared, with the white space that it has itself."""
    words = pieces(text)
    parts: list[Change] = [("same", text[: len(text) - len(text.lstrip())])] if text != text.lstrip() else []
    at = 0
    for kind, part in found:
        if kind in ("same", own):
            n = len(pieces(part))
            parts.append((kind, "".join(words[at : at + n])))
            at += n
    return parts


def _cut(parts: Sequence[Change]) -> str:
    left, shown = MOST, []
    for kind, text in parts:
        shown.append((kind, text[:left]))
        left = max(0, left - len(text))
    more = sum(len(text) for _, text in parts) - MOST
    return _html(shown, _MARKS) + (f'<span class="gap"> … and {more:,} more characters</span>' if more > 0 else "")


def _html(parts: Iterable[tuple[str, str]], tags: dict[str, str]) -> str:
    """The parts in their tags, the space after the words of each outside of them."""
    pairs = ((tags[kind], text, text.rstrip()) for kind, text in parts if text)
    return "".join(tag.format(escape(bare)) + escape(text[len(bare) :]) for tag, text, bare in pairs)
