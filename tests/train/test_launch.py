"""What an accelerate config means for a training: over how many processes, and in what type weights are kept."""

import json
from pathlib import Path

import pytest
import torch
from trainings import SETTINGS, by_preset, of, plain

from retmask.train.job import TRAIN
from retmask.train.launch import Placing, launch_command, placing, stored_dtype
from retmask.train.settings import TrainSettings

PLAIN = "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nmixed_precision: bf16\nnum_processes: 4\n"


def config(tmp_path: Path, text: str, **changes: str) -> TrainSettings:
    file = tmp_path / "accelerate.yaml"
    file.write_text(text)
    return plain(accelerate_config=str(file), **{"method": "full", "device": "cpu", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "shards"),
    [
        (PLAIN, False),
        (PLAIN.replace("MULTI_GPU", "MULTI_CPU"), False),
        (PLAIN.replace("MULTI_GPU", "FSDP") + "fsdp_config: {fsdp_version: 2}\n", True),
        (PLAIN.replace("MULTI_GPU", "DEEPSPEED") + "deepspeed_config: {zero_stage: 3}\n", True),
    ],
)
def test_only_what_shares_out_the_weights_may_keep_them_in_bfloat16(tmp_path: Path, text: str, shards: bool) -> None:
    full = config(tmp_path, text)
    assert placing(full) == Placing(4, shards)
    assert stored_dtype(full, torch.bfloat16) is (torch.bfloat16 if shards else torch.float32)
    assert stored_dtype(config(tmp_path, text, method="lora"), torch.bfloat16) is torch.bfloat16


@pytest.mark.parametrize(("bf16", "shards"), [({"enabled": True}, True), ({"enabled": "auto"}, True), ({}, False)])
def test_a_deepspeed_file_of_its_own_is_read(tmp_path: Path, bf16: dict[str, object], shards: bool) -> None:
    (tmp_path / "ds.json").write_text(json.dumps({"bf16": bf16, "zero_optimization": {"stage": 3}}))
    text = PLAIN.replace("MULTI_GPU", "DEEPSPEED") + "deepspeed_config: {deepspeed_config_file: ds.json}\n"
    assert placing(config(tmp_path, text)).shards is shards


@pytest.mark.parametrize("text", ["[", "hello", "unknown_key: 3\n", PLAIN.replace("4", "many")])
def test_a_config_that_cannot_be_read_is_a_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"the accelerate config .* cannot be read"):
        placing(config(tmp_path, text))


def test_one_process_without_a_config() -> None:
    assert placing(plain(device="cpu")) == Placing(1, False)


def test_commands(folder: Path, pairs: Path, tmp_path: Path) -> None:
    config = by_preset("laptop", max_steps=3, gradient_checkpointing=True)
    words = "retmask train m --pairs p --gradient-checkpointing --max-steps 3"
    assert config.command == words.split()
    run = TRAIN.new(of(folder, pairs, SETTINGS), tmp_path / "out")
    command = launch_command(run)
    assert command[1:4] == ["-m", "accelerate.commands.launch", "--cpu"]
    assert command[-3:] == ["-m", "retmask.train.trainer", str(run.path)]
