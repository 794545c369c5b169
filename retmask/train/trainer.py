"""The process that trains: DPO (Rafailov et al. 2023, arXiv 2305.18290) on preference pairs.

The only file that knows TRL. `job` starts `accelerate launch -m retmask.train.trainer RUN`, which trains what
RUN/run.json says: a plain transformers model in, an adapter folder (or a full checkpoint) out; RUN/progress.jsonl grows
with every step, and RUN/outcome.json says how it ended.
"""

import fcntl
import math
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import Any

from retmask.files import is_number
from retmask.pairs.files import read_rows
from retmask.pairs.pair import PAIRS
from retmask.runs.faults import is_out_of_memory
from retmask.runs.run import Run
from retmask.runs.settings import from_record
from retmask.runs.worker import Cancelled
from retmask.train.checkpoints import ADAPTER, CHECKPOINTS, FULL, mark_whole, newest, step_of
from retmask.train.launch import stored_dtype, unshared
from retmask.train.outcome import STOP, Outcome
from retmask.train.settings import TrainSettings

# settings that TRL knows by the same name
_SAME = "beta learning_rate weight_decay adam_beta2 max_length gradient_checkpointing save_steps seed"
OUT_OF_MEMORY = "memory ran out: lower micro batch or max length, or switch gradient checkpointing on"


def fit(run: Run, watch: "_Watch") -> Outcome:
    """Train what the run says, from its newest whole checkpoint on, and save the result.

    Cancelled where the process was asked to end: its step is done and saved then, and no result. ValueError where the
    settings do not go together on this machine, or the loss is no number any more.
    """
    settings = from_record(TrainSettings, run.config)
    trainer = _trainer(run, settings, watch)
    start = newest(run.path / CHECKPOINTS)
    watch.step = step_of(start) if start else 0
    watch.report(stage="starting", step=watch.step)
    with suppress(_AllStepsDone):
        trainer.train(resume_from_checkpoint=str(start) if start else None)
    watch.in_steps = False  # all are in a checkpoint: what comes now may be broken off
    if watch.terminated:
        raise Cancelled
    finished = not watch.stopped or watch.step >= trainer.state.max_steps
    held_out: dict[str, float] = {}
    if finished and trainer.eval_dataset is not None:
        watch.report(stage="evaluating")
        measured = _numbers(trainer.evaluate())
        held_out = {name.removeprefix("eval_"): value for name, value in measured.items()}
        held_out["pairs"] = len(trainer.eval_dataset)
    if watch.is_main:
        run.update(held_out=held_out)
    _save(trainer, run, settings)
    return Outcome("finished" if finished else "stopped", watch.step, saved=True)


def _trainer(run: Run, settings: TrainSettings, watch: "_Watch") -> Any:
    """TRL's trainer with the run's model and pairs. ValueError where they do not fit, or not together."""
    import torch
    from accelerate import PartialState

    from retmask.model.fit import choose_device, choose_dtype
    from retmask.model.loading import load_plain, plan
    from retmask.train.lora import lora
    from retmask.train.preflight import check_memory
    from retmask.train.tokens import dataset, moment, padding, prepared

    device = choose_device(settings.device or None)
    if PartialState().num_processes == 1:
        check_memory(run.record, settings)  # it may have waited in line
    dtype = choose_dtype(settings.dtype or None, device)
    planned = plan(
        settings.model,
        revision=settings.revision or None,
        device=device,
        dtype=stored_dtype(settings, dtype),
        attention=settings.attention or None,
        trust_remote_code=os.environ.get("RETMASK_TRUST_REMOTE_CODE") == "1",
    )
    place = "cpu" if device.type == "cpu" else None
    model, tokenizer = load_plain(planned, place)
    source = planned.source
    if watch.is_main:
        run.update(revision=source.revision, sha256=source.sha256, attention=planned.attention)
    pairs = prepared(read_rows(run.path / PAIRS), tokenizer, planned.vocabulary, settings, moment(run.record))
    return _on_tokens(
        padding(tokenizer, planned.vocabulary),
        model=model,
        args=_arguments(run, settings, device.type == "cpu", dtype is torch.bfloat16),
        train_dataset=dataset(run, pairs.train, "train"),
        eval_dataset=dataset(run, pairs.held_out, "held_out") if pairs.held_out else None,
        processing_class=tokenizer,
        peft_config=lora(settings, model) if settings.method == "lora" else None,
        callbacks=[watch.callback()],
    )


