"""Cite: an answer with the number of the passage that it stands in, as [417]."""

from random import Random

from retmask.items.item import Document, Item, Planted, Task
from retmask.items.metrics import cited, first_line, picked, sets
from retmask.items.prose import stretch
from retmask.items.world import facts, numbered, relations
from retmask.tasks.rag import asked

_BEFORE = (
    "Each passage below ends in its number. Answer the question, and cite the passage that says so by its number in "
    "square brackets.\n\n"
)


def plant(rng: Random, tokens: int) -> Document:
    """Passages of prose, a fact of one relation in four of them; two of the facts are asked for."""
    hidden = facts(rng, rng.choice(relations()), 4)
    prose = [" ".join(sentence.replace('"', "").split()) for sentence in stretch(rng, 24 * (tokens + 100))]
    texts = [sentence for sentence in prose if 60 < len(sentence) < 240]
    texts[:4] = [f"{text} {fact.sentence}" for text, fact in zip(texts, hidden, strict=False)]
    passages = numbered(rng, texts)
    questions = tuple(asked(hidden, n, passages=[passages[n][0]]) for n in range(2))
    planted, filler = passages[:4], passages[4:]
    return Document(
        _BEFORE,
        tuple(Planted(text) for _, text in planted),
        questions,
        tuple(text for _, text in filler),
        "\n",
    )


def score(item: Item, response: str) -> float:
    """The mean of correctness, citation recall and citation precision of the first line; 0 for an empty answer.

    Correct is the value, over how many of the candidates the line has.
    """
    right = picked(response, item.gold, item.distractors)
    return (right + sum(sets(cited(first_line(response)), item.data["passages"]))) / 3


TASKS = (Task("cite", "cite", 24, plant, score),)
