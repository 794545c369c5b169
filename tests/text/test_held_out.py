"""The held-out needles: asked fairly, and nothing that the first needles give away."""

import re

import pytest

from retmask.files import shipped
from retmask.text.needle import Needle, load_needles
from retmask.text.recall import recall

FIRST, HELD_OUT = load_needles(), load_needles(shipped("needles_held_out.json"))


def long_words(text: str) -> set[str]:
    """The words of six letters and more: the function words are shorter."""
    return set(re.findall(r"[a-z]{6,}", text.lower()))


def names(text: str) -> set[str]:
    """The capitalised words that do not begin a sentence: people and places."""
    return set(re.findall(r"(?<=[a-z,] )[A-Z]\w+", text))


@pytest.mark.parametrize("needle", HELD_OUT, ids=lambda needle: needle.name)
def test_the_needle_holds_the_answer_and_the_question_does_not(needle: Needle) -> None:
    assert needle.answer in needle.needle
    assert needle.scored_chars()[2] == "answer"
    assert needle.answer.lower() not in needle.question.lower()
    assert recall(needle.answer, needle.question) < 0.5
    assert needle.needle.endswith(".")
    assert needle.question.endswith("?")


@pytest.mark.parametrize("needle", HELD_OUT, ids=lambda needle: needle.name)
def test_needles_are_plain_and_of_one_length(needle: Needle) -> None:
    assert (needle.needle + needle.question).isascii()
    assert 18 <= len(needle.needle.split()) <= 30
    assert 4 <= len(needle.answer.split()) <= 12


def test_nothing_is_shared_with_the_first_needles() -> None:
    for field in ("name", "needle", "question", "answer"):
        assert not {getattr(one, field) for one in FIRST} & {getattr(one, field) for one in HELD_OUT}
    first, held_out = (" ".join(one.answer for one in needles) for needles in (FIRST, HELD_OUT))
    assert not long_words(first) & long_words(held_out)
    first, held_out = (" ".join(one.needle for one in needles) for needles in (FIRST, HELD_OUT))
    assert not names(first) & names(held_out)


def test_each_held_out_needle_stands_alone() -> None:
    assert len(HELD_OUT) == 24
    for field in ("name", "needle", "question", "answer"):
        assert len({getattr(one, field) for one in HELD_OUT}) == 24
    for one in HELD_OUT:  # to say another needle instead does not count as found, which needs more than 0.5
        others = [other for other in (*FIRST, *HELD_OUT) if other != one]
        assert max(recall(one.answer, other.needle) for other in others) <= 0.5
