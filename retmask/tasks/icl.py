"""ICL: things with labels that mean nothing, as many as fit; a new thing is asked for, without the chat template."""

from random import Random

from retmask.items.item import Document, Item, Question, Task
from retmask.items.metrics import first_answer
from retmask.items.world import topics

_BEFORE = "Each line says which label a word has.\n\n"
_LABELS = "alpha bravo delta echo foxtrot hotel india kilo lima oscar papa quebec romeo sierra tango victor zulu"


def plant(rng: Random, tokens: int) -> Document:
    """Lines, each about one of four things of one of five topics; a topic's label and its things are drawn.

    A fifth thing of a topic, which no line is about, is asked for.
    """
    things = {topic: rng.sample(listed, 5) for topic, listed in rng.sample(list(topics().items()), 5)}
    labels = dict(zip(things, rng.sample(_LABELS.split(), len(things)), strict=True))
    shots: list[str] = []
    while len(shots) < 24 + tokens // 3:
        drawn = [(rng.choice(things[topic][:4]), topic) for topic in rng.sample(list(labels), len(labels))]
        shots += [f"{thing}: {labels[topic]}" for thing, topic in drawn]
    questions = (
        Question(
            f"Which label does the word {things[topic][4]} have?",
            (labels[topic],),
            tuple(label for label in labels.values() if label != labels[topic]),
            prefix=f"{things[topic][4]}:",
        )
        for topic in rng.sample(list(labels), 4)
    )
    return Document(_BEFORE, (), tuple(questions), tuple(shots), "\n")


def score(item: Item, response: str) -> float:
    """Whether the response begins with the label."""
    return first_answer(response, item.gold[0])


TASKS = (Task("icl", "icl", 8, plant, score, plain=True),)
