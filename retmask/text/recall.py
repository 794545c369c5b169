"""How much of a short answer a text holds, in any script.

The measure is ROUGE-1 recall with Porter stems (Lin 2004), which RetMask's code gates trials with. ROUGE keeps a-z and
0-9 alone, so here words follow Unicode instead: letters, marks and digits, in NFC and without case. Scripts that do not
put spaces between words count by the character. On ASCII text it is what rouge_score 0.1.2 gives.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple
from unicodedata import normalize

import regex

# Scripts without spaces between words: the East Asian ones, and those that Unicode's line breaking leaves to a
# dictionary (Thai, Lao, Khmer, Myanmar and more). Script extensions, so that the long vowel mark of Katakana is in.
_UNSPACED = r"[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{scx=Bopo}\p{Yi}\p{Line_Break=SA}]"
_UNIT = regex.compile(rf"(?V1)[{_UNSPACED}&&\p{{L}}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}&&\p{{L}}]]+")
_SPACE = r"\s\x1c-\x1f"  # as str.split has it
_PIECE = regex.compile(rf"(?V1)[{_UNSPACED}&&\p{{L}}]\p{{M}}*[{_SPACE}]*|[^{_SPACE}[{_UNSPACED}&&\p{{L}}]]+[{_SPACE}]*")
_CLUSTER = regex.compile(r"\X")
_JOINERS = regex.compile(r"[\p{Cf}--\u200b]", regex.V1)  # joiners, marks of direction: not the zero-width space
_ARTICLES = ("a", "an", "the")
_STEMMED = re.compile(r"[a-z0-9]{4,}")


class _Folded(NamedTuple):
    """A text without case, and for each of its characters [start, end) in the text that it was made of."""

    text: str
    places: list[tuple[int, int]]


def words(text: str) -> list[str]:
    """The words of a text without case and punctuation; single characters where the script has no spaces.

    A run of letters, marks and digits is a word, also in Korean; a Han, Kana, Thai, Lao, Khmer or Myanmar letter with
    its marks is one by itself.
    """
    units: list[str] = _UNIT.findall(_fold(text))
    return units


def pieces(text: str) -> list[str]:
    """The text cut after white space, and after every character of a script without spaces.

    They make up the text again, but for white space before the first.
    """
    parts: list[str] = _PIECE.findall(text)
    return parts


def recall(answer: str, response: str) -> float:
    """The share (0-1) of the words of a short answer that a response has, each as often as it is there.

    English words count by their stem. 0 for an empty response and for an answer without a word.
    """
    wanted, given = (Counter(map(_stem, words(text))) for text in (answer, response))
    return (wanted & given).total() / max(1, wanted.total())


def contains(text: str, answer: str) -> bool:
    """Whether the words of a short answer stand in a text, one after the other; a leading article aside.

    False for an answer without a word.
    """
    wanted, given = words(answer), words(text)
    if len(wanted) > 1 and wanted[0] in _ARTICLES:
        wanted = wanted[1:]
    n = len(wanted)
    return n > 0 and any(given[i : i + n] == wanted for i in range(len(given) - n + 1))


def locate(answer: str, needle: str) -> tuple[int, int] | None:
    """[start, end) in characters of a needle where an answer first stands verbatim, case aside, as whole words.

    None where it does not, or where the answer is empty.
    """
    wanted, within = _fold(answer.strip()), _folded(needle)
    inside = {i for unit in _UNIT.finditer(within.text) for i in range(unit.start() + 1, unit.end())}
    for start in _occurrences(wanted, within.text):
        end = start + len(wanted)
        if start not in inside and end not in inside:
            return within.places[start][0], within.places[end - 1][1]
    return None


def _occurrences(wanted: str, text: str) -> Iterator[int]:
    at = text.find(wanted) if wanted else -1
    while at >= 0:
        yield at
        at = text.find(wanted, at + 1)


def _fold(text: str) -> str:
    """The text without case, joiners and direction marks, in NFC: Unicode's canonical caseless matching (D145)."""
    if text.isascii():
        return text.casefold()
    return normalize("NFC", normalize("NFD", _JOINERS.sub("", text)).casefold())


def _folded(text: str) -> _Folded:
    """The same with places. NFC joins within grapheme clusters alone, so each is folded by itself."""
    parts = [(_fold(match[0]), match.span()) for match in _CLUSTER.finditer(text)]
    return _Folded("".join(part for part, _ in parts), [span for part, span in parts for _ in part])


@lru_cache(maxsize=2**16)
def _stem(word: str) -> str:
    """The Porter stem of an English word, as rouge_score takes it; any other word as it is."""
    return str(_stemmer().stem(word)) if _STEMMED.fullmatch(word) else word


@cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()
