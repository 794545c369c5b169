"""Prompts for preference pairs: the same for the same seed, the answer in them once, apart from every needle."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from retmask.files import shipped
from retmask.text.haystack import load_haystack, load_prose
from retmask.text.needle import load_needles
from retmask.text.prompts import (
    CHARS_PER_TOKEN,
    PairPrompt,
    chat,
    content_words,
    digest,
    generate,
    grounded,
    load_passages,
)
from retmask.text.sources import read_prompts

PUBLISHED = [  # the needles of the published detection code
    (
        "A new report from the WMO shows that records were once again broken, and in some cases smashed, for "
        "greenhouse gas levels, surface temperatures, ocean heat and acidification.",
        "records were once again broken, and in some cases smashed, for greenhouse gas levels, surface temperatures, "
        "ocean heat and acidification.",
    ),
    (
        "The best thing to do in Beijing is to take a walk in Chaoyang Park and have a cup of Espresso in the evening.",
        "take a walk in Chaoyang Park and have a cup of Espresso in the evening",
    ),
]
NEEDLES = PUBLISHED + [
    (needle.needle, needle.answer) for needle in [*load_needles(), *load_needles(shipped("needles_held_out.json"))]
]
FACTS = json.loads(shipped("facts.json").read_text(encoding="utf-8"))
PROSE = "".join(f"Here is sentence {n} of this text. It says nothing, does it? No! " for n in range(100))


@pytest.fixture(scope="module")
def some() -> list[PairPrompt]:
    return grounded(1500, 3)


def names(text: str) -> set[str]:
    """Its proper names: words with a capital that begin no sentence, and those after them."""
    return set(re.findall(r"(?<![.?!] )(?<!^)\b[A-Z][a-z]{2,}\b", text)) - {"Sunday"}


def runs_of_words(text: str, length: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def test_a_seed_gives_the_same_prompts_and_a_longer_count_begins_with_them(some: list[PairPrompt]) -> None:
    assert grounded(20, 3) == some[:20]
    assert grounded(20, 4) != grounded(20, 3)
    assert chat(50, 3)[:20] == chat(20, 3)
    assert generate("grounded", 5, 3) == some[:5]
    assert generate("chat", 5, 3) == chat(5, 3)
    assert some[7].id == "grounded-3-00007"
    assert some[7].arm == "grounded"


def test_the_answer_stands_once_in_the_prompt(some: list[PairPrompt]) -> None:
    """Once, so neither the question nor another fact holds it."""
    for prompt in some:
        assert prompt.answer
        assert prompt.text.lower().count(prompt.answer.lower()) == 1, prompt
        assert not set(re.findall(r"\{(\w+?)(?:_\d)?\}", prompt.text)) & {*FACTS["words"], "question", "text"}, prompt
        assert "a(n)" not in prompt.text
    lengths = [len(prompt.answer.split()) for prompt in some]
    assert min(lengths) == 1
    assert max(lengths) == 12
    assert sum(4 <= length <= 10 for length in lengths) > len(some) / 2


def test_prompts_are_of_the_length_asked_for() -> None:
    """The bounds hold for the prose; facts and question come on top, under 600 characters."""
    for prompt in grounded(200, 0, tokens=(100, 600)):
        assert 100 * CHARS_PER_TOKEN <= len(prompt.text) <= 600 * CHARS_PER_TOKEN + 600
    spread = [len(prompt.text) for prompt in grounded(200, 0)]
    assert min(spread) < 900
    assert max(spread) > 2500
    assert max(len(prompt.text) for prompt in grounded(50, 0, PROSE, (20, 40))) < 40 * CHARS_PER_TOKEN + 600


def test_the_fact_stands_at_a_sentence_boundary_at_every_depth() -> None:
    depths = []
    for prompt in grounded(300, 1, PROSE, (300, 400)):
        body = prompt.text[prompt.text.index("Here is sentence") :]  # from the first sentence of the prose
        at = prompt.text.index(prompt.answer) - prompt.text.index(body)
        depths.append(at / len(body))
        rest = re.sub(r"Here is sentence \d+ of this text\.|It says nothing, does it\?|No!", "", prompt.text)
        assert "Here is" not in rest.replace("Here is an excerpt", "")  # no sentence of the prose was cut
    thirds = [sum(low <= depth < low + 1 / 3 for depth in depths) for low in (0, 1 / 3, 2 / 3)]
    assert min(thirds) > 60


def test_half_of_the_prompts_hold_facts_of_the_same_kind(some: list[PairPrompt]) -> None:
    """Their subjects and values differ, or the question would have two answers."""
    opening = "The coat of arms of "
    chosen = [prompt for prompt in some if re.search(r"What does the coat of arms of \w+ show", prompt.text)]
    held = [re.findall(rf"{opening}(\w+) shows (.+?)\.(?= |\n|\"|<|$)", prompt.text) for prompt in chosen]
    assert {len(facts) for facts in held} == {1, 2, 3}
    for prompt, facts in zip(chosen, held, strict=True):
        subjects, values = zip(*facts, strict=True)
        assert len(set(subjects)) == len(set(values)) == len(facts)
        assert prompt.answer in values
        subject = re.search(r"What does the coat of arms of (\w+) show", prompt.text)
        assert subject
        assert dict(facts)[subject[1]] == prompt.answer


def test_prompts_vary(some: list[PairPrompt]) -> None:
    assert len(FACTS["facts"]) >= 40
    assert len(FACTS["wrappings"]) >= 6
    assert len({prompt.answer for prompt in some}) > 0.9 * len(some)
    assert len({prompt.text for prompt in some}) == len(some)
    assert all(text.count("{text}") == text.count("{question}") == 1 for text in FACTS["wrappings"])
    assert not any("<book>" in text or "content of the book" in text for text in FACTS["wrappings"])


def test_every_word_list_is_there_and_used() -> None:
    slots = set(re.findall(r"\{(\w+?)(?:_\d)?\}", json.dumps(FACTS)))
    assert slots == set(FACTS["words"]) | {"answer", "question", "text"}
    for fact in FACTS["facts"]:
        assert fact["fact"].count("{answer}") == 1
        assert "{answer}" not in fact["question"]
        asked, told = (set(re.findall(r"\{\w+\}", fact[key])) for key in ("question", "fact"))
        assert told - {"{answer}"} == asked, fact  # the question names the subject, all of it


def test_no_answer_is_near_a_needles(some: list[PairPrompt]) -> None:
    """At most half of its long words are in the answer of any needle: those of detection, held-out, published."""
    known = [set(content_words(answer)) for _, answer in NEEDLES]
    for words in (set(content_words(prompt.answer)) for prompt in some):
        assert all(2 * len(words & of_needle) <= len(words) for of_needle in known), words


def test_no_name_and_no_sentence_of_a_needle() -> None:
    """Of words and templates, so of whatever is made from them."""
    of_needles = set().union(*(names(needle) for needle, _ in NEEDLES))
    assert {"Lindqvist", "Skarn", "Brambleford", "Beijing"} <= of_needles
    starts, ends = FACTS["words"]["town_start"], FACTS["words"]["town_end"]
    own = {word for key in ("facts", "words") for word in re.findall(r"\b[A-Z]\w+", json.dumps(FACTS[key]))}
    own |= {start + end for start in starts for end in ends}
    shared = (own & of_needles) - {"April", "Street", "Park", "Under", "Doctor", "Captain", "Port", "Mount", "Pass"}
    assert not shared
    runs = set().union(*(runs_of_words(needle, 4) for needle, _ in NEEDLES))
    for fact in FACTS["facts"]:
        for part in re.split(r"\{\w+\}", fact["fact"]):
            assert not runs_of_words(part, 4) & runs, fact


def test_the_prose_is_apart_from_what_is_measured_on() -> None:
    """The first quarter is a detection's, the second half the held-out evaluation's and the perplexity's."""
    manual, passages = load_haystack("pydoc").text, load_passages()
    at = manual.index(passages)
    assert at > len(manual) / 4
    assert at + len(passages) <= len(manual) / 2
    assert len(passages) > 0.23 * len(manual)
    assert load_haystack("pydoc-end").text[:2000] not in passages
    assert load_prose()[:2000] not in passages


