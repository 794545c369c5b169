"""Guard: what masking heads that copy, or training on the contrast, should leave as it is.

Arithmetic, short instructions whose form can be checked, common knowledge after a long text and without one, and how
well prose is predicted. The scores are 0 to 1; that of the prose is the likelihood of a token, 1 / perplexity.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import exp
from random import Random
from typing import Any

from retmask.files import shipped
from retmask.items import prose
from retmask.items.item import Document, Item, Question, Task
from retmask.items.metrics import first_answer
from retmask.text.recall import words

_TOPICS = "rivers music bread winter horses gardens trains bridges"
_GOLD = 600  # characters of prose to predict


def arithmetic(rng: Random, tokens: int) -> Document:
    """A sum or a difference of two numbers under a hundred."""
    low, high = sorted(rng.sample(range(2, 100), 2))
    sign, right = rng.choice((("+", low + high), ("-", high - low)))
    wrong = tuple(str(right + by) for by in (10, 1, 2, 11))
    return _alone(Question(f"What is {high} {sign} {low}?", (str(right),), wrong, prefix=f"{high} {sign} {low} ="))


def knowledge(rng: Random, tokens: int) -> Document:
    """Two questions of common knowledge after a text that has nothing to do with them."""
    return Document("", (), tuple(_known(rng) for _ in range(2)))


def knowledge_alone(rng: Random, tokens: int) -> Document:
    """One of the same questions without a text before it."""
    return _alone(_known(rng))


def perplexity(rng: Random, tokens: int) -> Document:
    """A paragraph that is in no context, begun in the question; gold is how it goes on."""
    long = [paragraph for paragraph in prose.held_out() if len(paragraph) > 2 * _GOLD]
    paragraph = rng.choice(long)
    cut = paragraph.index(" ", _GOLD // 2)
    end = paragraph.index(" ", cut + _GOLD)
    return Document("", (), (Question(paragraph[:cut], (paragraph[cut:end],), prefix=""),))


def instruction(rng: Random, tokens: int) -> Document:
    """A short instruction whose form can be checked; gold is an answer that has it, the distractor one that has not."""
    name = rng.choice(list(_CHECKS))
    form = _data()["forms"][name]
    text = form["text"].format(topic=rng.choice(_TOPICS.split()))
    return _alone(Question(text, (form["kept"],), (form["broken"],), prefix="", data={"form": name}))


def follows(item: Item, response: str) -> float:
    """Whether an answer has the form that was asked for; 0 for an empty one."""
    return float(bool(response.strip()) and _CHECKS[item.data["form"]](response.strip()))


def first_number(item: Item, response: str) -> float:
    """Whether the first number of an answer is the right one."""
    return float(re.findall(r"\d+", response)[:1] == [item.gold[0]])


def begins(item: Item, response: str) -> float:
    """Whether an answer begins with the right words."""
    return first_answer(response, item.gold[0])


def likelihood(item: Item, logprobs: Sequence[float]) -> float:
    """The geometric mean of the probabilities of the tokens to predict: 1 / perplexity."""
    return exp(logprobs[0])


def _alone(question: Question) -> Document:
    return Document("", (), (question,), ())


def _known(rng: Random) -> Question:
    """A question of common knowledge; the distractors are right for others."""
    kind = rng.choice(_data()["knowledge"])
    pairs = [pair.split(":") for pair in kind["pairs"].split()]
    (subject, right), *others = rng.sample(pairs, 5)
    wrong = tuple(value for _, value in others if value != right)
    return Question(kind["question"].format(subject), (right,), wrong, prefix=kind["prefix"].format(subject))


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    """The questions and forms that come with the package."""
    value: dict[str, Any] = json.loads(shipped("guard.json").read_text(encoding="utf-8"))
    return value


def _is_object(text: str) -> bool:
    try:
        return {"name", "age"} <= set(json.loads(text.removeprefix("```json").strip("`\n ")))
    except (ValueError, TypeError, RecursionError):
        return False


def _lines(text: str, mark: str) -> int:
    return len(re.findall(rf"^{mark}", text, re.MULTILINE))


_CHECKS: dict[str, Callable[[str], bool]] = {
    "capitals": str.isupper,
    "dashes": lambda text: _lines(text, "- ") == 3,
    "numbered": lambda text: _lines(text, r"\d+\. ") == 3,
    "quoted": lambda text: bool(re.search('"[^"]+"', text)),
    "object": _is_object,
    "short": lambda text: len(words(text)) < 20,
    "question": lambda text: text.endswith("?"),
    "counting": lambda text: "3, 4, 5, 6, 7" in text,
}

TASKS = (
    Task("guard_arithmetic", "guard", 12, arithmetic, first_number),
    Task("guard_instructions", "guard", 64, instruction, follows),
    Task("guard_knowledge", "guard", 8, knowledge, begins),
    Task("guard_knowledge_alone", "guard", 8, knowledge_alone, begins),
    Task("guard_perplexity", "guard", 160, perplexity, begins, likelihood, answers=False, plain=True),
)
