"""What a model needs and what is free, known before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CONFIGS, tiny_folder, tiny_hf
from transformers import LlamaConfig
from zoo import zoo_config

import retmask
from retmask.model.fit import Estimate, cgroup_rooms, estimate, free_bytes, longest_context, scores_bytes

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "rope_theta": 1e4}


def test_estimate_is_the_weights_and_the_cache(tmp_path: Path) -> None:
    found = estimate(str(tiny_folder(tmp_path)), 100, "float32", "cpu")
    assert found.weights_bytes == 4 * sum(p.numel() for p in tiny_hf("llama").parameters())
    assert found.cache_bytes == 2 * 3 * 2 * 16 * 100 * 4  # keys and values, layers, KV heads, d_head, tokens, bytes
    assert found.fits


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    wanted = Estimate("m", 1000, weights_bytes=6_000, cache_bytes=5_000, free_bytes=12_000, dtype="f", place="here")
    with pytest.raises(ValueError, match="choose at most 384 tokens"):  # (12000 / 1.2 - 6000) / (2 * 5) = 400
        wanted.check()
    with pytest.raises(ValueError, match="choose at most 256 tokens"):
        wanted._replace(longest=256).check()
    with pytest.raises(ValueError, match="a smaller model"):
        wanted._replace(weights_bytes=60_000).check()


def test_wrong_device_and_dtype() -> None:
    with pytest.raises(ValueError, match="device 'gpu' is unknown"):
        retmask.load(device="gpu")
    with pytest.raises(ValueError, match="dtype 'int8' is unknown"):
        retmask.load(dtype="int8")


V2 = {
    "slice/job/memory.max": "1000",
    "slice/job/memory.high": "max",
    "slice/job/memory.current": "700",
    "slice/job/memory.stat": "anon 300\ninactive_file 150\nactive_file 200\n",
    "slice/memory.max": "max",
    "slice/memory.high": "3000",
    "slice/memory.current": "2800",
    "slice/memory.stat": "inactive_file 0\n",
}


V1 = {
    "memory/slurm/job/memory.limit_in_bytes": "1000",
    "memory/slurm/job/memory.usage_in_bytes": "700",
    "memory/slurm/job/memory.stat": "inactive_file 1\ntotal_inactive_file 150\n",
    "memory/memory.limit_in_bytes": "9223372036854771712",  # no limit
    "memory/memory.usage_in_bytes": "5000",
    "memory/memory.stat": "total_inactive_file 0\n",
}


def laid(folder: Path, files: dict[str, str], of: str) -> tuple[Path, Path]:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "of").write_text(of)
    return folder / "of", folder


def test_the_limits_of_containers_and_jobs_count(tmp_path: Path) -> None:
    """What is left = limit - (used - cache that is given back first), of the own group and of those above it."""
    assert sorted(cgroup_rooms(*laid(tmp_path / "2", V2, "0::/slice/job\n"))) == [200, 450]
    assert list(cgroup_rooms(*laid(tmp_path / "1", V1, "4:memory:/slurm/job\n3:cpu:/x\n0::/\n"))) == [450]
    inside = {name.removeprefix("slice/job/"): text for name, text in V2.items() if "job" in name}
    assert list(cgroup_rooms(*laid(tmp_path / "3", inside, "0::/\n"))) == [450]  # in a container of its own
    assert list(cgroup_rooms(*laid(tmp_path / "4", inside, "0::/../../host/job\n"))) == [450]
    assert list(cgroup_rooms(*laid(tmp_path / "5", {}, "0::/slice/job\nnonsense\n"))) == []
    assert list(cgroup_rooms(tmp_path / "none", tmp_path)) == []


def test_free_memory_is_no_more_than_a_limit_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("retmask.model.fit.cgroup_rooms", lambda: iter([5000, 3000]))
    assert free_bytes(torch.device("cpu")) == 3000
    monkeypatch.setattr("retmask.model.fit.cgroup_rooms", lambda: iter([-5]))
    assert free_bytes(torch.device("cpu")) == 0
    with pytest.raises(ValueError, match="0 MiB is free on this machine's cpu"):
        retmask.load(str(tiny_folder(tmp_path)), device="cpu", context_tokens=128)


def test_attention_that_stores_its_scores_is_counted(tmp_path: Path) -> None:
    """4 heads x queries x keys, in float32 three times: before the softmax, in it and after it."""
    folder = tiny_folder(tmp_path)
    config = tiny_hf("llama").config
    assert scores_bytes(config, 10, 100, torch.float32) == 4 * 10 * 100 * 12
    assert scores_bytes(config, 10, 100, torch.bfloat16) == 4 * 10 * 100 * 8
    assert estimate(str(folder), 100, "float32", "cpu").scores_bytes == 0
    zoo_config("gpt_oss").save_pretrained(folder)
    assert estimate(str(folder), 100, "float32", "cpu").scores_bytes == 4 * 64 * 100 * 12
    assert estimate(str(folder), 50, "float32", "cpu").scores_bytes == 4 * 50 * 50 * 12
    assert estimate(str(folder), 5000, "float32", "cpu").scores_bytes == 4 * 64 * 5000 * 12


@pytest.mark.parametrize(
    ("rope", "most"),
    [
        (YARN, 2048),
        (YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}, 512),
        (None, 512),
    ],
)
def test_the_longest_context_counts_yarn(rope: dict[str, Any] | None, most: int) -> None:
    config = LlamaConfig(**{**CONFIGS["llama"].to_dict(), "rope_parameters": rope})
    assert longest_context(config) == most
