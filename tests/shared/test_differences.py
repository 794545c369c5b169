"""Where two texts differ, as HTML: by hand, and whatever the texts are."""

import re
from html import unescape

import pytest

from app.shared.text import MOST_DRAWN, in_each, in_one, sides

NASTY = "<script>alert(1)</script> & “x”"
TEXTS = ["", " ", "one", "one two", " one\n\ntwo ", NASTY, f"{NASTY} more", "a a a b", "b a a"]


def bare(html: str) -> str:
    """The text of a piece of HTML."""
    return unescape(re.sub(r"<[^>]*>", "", html))


def test_what_only_one_has_is_marked_in_it() -> None:
    first, second = in_each("the blue house", "the red house")
    assert first == 'the <mark class="lost">blue</mark> house'
    assert second == 'the <mark class="added">red</mark> house'


def test_in_one_text_what_was_lost_stands_before_what_was_added() -> None:
    assert in_one("the blue house", "the red house") == (
        '<div class="said">the <del>blue</del> <ins>red</ins> house </div>'
    )


@pytest.mark.parametrize("first", TEXTS)
@pytest.mark.parametrize("second", TEXTS)
def test_the_parts_of_each_text_are_that_text(first: str, second: str) -> None:
    assert tuple("".join(text for _, text in parts) for parts in sides(first, second)) == (first, second)
    assert tuple(map(bare, in_each(first, second))) == (first, second)
    assert "<script>" not in "".join(in_each(first, second)) + in_one(first, second)


def test_texts_with_too_many_of_the_same_words_are_not_compared_and_long_ones_are_cut() -> None:
    first, second = in_each("x " * MOST_DRAWN, "x " * MOST_DRAWN + "y")
    assert "<mark" not in first + second
    assert bare(first).startswith("x " * (MOST_DRAWN // 2))
    assert first.endswith("and 20,000 more characters</span>")
