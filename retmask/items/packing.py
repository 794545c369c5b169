"""Documents made into items whose prompts have exactly the length that is asked for, with any tokenizer.

A document is filled and what it hides is put in its places once; then each of its questions gets a few characters more
or less of prose at the end of the context. So its items share their tokens up to there, and their facts altogether.
Item i depends on task, length, seed and i alone, but for the depth, which is spread evenly over all that are asked for.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random
from typing import NamedTuple

from retmask.items import prose
from retmask.items.item import Document, Item, Planted, Span, Task
from retmask.text.chat import Chat, ChatText
from retmask.text.needle import cuts_near

_SLACK = 24  # tokens of prose before the question, about: the least filler
_CHARS = 6  # of a token, about, at most
_ENDS = ("", ".", "!", "\n")  # what fills the place where a character more makes two tokens more
_TRIES = 8
_LOCAL = 200  # characters before a cut that decide how the tokens after it fall


class Head(NamedTuple):
    """The part of a context that all items of a document share, and [start, end) of what is planted in it."""

    text: str
    spans: tuple[Span, ...]


def pack(task: Task, chat: Chat, tokens: int, count: int, seed: int = 0) -> Iterator[Item]:
    """That many items of a task, each with a prompt of `tokens - task.answer_tokens` tokens.

    ValueError where the length leaves no room for what the task hides and asks.
    """
    name = f"{task.name} {tokens} {seed}"
    each = len(task.plant(Random(f"{name} 0"), tokens).questions)
    order = list(range(-(-count // each)))
    Random(name).shuffle(order)
    for number, place in enumerate(order):
        share = (place + 0.5) / len(order)
        yield from _document(task, chat, tokens, f"{name} {number}", share)[: count - number * each]


def _document(task: Task, chat: Chat, tokens: int, name: str, share: float) -> list[Item]:
    """The items of one document; of another one where the prose of the first has no cut that is exact.

    ValueError as `pack`.
    """
    number = name.rpartition(" ")[2]
    for again in range(_TRIES):
        rng = Random(f"{name} again {again}" if again else name)
        document = _placed(task.plant(rng, tokens), share, rng)
        try:
            return _Packing(task, chat, tokens, document, f"{task.name}-{tokens}-{number}").items(rng)
        except ValueError as error:
            last = error
    raise last


def prompt(item: Item, chat: Chat) -> list[int]:
    """The tokens of what is asked, up to where the answer is to begin: after the template's opening and the prefix."""
    return list(_kind(item, chat).encode(_asked(item, chat)).ids)


def answer(item: Item, chat: Chat, text: str) -> list[int]:
    """The tokens of an answer that goes on after `prompt`."""
    asked, text = _asked(item, chat).text, f" {text}" if item.prefix else text
    asked = asked[max(0, asked.find(" ", max(0, len(asked) - _LOCAL))) :]  # what is far away makes no difference
    before, whole, rest = (list(chat.encode(ChatText(part, (), "chat")).ids) for part in (asked, asked + text, text))
    return whole[len(before) :] if whole[: len(before)] == before else rest


def _kind(item: Item, chat: Chat) -> Chat:
    return Chat.of(chat, "plain") if item.plain else chat


def _asked(item: Item, chat: Chat) -> ChatText:
    asked = _kind(item, chat).text([("user", item.message)])
    joint = "\n" if asked.template == "plain" and item.prefix else ""
    return asked._replace(text=asked.text + joint + item.prefix)


def _placed(document: Document, share: float, rng: Random) -> Document:
    """The document with a depth for all that is planted.

    The first that a question needs, of n questions in a random order, stands at (k + share) / n.
    """
    depths = [planted.depth for planted in document.planted]
    slots = rng.sample(range(len(document.questions)), len(document.questions))
    for question, slot in zip(document.questions, slots, strict=True):
        if question.planted and depths[question.planted[0]] is None:
            depths[question.planted[0]] = (slot + share) / len(slots)
    texts = (planted.text for planted in document.planted)
    drawn = (rng.random() if depth is None else depth for depth in depths)
    return replace(document, planted=tuple(map(Planted, texts, drawn)))


