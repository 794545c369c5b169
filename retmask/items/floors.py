"""What a score is held against: the items without their context, with one in disorder, and answers given blindly.

What is right without the context is guessed or known, what is right with its words in disorder needs none of its
sentences, the commonest answer needs no question, and one of the candidates no reading but of their kind.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from statistics import fmean

from retmask.items.item import Item


def without_context(item: Item) -> Item:
    """The question alone."""
    return replace(item, context="", depth=None, planted=(), others=())


def shuffled_context(item: Item) -> Item:
    """The item with the words of its context in an order drawn by its document, so that nothing in it says anything.

    The items of a document differ at the end of their contexts alone. So the last words, up to a quarter of them, are
    put in disorder apart, and what stands before them is as a rule the same and is read once.
    """
    words, rng = item.context.split(" "), Random(item.cluster)
    step = max(1, 2 ** len(words).bit_length() // 8)  # few lengths lie on both sides of a multiple
    cut = max(0, len(words) - 2) // step * step
    shared, last = words[:cut], words[cut:]
    rng.shuffle(shared)
    rng.shuffle(last)
    return replace(item, context=" ".join(shared + last), depth=None, planted=(), others=())


def majority_answer(items: Sequence[Item]) -> str:
    """The answer that is right most often, the first of those that are: to be given to every item.

    It is worth next to nothing where each document has candidates of its own: there `candidate_score` is the floor.
    """
    return Counter(gold for item in items for gold in item.gold).most_common(1)[0][0]


def candidate_score(item: Item, score: Callable[[Item, str], float]) -> float | None:
    """What one of an item's candidates, drawn blindly among gold and distractors, scores on average.

    None where there are no distractors to draw from.
    """
    return fmean(score(item, answer) for answer in (*item.gold, *item.distractors)) if item.distractors else None