def _on_tokens(pad: int, **arguments: Any) -> Any:
    """TRL's trainer on pairs that are tokens already; rows are filled up with the token `pad`."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

    class Trainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *how: Any) -> Any:
            return dataset  # TRL's own tokens are not always those that were sampled, and it drops pairs silently

    collator = DataCollatorForPreference(pad_token_id=pad, max_length=arguments["args"].max_length)
    return Trainer(**arguments, data_collator=collator)


def _arguments(run: Run, settings: TrainSettings, on_cpu: bool, bf16: bool) -> Any:
    from trl.trainer.dpo_config import DPOConfig

    world = int(os.environ.get("WORLD_SIZE", "1"))
    if sentence := unshared(settings, world):
        raise ValueError(sentence)
    kinds = {"cosine": "cosine_with_min_lr", "linear": "linear", "constant": "constant_with_warmup"}
    return DPOConfig(
        output_dir=str(run.path / CHECKPOINTS),
        use_cpu=on_cpu,
        bf16=bf16,
        loss_type=[settings.loss, *(["sft"] if settings.sft_weight else [])],
        loss_weights=[1.0, settings.sft_weight] if settings.sft_weight else None,
        lr_scheduler_type=kinds[settings.schedule],
        lr_scheduler_kwargs={"min_lr_rate": 0.1} if settings.schedule == "cosine" else {},
        warmup_steps=settings.warmup,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.micro_batch,
        per_device_eval_batch_size=1,  # TRL takes the mean over batches: one pair each, so that all weigh the same
        gradient_accumulation_steps=settings.batch // (settings.micro_batch * world),
        precompute_ref_log_probs=settings.reference == "precomputed",
        save_total_limit=2,
        logging_steps=1,
        report_to=[] if settings.report_to == "none" else [settings.report_to],
        run_name=run.id,
        data_seed=settings.seed,
        dataloader_pin_memory=not on_cpu,
        disable_tqdm=True,
        disable_dropout=not settings.dropout,
        logging_nan_inf_filter=False,
        **{name: getattr(settings, name) for name in _SAME.split()},
    )


def _save(trainer: Any, run: Run, settings: TrainSettings) -> None:
    """Put the adapter (or the model) into its folder: the whole of it or nothing."""
    name = ADAPTER if settings.method == "lora" else FULL
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
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is done now, whatever comes: what is saved counts
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


class _AllStepsDone(Exception):
    """The checkpoint, which is loaded by now, is that of the last step: the trainer itself would do one more."""


class _Watch:
    """What goes on between the trainer and the run's folder: progress out, the wish to stop in."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.is_main = os.environ.get("RANK", "0") == "0"
        self.terminated = False  # by SIGTERM: the result is not wanted
        self.stopped = False  # by the page: the result is
        self.step = 0
        self.in_steps = False  # whether a step is under way that is worth its end
        self.began = (0.0, 0, 0.0)  # time, step and tokens when training took up
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, frame: object) -> None:
        self.terminated = True
        if not self.in_steps:
            raise Cancelled

    def report(self, **fields: Any) -> None:
        """A line of progress.jsonl, from the main process alone."""
        if self.is_main:
            self.run.report(**fields)

    def look(self, device: Any) -> bool:
        """Whether to stop now. All processes come to the same answer at the same step, or the others would wait."""
        import torch

        self.stopped = self.stopped or (self.run.path / STOP).exists()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            wishes = torch.tensor([self.stopped, self.terminated], dtype=torch.int, device=device)
            torch.distributed.all_reduce(wishes, torch.distributed.ReduceOp.MAX)
            self.stopped, self.terminated = (bool(wish) for wish in wishes.tolist())
        return self.stopped or self.terminated

    def callback(self) -> Any:
        """What TRL's trainer calls."""
        from accelerate import PartialState
        from transformers import TrainerCallback

        watch = self

        class Callback(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
                if state.global_step >= state.max_steps:
                    raise _AllStepsDone
                watch.began, watch.in_steps = (time.monotonic(), state.global_step, 0.0), True

            def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
                watch.step = state.global_step
                if watch.look(args.device):
                    control.should_training_stop = control.should_save = True

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
                if "loss" not in (logs or {}):
                    return
                if not all(math.isfinite(float(logs[name])) for name in ("loss", "grad_norm") if name in logs):
                    raise ValueError(f"the loss is no number at step {state.global_step}: lower the learning rate")
                watch.report_step(state, logs, args.use_cpu)

            def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
                PartialState().wait_for_everyone()
                if watch.is_main:
                    mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")

        return Callback()

    def report_step(self, state: Any, logs: Mapping[str, Any], on_cpu: bool) -> None:
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
        self.report(
            stage="steps",
            done=state.global_step,
            total=state.max_steps,
            eta=None if eta is None else round(eta, 1),
            tokens_per_s=round(since / (now - at) * done / (done - 1), 1) if done > 1 else None,
            memory=memory,
            **{_NAMES[name]: value for name, value in _numbers(logs).items() if name in _NAMES},
        )


def _numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among what was logged: JSON has no others."""
    return {name: float(value) for name, value in logs.items() if is_number(value)}


def _end_with(lock: Path) -> None:
    """End this process when the worker that holds the run's lock ends, however it does: nobody watches it then."""

    def wait() -> None:
        with lock.open("ab") as file:  # for writing: so that whoever cancels the run finds this process
            fcntl.flock(file, fcntl.LOCK_SH)  # granted when the worker is gone
            os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _failure(error: Exception, step: int) -> Outcome:
    """How a training ended that this has broken off; of memory that ran out what to change."""
    if is_out_of_memory(error):
        return Outcome("refused", step, OUT_OF_MEMORY)
    if isinstance(error, ValueError):
        return Outcome("refused", step, shorten(str(error), 500))
    reason = shorten(f"the trainer failed with {type(error).__name__}: {error}", 300)
    return Outcome("failed", step, f"{reason} (the whole of it is in log.txt)")


def main() -> None:
    """The process that `accelerate launch` starts: its one argument is the run's folder."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    run = Run.open(Path(sys.argv[1]))
    _end_with(run.path / "lock")
    watch, outcome = _Watch(run), None
    try:
        try:
            outcome = fit(run, watch)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing may break off the last word
    except Cancelled:
        outcome = outcome or Outcome("stopped", watch.step)
    except Exception as error:
        traceback.print_exc()
        outcome = _failure(error, watch.step)
    if watch.is_main or outcome.reason:
        outcome.write(run.path)
    sys.stdout.flush()
    sys.exit(1 if outcome.reason else 0)


if __name__ == "__main__":
    main()
