"""RAG: facts of an invented world hidden among prose, one of them asked for; the others are of the same relation."""

from random import Random

from retmask.items.item import Document, Item, Planted, Question, Task
from retmask.items.metrics import picked
from retmask.items.world import facts, relations

_BEFORE = "Some facts are hidden in the text below. Answer the question with what the text says.\n\n"


def plant(rng: Random, tokens: int) -> Document:
    """Five facts of one relation, two of which are asked for."""
    hidden = facts(rng, rng.choice(relations()), 5)
    values = [fact.value for fact in hidden]
    questions = (
        Question(
            fact.question,
            (fact.value,),
            (*values[:n], *values[n + 1 :]),
            (n,),
            prefix=f"Answer: {fact.stem}",
        )
        for n, fact in enumerate(hidden[:2])
    )
    return Document(_BEFORE, tuple(Planted(fact.sentence) for fact in hidden), tuple(questions))


def score(item: Item, response: str) -> float:
    """Whether the first line of the response has the value, over how many of the candidates it has."""
    return picked(response, item.gold, item.distractors)


TASKS = (Task("rag", "rag", 24, plant, score),)
