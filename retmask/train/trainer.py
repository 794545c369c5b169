"""DPO (Rafailov et al. 2023, arXiv 2305.18290) on preference pairs: the settings, and the process that trains.

The only file that knows TRL. `job` starts `accelerate launch -m retmask.train.trainer RUN`, which trains what
RUN/run.json says: a plain transformers model in, an adapter folder (or a full checkpoint) out; RUN/progress.jsonl grows
with every step.
"""

import fcntl
import json
import math
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from retmask.files import write_json
from retmask.runs.run import Run

if TYPE_CHECKING:
    import torch

    from retmask.train.tokens import TokenPair

CHECKPOINTS, ADAPTER, FULL, STOP, WHOLE = "checkpoints", "adapter", "model", "stop", "complete.json"
ENDED = "ended.json"  # how a trainer that did not come to its end has ended, and why
STOPPED = 143  # the exit code of a process that SIGTERM has ended


def _setting(default: Any, says: str, **limits: Any) -> Any:
    """A field with what command line and form need: help, least and most, choices, whether it is for experts."""
    return field(default=default, metadata={"help": says, **limits})


@dataclass(frozen=True)
class DpoConfig:
    """How to fine-tune. Flags and form are made from these fields; ValueError for a value outside its range."""

    method: str = _setting("lora", "what is trained: a small adapter, or all weights", choices=("lora", "full"))
    rank: int = _setting(16, "of the LoRA matrices", min=1, max=1024)
    alpha: float = _setting(32.0, "LoRA's scale: it is multiplied by alpha / rank", min=0.01, max=4096)
    dropout: float = _setting(0.0, "of the LoRA layers", min=0.0, max=0.9, expert=True)
    target: str = _setting(
        "all", "which layers get an adapter: all linear ones, or attention's", choices=("all", "attention"), expert=True
    )
    beta: float = _setting(0.1, "how strongly the model is held to where it began (DPO's beta)", min=0.001, max=10)
    loss: str = _setting(
        "sigmoid", "DPO's loss, or that of IPO or a hinge", choices=("sigmoid", "ipo", "hinge"), expert=True
    )
    sft_weight: float = _setting(
        0.0, "how much plain likelihood of the chosen answer is added to the loss", min=0.0, max=10, expert=True
    )
    learning_rate: float = _setting(1e-4, "at its highest", min=1e-8, max=1e-2)
    schedule: str = _setting(
        "cosine",
        "of the learning rate: cosine falls to a tenth, linear to 0",
        choices=("cosine", "linear", "constant"),
        expert=True,
    )
    warmup: float = _setting(0.1, "share of the steps in which the learning rate rises", min=0.0, max=0.9, expert=True)
    weight_decay: float = _setting(0.0, "of AdamW", min=0.0, max=1.0, expert=True)
    adam_beta2: float = _setting(0.999, "of AdamW", min=0.5, max=0.99999, expert=True)
    epochs: float = _setting(1.0, "how often every pair is seen", min=0.01, max=100)
    max_steps: int = _setting(0, "stop after so many steps; 0: by epochs", min=0, max=10_000_000)
    batch: int = _setting(8, "pairs a step, over all devices", min=1, max=65_536)
    micro_batch: int = _setting(
        1, "pairs that a device holds at once; the rest of a step is accumulated", min=1, max=1024
    )
    max_length: int = _setting(1024, "tokens of prompt and answer; the rest is cut", min=32, max=2_097_152)
    reference: str = _setting(
        "adapter-off",
        "what the model is held to: itself with the adapter off, or its log-probabilities computed beforehand",
        choices=("adapter-off", "precomputed"),
        expert=True,
    )
    eval_share: float = _setting(
        0.1, "share of the pairs that is held out to measure the reward accuracy", min=0.0, max=0.5
    )
    save_steps: int = _setting(10, "steps between checkpoints", min=1, max=1_000_000, expert=True)
    seed: int = _setting(0, "of the order of the pairs and of the adapter's beginning", min=0, max=2**31 - 1)
    dtype: str = _setting(
        "",
        "of the weights; by default bfloat16 on cuda, else float32",
        choices=("", "float32", "bfloat16"),
        expert=True,
    )
    attention: str = _setting(
        "",
        "by default FlashAttention-2 where it is installed, else PyTorch's",
        choices=("", "sdpa", "flash_attention_2", "eager"),
        expert=True,
    )
    gradient_checkpointing: bool = _setting(False, "computes activations twice and stores few", expert=True)
    device: str = _setting("", "cpu or cuda; by default cuda where there is one", choices=("", "cpu", "cuda"))
    processes: int = _setting(0, "how many GPUs of this machine; 0: all of them", min=0, max=1024, expert=True)
    accelerate_config: str = _setting("", "a config file of accelerate, for DeepSpeed or FSDP", expert=True)
    report_to: str = _setting(
        "none", "also report to", choices=("none", "tensorboard", "wandb", "trackio"), expert=True
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            _check(one.name, getattr(self, one.name), one.metadata)
        if self.batch % self.micro_batch:
            raise ValueError(
                f"a batch of {self.batch} is no multiple of the micro-batch {self.micro_batch}: change one"
            )
        if self.method == "full" and self.reference == "adapter-off":
            object.__setattr__(self, "reference", "precomputed")  # without an adapter there is nothing to switch off

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "DpoConfig":
        """The settings of a preset, with changes. ValueError for an unknown name."""
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is unknown: choose {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name].values, **changes})

    @classmethod
    def from_record(cls, config: Mapping[str, Any]) -> "DpoConfig":
        """The settings in a run.json."""
        return cls(**{one.name: config[one.name] for one in fields(cls) if one.name in config})


