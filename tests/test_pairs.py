"""Preference pairs by hand: the gate, the statistics, the files, a person's review."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import load_dataset

from retmask.files import append_line
from retmask.pairs import (
    ITEMS,
    RULES,
    PreferencePair,
    Said,
    check_rules,
    decide,
    faults,
    gate_counts,
    llama_factory,
    loops,
    new_version,
    pairs_file,
    read_items,
    read_review,
    read_rows,
    statistics,
    write_pairs,
)
from retmask.recall import contains
from retmask.runs import Run

GOOD = PreferencePair(
    "a",
    (("user", "Where is the key? The key is in the blue jar."),),
    Said("The key is in the blue jar.", 8, "stop"),
    Said("The key is on a shelf, I think.", 9, "stop"),
    "grounded",
    "the blue jar",
    12,
    4,
)


def said(text: str, tokens: int = 8, ended: str = "stop") -> Said:
    return Said(text, tokens, ended)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pair", "found"),
    [
        (GOOD, []),
        (replace(GOOD, answer="", rejected=GOOD.chosen), ["identical"]),
        (replace(GOOD, answer="", rejected=said(" ")), ["empty", "ratio"]),
        (replace(GOOD, chosen=said(GOOD.chosen.text, 64, "length")), ["cut"]),
        (replace(GOOD, rejected=said("on and on and on and on and on")), ["repetition"]),
        (replace(GOOD, rejected=said("No.")), ["ratio"]),
        (replace(GOOD, chosen=said("The key is in a blue box somewhere.")), ["chosen-wrong"]),
        (replace(GOOD, rejected=said("It is in THE  blue, jar!")), ["rejected-right"]),
    ],
)
def test_the_gate(pair: PreferencePair, found: list[str]) -> None:
    assert faults(pair) == found
    assert faults(pair, found) == []
    assert gate_counts([pair]) == {name: int(name in found) for name in RULES}


def test_an_unknown_rule() -> None:
    with pytest.raises(ValueError, match="'cutt' is no rule of the gate: choose from identical"):
        check_rules(["cut", "cutt"])


def test_an_answer_is_found_as_words() -> None:
    assert contains("She keeps it in a Hollow brass-owl.", "a hollow brass owl")
    assert not contains("It rhymes with carton.", "art")


@pytest.mark.parametrize(
    ("text", "round_and_round"),
    [
        ("no no no no", True),
        ("no no no", False),
        ("a long way " * 4, True),
        ("He came, he saw, he went, he slept.", False),
        ("", False),
    ],
)
def test_loops(text: str, round_and_round: bool) -> None:
    assert loops(text) == round_and_round


def test_statistics_by_hand() -> None:
    long = replace(GOOD, id="b", chosen=said("x", 30), rejected=said("y", 10), diverged=0)
    found = statistics([GOOD, long], max_length=21)
    assert found is not None
    assert (found.pairs, found.prompt, found.chosen, found.rejected) == (2, 12, 19, 9.5)
    assert (found.bias, found.longer, found.diverged, found.longest) == (9.5, 0.5, 2, 42)
    # of GOOD 20 and 21 tokens fit into 21; of the other 42 loses 21 and 22 loses 1, of 8 + 9 + 30 + 10 said tokens
    assert found.cut_pairs == 0.5
    assert found.cut_tokens == pytest.approx(22 / 57)
    assert statistics([]) is None


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
