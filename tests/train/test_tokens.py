"""Pairs as tokens: the prompt that was asked, the answer and what ends it, and which pairs teach nothing."""

from datetime import datetime
from typing import Any

import pytest
from tiny import tiny_tokenizer
from trainings import plain

from retmask.train.tokens import Prepared, TokenPair, moment, padding, prepared, split

WHEN = datetime(2026, 1, 31, 14, 5)
CHAT = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '~' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
THINK = CHAT.replace("{{ '[assistant]' }}", "{{ '[assistant]<think>\\n' }}")
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT
ALTERNATE = "{% for m in messages %}{{ raise_exception('roles must alternate') }}{% endfor %}"


def made(rows: list[dict[str, Any]], template: str | None = None, vocabulary: int = 128, **how: Any) -> Prepared:
    return prepared(rows, tiny_tokenizer(template), vocabulary, plain(**{"eval_share": 0.0, **how}), WHEN)


def said(ids: list[int]) -> str:
    return "".join(chr(i) for i in ids)


def row(prompt: str = "2+2?", chosen: str = "4", rejected: str = "5", **more: str) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def chat_row(*roles: str) -> dict[str, Any]:
    prompt = [{"role": role, "content": f"{role}!"} for role in roles]
    return {
        "prompt": prompt,
        **{k: [{"role": "assistant", "content": v}] for k, v in (("chosen", "4"), ("rejected", "5"))},
    }


def test_plain_text_ends_with_the_end_token() -> None:
    (pair,) = made([row()]).train
    assert [said(ids) for ids in pair[1:]] == ["2+2?", "4\x7f", "5\x7f"]


def test_messages_end_as_the_template_ends_a_turn() -> None:
    (pair,) = made([chat_row("user")], CHAT).train
    assert [said(ids) for ids in pair[1:]] == ["[user]user!~[assistant]", "4~", "5~"]


def test_a_thought_that_the_prompt_opens_is_closed_and_trained_behind() -> None:
    """As it was sampled: TRL would drop it from the prompt."""
    (pair,) = made([chat_row("user")], THINK).train
    assert said(pair.prompt) == "[user]user!~[assistant]<think>\n\n</think>\n\n"
    assert said(pair.chosen) == "4~"


def test_a_system_turn_that_the_template_refuses_is_trained_as_it_is_asked() -> None:
    (pair,) = made([chat_row("system", "user")], NO_SYSTEM).train
    assert said(pair.prompt) == "[user]system!\n\nuser!~[assistant]"


def test_roles_that_the_template_refuses_are_a_sentence() -> None:
    with pytest.raises(ValueError, match="the chat template of this model fails on pair a: roles must alternate"):
        made([{**chat_row("user"), "id": "a"}], ALTERNATE)


def test_pairs_that_teach_nothing_are_left_out_before_the_split() -> None:
    """The prompt fills max length (32), or answers differ behind it; a pair that is cut but differs before is used."""
    same = "a" * 30
    rows = [row(chosen=f"4{i}", id=f"good {i}") for i in range(8)]
    rows += [row("x" * 32, id="full"), row(chosen=same + "1", rejected=same + "2"), row("x" * 31, id="cut")]
    found = made(rows, max_length=32, eval_share=0.5)
    assert found.left_out == ("full", "number 10")
    used = {pair.id for pair in (*found.train, *found.held_out)}
    assert used == {"cut", *(f"good {i}" for i in range(8))}
    assert len(found.held_out) == 4
    assert (found.longest, found.cut) == (36, pytest.approx(1 / 9))


def test_the_tokens_of_a_pass_are_those_of_both_sequences_cut_at_max_length() -> None:
    assert made([row(), row()]).tokens == 4 * len("2+2?4.")
    assert made([row("x" * 31), row()], max_length=32).tokens == 2 * 32 + 2 * len("2+2?4.")


def test_a_pair_teaches_where_its_answers_differ() -> None:
    pair = TokenPair("1", [1] * 10, [2, 3, 4], [2, 3, 5])
    assert [pair.teaches(n) for n in (9, 10, 12, 13)] == [False, False, False, True]


def test_an_answer_that_could_not_end_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="has no end token"):
        prepared([row()], tokenizer, 128, plain(), WHEN)
    tokenizer.chat_template = CHAT
    assert prepared([chat_row("user")], tokenizer, 128, plain(), WHEN).train, "the template ends a turn by itself"


def test_conversations_are_not_trained_on_without_a_template() -> None:
    with pytest.raises(ValueError, match="the pairs are conversations and this model has no chat template"):
        made([chat_row("system", "user")])


def test_a_template_that_ends_no_answer_is_said() -> None:
    """An end token, or another control token; a mark that is mere text is none."""
    says = "the chat template writes no end token after an answer"
    (doubt,) = made([chat_row("user")], CHAT).doubts
    assert doubt.startswith(says)
    assert not made([chat_row("user")], CHAT.replace("'~'", "eos_token")).doubts
    tokenizer = tiny_tokenizer(CHAT.replace("'~'", "'<|end|>'"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    assert not prepared([chat_row("user")], tokenizer, 129, plain(eval_share=0.0), WHEN).doubts
    assert not made([row()]).doubts


def test_tokens_that_the_model_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match="makes token 127 and the model knows 100 tokens"):
        made([row()], vocabulary=100)


def test_an_answer_of_two_turns_is_refused() -> None:
    two = {**chat_row("user"), "chosen": chat_row("user", "assistant")["prompt"], "id": "b"}
    with pytest.raises(ValueError, match="pair b: an answer is to be one message"):
        made([two], CHAT)


def test_the_clock_is_that_of_the_pairs() -> None:
    record = {"created": "2026-02-01T00:00:00+00:00", "made_with": {"clock": "2026-01-31T14:05:00"}}
    assert moment(record) == WHEN
    assert moment({**record, "made_with": {}}) == datetime.fromisoformat(record["created"])  # type: ignore[arg-type]


@pytest.mark.parametrize(("pad", "token"), [(125, 125), (None, 0), (125, 0)])
def test_rows_are_filled_up_with_a_token_that_the_model_knows(pad: int | None, token: int) -> None:
    tokenizer = tiny_tokenizer()
    if pad is None:
        tokenizer.pad_token = None
    assert padding(tokenizer, 128 if token else 100) == token


def test_the_split_is_the_same_and_whole() -> None:
    rows = list(range(10))
    kept, held = split(rows, 0.3, 1)
    assert len(held) == 3
    assert sorted(kept + held) == rows
    assert split(rows, 0.3, 1) == (kept, held)
    assert split([1], 0.5, 0) == ([1], [])
