"""Evaluations on a tiny model with a real adapter."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import tiny_adapter, tiny_folder, tiny_hf

from app.shared.jobs import seconds_for
from retmask.detect.job import PRESETS
from retmask.evaluate.job import DEPTHS, EVALUATE, EvaluateSettings
from retmask.evaluate.needles import read_answers
from retmask.heads.rules import MaskRule
from retmask.runs.worker import Cancelled
from retmask.text.needle import load_needles


def test_nothing_that_detection_or_pairs_used_is_measured_with() -> None:
    tasks = EvaluateSettings(model="m").tasks()
    assert len(tasks) == 120
    assert len({task.key for task in tasks}) == 120
    assert not {task.needle.needle for task in tasks} & {needle.needle for needle in load_needles()}
    assert not set(DEPTHS) & {depth for preset in PRESETS.values() for depth in preset.values["depths"]}


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
    monkeypatch.setattr("retmask.evaluate.needles.load", None)
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


def test_any_condition_can_be_written(tmp_path: Path, fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask on top of an adapter, and random draws: recorded with heads and the weights' hash, and found again."""
    folder, needles = tiny_folder(tmp_path), tmp_path / "needles.json"
    tiny_adapter(tmp_path / "adapter")
    needles.write_text(json.dumps([{"needle": "Kim has two red hats.", "question": "Of Kim?", "answer": "red hats"}]))
    monkeypatch.chdir(tmp_path)
    texts = ("random=2:seed0-1", "both: tuned=adapter+masked=L1H0")
    settings = {"model": str(folder), "condition": texts, "trials": 1, "context_tokens": 300, "needles": str(needles)}
    run = EVALUATE.new(EvaluateSettings(**settings), tmp_path / "out")  # type: ignore[arg-type]
    both = f"both: tuned={tmp_path / 'adapter'}+masked=L1H0"
    assert run.config["condition"] == ["random=2:seed0", "random=2:seed1", both], "what lies here by its whole path"
    list(EVALUATE.work(run))
    names = ["unmasked", "random=2:seed0", "random=2:seed1", "both"]
    assert [row["condition"] for row in json.loads((run.path / "results.json").read_text())["conditions"]] == names
    assert run.record["mask of both"] == "L1H0"
    assert len(str(run.record["mask of random=2:seed0"]).split(",")) == 2
    assert len({run.record["weights of unmasked"], run.record["weights of both"]}) == 2
    assert EVALUATE.new(EvaluateSettings(**settings), tmp_path / "out").path == run.path  # type: ignore[arg-type]


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
    lines = [line for _, line in sorted(read_answers(run.path).items())]
    responses = {
        name: [line["response"] for line in lines if line["condition"] == name]
        for name in ("unmasked", "masked", "tuned")
    }
    assert responses["unmasked"] != responses["tuned"]
    assert responses["unmasked"] != responses["masked"]
    with pytest.raises(ValueError, match="is no adapter and no model"):
        EVALUATE.new(EvaluateSettings(model=str(folder), tuned=(str(tmp_path),), trials=1), tmp_path / "other")
    assert torch.is_grad_enabled()


def test_damaged_answers_are_passed_over(tmp_path: Path) -> None:
    good = {
        "condition": "unmasked",
        "needle": "a",
        "context_tokens": 512,
        "depth": 0.5,
        "recall": 1.0,
        "response": "yes",
    }
    bad = [{"needle": ["n"]}, {"context_tokens": "512"}, {"depth": "x"}, {"recall": None}, {"response": 3}]
    lines = [good, *(good | one for one in bad), {}]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(read_answers(tmp_path).values()) == [good]


def test_results_of_other_suites_stand_in_the_same_tables(tmp_path: Path, fresh_home: Path) -> None:
    """By the model that a file names; nothing is loaded for it. A file of another model is refused."""
    folder, merged = tiny_folder(tmp_path), tiny_folder(tmp_path / "merged")
    (tmp_path / "results").mkdir()
    for name, model, scores in (
        ("a", "/elsewhere/model", [1, 0, 1]),
        ("b", str(merged), [0, 0, 1]),
        ("c", "other", [1]),
    ):
        args = {"model_name_or_path": model, "datasets": "nq", "input_max_length": 8192}
        rows = [{"question": f"q{i}", "output": "x"} for i in range(len(scores))]
        data = {"args": args, "data": rows, "metrics": {"substring_exact_match": scores}, "averaged_metrics": {}}
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(data))
    files = [str(tmp_path / "results" / f"{name}.json") for name in "abc"]
    merged.rename(merged.with_name("masked"))
    (tmp_path / "results" / "b.json").write_text(
        (tmp_path / "results" / "b.json").read_text().replace(str(merged), str(merged.with_name("masked")))
    )
    condition = (f"masked: model={merged.with_name('masked')}",)
    settings = EvaluateSettings(model=str(folder), condition=condition, read=tuple(files[:2]))
    run = EVALUATE.new(settings, tmp_path / "out")
    list(EVALUATE.work(run))
    results = json.loads((run.path / "results.json").read_text())
    means = {row["condition"]: row["mean"] for row in results["means"] if row["name"] == "nq"}
    assert means == {"unmasked": pytest.approx(2 / 3, abs=1e-6), "masked": pytest.approx(1 / 3, abs=1e-6)}
    [gap] = [row for row in results["differences"] if row["name"] == "nq"]
    assert (gap["condition"], gap["worse"], gap["items"]) == ("masked", 1, 3)
    assert run.record["results"] == pytest.approx(means)
    with pytest.raises(ValueError, match="is of the model other, and no condition here is"):
        EVALUATE.new(EvaluateSettings(model=str(folder), read=(files[2],)), tmp_path / "other")
    with pytest.raises(ValueError, match="has nq of unmasked again"):
        EVALUATE.new(EvaluateSettings(model=str(folder), read=(files[0], files[0])), tmp_path / "twice")
