"""The comparison of conditions: by hand, and on a tiny model with a real adapter."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import tiny_folder, tiny_hf

from retmask.detect.job import PRESETS
from retmask.evaluate.differences import difference, summary
from retmask.evaluate.job import DEPTHS, EVALUATE, EvaluateSettings, read_answers
from retmask.heads.rules import MaskRule
from retmask.runs.pace import seconds_for
from retmask.runs.run import Cancelled
from retmask.text.needle import load_needles


def answer(condition: str, needle: str, recall: float, depth: float = 0.5) -> dict[str, object]:
    return {"condition": condition, "needle": needle, "context_tokens": 512, "depth": depth, "recall": recall}


def test_a_summary_by_hand() -> None:
    lines = [answer("unmasked", n, r) for n, r in (("a", 0.0), ("b", 0.5), ("c", 1.0), ("d", 0.5))]
    lines += [answer("tuned", n, r) for n, r in (("a", 1.0), ("b", 0.75), ("c", 1.0), ("d", 0.25))]
    lines += [answer("tuned", "e", 1.0)]  # not answered by both: left out
    found = summary(lines, ["unmasked", "tuned"])
    assert [(row["condition"], row["trials"], row["recall"], row["found"]) for row in found["conditions"]] == [
        ("unmasked", 4, 0.5, 0.25),
        ("tuned", 4, 0.75, 0.75),
    ]
    (gap,) = found["differences"]
    assert (gap["condition"], gap["against"], gap["mean"], gap["better"], gap["worse"]) == (
        "tuned",
        "unmasked",
        0.25,
        2,
        1,
    )
    assert gap["low"] <= gap["mean"] <= gap["high"]
    assert (gap["needles"], found["conditions"][0]["needles"]) == (4, 4)


def test_the_interval_of_a_condition_is_over_needles() -> None:
    """Ten prompts each of three needles, of which the model knows one: anything from none to all may be known."""
    lines = [answer("unmasked", n, float(n == "a"), depth / 10) for n in "abc" for depth in range(10)]
    (row,) = summary(lines, ["unmasked"])["conditions"]
    assert (row["recall"], row["low"], row["high"], row["needles"]) == (0.3333, 0.0, 1.0, 3)
    (few,) = summary([line for line in lines if line["needle"] != "c"], ["unmasked"])["conditions"]
    assert (few["low"], few["high"], few["needles"]) == (None, None, 2)


def test_prompts_of_one_needle_count_together() -> None:
    """Ten prompts that all move alike are one observation: the interval over needles must say so."""
    values, others = np.array([1.0] * 10 + [0.5] * 10 + [0.0] * 10), np.zeros(30)
    gap = difference("t", "u", values, others, ["a"] * 10 + ["b"] * 10 + ["c"] * 10)
    assert gap.mean == 0.5
    assert (gap.needle_low, gap.needle_high, gap.needles) == (0.0, 1.0, 3)
    assert 0.2 < gap.low < gap.high < 0.8  # type: ignore[operator]
    two = difference("t", "u", values[:20], others[:20], ["a"] * 10 + ["b"] * 10)
    assert (two.needle_low, two.needle_high, two.needles) == (None, None, 2), "of two needles none is to be had"


def test_equal_conditions_differ_by_nothing() -> None:
    gap = difference("t", "u", np.array([0.2, 0.7, 0.1]), np.array([0.2, 0.7, 0.1]), ["a", "b", "c"])
    assert gap[2:] == (0, 0, 0, 0, 0, 0, 0, 3)


def test_nothing_that_detection_or_pairs_used_is_measured_with() -> None:
    tasks = EvaluateSettings(model="m").tasks()
    assert len(tasks) == 120
    assert len({task.key for task in tasks}) == 120
    assert not {task.needle.needle for task in tasks} & {needle.needle for needle in load_needles()}
    assert not set(DEPTHS) & {depth for preset in PRESETS.values() for depth in preset.values["depths"]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trials": 0}, "0 trials are too few"),
        ({"tuned": ("unmasked=x",)}, "two conditions named unmasked"),
        ({"tuned": ("a=x", "a=y")}, "two conditions named a"),
        ({"also": ("a=L0H0", "a=L0H1")}, "a is what another condition is called"),
        ({"also": ("L0H0",)}, "'L0H0' names no mask: write name=L17H3,L18H6"),
        ({"also": ("unmasked=L0H0",)}, "unmasked is what another condition is called"),
        ({"also": ("masked=L0H0",)}, "masked is what another condition is called"),
        ({"also": (" tuned 2 =L0H0",)}, "tuned 2 is what another condition is called"),
        ({"also": ("bad=notahead",)}, "'notahead' is not a head"),
    ],
)
def test_what_cannot_be(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EvaluateSettings(model="m", **changes)  # type: ignore[arg-type]


def test_conditions_have_names() -> None:
    config = EvaluateSettings(model="m", tuned=("a", "b", "control=c"), rule=MaskRule(heads="L0H0"))
    folders = {name: one.folder for name, one in config.conditions().items()}
    assert folders == {"unmasked": "", "masked": "", "tuned": "a", "tuned 2": "b", "control": "c"}
    words = "retmask evaluate m --tuned a --tuned b --tuned control=c --heads L0H0"
    assert config.command == words.split()


def test_a_folder_may_have_an_equals_sign() -> None:
    config = EvaluateSettings(model="m", tuned=("/x/lr=0.02/a", "best=/x/lr=0.02/b"))
    folders = {name: one.folder for name, one in config.conditions().items()}
    assert folders == {"unmasked": "", "tuned": "/x/lr=0.02/a", "best": "/x/lr=0.02/b"}


def test_a_condition_whose_tasks_ask_the_same_is_finished_all_the_same(
    tmp_path: Path, fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six depths in a text of long sentences; taken up again, nothing is loaded."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(("A sentence " + "goes on and on, " * 12 + "and ends. ") * 5)
    needles = tmp_path / "needles.json"
    needles.write_text(json.dumps([{"needle": "Kim has two red hats.", "question": "Of Kim?", "answer": "red hats"}]))
    config = EvaluateSettings(
        model=str(tiny_folder(tmp_path)),
        trials=4,
        context_tokens=400,
        needles=str(needles),
        haystack=str(tmp_path / "texts"),
    )
    run = EVALUATE.new(config, tmp_path / "out")
    list(EVALUATE.work(run))
    assert run.record["same_prompts"] > 0
    before = run.record["results"]
    run.update(status="error")
    monkeypatch.setattr("retmask.evaluate.job._load", None)
    list(EVALUATE.work(run))
    assert (run.status, run.record["results"]) == ("success", before)


def test_further_masks_are_conditions_of_their_own(tmp_path: Path, fresh_home: Path) -> None:
    folder, needles = tiny_folder(tmp_path), tmp_path / "needles.json"
    needles.write_text(
        json.dumps([{"needle": "Kim has two red hats.", "question": "Of Kim?", "answer": "two red hats"}])
    )
    settings = {"trials": 2, "context_tokens": 300, "needles": str(needles)}
    rule, also = MaskRule(heads="L1H0"), ("other=L0H1,L2H3",)
    config = EvaluateSettings(model=str(folder), rule=rule, also=also, **settings)
    assert "--also other=L0H1,L2H3" in " ".join(config.command)
    run = EVALUATE.new(config, tmp_path / "out")
    list(EVALUATE.work(run))
    found = json.loads((run.path / "results.json").read_text())
    assert [row["condition"] for row in found["conditions"]] == ["unmasked", "masked", "other"]
    assert seconds_for(2 * 300 * 3, config.model) is None, "a run elsewhere is not listed"
    assert run.record["pace"] > 0
    assert (run.record["mask"], run.record["mask of other"]) == ("L1H0", "L0H1,L2H3")
    with pytest.raises(ValueError, match="head L9H0 is outside this model's 3 x 4 grid"):
        EVALUATE.new(EvaluateSettings(model=str(folder), also=("off=L9H0",), **settings), tmp_path / "off")
    assert not (tmp_path / "off").exists()


def test_a_run_from_before_a_setting_goes_on(tmp_path: Path, fresh_home: Path) -> None:
    config = EvaluateSettings(model=str(tiny_folder(tmp_path)), trials=2)
    run = EVALUATE.new(config, tmp_path / "out")
    run.update(config={name: value for name, value in run.config.items() if name != "also"})
    assert EVALUATE.new(config, tmp_path / "out").path == run.path
    with pytest.raises(ValueError, match="holds a run with other settings"):
        EVALUATE.new(EvaluateSettings(model=config.model, also=("a=L0H0",), trials=2), tmp_path / "out")


def test_an_evaluation_goes_on_where_it_was(tmp_path: Path, fresh_home: Path) -> None:
    folder = tiny_folder(tmp_path)
    peft = get_peft_model(tiny_hf("llama"), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    peft.save_pretrained(tmp_path / "adapter")
    needles = tmp_path / "needles.json"
    needles.write_text(
        json.dumps([{"needle": "Kim has two red hats.", "question": "What has Kim?", "answer": "two red hats"}])
    )
    config = EvaluateSettings(
        model=str(folder),
        tuned=(str(tmp_path / "adapter"),),
        rule=MaskRule(heads="L1H0"),
        trials=4,
        context_tokens=500,
        needles=str(needles),
    )
    run = EVALUATE.new(config, tmp_path / "out")
    work = EVALUATE.work(run)
    next(work)
    with pytest.raises(Cancelled):
        work.throw(Cancelled())
    before = len(read_answers(run.path))
    assert 0 < before < 12
    last = list(EVALUATE.work(EVALUATE.new(config, tmp_path / "out")))[-1]
    assert (last.done, last.total, last.facts["condition"]) == (12, 12, "tuned")
    found = json.loads((run.path / "results.json").read_text())
    assert [row["condition"] for row in found["conditions"]] == ["unmasked", "masked", "tuned"]
    assert len(found["differences"]) == 3
    responses = {name: [line["response"] for key, line in sorted(read_answers(run.path).items()) if key[0] == name]
                 for name in ("unmasked", "masked", "tuned")}  # fmt: skip
    assert responses["unmasked"] != responses["tuned"]
    assert responses["unmasked"] != responses["masked"]
    with pytest.raises(ValueError, match="is no adapter and no model"):
        EVALUATE.new(EvaluateSettings(model=str(folder), tuned=(str(tmp_path),), trials=1), tmp_path / "other")
    assert torch.is_grad_enabled()


def test_damaged_answers_are_passed_over(tmp_path: Path) -> None:
    good = answer("unmasked", "a", 1.0) | {"response": "yes"}
    bad = [{"needle": ["n"]}, {"context_tokens": "512"}, {"depth": "x"}, {"recall": None}, {"response": 3}]
    lines = [good, *(good | one for one in bad), {}]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(read_answers(tmp_path).values()) == [good]
