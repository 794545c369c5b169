"""The job that fine-tunes: what it needs is looked at first, then a process of its own trains (`trainer`).

A run's folder gets `pairs.jsonl` (a copy), `checkpoints/`, and at the end `adapter/` with a card (or `model/`).
"""

import csv
import io
import json
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from retmask.files import read_object, settled, sha256, write_atomic, write_json
from retmask.pairs.files import pairs_file, read_rows, rows_text
from retmask.pairs.pair import PAIRS
from retmask.runs import processes as workers
from retmask.runs.run import Cancelled, Run, number, parent_ids
from retmask.train.launch import launch
from retmask.train.preflight import Preflight, preflight
from retmask.train.trainer import ADAPTER, CHECKPOINTS, ENDED, FULL, STOP, STOPPED, DpoConfig, newest

_MOST_NAMED = 20  # pairs that the card names; run.json names all
_CURVES = (
    "step", "loss", "chosen", "rejected", "margin", "accuracy", "logps_chosen", "logps_rejected", "grad_norm", "lr",
    "tokens_per_s", "memory",
)  # fmt: skip


def checked(
    model: str,
    pairs: str | Path,
    config: DpoConfig,
    out: Path | None = None,
    *,
    revision: str = "",
    any_pairs: bool = False,
    trust_remote_code: bool = False,
) -> Preflight:
    """What a training would take, with everything among its problems for which `new_train` would refuse it.

    ValueError, one sentence, where model or pairs cannot be read at all.
    """
    file, settings = _settings(model, pairs, config, revision)
    found = preflight(settings["model"], file, DpoConfig.from_record(settings), out, revision, trust_remote_code)
    return found._replace(problems=(*_refusals(file, settings, out, any_pairs), *found.problems))


def _refusals(file: Path, settings: Mapping[str, Any], out: Path | None, any_pairs: bool) -> Iterator[str]:
    """Why this training may not begin, whatever there is room for."""
    try:
        _check_model(settings["model"], file, settings["revision"], any_pairs)
    except ValueError as error:
        yield str(error)
    try:
        Run.unfinished("train", settings, out)
    except ValueError as error:
        yield str(error)


def _settings(model: str, pairs: str | Path, config: DpoConfig, revision: str) -> tuple[Path, dict[str, Any]]:
    """The file of the pairs, and the settings that a run keeps: names of what is there as whole paths."""
    file = pairs_file(pairs).resolve()
    if config.accelerate_config:
        config = replace(config, accelerate_config=settled(config.accelerate_config))
    return file, {"model": settled(model), "pairs": str(file), "revision": revision, **asdict(config)}


