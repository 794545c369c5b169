"""What an evaluation asks is in nothing that detection or pair generation asks, and the other way round."""

import pytest
from tiny import tiny_tokenizer

from retmask.files import shipped
from retmask.items import prose
from retmask.items.item import Item
from retmask.items.packing import pack
from retmask.tasks import TASKS
from retmask.text import prompts
from retmask.text.chat import Chat
from retmask.text.haystack import Haystack, load_haystack, load_prose
from retmask.text.needle import load_needles

NEEDLES = [*load_needles(), *load_needles(shipped("needles_held_out.json"))]
DETECTION = "\n".join([*(f"{needle.needle}\n{needle.question}" for needle in NEEDLES), load_haystack().text])
FACTS = shipped("facts.json").read_text(encoding="utf-8").casefold()


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return [item for task in TASKS.values() for item in pack(task, Chat(tiny_tokenizer()), 6000, 2)]


def planted(items: list[Item]) -> set[str]:
    """What is hidden in contexts, and what is asked."""
    hidden = {item.context[start:end] for item in items for start, end in (*item.planted, *item.others)}
    return hidden | {item.question for item in items}


def test_detection_hides_nothing_of_it(items: list[Item]) -> None:
    assert [text for text in planted(items) if text in DETECTION] == []
    for needle in NEEDLES:
        for item in items:
            assert needle.needle not in item.message
            assert needle.question not in item.message
            assert needle.answer.casefold() not in item.message.casefold()


@pytest.mark.parametrize("arm", ["grounded", "chat"])
def test_no_pair_asks_it(arm: str, items: list[Item]) -> None:
    pairs = prompts.generate(arm, 400, 0)
    asked = "\n".join(pair.text for pair in pairs)
    assert [text for text in planted(items) if text in asked] == []
    facts = {pair.answer for pair in pairs} - {""}
    assert [answer for answer in facts for item in items if len(answer.split()) > 2 and answer in item.message] == []


def test_no_fact_of_the_pairs_is_of_its_kind() -> None:
    """The words that recall's facts are made of are in none of the lists that pairs are filled from."""
    assert "locker" not in FACTS
    assert not {f" {key} " for key in _keys() if f" {key} " in FACTS}


def _keys() -> list[str]:
    from random import Random

    from retmask.tasks.recall import keys

    return keys(Random(0), 144)


def test_the_prose_is_another_text() -> None:
    manual = Haystack("all", load_haystack().text + "\n\n" + load_prose())
    other = {manual.text[a:b].strip() for a, b in zip(manual.boundaries, manual.boundaries[1:], strict=False)}
    own = {sentence.strip() for sentence in [*prose.sentences(), *prose.held_out()]}
    assert {sentence for sentence in own & other if len(sentence) > 30} == set()


def test_the_prose_is_prose() -> None:
    paragraphs = "".join(prose.sentences()).strip().split("\n\n") + prose.held_out()
    assert sum(map(len, paragraphs)) > 800_000
    assert all("\n" not in paragraph and paragraph.isascii() for paragraph in paragraphs)
    assert all(paragraph.rstrip("\"')")[-1] in ".!?" for paragraph in paragraphs)
    assert not any(word in "".join(paragraphs).casefold() for word in ("gutenberg", "copyright", "http", "chapter i"))
