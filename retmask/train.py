"""The job that fine-tunes: what it needs is looked at first, then a process of its own trains (`retmask.dpo`).

A run's folder gets `pairs.jsonl` (a copy), `checkpoints/`, and at the end `adapter/` with a card (or `model/`).
"""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from retmask import workers
from retmask.dpo import ADAPTER, CHECKPOINTS, FULL, STOP, STOPPED, DpoConfig, newest, split
from retmask.files import expanded, home, settled, sha256, write_atomic, write_json
from retmask.pair_files import doubts, pairs_file, read_rows, rows_text
from retmask.pairs import PAIRS
from retmask.runs import Cancelled, Run, parent_ids

_ACTIVATIONS = 42  # floats a token, layer and hidden unit that a training pass keeps: measured, and some room
_CURVES = (
    "step", "loss", "chosen", "rejected", "margin", "accuracy", "logps_chosen", "logps_rejected", "grad_norm", "lr",
    "tokens_per_s", "memory",
)  # fmt: skip


class Preflight(NamedTuple):
    """What a training would take, known before it starts: sizes in bytes, lengths in tokens, shares 0-1.

    `problems` are sentences, each with the number to change; with none it can start. `warnings` can be lived with.
    """

    pairs: int
    held_out: int
    steps: int
    longest: int
    cut: float
    needed: int
    free: int
    disk_needed: int
    disk_free: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The same in words."""
        gib = 2**30
        return (
            f"{self.steps:,} steps over {self.pairs:,} pairs ({self.held_out:,} held out); {self.cut:.0%} of the pairs "
            f"are cut by max length, the longest has {self.longest:,} tokens; about {self.needed / gib:.1f} GiB of "
            f"memory ({self.free / gib:.1f} free) and {self.disk_needed / gib:.2f} GiB of disk "
            f"({self.disk_free / gib:.1f} free)."
        )


def preflight(model: str, pairs: str | Path, config: DpoConfig, out: Path | None = None, revision: str = "",
              trust_remote_code: bool = False) -> Preflight:  # fmt: skip
    """What this training would take. ValueError, one sentence, where model or pairs cannot be read at all."""
    import torch
    from transformers import AutoModelForCausalLM

    from retmask.loading import load_tokenizer
    from retmask.memory import choose_device, choose_dtype, free_bytes
    from retmask.weights import read_config, resolve

    rows = read_rows(pairs_file(pairs))
    train, held_out = split(rows, config.eval_share, config.seed)
    source = resolve(model, revision or None)
    hf = read_config(source, trust_remote_code)
    device = choose_device(config.device or None)
    dtype = choose_dtype(config.dtype or None, device)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(hf, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(source, trust_remote_code)
    lengths = [_tokens(tokenizer, row) for row in rows]
    longest = min(max(lengths), config.max_length)
    trained = _trained(empty, config)
    # of what is trained: the weight, its gradient and Adam's two moments, or a bfloat16 pair with a float32 copy
    frozen = 0 if config.method == "full" else sum(one.numel() for one in empty.parameters()) * dtype.itemsize
    text = hf.get_text_config()
    layers = 2 if config.gradient_checkpointing else text.num_hidden_layers
    kept = 2 * config.micro_batch * longest * text.hidden_size * dtype.itemsize
    needed = int(1.1 * (frozen + 16 * trained + kept * (_ACTIVATIONS * layers + text.num_hidden_layers)))
    disk_needed = 3 * 3 * 4 * trained + 4 * trained  # two checkpoints and the one being written, then the result
    folder = _existing(out or home())
    found = Preflight(
        pairs=len(train),
        held_out=len(held_out),
        steps=_steps(len(train), config),
        longest=max(lengths),
        cut=sum(length > config.max_length for length in lengths) / len(lengths),
        needed=needed,
        free=int(free_bytes(device)),
        disk_needed=disk_needed,
        disk_free=shutil.disk_usage(folder).free,
        problems=(),
        warnings=(),
    )
    return found._replace(
        problems=tuple(_problems(found, config, folder)), warnings=(*_warnings(found, config), *doubts(train, held_out))
    )


def _tokens(tokenizer: Any, row: Mapping[str, Any]) -> int:
    """The longer of the two sequences of a row, in tokens."""
    both = []
    for name in ("chosen", "rejected"):
        if isinstance(row["prompt"], str):
            both.append(len(tokenizer(row["prompt"] + row[name])["input_ids"]) + 1)
        else:
            text = tokenizer.apply_chat_template([*row["prompt"], *row[name]], tokenize=False)
            both.append(len(tokenizer(text, add_special_tokens=False)["input_ids"]))
    return max(both)


def _trained(empty: Any, config: DpoConfig) -> int:
    """How many numbers are trained."""
    import torch

    if config.method == "full":
        return sum(parameter.numel() for parameter in empty.parameters())
    head = empty.get_output_embeddings()
    linear = [(name, module) for name, module in empty.named_modules() if isinstance(module, torch.nn.Linear)]
    chosen = [
        module for name, module in linear if module is not head and (config.target == "all" or ".self_attn." in name)
    ]
    return config.rank * sum(module.in_features + module.out_features for module in chosen)


def _steps(pairs: int, config: DpoConfig) -> int:
    by_epochs = max(1, int(config.epochs * -(-pairs // config.batch)))
    return config.max_steps or by_epochs


def _problems(found: Preflight, config: DpoConfig, folder: Path) -> Iterator[str]:
    gib = 2**30
    if found.pairs + found.held_out < 2:
        yield "one pair is too few to train on: make more pairs"
    if found.needed > found.free and not config.accelerate_config:
        yield f"{_memory(found)}: {_less_memory(config)}"
    if not config.accelerate_config:
        yield from _unshared(config)
    if found.disk_needed > found.disk_free:
        yield (
            f"checkpoints need about {found.disk_needed / gib:.2f} GiB and {found.disk_free / gib:.2f} are free on the "
            f"disk of {folder}: free some, or choose another --out"
        )
    if not os.access(folder, os.W_OK):
        yield f"{folder} cannot be written to: choose another --out"
    if config.report_to != "none" and find_spec(config.report_to) is None:
        yield f"{config.report_to} is not installed: pip install {config.report_to}, or report to none"
    if config.accelerate_config and not expanded(config.accelerate_config).is_file():
        yield f"there is no accelerate config {config.accelerate_config}: make one with `accelerate config`"
    if found.cut == 1:
        yield f"every pair is longer than max length {config.max_length}: raise it to {found.longest}"


def _memory(found: Preflight) -> str:
    gib = 2**30
    return f"training needs about {found.needed / gib:.1f} GiB of memory and {found.free / gib:.1f} are free"


def _unshared(config: DpoConfig) -> Iterator[str]:
    """What is wrong with how a step is shared out over the cards of this machine."""
    import torch

    from retmask.memory import choose_device

    if choose_device(config.device or None).type == "cpu":
        return
    there = torch.cuda.device_count()
    cards = config.processes or there
    if cards > there:
        yield f"{cards} GPUs were asked for and {there} are here: lower processes"
    if config.batch % (config.micro_batch * cards):
        yield (
            f"{config.batch} pairs a step cannot be shared out over {cards} GPUs of {config.micro_batch}: choose a "
            f"multiple of {config.micro_batch * cards}"
        )


def _less_memory(config: DpoConfig) -> str:
    """What to change so that less memory is needed."""
    if config.micro_batch > 1:
        return f"lower micro batch from {config.micro_batch} to 1"
    if not config.gradient_checkpointing:
        return "switch gradient checkpointing on"
    if config.method == "full":
        return "share it out with an accelerate config (DeepSpeed or FSDP), or train a LoRA adapter"
    return f"lower max length from {config.max_length}, or take a smaller model"


def _warnings(found: Preflight, config: DpoConfig) -> Iterator[str]:
    if found.needed > found.free and config.accelerate_config:
        yield f"{_memory(found)} on one device; the accelerate config is to share it out"
    if 0 < found.cut < 1:
        yield (
            f"{found.cut:.0%} of the pairs are longer than max length {config.max_length} and lose their end: raise it "
            f"to {found.longest}"
        )
    if found.steps * config.batch > 3 * found.pairs * max(1.0, config.epochs):
        yield f"{found.steps:,} steps of {config.batch} pairs go over {found.pairs:,} pairs more than three times"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


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
    file, model = pairs_file(pairs).resolve(), settled(model)
    if config.accelerate_config:
        config = replace(config, accelerate_config=settled(config.accelerate_config))
    _check_model(model, file, revision, any_pairs)
    found = preflight(model, file, config, out, revision, trust_remote_code)
    if found.problems:
        raise ValueError("; ".join(found.problems))
    settings = {"model": model, "pairs": str(file), "revision": revision, **asdict(config)}
    run = Run.claim("train", settings, list(command), out, Path(model).name, parents=parent_ids(file))
    if "pairs_sha256" not in run.record:  # also where the last attempt died between the two writes
        write_atomic(run.path / PAIRS, rows_text(read_rows(file)))
        made = Run(file.parent).record
        run.update(
            pairs_sha256=sha256(run.path / PAIRS),
            preflight={**found._asdict(), "problems": [], "warnings": list(found.warnings)},
            made_with={name: made[name] for name in ("mask", "kept", "prompts_sha256") if name in made},
        )
    return run


def _check_model(model: str, file: Path, revision: str, any_pairs: bool) -> None:
    """ValueError where the pairs say that another model made them, or this one with an adapter or another revision."""
    from retmask.weights import resolve

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
        (run.path / STOP).unlink(missing_ok=True)
        run.update(stopped_at=None, discarded=None)  # that was the last time
        _describe(run, trust_remote_code)
        seen = len(run.progress)
        trainer = _launch(
            run, trust_remote_code, held[1:]
        )  # all but the lock: it is to be let go when this process dies
        try:
            while True:
                ended = trainer.poll() is not None
                lines = run.progress
                for line in lines[seen:]:
                    if line.get("stage") == "steps":
                        yield TrainProgress(int(line["done"]), int(line["total"]), line.get("eta"), line)
                seen = len(lines)
                if ended:
                    break
                time.sleep(0.3)
        finally:
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


def _describe(run: Run, trust_remote_code: bool) -> None:
    from retmask.weights import resolve

    source = resolve(run.record["config"]["model"], run.record["config"]["revision"] or None)
    run.pin(model=source.name, **({"sha256": source.sha256} if source.sha256 else {}))  # else once it is downloaded
    start = newest(run.path / CHECKPOINTS)
    run.report(stage="loading", done=int(start.name.rpartition("-")[2]) if start else 0)


def launch_command(run: Run) -> list[str]:
    """How the trainer is started: by `accelerate launch`, on one CPU process, or on the GPUs that were asked for."""
    config = DpoConfig.from_record(run.record["config"])
    from retmask.memory import choose_device

    parts = [sys.executable, "-m", "accelerate.commands.launch"]
    if config.accelerate_config:
        parts += ["--config_file", str(expanded(config.accelerate_config))]
    elif choose_device(config.device or None).type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = os.environ.get("OMP_NUM_THREADS") or min(cores, psutil.cpu_count(logical=False) or cores)
        parts += ["--cpu", "--num_processes", "1", "--num_cpu_threads_per_process", str(threads)]
    else:
        import torch

        cards = config.processes or torch.cuda.device_count() or 1
        parts += ["--num_processes", str(cards)] + (["--multi_gpu"] if cards > 1 else [])
    parts += (
        [] if config.accelerate_config else ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    )
    return [*parts, "-m", "retmask.dpo", str(run.path)]


def _launch(run: Run, trust_remote_code: bool, held: Sequence[int]) -> "subprocess.Popen[bytes]":
    environment = os.environ | {
        "RETMASK_TRUST_REMOTE_CODE": "1" if trust_remote_code else "0",
        "TENSORBOARD_LOGGING_DIR": str(run.path / "tensorboard"),
    }
    cards = int(run.record["config"].get("processes") or 0)
    if cards:  # the launcher of one process would leave all of them to it, and TRL refuses that
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(cards)))
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[:cards])
    command = launch_command(run)
    with (run.path / "log.txt").open("ab") as log:
        return subprocess.Popen(  # in a group of its own: Ctrl-C is for the worker, which asks it to finish its step
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, pass_fds=tuple(held),
            process_group=0,
        )  # fmt: skip


def _judge(run: Run, code: int) -> None:
    """Cancelled, or ValueError or RuntimeError with the trainer's last words, where it has not ended well."""
    if code == 0:
        return
    words = [line for line in run.log_tail(200, of_last=True).splitlines() if line.strip()]
    said = "\n".join(words[-20:])  # the launcher's own code is 1 whatever the trainer's was
    if code in (STOPPED, -15) or f"exit status {STOPPED}" in said or "SIGTERM" in said:
        raise Cancelled
    own = next((line for line in reversed(words) if line.startswith("retmask: ")), "")
    if own:
        raise ValueError(own.removeprefix("retmask: "))
    if code == -9 or "SIGKILL" in said:
        raise RuntimeError("the trainer was killed: memory may have run out; lower the micro batch or max length")
    errors = [line for line in words if "Error" in line and "ChildFailed" not in line and "CalledProcess" not in line]
    raise RuntimeError(errors[-1] if errors else f"the trainer ended with code {code} and without a word: see log.txt")


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
    """Cancel a training and delete its checkpoints and its adapter."""
    run.update(discarded=True)
    run.cancel(patience=8.0)  # what it would still save is deleted
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
    held = record.get("held_out") or {}
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
            f"- pairs: {record.get('preflight', {}).get('pairs', '?')} to train on, "
            f"{record.get('preflight', {}).get('held_out', '?')} held out",
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