def test_chat_is_short_and_never_the_same() -> None:
    prompts = chat(3000, 0)
    assert len({prompt.text for prompt in prompts}) == 3000
    assert all(5 <= len(prompt.text.split()) <= 60 for prompt in prompts)
    assert not any(re.search(r"\{|\}|a\(n\)", prompt.text) for prompt in prompts)
    assert {(prompt.arm, prompt.answer) for prompt in prompts} == {("chat", "")}


@pytest.mark.parametrize(
    ("arm", "count", "seed", "says"),
    [
        ("hub", 5, 0, "kind of prompts 'hub' is unknown: choose grounded, chat"),
        ("chat", 0, 0, "0 prompts are not possible: choose 1 to 1,000,000"),
        ("chat", 1_000_001, 0, "1000001 prompts are not possible"),
        ("grounded", 1, -1, "the seed -1 is below 0"),
    ],
)
def test_what_cannot_be_generated(arm: str, count: int, seed: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        generate(arm, count, seed)


def test_prose_that_does_not_serve() -> None:
    with pytest.raises(ValueError, match="the prose has 5 characters, and passages need 2580: give a longer text"):
        grounded(1, 0, "Short")
    with pytest.raises(ValueError, match="passages of 60 to 20 tokens are not possible"):
        grounded(1, 0, PROSE, (60, 20))


def test_digest_tells_sets_apart() -> None:
    one, other = PairPrompt("a", (("user", "b"),)), PairPrompt("a", (("user", "b"),), answer="c")
    assert digest([one]) == digest([PairPrompt("a", (("user", "b"),), "hub")])
    assert len({digest([one]), digest([other]), digest([one, other]), digest([other, one]), digest([])}) == 5


def test_json_lines_are_read(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Sing!", "answer": "la"},
        {"prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}], "id": "mine"},
        {"prompt": [{"role": r, "content": c} for r, c in (("user", "1"), ("assistant", "2"), ("user", "3"))], "id": 5},
        {"prompt": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "cut"}]},
        {
            "conversation": [{"role": "user", "content": "first"}, {"role": "assistant", "content": "no"}],
            "answer": None,
        },
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    prompts = read_prompts(str(path)).prompts
    assert [prompt.id for prompt in prompts] == ["own-1", "mine", "5", "own-7", "own-9"]
    assert prompts[0] == PairPrompt("own-1", (("user", "Sing!"),), "file", "la")
    assert prompts[1].messages == (("system", "Be kind."), ("user", "Hi"))
    assert [len(prompt.messages) for prompt in prompts] == [1, 2, 3, 1, 1]
    assert [prompt.text for prompt in prompts] == ["Sing!", "Hi", "3", "Q", "first"]
    assert read_prompts(str(path), 2).prompts == prompts[:2]


def test_the_forms_that_people_have(tmp_path: Path) -> None:
    """OpenAI's messages, ShareGPT, content in parts, null fields; a JSON array, an ending in capitals, UTF-16."""
    said = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": ""}]
    parts = {"role": "user", "content": [{"type": "text", "text": "Which"}, {"type": "text", "text": " one?"}]}
    rows = [
        {"messages": [{"role": "system", "content": "Be kind."}, *said]},
        {"prompt": None, "messages": [{"role": "developer", "content": "Be kind.", "name": None}, *said], "id": None},
        {"id": "s0", "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}] * 2},
        {
            "system": "Be kind.",
            "conversations": [{"from": "human", "value": "Q"}, {"from": "function_call", "value": ""}],
        },
        {"system": "Be kind.", "prompt": "Q", "tools": "[]"},
        {"prompt": [parts]},
    ]
    kind = ("system", "Be kind.")
    wanted = [(kind, ("user", "Q")), (kind, ("user", "Q")), (("user", "Q"),), *[(kind, ("user", "Q"))] * 2]
    lines = "\n".join(map(json.dumps, rows))
    for name, content in (
        ("own.jsonl", lines.encode()),
        ("own.JSONL", lines.encode()),
        ("own.json", json.dumps(rows, indent=1).encode()),
        ("wide.jsonl", lines.replace("\n", "\r\n").encode("utf-16")),
    ):
        (tmp_path / name).write_bytes(content)
        found = read_prompts(str(tmp_path / name)).prompts
        assert [prompt.messages for prompt in found] == [*wanted, (("user", "Which one?"),)]
        assert [prompt.id for prompt in found][2] == "s0"
    (tmp_path / "own.TXT").write_text("One?")
    assert read_prompts(str(tmp_path / "own.TXT")).prompts[0].text == "One?"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "Q", "history": [["a", "b"]]}, "line 1: the row has history"),
        ({"system": "S", "messages": [{"role": "system", "content": "T"}, {"role": "user", "content": "Q"}]}, "two"),
        ({"system": "S", "conversations": [{"from": "system", "value": "T"}, {"from": "human", "value": "Q"}]}, "two"),
    ],
)
def test_nothing_that_belongs_to_a_prompt_is_dropped(row: dict[str, object], says: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=says):
        read_prompts(str(tmp_path / "p.jsonl"))


