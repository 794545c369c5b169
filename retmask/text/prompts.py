"""Prompts to answer unmasked and masked: made here, with or without a known answer, as many as are asked for."""

import json
import random
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from retmask.files import sha256_text, shipped, unknown
from retmask.text.haystack import load_haystack
from retmask.text.recall import words
from retmask.text.template import Turn

CHARS_PER_TOKEN = 4.3  # of English prose, about
ARMS = {
    "grounded": "about a fact in Python's manual, with a known answer",
    "chat": "short instructions without one right answer",
}
_MOST = 1_000_000  # prompts at a time
_LONGEST = 12  # words of an answer
_TRIES = 200  # facts tried for one prompt: the answer may stand in the prose already
_SLOT = re.compile(r"\{(\w+?)(_\d)?\}")
_BOUNDARY = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)[.!?][\"')\]]*\s+(?=[A-Z\"(*])|\n\n+")


@dataclass(frozen=True)
class PairPrompt:
    """One prompt to answer: the turns as (role, content), the last of them the user's; a system turn may come first.

    `id` is unique in its set. `arm` is grounded, chat, file or hub. `answer` is the short answer where it is known; of
    a grounded prompt it stands verbatim in the text.
    """

    id: str
    messages: tuple[Turn, ...]
    arm: str = "file"
    answer: str = ""

    @property
    def text(self) -> str:
        """The content of the last user turn."""
        return self.messages[-1][1]


@dataclass(frozen=True)
class Fact:
    """A sentence, the question for it, and the answer as it stands in the sentence."""

    sentence: str
    question: str
    answer: str


def generate(arm: str, count: int, seed: int) -> list[PairPrompt]:
    """That many prompts of an arm, grounded or chat. ValueError for another arm, or what is no count or seed."""
    if arm not in ARMS:
        raise unknown("kind of prompts", arm, ARMS)
    if not 1 <= count <= _MOST:
        raise ValueError(f"{count} prompts are not possible: choose 1 to {_MOST:,}")
    if seed < 0:
        raise ValueError(f"the seed {seed} is below 0: choose 0 or more")
    return grounded(count, seed) if arm == "grounded" else chat(count, seed)


def grounded(count: int, seed: int, prose: str | None = None, tokens: tuple[int, int] = (100, 600)) -> list[PairPrompt]:
    """Questions about a fact that stands in some prose, by default that of `load_passages`.

    The stretch of prose has `tokens` (least, most) at 4.3 characters each and begins at another sentence in every
    prompt, until all have been used. Its length is drawn log-uniformly, so that many suit a small model too, and
    the depth of the fact uniformly. In half of the prompts stand one or two more facts of the same kind, with other
    subjects and other values. Item i depends on seed and i alone, so that a longer count begins with the same items.
    ValueError where the prose is too short or holds the answers already.
    """
    prose = load_passages() if prose is None else prose
    least, most = (round(CHARS_PER_TOKEN * bound) for bound in tokens)
    if not 0 < least <= most:
        raise ValueError(
            f"passages of {tokens[0]} to {tokens[1]} tokens are not possible: give the least, then the most"
        )
    starts = [0, *(match.end() for match in _BOUNDARY.finditer(prose)), len(prose)]
    order = [start for start in starts if start + most <= len(prose)]
    if not order:
        raise ValueError(f"the prose has {len(prose)} characters, and passages need {most}: give a longer text")
    random.Random(f"passages {seed}").shuffle(order)
    out = []
    for index in range(count):
        rng = random.Random(f"grounded {seed} {index}")
        length = least * (most / least) ** rng.random()
        passage = _passage(prose, starts, order[index % len(order)], length, (least, most))
        content, answer = _question(passage, rng)
        out.append(PairPrompt(f"grounded-{seed}-{index:05d}", (("user", content),), "grounded", answer))
    return out


def chat(count: int, seed: int) -> list[PairPrompt]:
    """Short instructions as people write them to an assistant, 5 to 60 words, none twice, answers unknown.

    A longer count begins with the same items.
    """
    seen: dict[str, None] = {}
    for index in range(count):
        rng = random.Random(f"chat {seed} {index}")
        text = ""
        while not text or text in seen:
            template = rng.choice(_words()["chat"])
            text = _filled(template, _drawn(template, rng))
        seen[text] = None
    return [PairPrompt(f"chat-{seed}-{index:05d}", (("user", text),), "chat") for index, text in enumerate(seen)]


