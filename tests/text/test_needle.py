"""Prompts: exact in length, the needle where it was put, with any tokenizer."""

import json
from hashlib import sha256
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from retmask.detect.trials import different_prompts
from retmask.text.chat import Chat
from retmask.text.haystack import Haystack, load_haystack, load_prose
from retmask.text.needle import Needle, NeedleTask, load_needles, needle_grid, needles_sha256
from retmask.text.recall import recall

NEEDLE = Needle("The owl of Ulm eats Blue cheese.", "What does the owl of Ulm eat?", "blue cheese")
HAYSTACK = Haystack("test", " ".join(f"This is sentence {n} of many. Is it? It is!" for n in range(400)))
CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[go]"


@settings(deadline=None, max_examples=60)
@given(st.integers(300, 3000), st.floats(0, 1), st.sampled_from([None, CHAT]))
def test_prompt_is_exact(tokens: int, depth: float, template: str | None) -> None:
    """One token a character here, so everything can be seen in the text."""
    prompt = NeedleTask(NEEDLE, tokens, depth).render(tiny_tokenizer(template), HAYSTACK)
    text = "".join(map(chr, prompt.token_ids))
    assert len(text) == tokens - 50
    start, end = prompt.needle_span
    assert text[start:end] == "Blue cheese"
    at = text.index(NEEDLE.needle)
    before, after = text[:at], text[at + len(NEEDLE.needle) :]
    assert before.endswith(("<book>", ". ", "? ", "! "))  # at a sentence boundary, none cut
    assert after.endswith("Question: What does the owl of Ulm eat?\nAnswer:" + ("[go]" if template else ""))
    assert prompt.template == ("chat" if template else "plain")
    haystack = text[text.index("<book>") + 6 : text.index("</book>")].replace(NEEDLE.needle + " ", "")
    assert HAYSTACK.text.startswith(haystack)
    real = (at - text.index("<book>") - 6) / len(haystack)
    assert prompt.char_depth == pytest.approx(real, abs=1e-6)
    # the nearest boundary: sentences have 30 characters, the needle keeps 40 from the cut, which moves by up to 60
    assert abs(real - depth) * len(haystack) <= 130


@pytest.mark.parametrize("joint", ["\n\n", "。", "! "])
def test_depth_is_kept_with_any_sentence_end(joint: str) -> None:
    text = Haystack("test", joint.join(f"verse {n} of many without a stop" for n in range(300)))
    for depth in (0, 0.25, 0.5, 0.75, 1):
        prompt = NeedleTask(NEEDLE, 1500, depth).render(tiny_tokenizer(), text)
        assert abs(prompt.char_depth - depth) < 0.1


def test_depths_that_make_one_prompt_are_asked_once() -> None:
    """Sentences of 213 characters in a haystack of 520: the needle can stand at 0, 213 and 426 alone."""
    long = Haystack("test", " ".join(f"Sentence {n} " + "goes on and on, " * 12 + "and ends." for n in range(20)))
    tasks = [NeedleTask(NEEDLE, 700, depth / 9) for depth in range(10)]
    asked = different_prompts(Chat(tiny_tokenizer()), tasks, long)
    starts = [prompt.needle_span for prompt in asked.values()]
    assert len(starts) == len(set(starts)) == 3
    assert list(asked) == [tasks[0], tasks[2], tasks[6]]
    assert [task.render(tiny_tokenizer(), long) for task in asked] == list(asked.values())
    apart = [NeedleTask(NEEDLE, 2000, depth / 9) for depth in range(10)]
    assert len(different_prompts(Chat(tiny_tokenizer()), apart, HAYSTACK)) == 10


def test_a_haystack_without_sentences_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no sentence end near depth 0\.5"):
        NeedleTask(NEEDLE, 3000, 0.5).render(tiny_tokenizer(), Haystack("test", "word " * 5000))


@pytest.mark.parametrize(
    "sentence",
    [
        "यह वाक्य {n} है। ",
        "هذه الجملة رقم {n} هنا؟ ",
        "یہ جملہ {n} ہے۔ ",
        "นี่คือประโยคที่ ก{n}ข ",
        "ဒါက {n} ပါ။ ",
        "これは{n}番目の文。",
    ],
    ids=["Devanagari", "Arabic", "Urdu", "Thai", "Myanmar", "Japanese"],
)
def test_depth_is_kept_in_other_scripts(sentence: str) -> None:
    text = Haystack("test", "".join(sentence.format(n=n) for n in range(400)))
    for depth in (0, 0.25, 0.5, 0.75, 1):
        prompt = NeedleTask(NEEDLE, 1500, depth).render(tiny_tokenizer(), text)
        assert abs(prompt.char_depth - depth) < 0.06


