"""Needle in a haystack: what is asked, where it is hidden, which tokens it became. No model.

The test hides a sentence (the needle) at a depth of a long text (the haystack) and asks for it; the prompt and the
recall measure follow the RetMask code (arXiv 2601.11020) and Wu et al. 2024 (arXiv 2404.15574).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from retmask.files import check_text, is_number, read_text, sha256_text, shipped, unknown
from retmask.heads.trials import Scored
from retmask.text.chat import Chat, ChatText, Template
from retmask.text.conversations import json_lines
from retmask.text.haystack import Haystack
from retmask.text.recall import locate, words
from retmask.text.tokenizer import Tokenizer, Tokens

ANSWER_TOKENS = 50  # room for the answer, as in the published method
_BEFORE, _AFTER = "<book>", "</book>\nBased on the content of the book, Question: {question}\nAnswer:"
_SLACK = 40  # the least haystack, in tokens; and how far, in characters, the needle keeps from the cut
_FAR = 600  # the needle is at most this many characters, or a tenth of the text, from where its depth would be
_ENDS = ("", "\n", ".", "\n\n")
_NEAR = 60  # how many characters either way an exact cut is looked for: about 15 tokens


@dataclass(frozen=True)
class Needle:
    """A sentence to hide, the question for it and the short answer (in the published files `real_needle`)."""

    needle: str
    question: str
    answer: str
    name: str = ""

    def scored_chars(self, whole: bool = False) -> tuple[int, int, Scored]:
        """[start, end) in the needle of what counts as copied.

        The short answer where it stands in the needle, case aside; else, or with `whole`, all of the needle.
        """
        span = None if whole else locate(self.answer, self.needle)
        return (*span, "answer") if span else (0, len(self.needle), "needle")


class NeedlePrompt(NamedTuple):
    """A needle task in the tokens of one model.

    `needle_span` is [start, end) of the scored tokens in `token_ids`: every token that shares a character with the
    scored part of the needle, known from where the needle was put. `char_depth` (0-1) is where it really stands.
    `whole_span` is that of all of the needle, `query_at` the first token after the haystack, and `cut` what the
    haystack was cut to: where the needle stands in it and its end in characters, and what was appended.
    """

    token_ids: tuple[int, ...]
    needle_span: tuple[int, int]
    scored: Scored
    template: Template
    char_depth: float
    whole_span: tuple[int, int] = (0, 0)
    query_at: int = 0
    cut: tuple[int, int, str] = (0, 0, "")


@dataclass(frozen=True)
class NeedleTask:
    """One question to one context. `context_tokens` is the whole window: prompt and room for the answer. Depth 0-1.

    `template`: the model's chat template or plain text; None takes the chat template where there is one.
    """

    needle: Needle
    context_tokens: int
    depth: float
    answer_tokens: int = ANSWER_TOKENS
    whole_needle: bool = False
    template: Template | None = None

    @property
    def key(self) -> tuple[str, int, float]:
        """What tells this task from the others of a run."""
        return (self.needle.needle, self.context_tokens, self.depth)

    def render(self, tokenizer: Tokenizer | Chat, haystack: Haystack) -> NeedlePrompt:
        """The prompt of exactly `context_tokens - answer_tokens` tokens, of a tokenizer or of the `Chat` of a run.

        The needle goes to the sentence boundary nearest to `depth` of the haystack's characters; the haystack is cut
        so that the length is exact, with any tokenizer that gives character offsets. ValueError where the length
        leaves no room for the haystack, or the tokenizer or its template does not serve.
        """
        chat = Chat.of(tokenizer, self.template)
        want = self.context_tokens - self.answer_tokens
        least = len(self._tokens(chat, haystack, 0, 0)[1].ids)
        if want < least + _SLACK:
            raise ValueError(
                f"{self.context_tokens} tokens are too few for needle, question, some text and an answer of "
                f"{self.answer_tokens}: {least + _SLACK + self.answer_tokens} are the least"
            )
        haystack = haystack.take(8 * want)
        cut, per_token = 4 * (want - least), 4.0
        for _ in range(4):  # first the rough place, with the needle moving along
            at = haystack.boundary_near(round(self.depth * cut), cut - _SLACK)
            count = len(self._tokens(chat, haystack, at, cut)[1].ids)
            per_token = cut / max(1, count - least)
            before, cut = cut, min(cut + round((want - count) * per_token), len(haystack.text))
            if cut == before:
                break
        at = haystack.boundary_near(round(self.depth * cut), cut - _SLACK)
        if abs(at - self.depth * cut) > max(_FAR, 0.1 * cut):
            raise ValueError(
                f"the haystack {haystack.name} has no sentence end near depth {self.depth:g}: take another text"
            )
        # Then the exact cut, with the needle held fast: the nearest of the neighbouring cuts that has the length. Where
        # a character more makes two tokens more there is none, and a line end or a full stop fills the place.
        for place, end in cuts_near(cut):
            text, tokens = self._tokens(chat, haystack, at, place, end)
            if len(tokens.ids) == want:
                return self._prompt(text, tokens, (at, place, end))
        raise ValueError(f"no cut of the haystack {haystack.name} gives exactly {self.context_tokens} tokens")

    def asking(
        self, question: str, prompt: NeedlePrompt, tokenizer: Tokenizer | Chat, haystack: Haystack
    ) -> tuple[int, ...]:
        """The tokens of the same prompt with another question."""
        asking = replace(self, needle=replace(self.needle, question=question))
        haystack = haystack.take(8 * (self.context_tokens - self.answer_tokens))
        return asking._tokens(Chat.of(tokenizer, self.template), haystack, *prompt.cut)[1].ids

    def _tokens(self, chat: Chat, haystack: Haystack, at: int, cut: int, end: str = "") -> tuple[ChatText, Tokens]:
        """The prompt with the first `cut` characters of the haystack and `end`, the needle at character `at`."""
        before, after = haystack.text[:at], haystack.text[at:cut] + end
        asked = _AFTER.format(question=self.needle.question)
        text = chat.text([("user", f"{_BEFORE}{before}{self.needle.needle} {after}{asked}")])
        return text, chat.encode(text)

    def _prompt(self, text: ChatText, tokens: Tokens, cut: tuple[int, int, str]) -> NeedlePrompt:
        """What `_tokens` made, and where the needle and the question stand in it."""
        ids, places = tokens
        if not places:
            raise ValueError("this model's tokenizer gives no character offsets: a fast tokenizer is needed")
        begin, end = text.spans[0]
        first, last, scored = self.needle.scored_chars(self.whole_needle)
        start = begin + len(_BEFORE) + cut[0]
        after = end - len(_AFTER.format(question=self.needle.question))
        return NeedlePrompt(
            ids,
            _span(places, start + first, start + last),
            scored,
            text.template,
            cut[0] / cut[1] if cut[1] else self.depth,
            _span(places, start, start + len(self.needle.needle)),
            next(i for i, (a, b) in enumerate(places) if a >= after and b > a),
            cut,
        )


def cuts_near(cut: int, ends: Sequence[str] = _ENDS) -> Iterator[tuple[int, str]]:
    """Where a text may be cut to have an exact length, the nearest to a rough cut first, and what is put at the end.

    Where a character more makes two tokens more, one of `ends` fills the place.
    """
    for end, shift in product(ends, sorted(range(-_NEAR, _NEAR + 1), key=abs)):
        yield cut + shift, end


def _span(places: Sequence[tuple[int, int]], first: int, last: int) -> tuple[int, int]:
    """[start, end) of the tokens that share a character with [first, last), from the tokens' characters."""
    within = [i for i, (a, b) in enumerate(places) if a < last and b > first]
    return within[0], within[-1] + 1


