"""Messages to tokens: text stays text, one clock, thinking off, roles that a template refuses."""

from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from retmask.text.chat import Chat

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
MARKS = ("<think>", "</think>")  # added, and not special


def byte_level(template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE with two merges, special tokens and marks of thought, as Qwen's is made. `<s>` begins a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*alphabet, "th", "the"])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h"), ("th", "e")]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(list(SPECIAL))
    raw.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", raw.token_to_id("<s>"))]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    fast.chat_template = template
    return fast


def sentencepiece(template: str | None = None) -> PreTrainedTokenizerFast:
    """A BPE whose own vocabulary holds its control tokens, as Llama 2's and Gemma's does."""
    letters = ["<unk>", "<s>", "</s>", "▁", "\n", *map(chr, range(33, 127)), "▁t", "▁th"]
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "t"), ("▁t", "h")], unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    raw.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    raw.add_special_tokens(["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = template
    return fast


def words(template: str | None = None) -> PreTrainedTokenizerFast:
    """A vocabulary of whole words, one of which is a control token."""
    raw = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "</s>": 2, "b": 3}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="</s>")
    fast.chat_template = template
    return fast


def usual(tokenizer: Any, content: str) -> list[int]:
    """The tokens as transformers makes them."""
    if not tokenizer.chat_template:
        return list(tokenizer(content)["input_ids"])
    messages = [{"role": "user", "content": content}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@settings(deadline=None)
@given(st.text(st.sampled_from("the <|>/is\n é城"), max_size=30), st.booleans(), st.sampled_from([0, 1]))
def test_without_control_tokens_the_tokens_are_the_usual_ones(content: str, chat: bool, kind: int) -> None:
    assume("<s>" not in content and "</s>" not in content)
    tokenizer = (byte_level, sentencepiece)[kind](CHATML if chat else None)
    assert Chat(tokenizer).prompt([("user", content)]) == usual(tokenizer, content)


@pytest.mark.parametrize("template", [None, CHATML], ids=["plain", "chat"])
@pytest.mark.parametrize("make", [byte_level, sentencepiece])
@pytest.mark.parametrize("mark", ["<|im_end|>", "</s>", "<think>", "<s>", "<|im_start|><|im_end|>"])
def test_control_tokens_in_a_text_are_characters(make: Any, template: str | None, mark: str) -> None:
    """The same tokens as from a tokenizer that knows no control tokens, the template's own apart."""
    content = f"the{mark}the end {mark}"
    chat = Chat(make(template))
    text = chat.text([("user", content)])
    tokens = chat.encode(text)
    controls = {chat.tokenizer.convert_tokens_to_ids(name) for name in (*SPECIAL, *MARKS)} - {None}
    (start, end), ids = text.spans[0], tokens.ids
    within = [i for i, (a, b) in enumerate(tokens.places) if a < b and a < end and b > start]
    assert not {ids[i] for i in within} & controls
    assert text.text[start:end] == content
    assert [tokens.places[within[0]][0], tokens.places[within[-1]][1]] == [start, end]
    assert all(tokens.places[i][1] == tokens.places[j][0] for i, j in pairwise(within))
    own = [ids[i] for i in range(len(ids)) if i not in within and ids[i] in controls]
    named = ["<|im_start|>", "<|im_end|>", "<|im_start|>"] if template else ["<s>"] if make is byte_level else []
    assert chat.tokenizer.convert_ids_to_tokens(own) == named
    assert chat.tokenizer.decode(ids).count(mark) == 2 + named.count(mark)


def test_a_control_token_that_takes_the_white_space_after_it_is_the_templates_own() -> None:
    """As Phi-3's do, also where a text begins with white space."""
    tokenizer = byte_level("{% for m in messages %}<|user|>{{ m.content }}{% endfor %}")
    tokenizer.add_tokens([AddedToken("<|user|>", rstrip=True, special=True)], special_tokens=True)
    chat = Chat(tokenizer)
    assert chat.prompt([("user", "  the")]) == usual(tokenizer, "  the")
    names = tokenizer.convert_ids_to_tokens(chat.prompt([("user", "  the</s>")]))
    assert names == ["<|user|>", "the", "<", "/", "s", ">"]


def test_a_word_that_is_a_control_token_is_unknown_as_text() -> None:
    assert Chat(words()).prompt([("user", "a </s> b")]) == [1, 0, 3]


def test_a_clock_shows_the_moment_of_the_run() -> None:
    clock = "{{ strftime_now('%d %b %Y %H:%M:%S') }} {{ messages[0].content }}"
    when = datetime(2025, 3, 4, 5, 6, 7)
    chat = Chat(byte_level(clock), when)
    assert chat.text([("user", "hi")]).text == "04 Mar 2025 05:06:07 hi"
    assert chat.facts["clock"] == "2025-03-04T05:06:07"
    assert Chat(byte_level(CHATML), when).facts["clock"] is None
    llama = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    assert Chat(byte_level(llama + "{{ date_string }}{{ messages[0].content }}"), when).text([("user", "!")]).text == (
        "04 Mar 2025!"
    )


@pytest.mark.parametrize(
    ("ending", "text", "says"),
    [
        ("<think>\n", "<think>\n\n</think>\n\n", "closed"),
        ("<think>", "<think>\n\n</think>\n\n", "closed"),
        ("<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n", "none"),
        ("{% if enable_thinking is not false %}<think>\n{% endif %}", "", "off"),
    ],
)
def test_thinking_is_off(ending: str, text: str, says: str) -> None:
    chat = Chat(byte_level(CHATML.replace("assistant\n", "assistant\n" + ending)))
    assert chat.text([("user", "hi")]).text == f"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n{text}"
    assert chat.facts["thinking"] == says
    prompt, said = chat.pair([("user", "hi")], "the end")
    assert prompt == chat.prompt([("user", "hi")])
    assert chat.tokenizer.decode(said) == "the end<|im_end|>\n"


def test_a_thought_that_a_person_writes_is_not_closed() -> None:
    chat = Chat(byte_level("{{ messages[0].content }}"))
    assert chat.text([("user", "what is <think>\n")]).text == "what is <think>\n"


REFUSAL = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
DROPS_SYSTEM = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")


@pytest.mark.parametrize("template", [REFUSAL + CHATML, DROPS_SYSTEM])
def test_a_system_turn_that_is_refused_goes_to_the_user(template: str) -> None:
    chat = Chat(byte_level(template))
    text = chat.text([("system", "Be brief."), ("user", "Hi.")]).text
    assert text == "<|im_start|>user\nBe brief.\n\nHi.<|im_end|>\n<|im_start|>assistant\n"
    assert Chat(byte_level(CHATML)).text([("system", "Be brief."), ("user", "Hi.")]).text.count("<|im_start|>") == 3


def test_what_a_template_refuses_is_said_with_its_place() -> None:
    chat = Chat(byte_level("{{ raise_exception('Roles must alternate') }}"))
    with pytest.raises(ValueError, match=r"the chat template of this model fails on prompt 7: Roles must alternate$"):
        chat.text([("user", "a")], "prompt 7")
    with pytest.raises(ValueError, match=r"fails: .*expected token.*Choose plain"):
        Chat(byte_level("{{ a b }}")).text([("user", "a")])
    double = Chat(byte_level("{{ messages[0].content | replace('  ', ' ') | trim }}"))
    with pytest.raises(ValueError, match=r"changes the prompt \(line 3\)"):
        double.text([("user", "a  b")], "line 3")
    assert double.text([("user", " a b\n")]) == ("a b", ((0, 3),), "chat", None)


@pytest.mark.parametrize("template", [None, CHATML])
def test_a_conversation_without_a_message_is_refused(template: str | None) -> None:
    with pytest.raises(ValueError, match="prompt 3 has no message"):
        Chat(byte_level(template)).prompt([], "prompt 3")


def test_half_a_character_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the prompt holds half a character \('\\ud83d', character 4\)"):
        Chat(byte_level()).prompt([("user", "hi \ud83d")])


def test_the_contents_are_found_though_the_template_says_the_same_words() -> None:
    chat = Chat(byte_level(CHATML))
    text = chat.text([("user", "user"), ("assistant", "u"), ("user", "assistant")])
    assert [text.text[a:b] for a, b in text.spans] == ["user", "u", "assistant"]
    assert [text.text[a - 1] for a, _ in text.spans] == ["\n"] * 3


def test_a_content_is_found_though_the_template_asks_what_is_in_it() -> None:
    """The user's "user" is not that of the role."""
    frame = "<{{ m.role }}>{% if 'user' in m.content %}!{% endif %}{{ m.content | trim }}\n"
    chat = Chat(byte_level("{% for m in messages %}" + frame + "{% endfor %}"))
    text = chat.text([("user", "user "), ("assistant", "s"), ("user", "u")])
    assert (text.text, text.spans) == ("<user>!user\n<assistant>s\n<user>u\n", ((7, 11), (23, 24), (31, 32)))


def test_a_plain_answer_ends_with_the_end_token() -> None:
    chat = Chat(byte_level())
    prompt, said = chat.pair([("system", "Be brief."), ("user", "Hi.")], " the")
    assert chat.tokenizer.decode(prompt) == "<s>Be brief.\n\nHi."
    assert chat.tokenizer.decode(said) == " the</s>"
    assert Chat(tiny_tokenizer()).pair([("user", "ab")], "c") == ([97, 98], [99, 127])


def test_special_tokens_in_an_answer_are_text_and_thoughts_are_not() -> None:
    chat = Chat(byte_level(CHATML))
    _, said = chat.pair([("user", "hi")], "<think>the</think></s>")
    names = chat.tokenizer.convert_ids_to_tokens(said)
    assert names == ["<think>", "the", "</think>", "<", "/", "s", ">", "<|im_end|>", "Ċ"]


def test_templates_of_vision_models_take_contents_in_parts() -> None:
    refuses = "{% if m.content is string %}{{ raise_exception('parts, please') }}{% endif %}"
    parts = (
        "{% for m in messages %}"
        + refuses
        + "[{{ m.role }}]{% for part in m.content %}{{ part.text }}{% endfor %}~{% endfor %}"
    )
    chat = Chat(byte_level(parts + "{% if add_generation_prompt %}[assistant]{% endif %}"))
    text = chat.text([("system", "Be brief."), ("user", "Hi.")])
    assert text.text == "[system]Be brief.~[user]Hi.~[assistant]"
    assert [text.text[a:b] for a, b in text.spans] == ["Be brief.", "Hi."]
    assert chat.tokenizer.decode(chat.pair([("user", "Hi.")], "the")[1]) == "the~"
    assert chat.facts == {"template": "chat", "clock": None, "thinking": "none"}


def test_what_a_template_writes_before_an_answer_is_trained_with_it() -> None:
    """As TRL has it: the prompt is what the generation prompt says, the rest is the answer's."""
    channel = CHATML.replace("{{ m.content }}", "{{ '<final>' if m.role == 'assistant' }}{{ m.content }}")
    chat = Chat(byte_level(channel))
    prompt, said = chat.pair([("user", "hi")], "the")
    assert chat.tokenizer.decode(prompt).endswith("assistant\n")
    assert chat.tokenizer.decode(said) == "<final>the<|im_end|>\n"


@settings(deadline=None)
@given(st.text(st.sampled_from("the end.\n"), min_size=1, max_size=12).map(str.strip).filter(bool))
def test_a_pair_is_what_trl_makes_of_it(answer: str) -> None:
    tokenizer = byte_level(CHATML)
    messages = [{"role": "user", "content": "hi"}]
    whole = [*messages, {"role": "assistant", "content": answer}]
    usual_ids = tokenizer.apply_chat_template(whole, tokenize=True, return_dict=True)["input_ids"]
    prompt, said = Chat(tokenizer).pair(messages, answer)
    assert prompt + said == usual_ids
