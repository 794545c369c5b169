"""The floors: what is left of an item."""

from dataclasses import replace
from itertools import takewhile

import pytest
from tiny import tiny_tokenizer

from retmask.items.floors import candidate_score, majority_answer, shuffled_context, without_context
from retmask.items.item import Item
from retmask.items.packing import pack
from retmask.tasks import TASKS
from retmask.text.chat import Chat

ITEM = Item(
    "t-1", "t", "rag", "t-0", 99, 0.5, "The owl is blue.\n\nThe cat is red and old.", "Which?", ("blue",), ("red",)
)


def test_without_a_context_the_question_is_left() -> None:
    assert without_context(ITEM).message == "Which?"
    assert without_context(ITEM).gold == ITEM.gold


def test_a_shuffled_context_has_the_same_words_in_an_order_of_its_own() -> None:
    shuffled = shuffled_context(ITEM)
    assert sorted(shuffled.context.split(" ")) == sorted(ITEM.context.split(" "))
    assert len(shuffled.context) == len(ITEM.context)
    assert shuffled.context != ITEM.context
    assert shuffled == shuffled_context(ITEM) != shuffled_context(replace(ITEM, cluster="t-2"))
    assert "owl is blue" not in shuffled.context
    assert shuffled.question == ITEM.question


@pytest.mark.parametrize("name", ["rag", "recall_multikey", "summary"])
def test_the_items_of_a_document_share_their_disorder(name: str) -> None:
    first, second = map(shuffled_context, pack(TASKS[name], Chat(tiny_tokenizer()), 12_000, 2))
    assert first.cluster == second.cluster
    both = zip(first.context, second.context, strict=False)
    assert sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both)) > 0.7 * len(first.context)


def test_a_candidate_drawn_blindly() -> None:
    assert candidate_score(ITEM, TASKS["rag"].score) == 0.5
    assert candidate_score(replace(ITEM, distractors=("red", "old", "grey")), TASKS["rag"].score) == 0.25
    assert candidate_score(replace(ITEM, distractors=()), TASKS["rag"].score) is None


def test_the_majority_answer_is_right_most_often() -> None:
    golds = [("two",), ("three",), ("three", "two"), ("three",)]
    assert majority_answer([replace(ITEM, gold=gold) for gold in golds]) == "three"
    assert majority_answer([ITEM, replace(ITEM, gold=("red",))]) == "blue"