def load_passages() -> str:
    """The prose of grounded prompts: the second quarter of the characters of CPython's manual.

    Disjoint from the texts that are measured on: detections up to 10,000 tokens, all presets among them, read the
    first quarter, held-out evaluation the second half, perplexity the last quarter.
    """
    text = load_haystack("pydoc").text
    start = text.index("\n\n", len(text) // 4) + 2
    return text[start : text.rindex("\n\n", start, len(text) // 2)]


def digest(prompts: Iterable[PairPrompt]) -> str:
    """The SHA-256 over ids, messages and answers, in their order."""
    return sha256_text(json.dumps([[prompt.id, prompt.messages, prompt.answer] for prompt in prompts]))


@lru_cache(maxsize=1)
def _words() -> dict[str, Any]:
    """The word lists and templates that come with the package."""
    value: dict[str, Any] = json.loads(shipped("facts.json").read_text(encoding="utf-8"))
    return value


def content_words(text: str) -> list[str]:
    """The words of more than three letters, without case."""
    return [word for word in words(text) if len(word) > 3 and word.isalpha()]


def _fill(template: str, rng: random.Random) -> str:
    """The template with every slot filled from the word lists, whose entries may have slots of their own."""
    return _joined(_SLOT.sub(lambda slot: _fill(rng.choice(_words()["words"][slot[1]]), rng), template))


def _drawn(template: str, rng: random.Random) -> dict[str, str]:
    """A value for every slot of the template, no two the same: `{town}` is one town, `{town_2}` another."""
    values: dict[str, str] = {}
    for slot in _SLOT.finditer(template):
        while slot[0] not in values:
            drawn = _fill(rng.choice(_words()["words"][slot[1]]), rng)
            if drawn not in values.values():
                values[slot[0]] = drawn
    return values


def _filled(template: str, values: dict[str, str]) -> str:
    """The template with these values, beginning with a capital."""
    text = _joined(_SLOT.sub(lambda slot: values[slot[0]], template))
    return text[0].upper() + text[1:]


def _joined(text: str) -> str:
    """The text with every `a(n)` made a or an."""
    return re.sub(r"\ba\(n\) (?=(\w))", lambda match: "an " if match[1] in "aeiou" else "a ", text)


def _fact(template: dict[str, str], rng: random.Random) -> Fact:
    """A fact from a template. No long word of its answer (of 12 words at most) is in it twice or in the question."""
    subject = _drawn(template["question"], rng)
    question = _filled(template["question"], subject)
    while True:
        answer = _fill(template["answer"], rng)
        long = content_words(answer)
        apart = len(set(long)) == len(long) and not set(long) & set(content_words(question))
        if apart and len(answer.split()) <= _LONGEST:
            return Fact(_filled(template["fact"], {**subject, "{answer}": answer}), question, answer)


def _passage(prose: str, starts: Sequence[int], start: int, chars: float, bounds: tuple[int, int]) -> str:
    """The prose from `start` to the sentence end nearest to `chars` within bounds; where there is none, cut there."""
    first, last = (bisect_left(starts, start + bound + 2) for bound in bounds)  # 2 for the white space after it
    end = min(starts[first:last], key=lambda end: abs(end - start - chars), default=start + round(chars))
    return prose[start:end].strip()


def _question(passage: str, rng: random.Random) -> tuple[str, str]:
    """The prompt about a fact in the passage, and the answer, which stands once in it."""
    wrapping, others = rng.choice(_words()["wrappings"]), rng.choice((0, 0, 1, 2))
    for _ in range(_TRIES):
        template = rng.choice(_words()["facts"])
        facts = [_fact(template, rng) for _ in range(1 + others)]
        depths = [rng.random() for _ in facts]
        text = _hidden(passage, [fact.sentence for fact in facts], depths)
        content = wrapping.replace("{question}", facts[0].question).replace("{text}", text)  # in this order
        clear = len({fact.question for fact in facts}) == len(facts)
        if clear and content.lower().count(facts[0].answer.lower()) == 1:
            return content, facts[0].answer
    raise ValueError("the prose holds the answers of the facts to hide in it: give another text")


def _hidden(passage: str, sentences: Sequence[str], depths: Sequence[float]) -> str:
    """The passage with every sentence at the sentence boundary nearest to its depth (0-1)."""
    text = passage + " "
    places = [0, *(match.end() for match in _BOUNDARY.finditer(passage)), len(text)]
    chosen = [min(places, key=lambda place: abs(place - depth * len(text))) for depth in depths]
    for place, sentence in sorted(zip(chosen, sentences, strict=True), reverse=True):
        text = f"{text[:place]}{sentence} {text[place:]}"
    return text.strip()
