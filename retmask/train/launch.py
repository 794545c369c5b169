"""How a trainer is started: by `accelerate launch`, on how many devices, and what the config file given to it says."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from retmask.files import brief, expanded
from retmask.runs.run import Run
from retmask.runs.settings import from_record
from retmask.train.settings import TrainSettings

if TYPE_CHECKING:
    import torch


class Placing(NamedTuple):
    """Over how many processes a training is shared out, and whether they also share out the weights.

    `shards`: DeepSpeed or FSDP does, and keeps float32 copies of bfloat16 weights to add the steps to.
    """

    processes: int
    shards: bool


def placing(settings: TrainSettings) -> Placing:
    """Where a training of these settings runs. ValueError where its accelerate config cannot be read."""
    from retmask.model.fit import choose_device

    if settings.accelerate_config:
        return _configured(expanded(settings.accelerate_config))
    if choose_device(settings.device or None).type == "cpu":
        return Placing(1, False)
    import torch

    return Placing(settings.processes or torch.cuda.device_count() or 1, False)


def _configured(file: Path) -> Placing:
    """What a config file of accelerate says. ValueError where it is none."""
    from accelerate.commands.config.config_args import load_config_from_file

    if not file.is_file():
        raise ValueError(f"there is no accelerate config {file}: make one with `accelerate config`")
    try:
        config: Any = load_config_from_file(str(file))
        kind = str(getattr(config.distributed_type, "value", config.distributed_type))
        shards = kind == "FSDP" or (kind == "DEEPSPEED" and _keeps_copies(config.deepspeed_config, file.parent))
        return Placing(max(1, int(config.num_processes or 1)), shards)
    except Exception as error:  # accelerate reads it with whatever the file makes it run into
        raise ValueError(f"the accelerate config {file} cannot be read: {brief(error)}") from error


def _keeps_copies(settings: Mapping[str, Any], folder: Path) -> bool:
    """Whether DeepSpeed trains in bfloat16 with float32 copies: by itself it does, a file of its own may not."""
    own = (settings or {}).get("deepspeed_config_file")
    if not own:
        return True
    bf16 = json.loads((folder / expanded(own)).read_text(encoding="utf-8")).get("bf16", {})
    return bf16.get("enabled") in (True, "auto")


def stored_dtype(settings: TrainSettings, dtype: "torch.dtype") -> "torch.dtype":
    """In what type the weights lie in memory: where all are trained in float32, unless it is a copy that is trained.

    AdamW on bfloat16 weights loses steps smaller than a 256th of a weight.
    """
    import torch

    return torch.float32 if settings.method == "full" and not placing(settings).shards else dtype


def unshared(settings: TrainSettings, devices: int) -> str:
    """Why a step of these settings cannot be shared out over so many devices; empty where it can."""
    share = settings.micro_batch * devices
    if settings.batch % share == 0:
        return ""
    return (
        f"{settings.batch} pairs a step cannot be shared out over {devices} devices of {settings.micro_batch}: choose "
        f"a multiple of {share}"
    )


def launch_command(run: Run) -> list[str]:
    """The command line that starts the trainer of a run."""
    settings = from_record(TrainSettings, run.config)
    trainer = ["-m", "retmask.train.trainer", str(run.path)]
    accelerate = [sys.executable, "-m", "accelerate.commands.launch"]
    if settings.accelerate_config:
        return [*accelerate, "--config_file", str(expanded(settings.accelerate_config)), *trainer]
    from retmask.model.fit import choose_device

    if choose_device(settings.device or None).type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = os.environ.get("OMP_NUM_THREADS") or min(cores, psutil.cpu_count(logical=False) or cores)
        devices = f"--cpu --num_processes 1 --num_cpu_threads_per_process {threads}"
    else:
        cards = placing(settings).processes
        devices = f"--num_processes {cards}{' --multi_gpu' * (cards > 1)}"
    rest = "--num_machines 1 --mixed_precision no --dynamo_backend no"
    return [*accelerate, *devices.split(), *rest.split(), *trainer]


def launch(run: Run, trust_remote_code: bool, held: Sequence[int]) -> "subprocess.Popen[bytes]":
    """Start the trainer of a run; it keeps the file descriptors `held` open, and prints into log.txt."""
    environment = os.environ | {
        "RETMASK_TRUST_REMOTE_CODE": "1" if trust_remote_code else "0",
        "TENSORBOARD_LOGGING_DIR": str(run.path / "tensorboard"),
        "PET_SIGNALS_TO_HANDLE": "SIGUSR2",  # torchrun would kill its trainers half a minute after a SIGTERM
    }
    cards = int(run.config.get("processes") or 0)
    if cards:  # the launcher of one process would leave all of them to it, and TRL refuses that
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(cards)))
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[:cards])
    with (run.path / "log.txt").open("ab") as log:
        return subprocess.Popen(
            launch_command(run),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=tuple(held),
            process_group=0,  # of its own: Ctrl-C is for the worker, which asks it to finish its step
        )
