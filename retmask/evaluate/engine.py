"""Questions to one context under several masks of one model: the answers, and what every candidate answer is worth.

What the questions share is read once, below the first masked layer once for all masks. Questions and masks are rows of
one batch: all answer together, then every candidate is given to all of them (teacher forcing).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from math import isnan
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache

from retmask.evaluate.suite import task_of
from retmask.heads.masks import HeadMask
from retmask.items.item import Item
from retmask.items.packing import answer, prompt
from retmask.model.cache import shared, take
from retmask.model.decoding import decode, steps_at_once
from retmask.model.lens import LensModel
from retmask.text.chat import Chat

ROWS = 24  # questions times masks that are answered together at most; more cost memory and gain no speed on a CPU

RANKED = 4  # distractors that gold is ranked among, where a task does not rank them all itself: each costs a pass
_DIGITS = 6

T = TypeVar("T")


class Asked(NamedTuple):
    """A question in tokens: the prompt up to where the answer begins, and the answers whose worth is asked for.

    `new_tokens`: the longest answer; 0 for a text that is only to be read.
    """

    prompt: tuple[int, ...]
    candidates: tuple[tuple[int, ...], ...]
    new_tokens: int


class Given(NamedTuple):
    """An answer without the stop token, and the log-probability (natural, of all its tokens) of each candidate.

    `likeliest`: whether each of a candidate's tokens is the likeliest where it stands.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    likeliest: tuple[bool, ...] = ()


class _Worth(NamedTuple):
    """What a text would have been worth: its log-probability, and whether each token is the likeliest."""

    logprob: float
    likeliest: bool


def measure(model: LensModel, chat: Chat, items: Sequence[Item], masks: Mapping[str, HeadMask]) -> list[dict[str, Any]]:
    """A line for each condition and item, conditions first, as answers.jsonl has them.

    `score` (0-1) is the task's. `logprob` is the log-probability (natural, mean of a token) of the gold answer, `rank`
    its place, from 1, among `of`: itself and up to 4 distractors; `ranked` what a task makes of these, where it does
    and scores answers too. Items of one prompt length are asked together.
    """
    questions = [_asked(item, chat) for item in items]
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for length in dict.fromkeys(len(question.prompt) for question in questions):
        alike = [i for i, question in enumerate(questions) if len(question.prompt) == length]
        given = ask(model, [questions[i] for i in alike], list(masks.values()))
        for name, row in zip(masks, given, strict=True):
            for i, answered in zip(alike, row, strict=True):
                line = {"item": items[i].id, "condition": name} | _judged(items[i], questions[i], answered, chat)
                lines[name, items[i].id] = line
    return [lines[name, item.id] for name in masks for item in items]


def _asked(item: Item, chat: Chat) -> Asked:
    task = task_of(item)
    texts = (item.gold[0], *item.distractors[: None if task.ranked else RANKED])
    return Asked(
        tuple(prompt(item, chat)),
        tuple(tuple(answer(item, chat, text)) for text in texts),
        task.answer_tokens if task.answers else 0,
    )


def _judged(item: Item, question: Asked, given: Given, chat: Chat) -> dict[str, Any]:
    """What an answer and the candidates are worth."""
    task = task_of(item)
    means = [worth / max(1, len(ids)) for worth, ids in zip(given.logprobs, question.candidates, strict=True)]
    if isnan(sum(means)):
        raise ValueError(f"the log-probabilities of item {item.id} are no numbers: choose --dtype float32")
    ranked = round(task.ranked(item, means), _DIGITS) if task.ranked else None
    response = chat.answer(given.token_ids)
    score = round(task.score(item, response), _DIGITS) if task.answers else ranked
    line = {
        "response": response,
        "score": score,
        "logprob": round(means[0], _DIGITS),
        "rank": 1 + sum(mean >= means[0] for mean in means[1:]),  # a tie is no preference
        "of": len(means),
    }
    return line | ({"ranked": ranked} if task.ranked and task.answers else {})