def _check(name: str, value: Any, limits: Mapping[str, Any]) -> None:
    """ValueError where a setting is not among its choices or outside its range."""
    said = name.replace("_", " ")
    if "choices" in limits and value not in limits["choices"]:
        known = ", ".join(choice or "(empty)" for choice in limits["choices"])
        raise ValueError(f"{said} {value!r} is unknown: choose {known}")
    if "min" in limits and not limits["min"] <= value <= limits["max"]:  # not for NaN either
        shown = str(value)[:20] if isinstance(value, int) else f"{value:g}"  # an integer may be too long for :g
        raise ValueError(f"{said} {shown} is outside {limits['min']:g} to {limits['max']:g}: change it")


@dataclass(frozen=True)
class Preset:
    """Settings that belong together, and what they are for."""

    says: str
    values: Mapping[str, Any]


PRESETS = {
    "laptop": Preset(
        "a small model on two CPU cores, in about a quarter of an hour",
        {"learning_rate": 2e-4, "max_steps": 16, "save_steps": 4, "device": "cpu"},
    ),
    "gpu": Preset(
        "an 8B model with LoRA on one GPU: bfloat16, FlashAttention-2, gradient checkpointing",
        {
            "learning_rate": 5e-6, "batch": 32, "micro_batch": 2, "max_length": 2048, "dtype": "bfloat16",
            "gradient_checkpointing": True, "save_steps": 50, "device": "cuda", "eval_share": 0.02,
        },
    ),
    "paper": Preset(
        "the published settings: all weights, 2 epochs, 512 pairs a step, on several GPUs",
        {
            "method": "full", "learning_rate": 5e-7, "adam_beta2": 0.95, "weight_decay": 0.1, "epochs": 2.0,
            "batch": 512, "micro_batch": 2, "max_length": 4096, "dtype": "bfloat16", "gradient_checkpointing": True,
            "save_steps": 100, "device": "cuda", "eval_share": 0.0, "reference": "precomputed",
        },
    ),
}  # fmt: skip


def split(rows: Sequence[Any], share: float, seed: int) -> tuple[list[Any], list[Any]]:
    """The rows to train on and those held out, drawn with the seed; at least one to train on."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    held = set(order[: min(round(share * len(rows)), len(rows) - 1)])
    return [row for i, row in enumerate(rows) if i not in held], [rows[i] for i in sorted(held)]


def newest(checkpoints: Path) -> Path | None:
    """The newest checkpoint that was written whole: its marker names every file and its size."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: _step(path), reverse=True)
    return next((path for path in found if _is_whole(path)), None)


def _step(path: Path) -> int:
    text = path.name.rpartition("-")[2]
    return int(text) if text.isdecimal() else -1


