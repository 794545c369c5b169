"""Fine-tuning for real, on a tiny model: what DPO must begin with, that a killed run ends as one that was not."""

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_folder, tiny_hf
from trainings import by_preset, of, plain

from retmask.files import write_json
from retmask.model.loading import load
from retmask.pairs.pair import Answer, PreferencePair, write_pairs
from retmask.runs.run import Cancelled, Run
from retmask.train.checkpoints import newest
from retmask.train.job import TRAIN, _judged, discard, stop_and_keep
from retmask.train.launch import launch_command
from retmask.train.lora import lora
from retmask.train.outcome import OUTCOME, Outcome
from retmask.train.preflight import preflight
from retmask.train.results import last_step, result, steps
from retmask.train.settings import PRESETS
from retmask.train.tokens import split
from retmask.train.trainer import OUT_OF_MEMORY, _arguments, _failure

SETTINGS = plain(max_steps=6, batch=2, save_steps=2, learning_rate=5e-3, eval_share=0.25, device="cpu", rank=4)


@pytest.fixture
def folder(tmp_path: Path, fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # losses are the same to the last bit with the same number of threads
    return tiny_folder(tmp_path)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    made = [
        PreferencePair(
            str(i), (("user", f"question {i}?"),), Answer(f"right {i}", 8, "stop"), Answer(f"so wrong {i}", 11, "stop")
        )
        for i in range(12)
    ]
    return write_pairs(tmp_path, made, False, "model")


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
    config = plain(
        dropout=0.1, loss="ipo", sft_weight=0.5, beta=0.3, batch=6, micro_batch=2, weight_decay=0.2, adam_beta2=0.9,
        schedule="linear", warmup=0.2, max_length=99, save_steps=7, seed=5, max_steps=4, rank=2, alpha=3.0,
        target="attention", device="cpu", reference="precomputed",
    )  # fmt: skip
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


@pytest.mark.parametrize(
    ("outcome", "code", "error", "says"),
    [
        (Outcome("stopped", 3), 0, Cancelled, None),
        (Outcome("refused", 3, "the loss is no number"), 1, ValueError, "^the loss is no number$"),
        (Outcome("failed", 3, "the trainer failed"), 1, RuntimeError, "^the trainer failed$"),
        (None, -signal.SIGTERM, Cancelled, None),
        (None, 1, RuntimeError, "ended without a word: it may have been killed as memory ran out"),
    ],
)
def test_how_a_trainer_ended_is_what_it_wrote_down(
    tmp_path: Path, outcome: Outcome | None, code: int, error: type[BaseException], says: str | None
) -> None:
    (tmp_path / "log.txt").write_text("retmask: what a log says\nexit status 143 SIGTERM")
    if outcome:
        outcome.write(tmp_path)
        Outcome("stopped", 9).write(tmp_path)
        assert Outcome.read(tmp_path) == outcome, "the first word counts"
    with pytest.raises(error, match=says):
        _judged(Run(tmp_path), code)


@pytest.mark.parametrize("text", ["", "[]", '{"how": "well"}', '{"how": ["stopped"]}', '{"how": "fin'])
def test_a_damaged_outcome_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / OUTCOME).write_text(text)
    assert Outcome.read(tmp_path) is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_memory_that_ran_out_is_refused_with_what_to_change(error: Exception) -> None:
    assert _failure(error, 4) == Outcome("refused", 4, OUT_OF_MEMORY)
    assert _failure(RuntimeError("shapes"), 4).how == "failed"


def test_how_long_a_trainer_has_to_end_is_told_from_its_longest_step(fresh_home: Path) -> None:
    run = Run.create("train", {"model": "m"})
    usual = run.patience
    times = [("loading", 0), ("starting", 9), ("steps", 900), ("loading", 9000), ("starting", 9010), ("steps", 9020)]
    lines = [json.dumps({"time": at, "stage": stage, "done": 1}) for stage, at in times]
    (run.path / "progress.jsonl").write_text("\n".join(lines))
    assert run.patience == usual, "the other attempt's steps, and the time between the two, do not count"
    run.report(stage="steps", done=2)
    assert run.patience > usual


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


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
    broken.spawn()
    wait_for(lambda: last_step(broken) >= 11)
    group = os.getpgid(broken.record["pid"])
    os.killpg(group, signal.SIGKILL)  # in the middle of a step
    wait_for(lambda: broken.status == "error", 5)
    assert newest(broken.path / "checkpoints") == broken.path / "checkpoints" / "checkpoint-10"
    wait_for(
        lambda: (
            not [
                p
                for p in psutil.process_iter()
                if "retmask.train.trainer" in _words(p) and str(broken.path) in _words(p)
            ]
        )
    )
    broken.spawn()
    wait_for(lambda: broken.status == "success")
    assert [line["done"] for line in steps(broken)] == list(range(1, 25))
    assert [line["loss"] for line in steps(broken)] == [line["loss"] for line in steps(whole)]
    assert [line["done"] for line in broken.progress if line["stage"] == "steps"].count(11) == 2, (
        "step 11 was done again"
    )


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_training_whose_making_was_cut_short_can_be_started(folder: Path, pairs: Path, tmp_path: Path) -> None:
    """Between the copy of the pairs and its digest in the record."""
    run = TRAIN.new(of(folder, pairs, SETTINGS), tmp_path / "out")
    digest = run.record["pairs_sha256"]
    write_json(run.path / "run.json", {name: value for name, value in run.record.items() if name != "pairs_sha256"})
    assert TRAIN.new(of(folder, pairs, SETTINGS), tmp_path / "out").record["pairs_sha256"] == digest


