"""Preference pairs by hand: the files and a person's review."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answers import GOOD, said
from datasets import load_dataset
from trl import extract_prompt

from retmask.files import append_line
from retmask.pairs.files import doubts, llama_factory, llama_factory_text, pairs_file, read_rows
from retmask.pairs.pair import ITEMS, read_items, write_pairs
from retmask.pairs.review import decide, new_version, read_review
from retmask.runs.run import Run


@pytest.mark.parametrize("chat", [True, False])
def test_the_file_is_what_datasets_and_trl_read(chat: bool, tmp_path: Path) -> None:
    path = write_pairs(tmp_path, [GOOD, replace(GOOD, id="b")], chat, "tiny")
    table = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert {"prompt", "chosen", "rejected"} <= set(table.column_names)
    assert len(table) == 2
    rows = read_rows(path)
    assert rows == [GOOD.row(chat, "tiny"), replace(GOOD, id="b").row(chat, "tiny")]
    if chat:
        assert rows[0]["chosen"] == [{"role": "assistant", "content": "The key is in the blue jar."}]
    else:
        assert rows[0]["prompt"] == GOOD.messages[0][1]


def test_llama_factorys_format() -> None:
    pair = replace(GOOD, messages=(("system", "Be brief."), *GOOD.messages))
    assert llama_factory([pair.row(True)]) == [
        {
            "conversations": [{"from": "human", "value": GOOD.messages[0][1]}],
            "chosen": {"from": "gpt", "value": GOOD.chosen.text},
            "rejected": {"from": "gpt", "value": GOOD.rejected.text},
            "system": "Be brief.",
        }
    ]
    assert llama_factory([GOOD.row(False)])[0]["conversations"][0]["value"] == GOOD.messages[0][1]


ROW = json.dumps(GOOD.row(True))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        (f"{ROW}\n{{'prompt'\n", "line 2: not JSON"),
        (f"{ROW}\n[1]\n", "line 2: not an object"),
        ('{"prompt": "p", "chosen": "c"}', "line 1: rejected is missing"),
        ('{"prompt": "p", "chosen": "c", "rejected": " "}', "line 1: rejected is missing, empty"),
        ('{"prompt": "p", "chosen": "c", "rejected": ["r"]}', "line 1: rejected is missing"),
        ('{"prompt": [{"role": "user", "content": "p"}], "chosen": "c", "rejected": "r"}', "all texts or all messages"),
        (f'{ROW}\n{{"prompt": "p", "chosen": "c", "rejected": "r"}}', "mixes prompts as text and as messages"),
    ],
)
def test_what_is_no_pairs_file(content: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=says):
        read_rows(path)


USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
OTHER = {**ANSWER, "content": "B"}

MESSAGES = {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]}
HUMAN = "\n\nHuman: Q\n\nAssistant:"
PARTS = [[{**one, "content": [{"type": "text", "text": one["content"]}]}] for one in (USER, ANSWER, OTHER)]


@pytest.mark.parametrize(
    ("row", "read"),
    [
        ({"chosen": [USER, ANSWER], "rejected": [USER, OTHER], "score_chosen": 8.0}, MESSAGES),
        ({"prompt": None, "chosen": [USER, ANSWER], "rejected": [USER, OTHER], "tools": None}, MESSAGES),
        ({"prompt": "Q", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, MESSAGES),
        ({"prompt": "Q", "chosen": [ANSWER], "rejected": OTHER}, MESSAGES),
        ({"prompt": [{**USER, "tool_calls": None}], "chosen": [ANSWER], "rejected": [OTHER]}, MESSAGES),
        (dict(zip(("prompt", "chosen", "rejected"), PARTS, strict=True)), MESSAGES),
        ({"messages": [USER], "chosen": ANSWER, "rejected": OTHER}, MESSAGES),
        ({"messages": [USER], "system": " ", "history": [], "chosen": ANSWER, "rejected": OTHER}, MESSAGES),
        ({**MESSAGES, "tools": [], "chat_template_kwargs": {"enable_thinking": False, "python_tools": None}}, MESSAGES),
        ({**MESSAGES, "system": "S"}, {**MESSAGES, "prompt": [{"role": "system", "content": "S"}, USER]}),
        (
            {
                "conversations": [{"from": "human", "value": "Q"}],
                "chosen": {"from": "gpt", "value": "A"},
                "rejected": {"from": "gpt", "value": "B"},
            },
            MESSAGES,
        ),
        (
            {"chosen": HUMAN + " Spruce", "rejected": HUMAN + " Spring"},
            {"prompt": HUMAN, "chosen": " Spruce", "rejected": " Spring"},
        ),
        (
            {"chosen": "The sky is blue.", "rejected": "The sky is green."},
            {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        ),
    ],
)
def test_the_forms_that_people_have(row: dict[str, Any], read: dict[str, Any], tmp_path: Path) -> None:
    files = {"p.jsonl": json.dumps(row), "p.JSONL": json.dumps(row), "p.json": json.dumps([row, row], indent=2)}
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-16" if name == "p.JSONL" else "utf-8")
        assert read_rows(tmp_path / name)[-1] == read


def test_an_implicit_prompt_is_that_of_trl(tmp_path: Path) -> None:
    """But for answers that begin alike: TRL takes their beginning into the prompt."""
    for chosen, rejected in (("The sky is blue.", "The sky is green."), (HUMAN + " A", HUMAN + " B")):
        row = {"chosen": chosen, "rejected": rejected}
        (tmp_path / "pairs.jsonl").write_text(json.dumps(row))
        assert read_rows(tmp_path / "pairs.jsonl") == [extract_prompt(row)]


def test_what_is_exported_is_read_again(tmp_path: Path) -> None:
    system = replace(GOOD, messages=(("system", "Be brief."), *GOOD.messages))
    (tmp_path / "llama_factory.json").write_text(llama_factory_text([system.row(True), GOOD.row(True)]))
    rows = [{name: pair.row(True)[name] for name in ("prompt", "chosen", "rejected")} for pair in (system, GOOD)]
    assert read_rows(tmp_path / "llama_factory.json") == rows


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**MESSAGES, "chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, "line 1: chosen begins with the prompt"),
        ({**MESSAGES, "rejected": [{**USER, "content": "B"}]}, "line 1: rejected ends with a turn of the user's"),
        ({**MESSAGES, "prompt": [USER, ANSWER]}, "line 1: the prompt ends with a turn of the assistant's"),
        ({**MESSAGES, "chosen": [ANSWER, {**USER, "content": "?"}, OTHER]}, "line 1: chosen has 3 turns after the"),
        ({"chosen": [USER, ANSWER], "rejected": [OTHER]}, "line 1: there is no prompt, and chosen and rejected do not"),
        ({"chosen": "same", "rejected": "same"}, "line 1: there is no prompt, and chosen and rejected do not begin"),
        ({"chosen": "A", "rejected": "B"}, "prompt would be empty"),
        ({"messages": [USER], "chosen": ANSWER, "rejected": OTHER, "history": [["a", "b"]]}, "the row has history"),
        ({**MESSAGES, "images": ["a.png"]}, "line 1: the row has images"),
        ({**MESSAGES, "prompt": [{"role": "system", "content": "T"}, USER], "system": "S"}, "two system turns"),
        (
            {
                "messages": [{"role": "system", "content": "T"}, USER],
                "system": "S",
                "chosen": ANSWER,
                "rejected": OTHER,
            },
            "there are two system turns, in the row and in its messages",
        ),
        ({"input": "Q", "output": "A"}, "line 1: chosen is missing; there is only input, output"),
        ({**MESSAGES, "prompt": [USER, {"role": "assistant", "content": None, "tool_calls": [{}]}]}, "calls a tool"),
        ({**MESSAGES, "prompt": [USER, {"role": "tool", "content": "4"}]}, "line 1, prompt: a turn calls a tool"),
        ({**MESSAGES, "prompt": [{**USER, "content": [{"type": "image"}]}]}, "a part of type 'image' that is no text"),
        ({**MESSAGES, "tools": [{"name": "f"}]}, "line 1: the row has tools, and only texts can be read"),
        ({**MESSAGES, "chat_template_kwargs": {"enable_thinking": True}}, "the row has chat_template_kwargs, and only"),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "system": "S"}, "line 1: system stands beside no list of"),
        ({"chosen": [USER, ANSWER], "rejected": [USER, OTHER], "system": "S"}, "line 1: system stands beside no list"),
        ({"prompt": "P", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, "line 1: prompt is none of the turns"),
        ({"prompt": "p", "chosen": "c", "rejected": "six \ud83d"}, r"line 1, rejected holds half a character"),
        ({**MESSAGES, "prompt": [{**USER, "content": "\ud83d"}]}, r"line 1, prompt holds half a character"),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "id": "\ud83d"}, r"line 1, id holds half a character"),
    ],
)
def test_a_row_that_is_no_pair_is_named_with_its_fault(row: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=says) as caught:
        read_rows(tmp_path / "p.jsonl")
    assert "\n" not in str(caught.value)


def test_identical_and_repeated_pairs_are_said() -> None:
    one, other = ({"prompt": name, "chosen": "c", "rejected": "r"} for name in "pq")
    assert doubts([one, other], [{**one, "prompt": "s"}]) == []
    said = doubts([one, one, {**other, "rejected": "c"}], [one, {**one, "prompt": "s"}])
    assert said == [
        "1 pair has the same answer as chosen and as rejected, which teaches nothing",
        "2 of the 5 pairs are repetitions of another",
        "1 of the 2 pairs held out have a prompt that is also trained on: what is measured on them says little",
    ]


def test_half_a_character_in_a_folder_from_elsewhere_is_no_pair(made: Run) -> None:
    half = json.dumps({"number": 3, **replace(GOOD, id="d", chosen=said("half \ud83d")).to_json()})
    with (made.path / ITEMS).open("a") as file:
        file.write(half + "\n")
    assert [pair.id for pair in read_items(made.path)] == ["a", "b", "c"]
    assert new_version(made, []).record["kept"] == 2


def test_an_edit_that_no_file_can_hold_is_refused(made: Run) -> None:
    with pytest.raises(ValueError, match="the edited text holds half a character"):
        decide(made.path, "a", edit=["fine", "half \ud83d"])
    assert read_review(made.path).edits == {}


@pytest.mark.parametrize("name", ["nowhere", "../up", "no/where.jsonl"])
def test_pairs_that_are_not_there(name: str, fresh_home: Path) -> None:
    with pytest.raises(ValueError, match=r"no pairs at|is not a run name"):
        pairs_file(name)


@pytest.fixture
def made(fresh_home: Path) -> Run:
    """A run with three pairs, of which the gate lets two through."""
    run = Run.create("pairs", {"model": "tiny", "allow": []}, name="tiny")
    wrong = replace(GOOD, id="c", chosen=said("I do not know that at all."))
    for number, pair in enumerate([GOOD, replace(GOOD, id="b"), wrong]):
        append_line(run.path / ITEMS, {"number": number, **pair.to_json()})
    run.update(status="success", model="tiny", chat=True)
    return run


def test_items_come_back_once_and_in_order(made: Run) -> None:
    append_line(made.path / ITEMS, {"number": 0, **replace(GOOD, answer="another").to_json()})
    with (made.path / ITEMS).open("a") as file:
        file.write('{"id": "cut short by a cra')
    assert [pair.id for pair in read_items(made.path)] == ["a", "b", "c"]
    assert read_items(made.path)[0] == GOOD


def test_a_review_is_a_version_with_its_parent(made: Run) -> None:
    decide(made.path, "a", verdict="drop")
    decide(made.path, "c", verdict="keep")
    decide(made.path, "b", verdict="drop")
    decide(made.path, "b", verdict=None)  # undone
    decide(made.path, "c", edit=["In the blue jar.", "No idea."])
    review = read_review(made.path)
    assert review.verdicts == {"a": "drop", "c": "keep"}
    version = new_version(made, [])
    assert version.parents == [made.id]
    assert version.status == "success"
    rows = read_rows(version.path / "pairs.jsonl")
    assert [row["id"] for row in rows] == ["b", "c"]
    assert rows[1]["chosen"][0]["content"] == "In the blue jar."
    assert [pair.id for pair in read_items(made.path)] == ["a", "b", "c"], "the first set is as it was"
    again = new_version(version, version.record["config"]["allow"])
    assert [row["id"] for row in read_rows(again.path / "pairs.jsonl")] == ["b", "c"], "what a person kept stays"


def test_a_review_that_drops_all_makes_nothing(made: Run) -> None:
    for name in "abc":
        decide(made.path, name, verdict="drop")
    with pytest.raises(ValueError, match="no pair is left"):
        new_version(made, [])
    assert [run.id for run in Run.all()] == [made.id]