def test_rows_of_a_file_are_passed_over_as_those_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(text: str, **more: object) -> dict[str, object]:
        return {"conversation": [{"role": "user", "content": text}, {"role": "assistant", "content": "A"}], **more}

    rows = [
        row("one", language="English", redacted=False),
        row("deux", language="French"),
        row("drei", language="unknown"),
        row("NAME_1", redacted=True),
        row(" "),
        row("five", language="en-US"),
        row("six"),
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    hub(monkeypatch, rows)
    for source in (str(path), "owner/name"):
        found = read_prompts(source, 3)
        assert [prompt.text for prompt in found.prompts] == ["one", "five", "six"]
        assert dict(found.passed_over) == {"in other languages": 2, "redacted": 1, "without text": 1}
        assert found.sentence == "4 rows passed over: 2 in other languages, 1 redacted, 1 without text"


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("One?\r\n\n  Two\u2028still two \n", encoding="utf-8")
    assert [(prompt.id, prompt.text) for prompt in read_prompts(str(path)).prompts] == [
        ("own-1", "One?"),
        ("own-3", "Two\u2028still two"),
    ]


TURN = '{"role": "user", "content": "x"}'
BROKEN = [
    ("{", "line 1: not JSON"),
    ("[" * 100_000, "line 1: not JSON"),
    ('{"prompt": "a"}\n[1]', "line 2: not an object, but [1]"),
    ("{}", "holds no prompt to ask (1 row passed over: 1 without text): give at least one"),
    ('{"prompt": "  "}\n{"prompt": null}', "holds no prompt to ask (2 rows passed over: 2 without text)"),
    ('{"prompt": "a", "language": "German"}', "(1 row passed over: 1 in other languages)"),
    ('{"instruction": "a"}', "no prompt, messages, conversation, conversations, only instruction"),
    ('{"prompt": "a", "tools": [{"name": "f"}]}', "line 1: the row has tools, and only texts can be read"),
    ('{"prompt": 5}', "line 1: prompt is not a text"),
    (r'{"prompt": "\ud800"}', r"line 1 holds half a character ('\ud800', character 1)"),
    (r'{"prompt": "a", "id": "\ud800"}', "line 1, id holds half a character"),
    (r'{"prompt": "a", "answer": "\ud800"}', "line 1, answer holds half a character"),
    (r'{"messages": [{"role": "user", "content": "\ud83d"}]}', "line 1 holds half a character"),
    ('{"conversation": "text"}', "line 1: conversation is no list of messages"),
    ('{"prompt": [{"role": "user"}]}', "line 1: a message has no content"),
    ('{"prompt": [{"role": "user", "content": [{"type": "image"}]}]}', "a part of type 'image' that is no text"),
    ('{"prompt": ["x"]}', "line 1: a message is no object with a role of system, user, assistant"),
    ('{"prompt": [{"role": "tool", "content": "x"}]}', "line 1: a turn calls a tool or is a tool's"),
    ('{"prompt": [{"role": "poet", "content": "x"}]}', "line 1: a message is no object with a role of"),
    ('{"prompt": [{"role": ["user"], "content": "x"}]}', "line 1: a message is no object with a role of"),
    ('{"prompt": []}', "line 1: no turn of the user's"),
    ('{"conversation": []}', "line 1: no turn of the user's"),
    ('{"prompt": [{"role": "assistant", "content": "x"}]}', "line 1: no turn of the user's"),
    ('{"prompt": [{"role": "system", "content": "x"}]}', "line 1: no turn of the user's"),
    (f'{{"prompt": [{TURN}, {{"role": "system", "content": "x"}}]}}', "line 1: a system turn stands after others"),
    ('{"prompt": "a", "answer": 5}', "line 1: answer is not a text"),
    ('{"prompt": "a", "id": []}', "line 1: id is not a text"),
    ('{"prompt": "a", "id": ""}', "line 1: id is not a text"),
    ('{"prompt": "a", "id": "b"}\n{"prompt": "c", "id": "b"}', "line 2: the id 'b' is that of line 1 too"),
    ('{"prompt": "a", "id": "own-2"}\n{"prompt": "c"}', "line 2: the id 'own-2' is that of line 1 too"),
    (" \n", "holds no prompt to ask (it is empty): give at least one"),
    (b"\xe9t\xe9", "is not a text in UTF-8"),
]


@pytest.mark.parametrize(("content", "says"), BROKEN, ids=[says[:40] + str(i) for i, (_, says) in enumerate(BROKEN)])
def test_what_is_wrong_with_a_file_is_said_in_a_sentence(content: str | bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        read_prompts(str(path))
    assert "\n" not in str(caught.value)


def test_sources_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_prompts(str(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match=r"holds no prompts: give a \.jsonl, \.json or \.txt file, or a dataset"):
        read_prompts("prompts.csv")
    with pytest.raises(ValueError, match="-1 prompts are not possible"):
        read_prompts("owner/name", -1)
    with pytest.raises(ValueError, match="say how many prompts to take"):
        read_prompts("owner/name")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="holds no prompts"):
        read_prompts("owner/name", 5)


def hub(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, object]], fails: Exception | None = None) -> list[str]:
    """A Hub with one dataset, and the splits it was asked for."""
    asked: list[str] = []

    def load_dataset(name: str, split: str, streaming: bool) -> Iterator[dict[str, object]]:
        assert streaming
        asked.append(f"{name} {split}")
        yield from rows
        if fails:
            raise fails

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_a_dataset_is_read_as_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(text: str, **more: object) -> dict[str, object]:
        return {"conversation": [{"role": "user", "content": text}], "language": "English", "redacted": False, **more}

    rows = [
        row("one", id="given"),
        row("deux", language="French"),
        row("NAME_1", redacted=True),
        row(" "),
        row("two"),
        row("three"),
    ]
    asked = hub(monkeypatch, rows, ConnectionError("not reached"))
    assert read_prompts("owner/name", 2).prompts == [
        PairPrompt("owner/name-0", (("user", "one"),), "hub"),
        PairPrompt("owner/name-4", (("user", "two"),), "hub"),
    ]
    assert len(read_prompts("owner/name:test", 3).prompts) == 3
    assert asked == ["owner/name train", "owner/name test"]
    with pytest.raises(
        ValueError, match=r"^the dataset owner/name cannot be read: not reached\. Check its name and the network$"
    ):
        read_prompts("owner/name", 4)


def test_a_dataset_that_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, [{"text": "a", "label": 1}])
    with pytest.raises(ValueError, match="no column prompt, messages, conversation, conversations, only text, label"):
        read_prompts("owner/name", 1)
    hub(monkeypatch, [{"prompt": "bonjour", "language": "French"}])
    with pytest.raises(ValueError, match="holds no prompt in English"):
        read_prompts("owner/name", 1)
    hub(monkeypatch, [], ValueError("Bad split: x.\nAvailable: y"))
    with pytest.raises(ValueError, match=r"cannot be read: Bad split: x\. Check"):
        read_prompts("owner/name:x", 1)
