"""The job that fine-tunes: what it needs is looked at first, then a process of its own trains (`trainer`).

A run's folder gets `pairs.jsonl` (a copy), `checkpoints/`, and at the end `adapter/` with a card (or `model/`).
"""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from retmask.files import mapping, read_on, sha256, write_atomic
from retmask.pairs.files import pairs_file, read_rows, rows_text
from retmask.pairs.pair import PAIRS
from retmask.runs import processes
from retmask.runs.engine import cancel, how_patient
from retmask.runs.job import Job, Progress, Start, Work
from retmask.runs.run import PROGRESS, Run, parent_ids
from retmask.runs.settings import whole
from retmask.runs.worker import Cancelled
from retmask.train.checkpoints import ADAPTER, CHECKPOINTS, FULL, newest, step_of
from retmask.train.launch import launch
from retmask.train.outcome import OUTCOME, STOP, Outcome
from retmask.train.preflight import Preflight, preflight
from retmask.train.results import write_card
from retmask.train.settings import TrainSettings


def checked(settings: TrainSettings, out: Path | None = None, trust_remote_code: bool = False) -> Preflight:
    """What a training would take, with everything among its problems for which it would be refused.

    ValueError, one sentence, where model or pairs cannot be read at all.
    """
    settings = _whole(settings)
    needs = preflight(settings, out, trust_remote_code)
    return needs._replace(problems=(*_refusals(settings, out), *needs.problems))


def _refusals(settings: TrainSettings, out: Path | None) -> Iterator[str]:
    """Why this training may not begin, whatever there is room for."""
    try:
        _check_model(settings)
    except ValueError as error:
        yield str(error)
    try:
        TRAIN.unfinished(settings, out)
    except ValueError as error:
        yield str(error)


def _whole(settings: TrainSettings) -> TrainSettings:
    """The settings that a run keeps: names of what is there as whole paths."""
    return replace(whole(settings), pairs=str(pairs_file(settings.pairs).resolve()))


def _check(settings: TrainSettings, out: Path | None, trust_remote_code: bool) -> Start[TrainSettings]:
    """ValueError where the pre-flight finds that it cannot be done, or another model made the pairs."""
    needs = checked(settings, out, trust_remote_code)
    if needs.problems:
        raise ValueError("; ".join(needs.problems))
    settings = _whole(settings)
    file = Path(settings.pairs)

    def prepare(run: Run) -> None:
        if "pairs_sha256" in run.record:  # not where the last attempt died between the two writes
            return
        write_atomic(run.path / PAIRS, rows_text(read_rows(file)))
        made = Run(file.parent).record
        random = mapping(mapping(made.get("config")).get("rule")).get("random")
        run.update(
            pairs_sha256=sha256(run.path / PAIRS),
            preflight={**needs._asdict(), "problems": [], "warnings": list(needs.warnings)},
            made_with={name: made[name] for name in ("mask", "kept", "prompts_sha256", "clock") if name in made}
            | ({"random": random} if random else {}),
        )

    return Start(settings, parent_ids(file), prepare)


def _check_model(settings: TrainSettings) -> None:
    """ValueError where the pairs say that another model made them, or this one with an adapter or another revision."""
    from retmask.model.weights import resolve

    model, revision, file = settings.model, settings.revision, Path(settings.pairs)
    source, record = resolve(model, revision or None), Run(file.parent).record
    names = {str(row["model"]) for row in read_rows(file) if row.get("model")} - {model, source.name, source.revision}
    digest, config = record.get("sha256"), mapping(record.get("config"))
    maker = sorted(names)[0] if names else ""
    if not maker and digest and source.sha256 and digest != source.sha256:
        maker = "another version of it"
    if not maker and record.get("adapter_sha256"):
        maker = f"the adapter {config.get('adapter')} on it"
    if not maker and record.get("kind") == "pairs" and not (digest and source.sha256):
        # by the commits where both are known, else by what was asked for
        commit = record.get("revision") if source.revision else None
        theirs, ours = (commit, source.revision) if commit else (config.get("revision") or "", revision)
        maker = f"its revision {theirs or 'by default'}" if theirs != ours else ""
    if maker and not settings.any_pairs:
        raise ValueError(
            f"{file.name} was made with {maker} and not with {model}: DPO wants a model's own answers; make pairs with "
            "it, or say --any-pairs"
        )


