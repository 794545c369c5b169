"""How a trainer is started: by `accelerate launch`, on how many devices, and what the config file given to it says."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import psutil

from retmask.files import expanded
from retmask.runs.run import Run
from retmask.runs.settings import from_record
from retmask.train.settings import TrainSettings


class Placing(NamedTuple):
    """Over how many processes a training is shared out, and whether they also share out the weights.

    `shards`: DeepSpeed or FSDP does, and keeps float32 copies of bfloat16 weights to add the steps to.
    """

    processes: int
    shards: bool


def placing(config: TrainSettings) -> Placing:
    """Where a training of these settings runs. ValueError where its accelerate config cannot be read."""
    from retmask.model.fit import choose_device

    if config.accelerate_config:
        return _told(expanded(config.accelerate_config))
    if choose_device(config.device or None).type == "cpu":
        return Placing(1, False)
    import torch

    return Placing(config.processes or torch.cuda.device_count() or 1, False)


def _told(file: Path) -> Placing:
    """What a config file of accelerate says. ValueError where it is none."""
    from accelerate.commands.config.config_args import load_config_from_file

    if not file.is_file():
        raise ValueError(f"there is no accelerate config {file}: make one with `accelerate config`")
    try:
        found = load_config_from_file(str(file))
        kind, processes = str(getattr(found.distributed_type, "value", found.distributed_type)), found.num_processes
        shards = kind == "FSDP" or (kind == "DEEPSPEED" and _keeps_copies(found.deepspeed_config, file.parent))
        return Placing(max(1, int(processes or 1)), shards)
    except Exception as error:  # accelerate reads it with whatever the file makes it run into
        raise ValueError(f"the accelerate config {file} cannot be read: {shorten(str(error), 200)}") from error


def _keeps_copies(settings: Mapping[str, Any], beside: Path) -> bool:
    """Whether DeepSpeed trains in bfloat16 with float32 copies: by itself it does, a file of its own may not."""
    own = (settings or {}).get("deepspeed_config_file")
    if not own:
        return True
    bf16 = json.loads((beside / expanded(own)).read_text(encoding="utf-8")).get("bf16", {})
    return bf16.get("enabled") in (True, "auto")


def launch_command(run: Run) -> list[str]:
    """The command line that starts the trainer of a run."""
    config = from_record(TrainSettings, run.config)
    parts = [sys.executable, "-m", "accelerate.commands.launch"]
    if config.accelerate_config:
        return [
            *parts,
            "--config_file",
            str(expanded(config.accelerate_config)),
            "-m",
            "retmask.train.trainer",
            str(run.path),
        ]
    from retmask.model.fit import choose_device

    if choose_device(config.device or None).type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = os.environ.get("OMP_NUM_THREADS") or min(cores, psutil.cpu_count(logical=False) or cores)
        parts += ["--cpu", "--num_processes", "1", "--num_cpu_threads_per_process", str(threads)]
    else:
        cards = placing(config).processes
        parts += ["--num_processes", str(cards)] + (["--multi_gpu"] if cards > 1 else [])
    parts += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return [*parts, "-m", "retmask.train.trainer", str(run.path)]


def launch(run: Run, trust_remote_code: bool, held: Sequence[int]) -> "subprocess.Popen[bytes]":
    """Start the trainer of a run; it keeps the file descriptors `held` open, and says what it says in log.txt."""
    environment = os.environ | {
        "RETMASK_TRUST_REMOTE_CODE": "1" if trust_remote_code else "0",
        "TENSORBOARD_LOGGING_DIR": str(run.path / "tensorboard"),
        "PET_SIGNALS_TO_HANDLE": "SIGUSR2",  # torchrun would kill its trainers half a minute after a SIGTERM
    }
    cards = int(run.record["config"].get("processes") or 0)
    if cards:  # the launcher of one process would leave all of them to it, and TRL refuses that
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(cards)))
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[:cards])
    with (run.path / "log.txt").open("ab") as log:
        return subprocess.Popen(  # in a group of its own: Ctrl-C is for the worker, which asks it to finish its step
            launch_command(run), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            pass_fds=tuple(held), process_group=0,
        )  # fmt: skip