def test_a_number_and_an_abbreviation_are_no_sentence_end() -> None:
    assert Haystack("test", "It is 3.5 km, see fig.7 there").boundaries == [0]


def test_scored_part_is_a_whole_word_whatever_its_case() -> None:
    assert Needle("Go to Strasse 5 now.", "?", "Straße").scored_chars() == (6, 13, "answer")
    assert Needle("The cart has art in it.", "?", "ART").scored_chars() == (13, 16, "answer")
    assert Needle("The cart is here.", "?", "art").scored_chars() == (0, 17, "needle")
    assert Needle("小林最喜欢在城北公园吃三明治。", "?", "城北公园").scored_chars() == (6, 10, "answer")
    assert Needle("İstanbul'da Ankara var.", "?", "ankara").scored_chars() == (12, 18, "answer")


def test_ten_depths_are_ten_prompts() -> None:
    """The public code put nine of ten at position 0 for most tokenizers."""
    tasks = [NeedleTask(NEEDLE, 2000, i / 9) for i in range(10)]
    spans = [task.render(tiny_tokenizer(), HAYSTACK).needle_span[0] for task in tasks]
    assert spans == sorted(set(spans))


def test_what_is_scored() -> None:
    task = NeedleTask(NEEDLE, 400, 0.5, whole_needle=True)
    prompt = task.render(tiny_tokenizer(), HAYSTACK)
    text = "".join(map(chr, prompt.token_ids))
    assert text[slice(*prompt.needle_span)] == NEEDLE.needle
    assert prompt.scored == "needle"
    paraphrased = Needle(NEEDLE.needle, NEEDLE.question, "cheese that is blue")
    assert NeedleTask(paraphrased, 400, 0.5).render(tiny_tokenizer(), HAYSTACK).scored == "needle"


