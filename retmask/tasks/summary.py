"""Summary: all that a text says of one person, and nothing of the others."""

from random import Random

from retmask.items.item import Document, Item, Planted, Question, Task
from retmask.items.metrics import Agreement, length_penalty, named
from retmask.items.world import Fact, names, relations

_BEFORE = "The text below tells, among other things, some facts about four people.\n\n"
_MOST = 40  # words: the facts need about 30


def plant(rng: Random, tokens: int) -> Document:
    """Five facts about each of four people, apart from one another; two of the people are asked for."""
    kinds = relations("person")
    values = zip(*(names(rng, kind.value, 4) for kind in kinds), strict=True)
    people = [
        [Fact(kind, name, value) for kind, value in zip(kinds, row, strict=True)]
        for name, row in zip(names(rng, "person", 4), values, strict=True)
    ]
    hidden = [fact for person in people for fact in person]
    questions = (
        Question(
            f"Summarize in short sentences all that the text says about {person[0].subject}.",
            tuple(fact.value for fact in person),
            tuple(fact.value for kind in zip(*people, strict=True) for fact in kind if fact not in person),
            tuple(range(5 * n, 5 * n + 5)),
            prefix=f"Summary: {person[0].stem}",
        )
        for n, person in enumerate(people[:2])
    )
    return Document(_BEFORE, tuple(Planted(fact.sentence) for fact in hidden), tuple(questions))


def score(item: Item, response: str) -> float:
    """F1 of the planted facts by their values, times what a response of over 40 words loses (40 / its words)."""
    right = len(named(response, item.gold))
    wrong = len(named(response, item.distractors))
    agreement = Agreement(right / len(item.gold), right / max(1, right + wrong))
    return agreement.f1 * length_penalty(response, _MOST)


TASKS = (Task("summary", "summary", 80, plant, score),)
