"""Guard: what masking heads that copy, or training on the contrast, should leave as it is."""

import re
from random import Random

from retmask.items.item import Document, Item, Question, Task


def sum_of_two(rng: Random, tokens: int) -> Document:
    """An addition of two numbers under a hundred, without a context."""
    a, b = rng.randrange(2, 100), rng.randrange(2, 100)
    wrong = tuple(str(a + b + by) for by in (-10, -1, 1, 10))
    return Document("", (), (Question(f"What is {a} + {b}?", (str(a + b),), wrong, prefix=f"{a} + {b} ="),), filler=())


def first_number(item: Item, response: str) -> float:
    """1 where the first number of the response is the right one."""
    return float(re.findall(r"\d+", response.replace(",", ""))[:1] == [item.gold[0]])


TASKS = (Task("guard_arithmetic", "guard", 12, sum_of_two, first_number),)
