"""Fine-tuning for real, on a tiny model: what DPO must begin with, that a killed run ends as one that was not."""

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from browser import hurry, wait_for
from safetensors.torch import load_file
from tiny import tiny_hf
from trainings import SETTINGS, command_line, of, plain

from retmask.files import write_json
from retmask.model.loading import load
from retmask.runs.engine import how_patient, spawn
from retmask.runs.run import Run
from retmask.train.checkpoints import newest
from retmask.train.job import TRAIN
from retmask.train.lora import lora
from retmask.train.results import last_step, result, steps
from retmask.train.trainer import _arguments


def test_all_weights_with_a_reference_computed_beforehand(folder: Path, pairs: Path, tmp_path: Path) -> None:
    """Full fine-tuning: step 1 is ln 2 too, and the result is a model that loads by its folder."""
    settings = replace(SETTINGS, method="full", max_steps=3, learning_rate=1e-3, gradient_checkpointing=True)
    assert settings.reference == "precomputed"
    run = TRAIN.new(of(folder, pairs, settings), tmp_path / "out")
    list(TRAIN.work(run))
    first, *_, last = steps(run)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert last["loss"] < first["loss"]
    assert result(run) == run.path / "model"
    prompt = torch.tensor([[ord(c) for c in "question 3?"]])
    with torch.no_grad():
        base, tuned = (load(str(one)).native(prompt).logits for one in (folder, run.path / "model"))
    assert (base - tuned).abs().max() > 1e-3


def test_every_setting_reaches_trl(folder: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = {"loss": "ipo", "sft_weight": 0.5, "beta": 0.3, "reference": "precomputed"}
    optimizer = {"weight_decay": 0.2, "adam_beta2": 0.9, "schedule": "linear", "warmup": 0.2}
    adapter = {"rank": 2, "alpha": 3.0, "dropout": 0.1, "target": "attention"}
    size = {"batch": 6, "micro_batch": 2, "max_steps": 4, "save_steps": 7, "max_length": 99, "seed": 5}
    config = plain(device="cpu", **loss, **optimizer, **adapter, **size)
    run = TRAIN.new(of(folder, pairs, config), tmp_path / "out")
    made = _arguments(run, config, True, False)
    assert (made.loss_type, made.loss_weights, made.beta) == (["ipo", "sft"], [1.0, 0.5], 0.3)
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (2, 3)
    assert (made.weight_decay, made.adam_beta2, made.warmup_steps, made.max_length) == (0.2, 0.9, 0.2, 99)
    assert (made.save_steps, made.seed, made.max_steps) == (7, 5, 4)
    assert made.precompute_ref_log_probs
    assert not made.disable_dropout, "or TRL would switch LoRA's off too"
    made_lora = lora(config, tiny_hf("llama"))
    assert (made_lora.r, made_lora.lora_alpha, made_lora.lora_dropout) == (2, 3.0, 0.1)
    assert {name.rpartition(".")[2] for name in made_lora.target_modules} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="cannot be shared out over 4 devices of 2: choose a multiple of 8"):
        _arguments(run, config, True, False)


def test_how_long_a_trainer_has_to_end_is_told_from_its_longest_step(fresh_home: Path) -> None:
    run = Run.create("train", {"model": "m"})
    usual = how_patient(run)
    times = [("loading", 0), ("starting", 9), ("steps", 900), ("loading", 9000), ("starting", 9010), ("steps", 9020)]
    lines = [json.dumps({"time": at, "stage": stage, "done": 1}) for stage, at in times]
    (run.path / "progress.jsonl").write_text("\n".join(lines))
    assert how_patient(run) == usual, "the other attempt's steps, and the time between the two, do not count"
    run.report(stage="steps", done=2)
    assert how_patient(run) > usual