def _is_whole(path: Path) -> bool:
    try:
        sizes = json.loads((path / WHOLE).read_text(encoding="utf-8"))["sizes"]
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _mark_whole(path: Path) -> None:
    sizes = {str(file.relative_to(path)): file.stat().st_size for file in path.rglob("*") if file.is_file()}
    sizes.pop(WHOLE, None)
    write_json(path / WHOLE, {"step": _step(path), "sizes": sizes})


def fit(run: Run) -> int:
    """Train what the run says, from its newest whole checkpoint on; the exit code of the process.

    0: done, or stopped on request with the adapter kept; 143: it was asked to end, and the step was finished and saved.
    ValueError where the settings do not go together on this machine, or the loss is no number any more.
    """
    import torch
    from accelerate import PartialState

    from retmask.model.fit import choose_device, choose_dtype
    from retmask.model.loading import load_plain, plan
    from retmask.pairs.files import read_rows
    from retmask.train.lora import lora
    from retmask.train.preflight import check_memory
    from retmask.train.tokens import moment, padding, prepared

    record = run.record
    config, where = DpoConfig.from_record(record["config"]), record["config"]
    device = choose_device(config.device or None)
    if PartialState().num_processes == 1:
        check_memory(record, config)  # it may have waited in line
    dtype = choose_dtype(config.dtype or None, device)
    trusted = os.environ.get("RETMASK_TRUST_REMOTE_CODE") == "1"
    stored = _stored(config, dtype)
    planned = plan(
        where["model"], revision=where["revision"] or None, device=device, dtype=stored,
        attention=config.attention or None, trust_remote_code=trusted,
    )  # fmt: skip
    place = "cpu" if device.type == "cpu" else None
    model, tokenizer = load_plain(planned, device=place, dtype=stored, trust_remote_code=trusted)
    if PartialState().is_main_process:
        source = planned.source
        run.update(revision=source.revision, sha256=source.sha256, attention=planned.attention)
    made = prepared(read_rows(run.path / "pairs.jsonl"), tokenizer, planned.vocabulary, config, moment(record))
    watch = _Watch(run, PartialState().is_main_process)
    trainer = _trainer(
        padding(tokenizer, planned.vocabulary),
        model=model,
        args=_arguments(run, config, device.type == "cpu", dtype is torch.bfloat16),
        train_dataset=_dataset(run, made.train, "train"),
        eval_dataset=_dataset(run, made.held_out, "held_out") if made.held_out else None,
        processing_class=tokenizer,
        peft_config=lora(config, model) if config.method == "lora" else None,
        callbacks=[watch.callback()],
    )
    start = newest(run.path / CHECKPOINTS)
    watch.say(stage="starting", step=_step(start) if start else 0)
    trainer.train(resume_from_checkpoint=str(start) if start else None)
    watch.steps = False  # all are in a checkpoint: what comes now may be broken off
    if watch.terminated:
        return STOPPED
    measures = bool(made.held_out) and not watch.asked
    if measures:
        watch.say(stage="evaluating")
    measured = trainer.evaluate() if measures else {}
    if watch.is_main:
        found = {name.removeprefix("eval_"): value for name, value in _numbers(measured).items()}
        run.update(held_out=found | ({"pairs": len(made.held_out)} if measures else {}))
    _save(trainer, run, config)
    return 0


def _stored(config: DpoConfig, dtype: "torch.dtype") -> "torch.dtype":
    """In what type the weights lie in memory: where all are trained in float32, unless it is a copy that is trained.

    AdamW on bfloat16 weights loses steps smaller than a 256th of a weight.
    """
    import torch

    from retmask.train.launch import placing

    return torch.float32 if config.method == "full" and not placing(config).shards else dtype