@pytest.mark.parametrize("template", [None, CHAT])
def test_a_haystack_may_hold_control_tokens(template: str | None) -> None:
    """They are read as characters, and the needle stands where it was put."""
    tokenizer = tiny_tokenizer(template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    text = Haystack("test", HAYSTACK.text.replace("Is it?", "Is <|end|> it?"))
    for depth in (0.0, 0.5, 1.0):
        prompt = NeedleTask(NEEDLE, 800, depth).render(tokenizer, text)
        assert max(prompt.token_ids) < 128  # a token a character, and none of its own
        whole = "".join(map(chr, prompt.token_ids))
        assert len(whole) == 750
        assert "<|end|>" in whole
        assert whole[slice(*prompt.needle_span)] == "Blue cheese"


def test_too_short_a_context_is_refused() -> None:
    with pytest.raises(ValueError, match="are the least"):
        NeedleTask(NEEDLE, 150, 0.5).render(tiny_tokenizer(), HAYSTACK)


def test_a_template_that_fails_or_rewrites_is_refused() -> None:
    with pytest.raises(ValueError, match="chat template of this model fails"):
        NeedleTask(NEEDLE, 400, 0.5).render(tiny_tokenizer("{{ raise_exception('no') }}"), HAYSTACK)
    upper = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(ValueError, match="changes the prompt"):
        NeedleTask(NEEDLE, 400, 0.5).render(tiny_tokenizer(upper), HAYSTACK)


def test_a_short_haystack_is_repeated() -> None:
    short = Haystack("short", "One. Two. Three is longer than the others.")
    prompt = NeedleTask(NEEDLE, 1500, 1).render(tiny_tokenizer(), short)
    assert len(prompt.token_ids) == 1450


@pytest.mark.parametrize(
    ("response", "expected"), [("blue cheese", 1), ("It eats cheeses.", 0.5), ("", 0), ("nothing", 0), ("BLUE!", 0.5)]
)
def test_recall(response: str, expected: float) -> None:
    assert recall("blue cheese", response) == expected


def test_grid_spreads_early() -> None:
    needles = [Needle(f"n{i}", "?", "a") for i in range(3)]
    grid = needle_grid(needles, (1, 2, 3), (0.0, 0.5, 1.0))
    assert sorted(task.key for task in grid) == sorted(product(("n0", "n1", "n2"), (1, 2, 3), (0.0, 0.5, 1.0)))
    for part in range(3):
        assert len({task.key[part] for task in grid[:3]}) == 3


def test_shipped_needles() -> None:
    needles = load_needles()
    assert len(needles) >= 6
    assert all(needle.scored_chars()[2] == "answer" and needle.question.endswith("?") for needle in needles)


def test_published_format_is_read(tmp_path: Path) -> None:
    path = tmp_path / "needles.jsonl"
    path.write_text(json.dumps({"needle": "N b.", "question": "q", "real_needle": "b"}) + "\n\n")
    assert load_needles(path) == [Needle("N b.", "q", "b")]


@pytest.mark.parametrize(
    "text",
    [
        '{"needle": "It is 7391846.", "question": "q", "answer": 7391846}',
        '[{"needle": "It is 7391846.", "question": "q", "answer": "7391846", "name": null}]',
        '{\n "needles": [\n  {\n   "needle": "It is 7391846.",\n "question": "q",\n "answer": "7391846"\n  }\n ]\n}',
        '{\n "needle": "It is 7391846.",\n "question": "q",\n "answer": 7391846\n}',
    ],
    ids=["a number", "a list", "an object with a list", "an indented object"],
)
@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_needles_are_read_as_people_write_them(tmp_path: Path, text: str, coding: str) -> None:
    path = tmp_path / "needles.json"
    path.write_bytes(text.encode(coding))
    assert load_needles(path) == [Needle("It is 7391846.", "q", "7391846")]
    assert load_needles(path)[0].scored_chars() == (6, 13, "answer")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '[{"needle": "a", "retrieval_question": "b"}]',
            "its keys are needle, retrieval_question, and",
        ),
        ('{"needle": "a", "question": "b", "answer": true}', "needle 1: answer is missing or not a text"),
        ('{"needle": "a", "question": "b", "answer": "c \\ud83d"}', r"needle 1: answer holds half a character"),
        ('{"needle": "a", "question": "b", "answer": "?!"}', r"the answer '\?!' holds no word"),
        ('{"needle": "a", "question": "b", "answer": "c"}\n{"needle": ', "needles.json, line 2: not JSON"),
        ("", "is empty"),
        ("[]", "is empty"),
        ("{", "not JSON"),
        ('{"needle": "a", "question": "b"}', "needle 1: answer is missing"),
        ('[{"needle": "a", "question": "b", "answer": "c"}, 3]', "needle 2: not an object"),
        ('[{"needle": "a", "question": " ", "answer": "c"}]', "question is missing"),
        ('{"needle": "a", "question": "b", "answer": "c"}\n' * 2, "one needle twice"),
    ],
)
def test_malformed_needles(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "needles.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        load_needles(path)


def test_haystacks(tmp_path: Path) -> None:
    manual = load_haystack()
    assert len(manual.text) > 50_000
    assert all(manual.text[at - 1].isspace() for at in manual.boundaries[1:])
    (tmp_path / "b.txt").write_text("Second file. " * 50)
    (tmp_path / "a.txt").write_text("First\nfile.\n\nNew paragraph.")
    assert load_haystack(str(tmp_path)).text.startswith("First file.\n\nNew paragraph.\n\nSecond")
    (tmp_path / "C.TXT").write_bytes("Third – «filé». ".encode("utf-16"))
    (tmp_path / "._a.txt").write_bytes(b"\0\5\x16\7 of macOS")
    (tmp_path / "folder.txt").mkdir()
    assert load_haystack(str(tmp_path)).text.startswith("Third – «filé».\n\nFirst file.\n\nNew paragraph.\n\nSecond")
    with pytest.raises(ValueError, match="no haystack folder"):
        load_haystack(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="under 500 characters"):
        load_haystack(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("café ".encode("latin-1") * 200, "d.txt is not a text in UTF-8"),
        ("A sentence. ".encode("utf-16-le") * 100, "d.txt is not a text in UTF-8"),
        (None, "d.txt cannot be read: No such file or directory"),
    ],
    ids=["another encoding", "UTF-16 without a mark", "a link to nothing"],
)
def test_a_haystack_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    (tmp_path / "a.txt").write_text("A sentence. " * 100)
    if content is None:
        (tmp_path / "d.txt").symlink_to(tmp_path / "none")
    else:
        (tmp_path / "d.txt").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        load_haystack(str(tmp_path))


def test_a_byte_order_mark_is_no_text_of_prose(tmp_path: Path) -> None:
    path = tmp_path / "prose.txt"
    path.write_bytes("two words\r\nand more".encode("utf-8-sig"))
    assert load_prose(str(path)) == "two words\nand more"
    with pytest.raises(ValueError, match=r"the name 'a\\udcff' is not in UTF-8"):
        load_prose("a\udcff")


def test_the_hash_of_needles_is_that_of_runs_made_before() -> None:
    """Their runs could not go on with another one."""
    needles = [Needle("The key is red.", "What colour?", "red", "key"), Needle("Two.", "How many?", "2")]
    assert needles_sha256(needles) == sha256(b"The key is red.\tWhat colour?\tred\nTwo.\tHow many?\t2").hexdigest()
