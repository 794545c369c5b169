"""Recall: the key follows from the context by a few lines, and not from what is left without the planted text."""

import json
import re

import pytest
from tiny import tiny_tokenizer

from retmask.items.item import Item
from retmask.items.packing import pack
from retmask.tasks import TASKS
from retmask.text.chat import Chat

RECALL = [task for task in TASKS.values() if task.category == "recall"]


def key(item: Item, context: str) -> set[str]:
    """The right answers, read from a context."""
    if item.task == "recall_json":
        values = json.loads(context[context.index("{") :])
        return {values.get(re.findall('"(.*)"', item.question)[0])} - {None}
    names = re.findall(
        r"the ((?:ivory|ochre|azure|beige|magenta|mauve|khaki|lilac|sepia|tawny|taupe|charcoal) \w+)", item.question
    )
    return {value for name in names for value in re.findall(rf"A locker code of the {name} is (\S+)\.", context)}


def without(item: Item) -> str:
    """The context without what the question needs."""
    context = item.context
    for start, end in sorted(item.planted, reverse=True):
        context = context[:start] + ('"": ""' if item.task == "recall_json" else "") + context[end:]
    return context


@pytest.mark.parametrize("task", RECALL, ids=lambda task: task.name)
def test_the_key_follows_from_the_context_alone(task) -> None:
    score = task.score
    for item in pack(task, Chat(tiny_tokenizer()), 1500, 6):
        assert key(item, item.context) == set(item.gold)
        assert not any(gold in without(item) for gold in item.gold)
        assert key(item, without(item)) == set()
        assert not set(item.gold) & set(item.distractors)
        assert len(item.distractors) >= 3
        assert task.name == "recall_single" or all(wrong in item.context for wrong in item.distractors)
        assert score(item, ", ".join(item.gold)) == 1
        assert score(item, ", ".join(item.distractors)) == 0
        assert score(item, f"It is {item.gold[0].upper()}.") == pytest.approx(1 / len(item.gold))
