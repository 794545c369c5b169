"""An evaluation of one's own items on a tiny model: killed and taken up again, floors, and what it refuses."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from tiny import tiny_folder, tiny_hf, tiny_model, tiny_tokenizer

from retmask.evaluate.answers import read_answers, read_items_of
from retmask.evaluate.engine import measure
from retmask.evaluate.job import EVALUATE, EvaluateSettings
from retmask.evaluate.results import FLOORS
from retmask.evaluate.suite import SUITES, chosen, documents, read_items
from retmask.heads.grid import HeadId
from retmask.heads.masks import HeadMask
from retmask.items.item import CATEGORIES
from retmask.items.packing import answer, prompt
from retmask.model.decoding import logprobs
from retmask.runs.overview import progress
from retmask.tasks import TASKS
from retmask.text.chat import Chat

HATS = {"context": "Kim has 2 red hats. Ann has 3.", "question": "Who has 2?", "gold": "Kim", "distractors": ["Ann"]}


def _file(folder: Path, *rows: object) -> str:
    path = folder / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _settings(folder: Path, items: int = 6) -> EvaluateSettings:
    """Three conditions, one of them with an adapter, on so many items."""
    model = tiny_folder(folder, terse=True)
    adapter = get_peft_model(tiny_hf("llama"), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapter.save_pretrained(folder / "adapter")
    rows = [
        {**HATS, "context": f"{HATS['context']} {i // 4}", "question": f"Who has 2? {'x' * i}", "task": f"t{i % 2}"}
        for i in range(items)
    ]
    conditions = ("masked=L1H0", f"tuned={folder / 'adapter'}+random=1:seed2")
    return EvaluateSettings(model=str(model), condition=conditions, suite=_file(folder, *rows))


def test_cut_short_at_any_line_it_ends_the_same(tmp_path: Path, fresh_home: Path) -> None:
    """Also where the last line is half written."""
    settings = _settings(tmp_path)
    run = EVALUATE.new(settings, tmp_path / "whole")
    list(EVALUATE.work(run))
    lines = (run.path / "answers.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 6 * (3 + 2)
    assert Counter(json.loads(line)["condition"] for line in lines).keys() >= {"no context", "shuffled context"}
    for kept in (1, 13, 22, 23, 29):
        again = EVALUATE.new(settings, tmp_path / f"cut {kept}")
        work = EVALUATE.work(again)
        next(work)
        work.close()
        (again.path / "answers.jsonl").write_text("".join(lines[:kept]) + lines[kept][:9])
        list(EVALUATE.work(EVALUATE.new(settings, again.path)))
        for name in ("results.json", "results.csv", "results.md", "items.jsonl"):
            assert (again.path / name).read_bytes() == (run.path / name).read_bytes()


def test_killed_in_the_middle_it_goes_on(tmp_path: Path, fresh_home: Path) -> None:
    settings = _settings(tmp_path, 16)
    whole = EVALUATE.new(settings, tmp_path / "whole")
    list(EVALUATE.work(whole))
    command = [sys.executable, "-m", "retmask.cli", *settings.command[1:], "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    answers = tmp_path / "killed" / "answers.jsonl"
    while process.poll() is None and (not answers.is_file() or answers.read_bytes().count(b"\n") < 7):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "results.json").exists()
    list(EVALUATE.work(EVALUATE.new(settings, tmp_path / "killed")))
    assert (tmp_path / "killed" / "results.json").read_bytes() == (whole.path / "results.json").read_bytes()


def test_every_condition_answers_the_same_items(tmp_path: Path, fresh_home: Path) -> None:
    run = EVALUATE.new(_settings(tmp_path), tmp_path / "out")
    list(EVALUATE.work(run))
    items = [item.id for item in read_items_of(run.path)]
    asked: dict[str, list[str]] = {}
    for condition, item in read_answers(run.path):
        asked.setdefault(condition, []).append(item)
    assert len(asked) == 5
    assert all(sorted(own) == sorted(items) for own in asked.values())
    results = json.loads((run.path / "results.json").read_text())
    assert [facts["role"] for facts in results["conditions"]] == ["base", "treatment", "control"]
    assert results["conditions"][1]["mask"] == "L1H0"
    assert len({facts["weights_sha256"] for facts in results["conditions"]}) == 2
    assert (run.path / "results.md").read_text().count("\n") == 5
    assert {row["condition"] for row in results["floors"]} == set(FLOORS)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("text", "items.jsonl, line 2: not an object with context, question and gold"),
        ({"question": "Who?"}, "items.jsonl, line 2: gold is missing or empty"),
        ({"question": " ", "gold": "Kim"}, "items.jsonl, line 2: question is missing or empty"),
        ({"question": "Who?", "gold": ["Kim", 3]}, "items.jsonl, line 2, gold: not a text or a list of texts"),
        ({"question": "Who?", "gold": "Kim", "answer": "x"}, "line 2: 'answer' is no field of an item"),
        ({"question": "Who?", "gold": "Kim", "context": 3}, "line 2: context is not a text"),
        ({"question": "Who?", "gold": "Kim", "category": "maths"}, "line 2: 'maths' is no category: choose recall"),
        ({"question": "Who?", "gold": "Kim", "task": "rag"}, "line 2: the task rag is one of ours"),
        (HATS | {"id": "own-1"}, "two items with the id own-1"),
    ],
)
def test_a_file_with_a_mistake_says_its_line(row: object, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        read_items(Path(_file(tmp_path, HATS, row)))


def test_items_that_are_not_whole_are_made_again(tmp_path: Path, fresh_home: Path) -> None:
    run = EVALUATE.new(_settings(tmp_path), tmp_path / "out")
    work = EVALUATE.work(run)
    next(work)
    work.close()
    whole = (run.path / "items.jsonl").read_text()
    (run.path / "items.jsonl").write_text(whole[: len(whole) // 2])
    list(EVALUATE.work(run))
    assert (run.path / "items.jsonl").read_text() == whole
    assert len(read_answers(run.path)) == 6 * 5


def test_a_condition_is_not_called_like_a_floor() -> None:
    with pytest.raises(ValueError, match="no context is what a floor is called"):
        EvaluateSettings(model="m", condition=("no context: masked=L1H0",))


def test_what_an_answer_is_worth_is_worked_by_hand(tmp_path: Path) -> None:
    """The mean log-probability of a token, the rank with ties against gold, the score of the text."""
    item = read_items(Path(_file(tmp_path, HATS | {"gold": "ab", "distractors": ["ab", "zz"], "prefix": "So:"})))[0]
    model = tiny_model("llama")
    model.tokenizer = tiny_tokenizer()
    chat = Chat(model.tokenizer)
    mask = HeadMask.of([HeadId(1, 0)])
    for line, under in zip(measure(model, chat, [item], {"a": HeadMask(), "b": mask}), (HeadMask(), mask), strict=True):
        values = [logprobs(model, prompt(item, chat), answer(item, chat, text), under) for text in ("ab", "zz")]
        means = [sum(each) / len(each) for each in values]
        assert line["logprob"] == pytest.approx(means[0], abs=1e-4)
        assert (line["rank"], line["of"]) == (2 + (means[1] >= means[0]), 3)
        assert line["score"] == float("ab" in line["response"])


def test_what_is_no_suite_is_refused_before_a_run_is_made(tmp_path: Path, fresh_home: Path) -> None:
    for suite, says in (("raq", "'raq' is no suite"), ("rag,", "'' is no suite"), (f"{tmp_path}/no.jsonl", "no.jsonl")):
        with pytest.raises(ValueError, match=says):
            EVALUATE.new(EvaluateSettings(model=str(tiny_folder(tmp_path)), suite=suite), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_length_beyond_the_model_is_refused(tmp_path: Path, fresh_home: Path) -> None:
    """A tiny model reads 512 tokens."""
    settings = EvaluateSettings(model=str(tiny_folder(tmp_path)), suite="recall", lengths=(1024,))
    run = EVALUATE.new(settings, tmp_path / "out")
    with pytest.raises(ValueError, match="reads 512 tokens and 1,024 were asked for"):
        next(EVALUATE.work(run))
    assert not read_answers(run.path)


def test_items_are_counted_while_they_are_made(tmp_path: Path, fresh_home: Path) -> None:
    """And stopped then, no half of them is left."""
    settings = EvaluateSettings(model=str(tiny_folder(tmp_path)), suite="guard_arithmetic", lengths=(400,), items=6)
    run = EVALUATE.new(settings, tmp_path / "out")
    work = EVALUATE.work(run)
    step = next(work)
    assert (step.done, step.total, step.facts) == (1, 6, {"stage": "items", "task": "guard_arithmetic"})
    assert progress(run, "started")[1].startswith("making items: 1 of 6 (guard_arithmetic)")
    work.close()
    assert not [*run.path.glob("*items.jsonl*")]
    assert {step.facts["stage"] for step in EVALUATE.work(run) if "condition" not in step.facts} == {"items"}
    assert progress(run, "started")[1].startswith("6 of 6 answers")


def test_a_suite_takes_tasks_and_categories() -> None:
    assert chosen("rag, hops").tasks == ("rag", *(name for name, task in TASKS.items() if task.category == "hops"))
    assert {task.category for task in TASKS.values()} == set(CATEGORIES)
    assert all(chosen(name) is suite for name, suite in SUITES.items())


def test_all_tasks_fill_up_alike(tmp_path: Path) -> None:
    rows = [HATS | {"id": f"{task}{i}", "task": task, "context": str(i)} for task in "ab" for i in range(3)]
    asked = documents(read_items(Path(_file(tmp_path, *rows))))
    assert [[item.id for item in document] for document in asked] == [[f"{t}{i}"] for i in range(3) for t in "ab"]
