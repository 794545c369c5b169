"""RAG: facts of an invented world hidden among prose, one of them asked for; the others are of the same relation."""

from collections.abc import Sequence
from random import Random
from typing import Any

from retmask.items.item import Document, Item, Planted, Question, Task
from retmask.items.metrics import picked
from retmask.items.world import Fact, facts, relations

_BEFORE = "Some facts are hidden in the text below. Answer the question with what the text says.\n\n"


def plant(rng: Random, tokens: int) -> Document:
    """Five facts of one relation, two of which are asked for."""
    hidden = facts(rng, rng.choice(relations()), 5)
    return Document(_BEFORE, tuple(Planted(fact.sentence) for fact in hidden), (asked(hidden, 0), asked(hidden, 1)))


def asked(hidden: Sequence[Fact], n: int, **data: Any) -> Question:
    """The question of the n-th of facts of one relation; the values of the others are wrong."""
    wrong = tuple(fact.value for fact in (*hidden[:n], *hidden[n + 1 :]))
    fact = hidden[n]
    return Question(fact.question, (fact.value,), wrong, (n,), f"Answer: {fact.stem}", data)


def score(item: Item, response: str) -> float:
    """Whether the first line of the response has the value, over how many of the candidates it has."""
    return picked(response, item.gold, item.distractors)


TASKS = (Task("rag", "rag", 24, plant, score),)
