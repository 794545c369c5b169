"""Association: question and needle share no content word, so that the needle cannot be found by its letters."""

from random import Random

from retmask.items.item import Document, Item, Planted, Question, Task
from retmask.items.metrics import picked
from retmask.items.world import associations, names

_BEFORE = "The text below tells, among other things, some facts about some people.\n\n"


def plant(rng: Random, tokens: int) -> Document:
    """Five needles about five people, of which two answer a question that is asked."""
    drawn = rng.sample(associations(), 5)
    people = names(rng, "person", 5)
    hidden = (rng.choice(needles).format(person=person) for (_, needles), person in zip(drawn, people, strict=True))
    choice = ", ".join(rng.sample(people, 5))
    questions = (
        Question(
            f"{asked} Choose from these names: {choice}.",
            (people[n],),
            (*people[:n], *people[n + 1 :]),
            (n,),
            prefix=f"Names: {choice}\nChosen name:",
        )
        for n, (asked, _) in enumerate(drawn[:2])
    )
    return Document(_BEFORE, tuple(map(Planted, hidden)), tuple(questions))


def score(item: Item, response: str) -> float:
    """Whether the first line of the response has the name, over how many of the candidates it has."""
    return picked(response, item.gold, item.distractors)


TASKS = (Task("association", "association", 24, plant, score),)