def new_train(
    model: str,
    pairs: str | Path,
    config: DpoConfig,
    out: Path | None = None,
    *,
    revision: str = "",
    any_pairs: bool = False,
    command: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> Run:
    """A run that trains a model on pairs; in `out` an unfinished one with the same settings is taken up again.

    ValueError, one sentence, where the pre-flight finds that it cannot be done, or the pairs were made with another
    model (unless `any_pairs`); nothing is written then.
    """
    found = checked(
        model, pairs, config, out, revision=revision, any_pairs=any_pairs, trust_remote_code=trust_remote_code
    )
    if found.problems:
        raise ValueError("; ".join(found.problems))
    file, settings = _settings(model, pairs, config, revision)
    run = Run.claim("train", settings, list(command), out, Path(settings["model"]).name, parents=parent_ids(file))
    if "pairs_sha256" not in run.record:  # also where the last attempt died between the two writes
        write_atomic(run.path / PAIRS, rows_text(read_rows(file)))
        made = Run(file.parent).record
        run.update(
            pairs_sha256=sha256(run.path / PAIRS),
            preflight={**found._asdict(), "problems": [], "warnings": list(found.warnings)},
            made_with={name: made[name] for name in ("mask", "kept", "prompts_sha256", "clock") if name in made},
        )
    return run


def _check_model(model: str, file: Path, revision: str, any_pairs: bool) -> None:
    """ValueError where the pairs say that another model made them, or this one with an adapter or another revision."""
    from retmask.model.weights import resolve

    source, record = resolve(model, revision or None), Run(file.parent).record
    names = {str(row["model"]) for row in read_rows(file) if row.get("model")} - {model, source.name, source.revision}
    digest, made = record.get("sha256"), record.get("config") or {}
    other = sorted(names)[0] if names else ""
    if not other and digest and source.sha256 and digest != source.sha256:
        other = "another version of it"
    if not other and record.get("adapter_sha256"):
        other = f"the adapter {made.get('adapter')} on it"
    if not other and record.get("kind") == "pairs" and not (digest and source.sha256):
        # by the commits where both are known, else by what was asked for
        commit = record.get("revision") if source.revision else None
        theirs, ours = (commit, source.revision) if commit else (made.get("revision") or "", revision)
        other = f"its revision {theirs or 'by default'}" if theirs != ours else ""
    if other and not any_pairs:
        raise ValueError(
            f"{file.name} was made with {other} and not with {model}: DPO wants a model's own answers; make pairs with "
            "it, or say --any-pairs"
        )


def train_command(model: str, pairs: str | Path, config: DpoConfig, preset: str) -> list[str]:
    """The command line that does the same: only what differs from the preset."""
    out = ["retmask", "train", model, "--pairs", str(pairs)]
    out += [] if preset == "laptop" else ["--preset", preset]
    usual = DpoConfig.preset(preset)
    for one in fields(DpoConfig):
        value, flag = getattr(config, one.name), one.name.replace("_", "-")
        if value == getattr(usual, one.name):
            continue
        out += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return out


class TrainProgress(NamedTuple):
    """How far a training is: steps done of all, seconds left, and the last step's line of progress.jsonl."""

    done: int
    total: int
    eta: float | None
    line: Mapping[str, Any]


def train(run: Run, trust_remote_code: bool = False) -> Iterator[TrainProgress]:
    """Do what a training's run says, or the rest of it from the newest whole checkpoint; yields after every step.

    The trainer's own words are in log.txt. RuntimeError with its last words where it fails.
    """
    if run.status == "success":
        return
    with run.working() as held:
        if sha256(run.path / PAIRS) != run.record.get("pairs_sha256"):
            raise ValueError(f"{run.path / PAIRS} has changed since the run began: start a new one")
        for name in (STOP, ENDED):
            (run.path / name).unlink(missing_ok=True)
        run.update(stopped_at=None, discarded=None)  # that was the last time
        _describe(run, trust_remote_code)
        seen, ended = len(run.progress), False
        trainer = launch(run, trust_remote_code, held[1:])  # all but the lock: it is let go when this process dies
        try:
            while not ended:
                ended = trainer.poll() is not None
                lines = run.progress
                for line in lines[seen:]:
                    if line.get("stage") == "steps":
                        yield TrainProgress(int(line["done"]), int(line["total"]), line.get("eta"), line)
                seen = len(lines)
                time.sleep(0 if ended else 0.3)
        finally:
            if not ended:
                run.report(stage="stopping")
            try:
                workers.end(run.path, run.patience)  # it finishes its step and saves
            except Cancelled:  # Ctrl-C once more
                workers.end(run.path, 0.0)
                raise
            trainer.wait()
        _judge(run, trainer.returncode)
        _card(run)
        if (run.path / STOP).exists():
            run.update(stopped_at=last_step(run))
            raise Cancelled
        run.update(stopped_at=None)
        shutil.rmtree(run.path / CHECKPOINTS, ignore_errors=True)


def _part(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A part of a record, empty where it is none."""
    part = record.get(name)
    return part if isinstance(part, dict) else {}


def _describe(run: Run, trust_remote_code: bool) -> None:
    from retmask.model.weights import resolve

    source = resolve(run.record["config"]["model"], run.record["config"]["revision"] or None)
    run.pin(model=source.name, **({"sha256": source.sha256} if source.sha256 else {}))  # else once it is downloaded
    start = newest(run.path / CHECKPOINTS)
    run.report(stage="loading", done=int(start.name.rpartition("-")[2]) if start else 0)


def _judge(run: Run, code: int) -> None:
    """Cancelled, or ValueError or RuntimeError with what the trainer wrote down, where it has not ended well."""
    if code == 0:
        return
    ended = read_object(run.path / ENDED)
    if ended.get("how") == "stopped" or (not ended and code in (STOPPED, -signal.SIGTERM)):
        raise Cancelled
    if ended:
        raise (ValueError if ended.get("how") == "refused" else RuntimeError)(str(ended.get("says")))
    raise RuntimeError(
        "the trainer ended without a word: it may have been killed as memory ran out, so lower micro batch or max "
        "length; what it printed is in log.txt"
    )


def steps(run: Run) -> list[dict[str, Any]]:
    """The lines of progress of all steps, each step once, in order: what a resume has taken back is left out."""
    found: dict[int, dict[str, Any]] = {}
    for line in run.progress:
        done = line.get("done")
        if line.get("stage") == "loading" and isinstance(done, int):  # it goes on from the checkpoint of that step
            found = {step: known for step, known in found.items() if step <= done}
        elif line.get("stage") == "steps" and isinstance(done, int):
            found[done] = line
    return [found[step] for step in sorted(found)]


def last_step(run: Run) -> int:
    """The last step that was done, 0 before the first."""
    done = steps(run)
    return int(done[-1]["done"]) if done else 0


def stop_and_keep(run: Run) -> None:
    """Ask a training to stop after its present step, with a checkpoint and the adapter as it is then."""
    write_atomic(run.path / STOP, "")


def discard(run: Run) -> None:
    """Cancel a training and delete its checkpoints and its adapter; nothing is deleted where it still goes on then.

    One on another machine may: it finds the request and stops as `cancel` has it.
    """
    run.cancel(patience=8.0)  # what it would still save is deleted
    if run.status in ("queued", "started"):
        return
    run.update(discarded=True)
    for name in (CHECKPOINTS, ADAPTER, FULL):
        shutil.rmtree(run.path / name, ignore_errors=True)


def result(run: Run) -> Path | None:
    """The folder of the trained adapter or model; None as long as there is none."""
    found = [run.path / name for name in (ADAPTER, FULL) if (run.path / name).is_dir()]
    return found[0] if found else None


def curves_csv(run: Run) -> str:
    """The curves as CSV, a row a step."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _CURVES, extrasaction="ignore")
    writer.writeheader()
    writer.writerows({**line, "step": line["done"]} for line in steps(run))
    return out.getvalue()


def _card(run: Run) -> None:
    """Put the card, the curves and the record of where it comes from into the result's folder."""
    folder = result(run)
    if folder is None:
        return
    record = run.record
    config = record["config"]
    write_json(
        folder / "retmask.json",
        {
            "base": record["model"],
            "revision": record.get("revision"),
            "base_sha256": record.get("sha256"),
            "run": run.id,
            "parents": run.parents,
            "pairs_sha256": record.get("pairs_sha256"),
            "made_with": record.get("made_with", {}),
            "steps": last_step(run),
            "settings": {name: value for name, value in config.items() if name != "pairs"},
            "versions": record.get("versions", {}),
        },
    )
    if folder.name == ADAPTER and not Path(config["model"]).is_absolute():
        _name_base(folder, record["model"], config["revision"])
    write_atomic(folder / "curves.csv", curves_csv(run))
    write_atomic(folder / "README.md", _readme(run))


def _name_base(folder: Path, name: str, revision: str) -> None:
    """Let the adapter name its base model as people do, and not by the folder it was loaded from."""
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, settings | {"base_model_name_or_path": name, "revision": revision or None})


def _readme(run: Run) -> str:
    record, done = run.record, steps(run)
    config, made = record["config"], record.get("made_with", {})
    default = DpoConfig()
    changed = [
        f"| {n} | {v} |"
        for n, v in config.items()
        if n not in ("model", "pairs", "revision") and v != getattr(default, n)
    ]
    rows = (
        [
            f"| {line['done']} | {_cells(line)} |"
            for line in [done[0], *done[len(done) // 2 : len(done) // 2 + 1], done[-1]]
        ]
        if done
        else []
    )
    held, sizes = _part(record, "held_out"), _part(record, "preflight")
    left = [*map(str, sizes.get("left_out") or ())]
    names = ", ".join(left[:_MOST_NAMED]) + (", ..." if len(left) > _MOST_NAMED else "")
    accuracy = held.get("rewards/accuracies")
    what = "An adapter (LoRA)" if config["method"] == "lora" else "A model"
    return "\n".join(
        [
            "---",
            f"base_model: {record['model']}",
            "library_name: peft" if config["method"] == "lora" else "library_name: transformers",
            "tags: [retmask, dpo]",
            "---",
            "",
            f"# {record['model']}, fine-tuned on the contrast with its retrieval heads masked",
            "",
            f"{what} made by RetMask Workbench (method: arXiv 2601.11020): DPO on the model's own answers (chosen) "
            "against those of the same model with heads masked (rejected).",
            "",
            f"- base model: {record['model']}, revision {record.get('revision') or 'none'}, "
            f"SHA-256 {record.get('sha256') or 'not known'}",
            f"- masked heads: {made.get('mask', 'not recorded')}",
            f"- made from: {', '.join(run.parents) or 'a pairs file'}; pairs SHA-256 {record.get('pairs_sha256')}",
            f"- pairs: {sizes.get('pairs', '?')} to train on, {sizes.get('held_out', '?')} held out"
            + (f", {len(left)} left out that teach nothing at this max length: {names}" if left else ""),
            f"- numbers that were trained: {number(sizes.get('trained')):,.0f}",
            f"- steps: {last_step(run)}"
            + ("" if accuracy is None else f"; reward accuracy on held-out pairs: {accuracy:.2f}"),
            "",
            "Settings that differ from the defaults:",
            "",
            "| setting | value |",
            "|---|---|",
            *changed,
            "",
            "All steps are in curves.csv:",
            "",
            "| step | loss | reward of chosen | of rejected | margin | accuracy |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _cells(line: Mapping[str, Any]) -> str:
    names = ("loss", "chosen", "rejected", "margin", "accuracy")
    return " | ".join(f"{line[name]:.3f}" if name in line else "" for name in names)