def test_a_training_that_is_killed_ends_as_one_that_is_not(folder: Path, pairs: Path, tmp_path: Path) -> None:
    """DPO begins at loss ln 2 and rewards 0; an adapter with its card comes out; SIGKILL and resume change nothing."""
    settings = replace(SETTINGS, max_steps=24, save_steps=10)  # some steps lie between a checkpoint and the next
    whole = TRAIN.new(of(folder, pairs, settings), tmp_path / "whole")
    seen = [step.done for step in TRAIN.work(whole)]
    assert seen == list(range(1, 25))
    first = steps(whole)[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert (first["chosen"], first["rejected"], first["margin"]) == (0, 0, 0)
    assert steps(whole)[-1]["loss"] < first["loss"]
    assert whole.status == "success"
    assert 0 <= whole.record["held_out"]["rewards/accuracies"] <= 1
    made = result(whole)
    assert made == whole.path / "adapter"
    assert not list(whole.path.rglob("*.bin")), "no pickle is left"
    card = (made / "README.md").read_text()
    assert "base_model: model" in card
    assert "- pairs: 9 to train on, 3 held out\n" in card
    trained = sum(x.numel() for x in load_file(made / "adapter_model.safetensors").values())
    assert f"- numbers that were trained: {trained:,}\n" in card
    about = json.loads((made / "retmask.json").read_text())
    assert about["base_sha256"] == whole.record["sha256"]
    about = json.loads((made / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == str(folder), "where there is no name that others know"
    prompt = [[ord(c) for c in "question 3?"]]
    base, tuned = load(str(folder)), load(str(folder), adapter=str(made))
    with torch.no_grad():
        plain, moved = (one.native(torch.tensor(prompt)).logits for one in (base, tuned))
    assert (plain - moved).abs().max() > 1e-3

    broken = TRAIN.new(of(folder, pairs, settings), tmp_path / "broken")
    spawn(broken)
    hurry(broken)
    wait_for(lambda: last_step(broken) >= 11)
    group = os.getpgid(broken.record["pid"])
    os.killpg(group, signal.SIGKILL)  # in the middle of a step
    wait_for(lambda: broken.status == "error", 5)
    assert newest(broken.path / "checkpoints") == broken.path / "checkpoints" / "checkpoint-10"
    wait_for(lambda: not [p for p in psutil.process_iter() if str(broken.path) in command_line(p)])
    spawn(broken)
    hurry(broken)
    wait_for(lambda: broken.status == "success")
    assert [line["done"] for line in steps(broken)] == list(range(1, 25))
    assert [line["loss"] for line in steps(broken)] == [line["loss"] for line in steps(whole)]
    assert [line["done"] for line in broken.progress if line["stage"] == "steps"].count(11) == 2, (
        "step 11 was done again"
    )


def test_a_training_whose_making_was_cut_short_can_be_started(folder: Path, pairs: Path, tmp_path: Path) -> None:
    """Between the copy of the pairs and its digest in the record."""
    run = TRAIN.new(of(folder, pairs, SETTINGS), tmp_path / "out")
    digest = run.record["pairs_sha256"]
    write_json(run.path / "run.json", {name: value for name, value in run.record.items() if name != "pairs_sha256"})
    assert TRAIN.new(of(folder, pairs, SETTINGS), tmp_path / "out").record["pairs_sha256"] == digest


def test_what_cannot_start_writes_nothing(folder: Path, pairs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(pairs.read_text().replace('"model": "model"', '"model": "another"'))
    broken = tmp_path / "broken.jsonl"
    broken.write_text(pairs.read_text() + "{\n")
    out = tmp_path / "out"
    cases = [
        (other, SETTINGS, "other.jsonl was made with another and not with"),
        (broken, SETTINGS, "broken.jsonl, line 13: not JSON"),
        (tmp_path / "none.jsonl", SETTINGS, "no pairs at"),
    ]
    for file, settings, says in cases:
        with pytest.raises(ValueError, match=says):
            TRAIN.new(of(folder, file, settings), out)
    with pytest.raises(ValueError, match="there is no model"):
        TRAIN.new(of(tmp_path / "no-model", pairs, SETTINGS), out)
    assert not out.exists()
    assert not Run.all()
    TRAIN.new(of(folder, other, SETTINGS, any_pairs=True), out)
    with pytest.raises(ValueError, match="holds a run with other settings"):
        TRAIN.new(of(folder, pairs, SETTINGS), out)
