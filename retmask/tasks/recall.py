"""Recall: a value that stands verbatim in the context is asked for."""

from random import Random
from uuid import UUID

from retmask.items.item import Document, Item, Planted, Question, Task

_PLACES = "harbour orchard windmill foundry granary lighthouse tannery brewery chapel quarry ferry dairy forge stable"
_COLOURS = "amber crimson teal ivory violet ochre scarlet olive indigo pearl copper maroon azure hazel"
_BEFORE = "The text below hides the locker codes of some places. Remember them: you are asked for one afterwards.\n\n"


def number(rng: Random) -> str:
    """A number of seven digits."""
    return str(rng.randrange(1_000_000, 10_000_000))


def uuid(rng: Random) -> str:
    """A random UUID."""
    return str(UUID(int=rng.getrandbits(128), version=4))


def single(rng: Random, tokens: int) -> Document:
    """One number among prose."""
    key = f"{rng.choice(_COLOURS.split())} {rng.choice(_PLACES.split())}"
    value, *wrong = (number(rng) for _ in range(5))
    question = Question(f"What is the locker code of the {key}?", (value,), tuple(wrong), (0,), prefix=_prefix(key))
    return Document(_BEFORE, (Planted(f"The locker code of the {key} is {value}."),), (question,))


def score(item: Item, response: str) -> float:
    """The share of the right values that stand in the response (RULER's string_match_all)."""
    return sum(gold.lower() in response.lower() for gold in item.gold) / len(item.gold)


def _prefix(key: str) -> str:
    return f"The locker code of the {key} is"


TASKS = (Task("recall_single", "recall", 16, single, score),)
