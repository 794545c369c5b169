"""Cite: an answer with the number of the passage that it stands in, as [417]."""

from random import Random

from retmask.items.item import Document, Item, Planted, Question, Task
from retmask.items.metrics import cited, first_line, held, sets
from retmask.items.world import entries, numbered, relations

_BEFORE = (
    "Each passage below ends in its number. Answer the question, and cite the passage that says so by its number in "
    "square brackets.\n\n"
)


def plant(rng: Random, tokens: int) -> Document:
    """Passages about ships, with a home port, a cargo and a captain in each; two of the captains are asked for."""
    ships = entries(rng, relations("ship"), 8 + tokens // 16)
    passages = numbered(rng, [" ".join(fact.sentence for fact in ship) for ship in ships])
    captains = [ship[-1] for ship in ships]
    questions = (
        Question(
            captain.question,
            (captain.value,),
            tuple(other.value for other in captains[2:6] if other.value != captain.value),
            (number,),
            prefix=f"Answer: {captain.stem}",
            data={"passages": [passages[number][0]]},
        )
        for number, captain in enumerate(captains[:2])
    )
    texts = [text for _, text in passages]
    tail = (f"{texts.pop()} ", "")
    return Document(_BEFORE, tuple(map(Planted, texts[:6])), tuple(questions), tuple(texts[6:]), "\n", tail)


def score(item: Item, response: str) -> float:
    """The mean of correctness, citation recall and citation precision of the first line; 0 for an empty answer."""
    line = first_line(response)
    return (held(line, item.gold) + sum(sets(cited(line), item.data["passages"]))) / 3


TASKS = (Task("cite", "cite", 24, plant, score),)