def _trainer(pad: int, **given: Any) -> Any:
    """TRL's trainer on pairs that are tokens already; rows are filled up with the token `pad`."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

    class Trainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *how: Any) -> Any:
            return dataset  # TRL's own tokens are not always those that were sampled, and it drops pairs silently

    collator = DataCollatorForPreference(pad_token_id=pad, max_length=given["args"].max_length)
    return Trainer(**given, data_collator=collator)


def _dataset(run: Run, pairs: "Sequence[TokenPair]", name: str) -> Any:
    """The pairs as a dataset; for several processes from one file, so that they share what one of them prepares."""
    from accelerate import PartialState
    from datasets import Dataset, load_from_disk

    made = Dataset.from_list([pair.columns for pair in pairs])
    state = PartialState()
    if state.num_processes == 1:
        return made
    folder = str(run.path / CHECKPOINTS / f"{name}.data")
    if state.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
        made.save_to_disk(folder)
    state.wait_for_everyone()
    return load_from_disk(folder)


def _arguments(run: Run, config: DpoConfig, on_cpu: bool, bf16: bool) -> Any:
    from trl.trainer.dpo_config import DPOConfig

    world = int(os.environ.get("WORLD_SIZE", "1"))
    if config.batch % (config.micro_batch * world):
        raise ValueError(
            f"{config.batch} pairs a step cannot be shared out over {world} devices of {config.micro_batch}: "
            f"choose a multiple of {config.micro_batch * world}"
        )
    kinds = {"cosine": "cosine_with_min_lr", "linear": "linear", "constant": "constant_with_warmup"}
    return DPOConfig(
        output_dir=str(run.path / CHECKPOINTS),
        use_cpu=on_cpu,
        bf16=bf16,
        beta=config.beta,
        loss_type=[config.loss, *(["sft"] if config.sft_weight else [])],
        loss_weights=[1.0, config.sft_weight] if config.sft_weight else None,
        learning_rate=config.learning_rate,
        lr_scheduler_type=kinds[config.schedule],
        lr_scheduler_kwargs={"min_lr_rate": 0.1} if config.schedule == "cosine" else {},
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        adam_beta2=config.adam_beta2,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.micro_batch,
        per_device_eval_batch_size=1,  # TRL takes the mean over batches: one pair each, so that all weigh the same
        gradient_accumulation_steps=config.batch // (config.micro_batch * world),
        max_length=config.max_length,
        precompute_ref_log_probs=config.reference == "precomputed",
        gradient_checkpointing=config.gradient_checkpointing,
        eval_strategy="no",
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=1,
        logging_first_step=True,
        report_to=[] if config.report_to == "none" else [config.report_to],
        run_name=run.id,
        seed=config.seed,
        data_seed=config.seed,
        dataloader_pin_memory=not on_cpu,
        disable_tqdm=True,
        disable_dropout=not config.dropout,
        logging_nan_inf_filter=False,
    )


def _save(trainer: Any, run: Run, config: DpoConfig) -> None:
    """Put the adapter (or the model) into its folder: the whole of it or nothing."""
    name = ADAPTER if config.method == "lora" else FULL
    part = run.path / f".{name}.part"
    accelerator = trainer.accelerator
    if accelerator.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
    accelerator.wait_for_everyone()
    if getattr(trainer, "is_fsdp_enabled", False):
        accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(part))  # every process takes part, where weights are shared out
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    (part / "training_args.bin").unlink(missing_ok=True)  # a pickle: nobody should be asked to trust it
    (part / "README.md").unlink(missing_ok=True)  # ours says more
    target = run.path / name
    old = run.path / f".{name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    part.rename(target)
    shutil.rmtree(old, ignore_errors=True)


_NAMES = {  # TRL's name of what is logged at a step -> ours
    "loss": "loss",
    "rewards/chosen": "chosen",
    "rewards/rejected": "rejected",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "logps/chosen": "logps_chosen",
    "logps/rejected": "logps_rejected",
    "grad_norm": "grad_norm",
    "learning_rate": "lr",
}


class _Watch:
    """What goes on between the trainer and the run's folder: progress out, the wish to stop in."""

    def __init__(self, run: Run, is_main: bool) -> None:
        self.run = run
        self.is_main = is_main
        self.terminated = False
        self.asked = False
        self.began = (0.0, 0, 0.0)  # time, step and tokens when training took up
        self.steps = False  # whether a step is under way that is worth its end
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, frame: object) -> None:
        self.terminated = True
        if not self.steps:
            raise SystemExit(STOPPED)

    def say(self, **fields: Any) -> None:
        """A line of progress.jsonl, from the main process alone."""
        if self.is_main:
            self.run.report(**fields)

    def look(self, device: Any) -> bool:
        """Whether to stop now. All processes come to the same answer at the same step, or the others would wait."""
        import torch

        self.asked = self.asked or (self.run.path / STOP).exists()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            wishes = torch.tensor([self.asked, self.terminated], dtype=torch.int, device=device)
            torch.distributed.all_reduce(wishes, torch.distributed.ReduceOp.MAX)
            self.asked, self.terminated = (bool(wish) for wish in wishes.tolist())
        return self.asked or self.terminated

    def callback(self) -> Any:
        """What TRL's trainer calls."""
        from accelerate import PartialState
        from transformers import TrainerCallback

        watch = self

        class Callback(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
                watch.began, watch.steps = (time.monotonic(), state.global_step, 0.0), True

            def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
                if watch.look(args.device):
                    control.should_training_stop = control.should_save = True

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
                if "loss" not in (logs or {}):
                    return
                if not all(math.isfinite(float(logs[name])) for name in ("loss", "grad_norm") if name in logs):
                    raise ValueError(f"the loss is no number at step {state.global_step}: lower the learning rate")
                if state.is_world_process_zero:
                    watch.report(state, logs, args.use_cpu)

            def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
                PartialState().wait_for_everyone()
                if state.is_world_process_zero:
                    _mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")

        return Callback()

    def report(self, state: Any, logs: Mapping[str, Any], on_cpu: bool) -> None:
        """A line of progress.jsonl for a step; seconds left from the steps since training took up."""
        import psutil
        import torch

        now, (at, first, _) = time.monotonic(), self.began
        done = state.global_step - first
        eta = (now - at) / done * (state.max_steps - state.global_step) if done else None
        tokens = float(logs.get("num_tokens", 0))
        if done == 1:
            self.began = (at, first, tokens)
        since = tokens - self.began[2]
        memory = psutil.Process().memory_info().rss
        if not on_cpu and torch.cuda.is_available():
            memory = torch.cuda.max_memory_allocated()
        self.run.report(
            stage="steps",
            done=state.global_step,
            total=state.max_steps,
            eta=None if eta is None else round(eta, 1),
            tokens_per_s=round(since / (now - at) * done / (done - 1), 1) if done > 1 else None,
            memory=memory,
            **{ours: value for theirs, ours in _NAMES.items() if (value := _numbers(logs).get(theirs)) is not None},
        )


def _numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among what was logged: JSON has no others."""
    found = {name: float(value) for name, value in logs.items() if isinstance(value, int | float)}
    return {name: value for name, value in found.items() if abs(value) < float("inf")}


def _end_with(lock: Path) -> None:
    """End this process when the worker that holds the run's lock ends, however it does: nobody watches it then."""

    def wait() -> None:
        with lock.open("ab") as file:  # for writing: so that whoever cancels the run finds this process
            fcntl.flock(file, fcntl.LOCK_SH)  # granted when the worker is gone
            os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _say_ended(run: Run, **how: Any) -> None:
    """Write down how the trainer ended; of several processes the first one's word counts."""
    if not (run.path / ENDED).exists():
        write_json(run.path / ENDED, how)


def _reason(error: Exception) -> str:
    """What went wrong, in a sentence."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "memory ran out: lower micro batch or max length, or switch gradient checkpointing on"
    return shorten(f"the trainer failed with {type(error).__name__}: {error}", 300) + " (the whole of it is in log.txt)"


def main() -> None:
    """The process that `accelerate launch` starts: its one argument is the run's folder."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    run = Run.open(Path(sys.argv[1]))
    _end_with(run.path / "lock")
    try:
        code = fit(run)
    except SystemExit as asked:
        code = asked.code if isinstance(asked.code, int) else 1
    except ValueError as error:
        traceback.print_exc()
        _say_ended(run, how="refused", says=shorten(str(error), 500))
        code = 2
    except Exception as error:
        traceback.print_exc()
        _say_ended(run, how="failed", says=_reason(error))
        code = 1
    if code == STOPPED:
        _say_ended(run, how="stopped", says="")
    sys.stdout.flush()
    sys.exit(code)


if __name__ == "__main__":
    main()
