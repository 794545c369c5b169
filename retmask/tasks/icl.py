"""ICL: phrases with labels that mean nothing, as many as fit; the label of another is asked for."""

from random import Random

from retmask.items.item import Document, Item, Question, Task
from retmask.items.metrics import first_answer
from retmask.items.world import topics

_BEFORE = "Each phrase below has a label. Learn from them which label the last phrase has.\n\n"
_LABELS = "alpha bravo delta echo foxtrot hotel india kilo lima oscar papa quebec romeo sierra tango victor zulu"
_SAID = ("talked about", "dreamt of", "complained about", "wrote a poem on")


def plant(rng: Random, tokens: int) -> Document:
    """Labelled phrases, each about a word of one of five topics; labels and the words of a topic are drawn."""
    words = {topic: rng.sample(listed, 4) for topic, listed in rng.sample(list(topics().items()), 5)}
    labels = dict(zip(words, rng.sample(_LABELS.split(), len(words)), strict=True))

    def text(topic: str) -> str:
        return f"{rng.choice(_SAID)} the {rng.choice(words[topic])} ="

    shots: list[str] = []
    while len(shots) < 24 + tokens // 3:
        shots += [f"{text(topic)} {labels[topic]}" for topic in rng.sample(list(labels), len(labels))]
    questions = (
        Question(
            f"Which label comes next? {asked}",
            (labels[topic],),
            tuple(label for label in labels.values() if label != labels[topic]),
            prefix=asked,
        )
        for topic in rng.sample(list(labels), 4)
        for asked in (text(topic),)
    )
    return Document(_BEFORE, (), tuple(questions), tuple(shots), "\n", ("No label: ", ""))


def score(item: Item, response: str) -> float:
    """Whether the response begins with the label."""
    return first_answer(response, item.gold[0])


TASKS = (Task("icl", "icl", 8, plant, score),)
