"""ICL: sentences with labels that mean nothing, as many as fit; the label of another sentence is asked for."""

from random import Random

from retmask.items.item import Document, Item, Question, Task
from retmask.items.metrics import first_answer
from retmask.items.world import names, topics

_BEFORE = "Each text below has a label. Learn from them which label the last text has.\n\n"
_LABELS = "alpha bravo delta echo foxtrot hotel india kilo lima oscar papa quebec romeo sierra tango victor zulu"
_SAID = ("talked about", "dreamt of", "complained about", "wrote a poem on")


def plant(rng: Random, tokens: int) -> Document:
    """Labelled sentences, each about a word of one of four topics; labels and the words of a topic are drawn."""
    words = {topic: rng.sample(listed, 3) for topic, listed in rng.sample(list(topics().items()), 4)}
    labels = dict(zip(words, rng.sample(_LABELS.split(), len(words)), strict=True))
    people = names(rng, "person", 24)

    def text(topic: str) -> str:
        return f"Text: {rng.choice(people)} {rng.choice(_SAID)} the {rng.choice(words[topic])}."

    shots: list[str] = []
    while len(shots) < 24 + tokens // 8:
        shots += [f"{text(topic)}\nLabel: {labels[topic]}\n" for topic in rng.sample(list(labels), len(labels))]
    questions = (
        Question(
            f"Which label has this text? {asked}",
            (labels[topic],),
            tuple(label for label in labels.values() if label != labels[topic]),
            prefix=f"{asked}\nLabel:",
        )
        for topic in rng.sample(list(labels), 4)
        for asked in (text(topic),)
    )
    return Document(_BEFORE, (), tuple(questions), tuple(shots), "\n", ("Text without a label: ", ""))


def score(item: Item, response: str) -> float:
    """Whether the response begins with the label."""
    return first_answer(response, item.gold[0])


TASKS = (Task("icl", "icl", 8, plant, score),)
