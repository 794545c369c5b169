"""What a score is held against: the items without their context, with one in disorder, and one answer to all.

What is right without the context is guessed or known, what is right with its words in disorder needs none of its
sentences, and the commonest answer needs no question.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from retmask.items.item import Item


def without_context(item: Item) -> Item:
    """The question alone."""
    return replace(item, context="", depth=None, planted=(), others=())


def shuffled_context(item: Item) -> Item:
    """The item with the words of its context in an order drawn by its id, so that nothing in it says anything."""
    words = item.context.split(" ")
    Random(item.id).shuffle(words)
    return replace(item, context=" ".join(words), depth=None, planted=(), others=())


def majority_answer(items: Sequence[Item]) -> str:
    """The answer that is right most often, the first of those that are: to be given to every item."""
    return Counter(gold for item in items for gold in item.gold).most_common(1)[0][0]
