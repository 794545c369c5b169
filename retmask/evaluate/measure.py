"""What conditions of one model make of items: the answer, its score, and where the gold answer stands among others."""

from collections.abc import Mapping, Sequence
from typing import Any

from retmask.evaluate.engine import Asked, Given, ask
from retmask.evaluate.suite import task_of
from retmask.heads.masks import HeadMask
from retmask.items.item import Item
from retmask.items.packing import answer, prompt
from retmask.model.lens import LensModel
from retmask.text.chat import Chat

_DIGITS = 6


def measure(model: LensModel, chat: Chat, items: Sequence[Item], masks: Mapping[str, HeadMask]) -> list[dict[str, Any]]:
    """A line for each condition and item, conditions first, as answers.jsonl has them.

    `score` (0-1) is the task's. `logprob` is the log-probability (natural, mean of a token) of the gold answer, `rank`
    its place, from 1, among `of`: itself and the distractors; `ranked` what a task makes of these, where it does and
    scores answers too. Items of one prompt length are asked together.
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
    texts = (item.gold[0], *item.distractors)
    return Asked(
        tuple(prompt(item, chat)),
        tuple(tuple(answer(item, chat, text)) for text in texts),
        task.answer_tokens if task.answers else 0,
    )


def _judged(item: Item, question: Asked, given: Given, chat: Chat) -> dict[str, Any]:
    """What an answer and the candidates are worth."""
    task = task_of(item)
    means = [worth / max(1, len(ids)) for worth, ids in zip(given.logprobs, question.candidates, strict=True)]
    ranked = round(task.ranked(item, means), _DIGITS) if task.ranked else None
    response = chat.answer(given.token_ids)
    score = round(task.score(item, response), _DIGITS) if task.answers else ranked
    line = {
        "response": response,
        "score": score,
        "logprob": round(means[0], _DIGITS),
        "rank": 1 + sum(mean > means[0] for mean in means[1:]),
        "of": len(means),
    }
    return line | ({"ranked": ranked} if task.ranked and task.answers else {})