@dataclass(frozen=True)
class _Packing:
    """One document on its way to its items."""

    task: Task
    chat: Chat
    tokens: int
    document: Document
    cluster: str

    @property
    def _want(self) -> int:
        return self.tokens - self.task.answer_tokens

    def items(self, rng: Random) -> list[Item]:
        """The items of the document's questions."""
        numbers = range(len(self.document.questions))
        if self.document.filler == ():
            head = _head(self.document, ())
            return [self._item(k, head, head.text.strip()) for k in numbers]
        lengths = [self._length(k, _head(self.document, ())) for k in numbers]
        head, length, rest = self._filled(rng, lengths)
        return [self._exact(k, head, rest, length + lengths[k] - max(lengths)) for k in numbers]

    def _filled(self, rng: Random, lengths: Sequence[int]) -> tuple[Head, int, str]:
        """The part that the contexts share, as many whole units as fit, and the prose that goes on after it.

        `lengths` are those of the prompts without filler, in tokens; between the two stands that of the longest with
        the shared part.
        """
        document, longest, room = self.document, lengths.index(max(lengths)), self._want - max(lengths)
        if room < _SLACK:
            least = self.tokens - room + _SLACK
            raise ValueError(f"{self.tokens} tokens are too few for the task {self.task.name}: {least} are the least")
        sentences = prose.stretch(rng, 2 * _CHARS * room)
        units = [unit + document.joint for unit in document.filler or ()] or sentences
        ends = [0, *accumulate(map(len, units))]
        sample = "".join(units)[: _CHARS * room]
        n = bisect_left(ends[1:], (room - _SLACK // 2) * len(sample) / self._count(sample))
        while True:
            head = _head(document, units[:n])
            length = self._length(longest, head)
            if length <= self._want:
                break
            n = min(n - 1, bisect_left(ends[1:], ends[n] - (length - self._want) * _CHARS))
        if n == len(units):
            raise ValueError(f"the task {self.task.name} brings too little to fill {self.tokens} tokens")
        rest = " ".join("".join(sentences).replace('"', "").split()) if document.filler else "".join(units[n:])
        return head, length, rest

    def _exact(self, k: int, head: Head, rest: str, length: int) -> Item:
        """The item of a question, its context ending in as much of `rest` as makes the length exact.

        `length` is about that of its prompt with no more than the shared part.
        """
        opening, closing = self.document.tail
        question = self.document.questions[k].text
        near = head.text[max(0, head.text.find(" ", max(0, len(head.text) - _LOCAL))) :] + opening

        def count(cut: int, end: str) -> int:  # only what is near the cut is counted anew
            return self._count(near + rest[:cut] + end + closing + "\n\n" + question[:_LOCAL])

        want = count(0, "") + self._want - length
        for _ in range(_TRIES):
            for cut, end in _cuts(count, want, len(rest)):
                item = self._item(k, head, head.text + opening + rest[:cut] + end + closing)
                over = len(prompt(item, self.chat)) - self._want
                if not over:
                    return item
                want -= over  # what is far has changed too
                break
        raise ValueError(f"no cut of the prose gives exactly {self.tokens} tokens for the task {self.task.name}")

    def _count(self, text: str) -> int:
        """The tokens of a part of a prompt."""
        return len(self.chat.encode(ChatText(text, (), "chat")).ids)

    def _length(self, k: int, head: Head) -> int:
        """The tokens of the prompt of a question with no more than the shared part."""
        return len(prompt(self._item(k, head, head.text + "".join(self.document.tail)), self.chat))

    def _item(self, k: int, head: Head, context: str) -> Item:
        question, start = self.document.questions[k], len(self.document.before)
        needed = tuple(head.spans[i] for i in question.planted)
        others = tuple(span for i, span in enumerate(head.spans) if i not in question.planted)
        depth = (needed[0][0] - start) / max(1, len(context) - start) if needed else None
        return Item(
            id=f"{self.cluster}-{k}",
            task=self.task.name,
            category=self.task.category,
            cluster=self.cluster,
            tokens=self.tokens,
            depth=depth,
            context=context,
            question=question.text,
            gold=question.gold,
            distractors=question.distractors,
            prefix=question.prefix,
            planted=needed,
            others=others,
            data=question.data,
            plain=self.task.plain,
        )


def _head(document: Document, units: Sequence[str]) -> Head:
    """What stands before the filler, and the units with what is planted among them, each at the nearest place."""
    ends = [0, *accumulate(map(len, units))]
    places = [_nearest(ends, planted.depth or 0) for planted in document.planted]
    parts, spans, at, done = [document.before], {}, len(document.before), 0
    for i in sorted(range(len(places)), key=places.__getitem__):
        text = "".join(units[done : places[i]])
        at += len(text)
        spans[i] = (at, at + len(document.planted[i].text))
        parts += [text, document.planted[i].text, document.joint]
        at, done = spans[i][1] + len(document.joint), places[i]
    parts += units[done:]
    return Head("".join(parts), tuple(spans[i] for i in range(len(places))))


def _nearest(ends: Sequence[int], depth: float) -> int:
    """The number of the place that is nearest to a depth."""
    at = bisect_left(ends, depth * ends[-1])
    return min(range(max(0, at - 1), min(at + 1, len(ends))), key=lambda i: abs(ends[i] - depth * ends[-1]))


def _cuts(count: Callable[[int, str], int], want: int, most: int) -> Iterator[tuple[int, str]]:
    """The cuts, with what is put at their end, that give so many tokens, the nearest to a rough one first."""
    cut, per_token, empty = 0, 4.0, count(0, "")
    missing = want - empty
    for _ in range(_TRIES):
        cut = max(0, min(cut + round(missing * per_token), most))
        missing = want - count(cut, "")
        per_token = cut / max(1, want - missing - empty)
        if not missing:
            break
    for place, end in cuts_near(cut, _ENDS):
        if 0 <= place <= most and count(place, end) == want:
            yield place, end
