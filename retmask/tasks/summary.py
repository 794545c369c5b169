"""Summary: all that a text says of one person, and nothing of the others."""

from random import Random

from retmask.items.item import Document, Item, Planted, Question, Task
from retmask.items.metrics import Agreement, length_penalty, named
from retmask.items.world import entries, relations

_BEFORE = "The text below tells, among other things, some facts about four people.\n\n"
_MOST = 60  # words: more than the facts need


def plant(rng: Random, tokens: int) -> Document:
    """Five facts about each of four people, apart from one another; two of the people are asked for."""
    people = entries(rng, relations("person"), 4)
    hidden = [fact for person in people for fact in person]
    questions = (
        Question(
            f"Summarize all that the text says about {name}, in at most {_MOST} words.",
            tuple(fact.sentence.removeprefix(f"{name} ").rstrip(".") for fact in person),
            tuple(
                other[0].sentence.removeprefix(f"{other[0].subject} ").rstrip(".")
                for other in people
                if other != person
            ),
            tuple(range(5 * n, 5 * n + 5)),
            prefix=f"Summary: {name}",
            data={
                "values": [fact.value for fact in person],
                "wrong": [fact.value for fact in hidden if fact.value not in {own.value for own in person}],
            },
        )
        for n, person in enumerate(people[:2])
        for name in (person[0].subject,)
    )
    return Document(_BEFORE, tuple(Planted(fact.sentence) for fact in hidden), tuple(questions))


def score(item: Item, response: str) -> float:
    """F1 of the planted facts by their values, times what a response of over 60 words loses (60 / its words)."""
    values, wrong = item.data["values"], item.data["wrong"]
    right = len(named(response, values))
    agreement = Agreement(right / len(values), right / max(1, right + len(named(response, wrong))))
    return agreement.f1 * length_penalty(response, _MOST)


TASKS = (Task("summary", "summary", 96, plant, score),)
