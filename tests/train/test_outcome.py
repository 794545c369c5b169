"""How trainings end: done, stopped, refused, failed or killed, each with a real trainer on a tiny model."""

import os
import shutil
import signal
import subprocess
import threading
import traceback
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from browser import hurry, wait_for
from trainings import SETTINGS, command_line, of

from retmask.runs.engine import cancel, spawn
from retmask.runs.run import Run
from retmask.runs.worker import Cancelled
from retmask.train import trainer
from retmask.train.checkpoints import newest
from retmask.train.job import TRAIN, _judged, discard, stop_and_keep
from retmask.train.launch import launch
from retmask.train.outcome import OUTCOME, Outcome
from retmask.train.results import last_step, result, steps
from retmask.train.trainer import OUT_OF_MEMORY, _failure


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


@pytest.mark.parametrize("outcome", [Outcome("refused", 0, "no"), Outcome("finished", 0, saved=True)])
def test_sigterm_after_the_training_takes_no_outcome(
    outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while an error is printed, or just before the signal is ignored: what happened is written down still."""

    def fit(run: Run, watch: object) -> Outcome:
        if outcome.reason:
            raise ValueError(outcome.reason)
        return outcome

    def ignore(number: signal.Signals, handler: Any) -> Any:
        if handler is signal.SIG_IGN and not outcome.reason:
            signal.raise_signal(number)
        return set_handler(number, handler)

    set_handler, before = signal.signal, signal.getsignal(signal.SIGTERM)
    run = Run.create("train", {"model": "m"}, tmp_path / "out")
    monkeypatch.setattr("sys.argv", ["trainer", str(run.path)])
    monkeypatch.setattr(trainer, "_end_with", lambda lock: None)
    monkeypatch.setattr(trainer, "fit", fit)
    monkeypatch.setattr(traceback, "print_exc", lambda: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr(signal, "signal", ignore)
    try:
        with pytest.raises(SystemExit):
            trainer.main()
    finally:
        set_handler(signal.SIGTERM, before)
    assert Outcome.read(run.path) == outcome


@pytest.mark.parametrize("comes_late", [False, True])
def test_sigterm_while_the_adapter_is_saved_leaves_all_of_it_or_none(comes_late: bool, tmp_path: Path) -> None:
    """It breaks off what is being written; once that has its name, it is done."""

    def save_model(folder: str) -> None:
        Path(folder).mkdir()
        if not comes_late:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    run = Run.create("train", {"model": "m"}, tmp_path / "out")
    accelerator = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)
    trainer._Watch(run)
    try:
        with nullcontext() if comes_late else pytest.raises(Cancelled):
            trainer._save(SimpleNamespace(accelerator=accelerator, save_model=save_model), run, SETTINGS)
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result(run) == (run.path / "adapter" if comes_late else None)


def test_a_training_that_is_asked_to_stop_once_its_adapter_is_saved_is_done(
    folder: Path, pairs: Path, tmp_path: Path
) -> None:
    """It is asked between its adapter and its end; where this comes later, it is done in any case."""
    run = TRAIN.new(of(folder, pairs, SETTINGS), tmp_path / "out")

    def ask() -> None:
        wait_for(lambda: result(run) is not None)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask, daemon=True)
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        asking.start()
        list(TRAIN.work(run))
        asking.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert run.status == "success"
    assert Outcome.read(run.path) == Outcome("finished", 6, saved=True)
    assert (run.path / "adapter" / "README.md").is_file()
    assert not (run.path / "checkpoints").exists()


def test_a_resume_from_the_last_step_trains_no_more(folder: Path, pairs: Path, tmp_path: Path) -> None:
    """Killed between the last checkpoint and the result: the result is that of the checkpoint, with no step more."""
    run = TRAIN.new(of(folder, pairs, SETTINGS), tmp_path / "out")
    for step in TRAIN.work(run):
        if step.done == 6:
            wait_for(lambda: Outcome.read(run.path) is not None)
            shutil.copytree(run.path / "checkpoints", tmp_path / "checkpoints")
    adapter = run.path / "adapter" / "adapter_model.safetensors"
    before, lines = adapter.read_bytes(), steps(run)
    shutil.rmtree(run.path / "adapter")
    shutil.copytree(tmp_path / "checkpoints", run.path / "checkpoints")
    run.update(status="error")
    list(TRAIN.work(run))
    assert Outcome.read(run.path) == Outcome("finished", 6, saved=True)
    assert steps(run) == lines
    assert adapter.read_bytes() == before


def test_stop_and_keep_then_resume(folder: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked as its trainer starts, so that this comes in time however slow the one or the other process is."""
    run = TRAIN.new(of(folder, pairs, SETTINGS), tmp_path / "out")

    def asked(*how: Any) -> "subprocess.Popen[bytes]":
        stop_and_keep(run)
        return launch(*how)

    monkeypatch.setattr("retmask.train.job.launch", asked)
    with pytest.raises(Cancelled):
        list(TRAIN.work(run))
    monkeypatch.undo()
    assert run.status == "cancelled"
    assert run.record["stopped_at"] == 1
    assert Outcome.read(run.path) == Outcome("stopped", 1, saved=True)
    assert (run.path / "adapter" / "adapter_model.safetensors").is_file()
    list(TRAIN.work(run))
    assert run.status == "success"
    assert run.record["stopped_at"] is None
    assert Outcome.read(run.path) == Outcome("finished", 6, saved=True)
    assert [line["done"] for line in steps(run)] == list(range(1, 7))
    with pytest.raises(ValueError, match="is finished, and what it has made is kept"):
        discard(run)
    assert result(run) == run.path / "adapter"
    run.update(status="cancelled", stopped_at=3)
    discard(run)
    assert result(run) is None


def test_a_training_elsewhere_that_goes_on_loses_nothing(fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retmask.runs.engine._PATIENCE", 0.1)
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
    spawn(run)
    hurry(run)
    wait_for(lambda: last_step(run) >= 1)
    cancel(run)
    assert run.status == "cancelled"
    saved = newest(run.path / "checkpoints")
    assert saved is not None
    assert saved.name == f"checkpoint-{last_step(run)}", "the step that was under way is done and saved"
    assert Outcome.read(run.path) == Outcome("stopped", last_step(run))
    assert not [p for p in psutil.process_iter() if str(run.path) in command_line(p)]
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
            words = command_line(process)
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