def test_stop_and_keep_then_resume(folder: Path, pairs: Path, tmp_path: Path) -> None:
    run = TRAIN.new(of(folder, pairs, SETTINGS, max_steps=200, save_steps=50), tmp_path / "out")
    work = TRAIN.work(run)
    assert next(work).done == 1
    stop_and_keep(run)
    with pytest.raises(Cancelled):
        list(work)
    assert run.status == "cancelled"
    stopped = run.record["stopped_at"]
    assert 1 <= stopped < 200
    assert Outcome.read(run.path) == Outcome("stopped", stopped, saved=True)
    assert (run.path / "adapter" / "adapter_model.safetensors").is_file()
    list(TRAIN.work(run))
    assert run.status == "success"
    assert run.record["stopped_at"] is None
    assert Outcome.read(run.path) == Outcome("finished", 200, saved=True)
    assert [line["done"] for line in steps(run)] == list(range(1, 201))
    discard(run)
    assert result(run) is None


def test_a_training_elsewhere_that_goes_on_loses_nothing(fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retmask.runs.run._PATIENCE", 0.1)
    run = Run.create("train", {"model": "m"})
    run.update(status="started", place="far/1/2")
    (run.path / "lock").touch()
    for name in ("adapter", "checkpoints"):
        (run.path / name).mkdir()
    discard(run)
    assert (run.asked, run.record.get("discarded")) == (True, None)
    assert {"adapter", "checkpoints"} <= {path.name for path in run.path.iterdir()}


def test_cancel_ends_every_process(folder: Path, pairs: Path, tmp_path: Path) -> None:
    run = TRAIN.new(of(folder, pairs, SETTINGS, max_steps=2000, save_steps=2000), tmp_path / "out")
    run.spawn()
    wait_for(lambda: last_step(run) >= 1)
    run.cancel()
    assert run.status == "cancelled"
    saved = newest(run.path / "checkpoints")
    assert saved is not None
    assert saved.name == f"checkpoint-{last_step(run)}", "the step that was under way is done and saved"
    assert Outcome.read(run.path) == Outcome("stopped", last_step(run))
    assert not [p for p in psutil.process_iter() if str(run.path) in _words(p)]
    assert result(run) is None


def test_a_trainer_that_somebody_else_ends(folder: Path, pairs: Path, tmp_path: Path) -> None:
    """By SIGKILL it says nothing; by SIGTERM it finishes its step and says so. A run is then an error, or cancelled."""
    run = TRAIN.new(of(folder, pairs, SETTINGS, max_steps=1000, save_steps=1000), tmp_path / "out")
    cases: list[tuple[int, type[BaseException], str | None]] = [
        (signal.SIGKILL, RuntimeError, "error"),
        (signal.SIGTERM, Cancelled, "cancelled"),
    ]
    for number, error, status in cases:
        work = TRAIN.work(run)
        next(work)
        for process in psutil.process_iter():  # not the launcher
            words = _words(process)
            if str(run.path) in words and "accelerate.commands.launch" not in words:
                process.send_signal(number)
        with pytest.raises(error):
            list(work)
        assert run.status == status
        outcome = Outcome.read(run.path)
        assert outcome == (None if number == signal.SIGKILL else Outcome("stopped", last_step(run)))
    assert result(run) is None


def test_a_trainer_that_refuses_says_what_to_change(folder: Path, pairs: Path, tmp_path: Path) -> None:
    """Where what the pre-flight counted on is no longer free."""
    run = TRAIN.new(of(folder, pairs, SETTINGS), tmp_path / "out")
    run.update(preflight={"needed": 2**60})
    with pytest.raises(ValueError, match="switch gradient checkpointing on"):
        list(TRAIN.work(run))
    outcome = Outcome.read(run.path)
    assert outcome == Outcome("refused", 0, outcome.reason if outcome else "")
    assert run.last_words == outcome.reason


def test_a_trainer_that_crashes_says_so_in_a_sentence(folder: Path, pairs: Path, tmp_path: Path) -> None:
    """A checkpoint that is whole by its marker and holds nothing: the traceback is in the log alone."""
    run = TRAIN.new(of(folder, pairs, SETTINGS), tmp_path / "out")
    checkpoint = run.path / "checkpoints" / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "complete.json").write_text('{"step": 2, "sizes": {}}')
    with pytest.raises((RuntimeError, ValueError)) as error:
        list(TRAIN.work(run))
    assert "\n" not in str(error.value)
    assert "Traceback" not in str(error.value)
    assert str(error.value) in run.last_words
    assert "Traceback" in (run.path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learning_rate": 0.0}, "learning rate 0 is outside 1e-08 to 0.01"),
        ({"learning_rate": 10.0}, "learning rate 10 is outside"),
        ({"learning_rate": math.nan}, "learning rate nan is outside"),
        ({"beta": -1.0}, "beta -1 is outside"),
        ({"batch": 3, "micro_batch": 2}, "a batch of 3 is no multiple of the micro-batch 2"),
        ({"method": "magic"}, "method 'magic' is unknown: choose lora, full"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        plain(**changes)  # type: ignore[arg-type]


def test_presets() -> None:
    assert {name: by_preset(name).method for name in PRESETS} == {
        "laptop": "lora",
        "gpu": "lora",
        "paper": "full",
    }
    assert by_preset("paper").reference == "precomputed"
    with pytest.raises(ValueError, match="preset 'big' is unknown"):
        by_preset("big")


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


def test_what_does_not_fit_is_refused_with_the_number_to_change(
    folder: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = preflight(of(folder, pairs, SETTINGS))
    assert (fits.pairs, fits.held_out, fits.steps, fits.cut, fits.problems) == (9, 3, 6, 0, ())
    assert fits.longest == len("question 11?so wrong 11") + 1
    assert preflight(of(folder, pairs, plain(batch=2, device="cpu", eval_share=0.25))).steps == 5
    monkeypatch.setattr("retmask.model.fit.free_bytes", lambda device: 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    found = preflight(of(folder, pairs, plain(batch=4, micro_batch=2, device="cpu")))
    assert "lower micro batch from 2 to 1" in found.problems[0]
    assert "free some, or choose another --out" in found.problems[1]
    with pytest.raises(ValueError, match="switch gradient checkpointing on"):
        TRAIN.new(of(folder, pairs, SETTINGS), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pairs_that_are_all_too_long(folder: Path, pairs: Path) -> None:
    rows = pairs.read_text().replace("so wrong", "so wrong " * 10)
    pairs.write_text(rows)
    found = preflight(of(folder, pairs, plain(max_length=32, batch=2, device="cpu")))
    assert found.cut == 1
    assert "every pair is longer than max length 32: raise it to" in found.problems[0]


def test_the_split_is_the_same_and_whole() -> None:
    rows = list(range(10))
    kept, held = split(rows, 0.3, 1)
    assert len(held) == 3
    assert sorted(kept + held) == rows
    assert split(rows, 0.3, 1) == (kept, held)
    assert split([1], 0.5, 0) == ([1], [])


def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    for step, sizes in ((2, {"a": 3}), (4, {"a": 4})):
        path = tmp_path / f"checkpoint-{step}"
        path.mkdir()
        (path / "a").write_text("abc")
        (path / "complete.json").write_text(json.dumps({"step": step, "sizes": sizes}))
    (tmp_path / "checkpoint-6").mkdir()
    assert newest(tmp_path) == tmp_path / "checkpoint-2"
    assert newest(tmp_path / "none") is None


def test_commands(folder: Path, pairs: Path, tmp_path: Path) -> None:
    config = by_preset("laptop", max_steps=3, gradient_checkpointing=True)
    words = "retmask train m --pairs p --max-steps 3 --gradient-checkpointing"
    assert config.command == words.split()
    run = TRAIN.new(of(folder, pairs, SETTINGS), tmp_path / "out")
    command = launch_command(run)
    assert command[1:4] == ["-m", "accelerate.commands.launch", "--cpu"]
    assert command[-3:] == ["-m", "retmask.train.trainer", str(run.path)]