def needle_grid(
    needles: Sequence[Needle], lengths: Sequence[int], depths: Sequence[float], whole_needle: bool = False
) -> list[NeedleTask]:
    """All combinations, in an order in which any first part is spread over needles, lengths and depths.

    Each next task is one whose needle, length and depth, and pairs of them, have been used least so far.
    """
    left = [
        NeedleTask(needle, length, depth, whole_needle=whole_needle)
        for length, depth, needle in product(lengths, depths, needles)
    ]
    used: dict[Any, int] = {}

    def marks(task: NeedleTask) -> list[Any]:
        needle, length, depth = task.key
        single = [("needle", needle), ("length", length), ("depth", depth)]
        return [*single, (needle, length), (needle, depth), (length, depth)]

    out: list[NeedleTask] = []
    while left:
        task = min(left, key=lambda task: sum(used.get(mark, 0) for mark in marks(task)))
        left.remove(task)
        out.append(task)
        for mark in marks(task):
            used[mark] = used.get(mark, 0) + 1
    return out


def load_needles(path: Path | None = None) -> list[Needle]:
    """Needles from a JSON list, JSON lines or a JSON object with a list, by default those that come with the project.

    Reads our fields (needle, question, answer, optionally name) and the published ones (real_needle for answer).
    ValueError, one sentence with the place, for what is not such a file.
    """
    path = path or shipped("needles.json")
    rows = _rows(read_text(path), path)
    if not rows:
        raise ValueError(f"the needles file {path} is empty: give at least one needle")
    needles = [_needle(row, f"{path.name}, needle {number}") for number, row in enumerate(rows, start=1)]
    if len({needle.needle for needle in needles}) < len(needles):
        raise ValueError(f"the needles file {path} holds one needle twice: each may stand once")
    return needles


def needles_sha256(needles: Iterable[Needle]) -> str:
    """The SHA-256 over sentences, questions and answers, in their order: what a run records of its needles."""
    return sha256_text("\n".join(f"{needle.needle}\t{needle.question}\t{needle.answer}" for needle in needles))


def known_needle(name: str) -> Needle:
    """A needle that comes with the project, by name. ValueError for an unknown one."""
    needles = {needle.name: needle for needle in [*load_needles(), *load_needles(shipped("needles_held_out.json"))]}
    if name not in needles:
        raise unknown("needle", name, needles)
    return needles[name]


def _rows(text: str, path: Path) -> list[Any]:
    """The entries of a needles file. ValueError, with the line where there are lines, for what is not JSON."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return [entry for _, _, entry in json_lines(text, path.name)]
    if isinstance(value, dict) and "needle" not in value:
        lists = [entry for entry in value.values() if isinstance(entry, list)]
        value = lists[0] if len(lists) == 1 else value
    return value if isinstance(value, list) else [value]


def _needle(row: Any, where: str) -> Needle:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: not an object with needle, question and answer")
    values = {
        "needle": row.get("needle"),
        "question": row.get("question"),
        "answer": _as_text(row.get("answer", row.get("real_needle"))),
        "name": _as_text(row["name"]) if row.get("name") is not None else "",
    }
    for name, value in values.items():
        if not isinstance(value, str) or not (value.strip() or name == "name"):
            own = ", ".join(map(str, row)) or "none"
            raise ValueError(
                f"{where}: {name} is missing or not a text; its keys are {own}, and needle, question, answer are read"
            )
        check_text(value, f"{where}: {name}")
    if not words(values["answer"]):
        raise ValueError(f"{where}: the answer {values['answer'].strip()!r} holds no word, so it cannot be looked for")
    return Needle(**{name: value.strip() for name, value in values.items()})


def _as_text(value: Any) -> Any:
    """A number as it is written, anything else as it is."""
    return str(value) if is_number(value) else value