def _steps(work: Work[TrainSettings]) -> Iterator[Progress]:
    """From the newest whole checkpoint on, as the trainer reports its steps; what else it says is in log.txt.

    RuntimeError with its last words where it fails.
    """
    run = work.run
    if sha256(run.path / PAIRS) != run.record.get("pairs_sha256"):
        raise ValueError(f"{run.path / PAIRS} has changed since the run began: start a new one")
    for name in (STOP, OUTCOME):
        (run.path / name).unlink(missing_ok=True)
    run.update(stopped_at=None, discarded=None)  # that was the last time
    _describe(run, work.settings)
    offset = run.progress_size
    trainer = launch(run, work.trust_remote_code, work.held[1:])  # but the lock: it is let go when this process dies
    try:
        yield from _reported(run, trainer, offset)
    except Cancelled:
        outcome = Outcome.read(run.path)
        if outcome is None or not outcome.saved:  # it need not have been in time: what is saved counts
            raise
    outcome = _judged(run, trainer.returncode)
    write_card(run)
    is_stopped = outcome.how == "stopped"
    run.update(stopped_at=outcome.step if is_stopped else None)
    if is_stopped:
        raise Cancelled
    shutil.rmtree(run.path / CHECKPOINTS, ignore_errors=True)


def _reported(run: Run, trainer: subprocess.Popen[bytes], offset: int) -> Iterator[Progress]:
    """The steps that a trainer reports, from a byte of progress.jsonl on; it has ended after this, however it goes."""
    has_ended = False
    try:
        while not has_ended:
            has_ended = trainer.poll() is not None
            lines, offset = read_on(run.path / PROGRESS, offset)
            for line in lines:
                if line.get("stage") == "steps":
                    yield Progress(int(line["done"]), int(line["total"]), line.get("eta"), line)
            time.sleep(0 if has_ended else 0.3)
    finally:
        if not has_ended:
            run.report(stage="stopping")
        try:
            processes.end(run.path, how_patient(run))  # it finishes its step and saves
        except Cancelled:  # Ctrl-C once more
            processes.end(run.path, 0.0)
            raise
        trainer.wait()


TRAIN = Job("train", TrainSettings, _check, _steps)


def _describe(run: Run, settings: TrainSettings) -> None:
    from retmask.model.weights import resolve

    source = resolve(settings.model, settings.revision or None)
    run.pin(model=source.name, **({"sha256": source.sha256} if source.sha256 else {}))  # else once it is downloaded
    start = newest(run.path / CHECKPOINTS)
    run.report(stage="loading", done=step_of(start) if start else 0)


def _judged(run: Run, code: int) -> Outcome:
    """What the trainer wrote down of its end, with a result saved; its exit code counts where it wrote nothing.

    Cancelled where it was stopped without one, ValueError where it was refused, RuntimeError where it failed.
    """
    outcome = Outcome.read(run.path)
    if outcome and outcome.saved:
        return outcome
    if outcome and outcome.reason:
        raise (ValueError if outcome.how == "refused" else RuntimeError)(outcome.reason)
    if outcome or code == -signal.SIGTERM:
        raise Cancelled
    raise RuntimeError(
        "the trainer ended without a word: it may have been killed as memory ran out, so lower micro batch or max "
        "length; what it printed is in log.txt"
    )


def stop_and_keep(run: Run) -> None:
    """Ask a training to stop after its present step, with a checkpoint and the adapter as it is then."""
    write_atomic(run.path / STOP, "")


def discard(run: Run) -> None:
    """Cancel a training and delete its checkpoints and its adapter; nothing is deleted where it still goes on then.

    One on another machine may: it finds the request and stops as `cancel` has it. One that is stopped already, or has
    failed, loses what it kept. ValueError for one that is finished, also where it finishes just now: that is kept.
    """
    cancel(run, patience=8.0)  # what it would still save is deleted
    if run.is_active:
        return
    if run.status == "success":
        raise ValueError(f"{run.id} is finished, and what it has made is kept: delete the run if you want none of it")
    run.update(discarded=True)
    for name in (CHECKPOINTS, ADAPTER, FULL):
        shutil.rmtree(run.path / name, ignore_errors=True)
