"""QA: an office that goes from one to the next over a long text: who has it last, who had it first, how many did."""

from random import Random

from retmask.items.item import Document, Item, Planted, Question, Task
from retmask.items.metrics import picked
from retmask.items.world import names

_POSTS = ("lighthouse keeper", "chief gardener", "head librarian", "harbour pilot", "bell founder", "court painter")
_COUNTS = "one two three four five six seven eight"
_BEFORE = "The text below tells, among other things, how an office went from one person to the next.\n\n"


def plant(rng: Random, tokens: int) -> Document:
    """Between four and six people have the office, one after the other in the order of the text."""
    people = names(rng, "person", rng.randrange(4, 7))
    n, post, town = len(people), rng.choice(_POSTS), names(rng, "town", 1)[0]
    years = sorted(rng.sample(range(1612, 1780), n))
    hidden = (
        f"In {year} the office of {post} of {town} went to {who}." for year, who in zip(years, people, strict=True)
    )
    depths = ((place + rng.random()) / n for place in range(n))
    everything = tuple(range(n))
    count, *near = sorted(_COUNTS.split(), key=lambda word: abs(_COUNTS.split().index(word) - (n - 1)))
    questions = (
        Question(
            f"To whom did the office of {post} of {town} go last?",
            (people[-1],),
            tuple(people[:-1]),
            everything[::-1],
            prefix=f"Answer: At last the office of {post} of {town} went to",
        ),
        Question(
            f"To whom did the office of {post} of {town} go first?",
            (people[0],),
            tuple(people[1:]),
            everything,
            prefix=f"Answer: At first the office of {post} of {town} went to",
        ),
        Question(
            f"To how many people, one after the other, did the office of {post} of {town} go?",
            (count,),
            tuple(near),
            everything,
            prefix="Answer: The number of people, as a word, is",
        ),
    )
    return Document(_BEFORE, tuple(map(Planted, hidden, depths)), questions)


def score(item: Item, response: str) -> float:
    """Whether the first line of the response has the answer, over how many of the candidates it has."""
    return picked(response, item.gold, item.distractors)


TASKS = (Task("qa", "qa", 24, plant, score),)
