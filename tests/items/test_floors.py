"""The floors: what is left of an item."""

from dataclasses import replace

from retmask.items.floors import majority_answer, shuffled_context, without_context
from retmask.items.item import Item

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
    assert shuffled == shuffled_context(ITEM) != shuffled_context(replace(ITEM, id="t-2"))
    assert "owl is blue" not in shuffled.context
    assert shuffled.question == ITEM.question


def test_the_majority_answer_is_right_most_often() -> None:
    golds = [("two",), ("three",), ("three", "two"), ("three",)]
    assert majority_answer([replace(ITEM, gold=gold) for gold in golds]) == "three"
    assert majority_answer([ITEM, replace(ITEM, gold=("red",))]) == "blue"
