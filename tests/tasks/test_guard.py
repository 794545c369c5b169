"""Guard: every instruction's form is checked by an answer that has it and one that has not; keys are right."""

from random import Random

import pytest
from tiny import tiny_tokenizer

from retmask.items import prose
from retmask.items.packing import pack
from retmask.tasks import TASKS
from retmask.tasks.guard import begins, first_number, follows, likelihood
from retmask.text.chat import Chat

CHAT = Chat(tiny_tokenizer())


def test_every_instruction_can_be_followed_and_broken() -> None:
    items = {item.data["form"]: item for item in pack(TASKS["guard_instructions"], CHAT, 256, 200)}
    assert len(items) == 8
    for item in items.values():
        assert [follows(item, answer) for answer in (*item.gold, *item.distractors, "")] == [1, 0, 0]
    assert follows(items["object"], '```json\n{"name": "Ada", "age": 7}\n```') == 1
    assert follows(items["numbered"], "1. a\n2. b\n3. c\n4. d") == 0


def test_arithmetic_is_right() -> None:
    for item in pack(TASKS["guard_arithmetic"], CHAT, 256, 50):
        assert eval(item.prefix.removesuffix("=")) == int(item.gold[0]) >= 0
        assert item.gold[0] not in item.distractors
        assert first_number(item, f"{item.gold[0]}.") == 1
        assert first_number(item, f"{item.gold[0]}0") == first_number(item, "") == 0


def test_common_knowledge_is_asked_with_a_text_and_without() -> None:
    for name in ("guard_knowledge", "guard_knowledge_alone"):
        for item in pack(TASKS[name], CHAT, 700, 10):
            assert bool(item.context) == (name == "guard_knowledge")
            assert item.gold[0] not in item.distractors
            assert begins(item, f" {item.gold[0].upper()}, as you know") == 1
            assert begins(item, f"not {item.gold[0]}") == 0


def test_the_prose_to_predict_is_in_no_context() -> None:
    contexts = "".join(prose.sentences())
    for item in pack(TASKS["guard_perplexity"], CHAT, 1500, 10):
        assert item.question + item.gold[0] in "\n\n".join(prose.held_out())
        assert item.question not in contexts
        assert item.context.rstrip(".!\n") in contexts
        assert item.plain
    assert likelihood(item, [0.0]) == 1


@pytest.mark.parametrize("seed", range(3))
def test_prose_goes_on_from_a_paragraph_and_round(seed: int) -> None:
    text = "".join(prose.sentences())
    taken = "".join(prose.stretch(Random(seed), 2 * len(text)))
    start = text.index(taken[:200])
    assert start == 0 or text[start - 2 : start] == "\n\n"
    assert taken.startswith((text[start:] + text + text[:start])[: 2 * len(text)])
