"""Prompts: exact in length, the needle where it was put, with any tokenizer."""

import json
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from retmask.needle import Haystack, Needle, NeedleTask, load_haystack, load_needles, needle_grid
from retmask.recall import recall

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


def test_a_haystack_without_sentences_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no sentence end near depth 0\.5"):
        NeedleTask(NEEDLE, 3000, 0.5).render(tiny_tokenizer(), Haystack("test", "word " * 5000))


def test_scored_part_is_a_whole_word_whatever_its_case() -> None:
    assert Needle("Go to Strasse 5 now.", "?", "Straße").scored_chars() == (6, 13, "answer")
    assert Needle("The cart has art in it.", "?", "ART").scored_chars() == (13, 16, "answer")
    assert Needle("The cart is here.", "?", "art").scored_chars() == (0, 17, "needle")


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
    ("text", "says"),
    [
        ("", "is empty"),
        ("[]", "is empty"),
        ("{", "is not JSON"),
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
    with pytest.raises(ValueError, match="no haystack folder"):
        load_haystack(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="under 500 characters"):
        load_haystack(str(tmp_path / "empty"))