def ask(
    model: LensModel,
    questions: Sequence[Asked],
    masks: Sequence[HeadMask],
    ended: Callable[[Sequence[int]], bool] = lambda _: False,
) -> list[list[Given]]:
    """For each mask, what is given to each question; greedy. The prompts are of one length.

    `ended` says which answers need not go on, though they may. ValueError where the prompts are longer than the model
    reads.
    """
    length = len(questions[0].prompt)
    assert all(len(question.prompt) == length for question in questions), "prompts asked together have one length"
    room = length + max(max(q.new_tokens, *map(len, q.candidates), 1) for q in questions)
    model.check_length(room)
    prefix = min(length - 1, reduce(min, (shared(questions[0].prompt, q.prompt) for q in questions)))
    rows = model.rows_that_fit(room, ROWS)
    out: list[list[Given]] = []
    for part in _parts(masks, max(1, rows // 2)):
        trunk = model.fan_out(questions[0].prompt[:prefix], room, part)
        together = max(1, (rows - len(part)) // len(part))
        given = [_given(model, trunk, some, part, ended) for some in _parts(questions, together)]
        out += [[answer for batch in given for answer in batch[row]] for row in range(len(part))]
    return out


def _given(
    model: LensModel,
    trunk: Cache,
    questions: Sequence[Asked],
    masks: Sequence[HeadMask],
    ended: Callable[[Sequence[int]], bool],
) -> list[list[Given]]:
    """The same for as many as are answered together. `trunk` has a row for each mask, and stays as it is."""
    n, length = len(questions), len(questions[0].prompt)
    asked = [*questions] * len(masks)
    under = [mask for mask in masks for _ in questions]
    room = length + max(question.new_tokens for question in questions)
    cache = take(trunk, [row for row in range(len(masks)) for _ in questions], room)
    if (prefix := trunk.get_seq_length()) < length - 1:
        model.forward([question.prompt[prefix:-1] for question in asked], cache, under)
    texts: list[list[int]] = [[] for _ in asked]
    last, longest = [question.prompt[-1] for question in asked], max(question.new_tokens for question in questions)
    for step in decode(model, cache, last, longest, under):
        for text, token, question in zip(texts, step, asked, strict=True):
            text += [token.token_id] if token and len(text) < question.new_tokens else []
        if all(token is None or ended(text) for text, token in zip(texts, step, strict=True)):
            break
    worth = _worth(model, cache, asked, under)
    given = []
    for text, values, question in zip(texts, worth, asked, strict=True):
        own = values[: len(question.candidates)]
        given.append(Given(tuple(text), tuple(v.logprob for v in own), tuple(v.likeliest for v in own)))
    return [given[at : at + n] for at in range(0, len(given), n)]


def _worth(model: LensModel, cache: Cache, asked: Sequence[Asked], masks: Sequence[HeadMask]) -> list[list[_Worth]]:
    """What every candidate is worth of each row, where it follows its prompt; nothing for those it does not have.

    The first tokens of all come from one pass over the prompts' last tokens.
    """
    have = len(asked[0].prompt) - 1
    if cache.layers:
        cache.crop(have - cache.get_seq_length())
    first = model.forward([[question.prompt[-1]] for question in asked], cache, masks)
    places = range(max(len(question.candidates) for question in asked))
    worth = [
        _follows(model, cache, first, [(*question.candidates, *[()] * len(places))[place] for question in asked], masks)
        for place in places
    ]
    return [[_Worth(float(values[row, 0]), not values[row, 1]) for values in worth] for row in range(len(asked))]


def _follows(
    model: LensModel,
    cache: Cache,
    first: Float[Tensor, "row step vocabulary"],
    texts: Sequence[Sequence[int]],
    masks: Sequence[HeadMask],
) -> Float[Tensor, "row figure"]:
    """The figures of `_chosen` of one text for each row, whose first token has the logits `first`.

    The cache ends there, and is left so. Shorter texts are filled up behind.
    """
    have, steps = cache.get_seq_length(), max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (steps - len(text))] for text in texts], device=model.device)
    length = torch.tensor([len(text) for text in texts], device=model.device)
    total = _chosen(first, ids[:, :1], length)
    size = steps_at_once(model, len(texts))
    for at in range(0, steps - 1, size):
        part = ids[:, at : min(at + size, steps - 1)]
        logits = model.forward(part, cache, masks, keep=part.shape[1])
        total += _chosen(logits, ids[:, at + 1 : at + 1 + size], length - at - 1)
    cache.crop(have - cache.get_seq_length())
    return total


def _chosen(logits: Float[Tensor, "row step vocabulary"], ids: Tensor, length: Tensor) -> Float[Tensor, "row figure"]:
    """Of each row's first `length` ids the sum of their log-probabilities, and how many are not the likeliest."""
    counts = torch.arange(ids.shape[1], device=ids.device) < length[:, None]
    chosen = logits.float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    return torch.stack([(chosen * counts).sum(1), ((logits.argmax(-1) != ids) & counts).sum(1)], 1)


def _parts(values: Sequence[T], size: int) -> list[Sequence[T]]:
    return [values[at : at + size] for at in range(0, len(values), size)]
