"""Prose that comes with the package, so that an evaluation asks the same on every machine.

Jane Austen, "Emma" (1815), in the public domain: 822,702 characters, paragraphs of whole sentences, without headings,
verse and figures, "Mr" and "Mrs" without a full stop. It is another text than detection's and the pairs' (CPython's
manual). The last tenth is for perplexity alone and never in a context.
"""

import gzip
from functools import lru_cache
from itertools import cycle, islice, pairwise
from random import Random

from retmask.files import sha256_text, shipped
from retmask.text.haystack import Haystack

SHA256 = "f8e7089fb34c99399062d0e9dfc8e1fd6e9678c114928ea0025317b0571e9513"


@lru_cache(maxsize=1)
def _text() -> str:
    path = shipped("prose", "emma.txt.gz")
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    if sha256_text(text) != SHA256:
        raise ValueError(f"{path} is not the prose of this version: install the package anew")
    return text


def _parts() -> tuple[str, str]:
    cut = _text().index("\n\n", len(_text()) * 9 // 10) + 2
    return _text()[:cut], _text()[cut:]


@lru_cache(maxsize=1)
def sentences() -> tuple[str, ...]:
    """The sentences that contexts are made of, each with the white space after it."""
    text = _parts()[0]
    return tuple(text[a:b] for a, b in pairwise([*Haystack("emma", text).boundaries, len(text)]) if a < b)


def held_out() -> list[str]:
    """The paragraphs that are for perplexity alone."""
    return _parts()[1].split("\n\n")


def stretch(rng: Random, chars: int) -> list[str]:
    """Sentences in order, with the white space after each, from the beginning of a random paragraph on.

    At least so many characters; after the end of the text comes its beginning.
    """
    taken: list[str] = []
    for sentence in islice(cycle(sentences()), rng.choice(_starts()), None):
        taken.append(sentence)
        chars -= len(sentence)
        if chars <= 0:
            break
    return taken


@lru_cache(maxsize=1)
def _starts() -> list[int]:
    """The sentences that begin a paragraph."""
    return [0, *(i + 1 for i, sentence in enumerate(sentences()[:-1]) if sentence.endswith("\n\n"))]
