"""What a training is said to take: the pairs that are used, the steps that are made, what is refused and what waits."""

import json
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tiny import CONFIGS, tiny_folder, tiny_tokenizer
from trainings import SETTINGS, of, plain
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig
from typer.testing import CliRunner

from retmask.cli.main import app
from retmask.model.loading import load_plain, plan
from retmask.runs.run import Run
from retmask.runs.worker import working
from retmask.train.job import TRAIN, checked
from retmask.train.preflight import check_memory, preflight

CONFIG = plain(batch=2, device="cpu", eval_share=0.0)


@pytest.fixture
def folder(tmp_path: Path, fresh_home: Path) -> Path:
    return tiny_folder(tmp_path)


def pairs(tmp_path: Path, prompts: list[str], **more: str) -> Path:
    rows = ({"prompt": one, "chosen": f"r{i}", "rejected": f"w{i}", **more} for i, one in enumerate(prompts))
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def made(config: Any, path: Path) -> Path:
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def test_pairs_whose_prompt_fills_max_length_are_left_out_and_named(folder: Path, tmp_path: Path) -> None:
    file = pairs(tmp_path, ["short?"] * 6 + ["long " * 10] * 14)
    found = preflight(of(folder, file, plain(batch=2, max_length=40, device="cpu", eval_share=0.5)))
    assert (found.pairs, found.held_out, found.steps) == (3, 3, 2), "of the six that are used"
    assert len(found.left_out) == 14
    assert "6 pairs are used, 14 are left out whose prompt alone fills max length 40" in found.warnings[0]
    assert "number 7, number 8" in found.warnings[0]
    run = TRAIN.new(of(folder, file, plain(batch=2, max_length=40, device="cpu")), tmp_path / "out")
    assert run.record["preflight"]["left_out"] == list(found.left_out)


@pytest.mark.parametrize(("short", "says"), [(0, "no pair is left to train on"), (1, "one pair is too few")])
def test_too_few_that_are_left_are_refused_with_the_length_to_raise(
    folder: Path, tmp_path: Path, short: int, says: str
) -> None:
    file = pairs(tmp_path, ["short?"] * short + ["long " * 10] * 4)
    found = preflight(of(folder, file, plain(batch=2, max_length=40, device="cpu")))
    assert says in found.problems[0]
    assert "raise max length to 53" in found.problems[0]


def test_an_empty_held_out_set_is_said(folder: Path, tmp_path: Path) -> None:
    found = preflight(of(folder, pairs(tmp_path, ["a?"] * 4), plain(batch=2, device="cpu", eval_share=0.1)))
    assert found.held_out == 0
    assert any("no pair is held out: 10% of 4 pairs is less than one" in words for words in found.warnings)


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 3), (1.5, 5), (0.01, 1), (2.0, 6)])
def test_steps_are_counted_as_the_trainer_does(folder: Path, tmp_path: Path, epochs: float, steps: int) -> None:
    """Five pairs, two a step: three steps an epoch, and of a part of an epoch every step that was begun."""
    config = plain(batch=2, device="cpu", eval_share=0.0, epochs=epochs)
    assert preflight(of(folder, pairs(tmp_path, ["a?"] * 5), config)).steps == steps


def test_a_prompt_longer_than_the_model_reads_is_refused(fresh_home: Path, tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=128, n_embd=32, n_layer=2, n_head=4, n_positions=32, eos_token_id=127)
    folder = made(config, tmp_path / "model")
    found = preflight(of(folder, pairs(tmp_path, ["a?", "b" * 40]), CONFIG))
    assert "the model reads 32 tokens and the longest pair has 43: max length 32 at most" in found.problems[0]


def test_a_model_that_reads_on_by_yarn_is_trained_as_far(fresh_home: Path, tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 32}
    text: dict[str, Any] = CONFIGS["llama"].to_dict() | {"max_position_embeddings": 32, "rope_parameters": rope}
    folder = made(LlamaConfig(**text), tmp_path / "model")
    assert not preflight(of(folder, pairs(tmp_path, ["a?", "b" * 100]), CONFIG)).problems
    assert "the model reads 128 tokens" in preflight(of(folder, pairs(tmp_path, ["b" * 140] * 2), CONFIG)).problems[0]


def test_attention_that_the_class_does_not_have_is_not_trained_with(fresh_home: Path, tmp_path: Path) -> None:
    """Gemma 2 caps its scores, which SDPA cannot."""
    size = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = Gemma2Config(vocab_size=128, hidden_size=32, intermediate_size=48, **size, eos_token_id=127)
    folder = made(config, tmp_path / "model")
    cpu, kind = torch.device("cpu"), torch.float32
    planned = plan(str(folder), device=cpu, dtype=kind)
    assert planned.attention == "eager"
    assert load_plain(planned, "cpu")[0].config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="model cannot compute attention by sdpa here"):
        plan(str(folder), device=cpu, dtype=kind, attention="sdpa")
    assert plan(str(tiny_folder(tmp_path)), device=cpu, dtype=kind).attention == "sdpa"


def test_a_check_refuses_what_the_training_refuses(folder: Path, tmp_path: Path) -> None:
    file, out = pairs(tmp_path, ["a?", "b?"], model="another"), tmp_path / "out"
    TRAIN.new(of(folder, file, CONFIG, any_pairs=True), out)
    other = plain(batch=4, device="cpu", eval_share=0.0)
    with pytest.raises(ValueError, match="was made with another") as error:
        TRAIN.new(of(folder, file, other), out)
    found = checked(of(folder, file, other), out)
    assert "; ".join(found.problems) == str(error.value)
    assert "holds a run with other settings" in found.problems[1]
    command = ["train", str(folder), "--pairs", str(file), "--batch", "4", "--device", "cpu", "--check"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert "was made with another" in done.output.replace("\n", " ")
    assert CliRunner().invoke(app, [*command, "--any-pairs"]).exit_code == 0


def test_a_run_that_waits_behind_another_is_not_refused_for_what_that_one_holds(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retmask.model.fit.free_bytes", lambda device: 1000)
    file = pairs(tmp_path, ["a?", "b?"])
    assert "training needs about" in preflight(of(folder, file, CONFIG)).problems[0]
    before = Run.create("detect", {"device": "cpu"})
    with working(before):
        found = preflight(of(folder, file, CONFIG))
        assert found.problems == ()
        assert f"it waits behind {before.id} and looks again after that" in found.warnings[0]
        for limits, total in (([(1000, 0)], 10**12), ([], 1000)):  # of its container, or of the machine
            monkeypatch.setattr("retmask.model.fit.cgroup_limits", lambda *_, limits=limits: iter(limits))
            monkeypatch.setattr(psutil, "virtual_memory", lambda total=total: type("", (), {"total": total}))
            assert "training needs about" in preflight(of(folder, file, CONFIG)).problems[0], "it would never fit"
    with pytest.raises(ValueError, match="training needs about"):
        check_memory({"preflight": found._asdict()}, CONFIG)
    check_memory({"preflight": 3}, CONFIG)  # a damaged record says nothing


def test_the_time_is_told_from_the_last_training_of_the_model(folder: Path, tmp_path: Path) -> None:
    """Five pairs of 2 x 5 tokens, two a step: three steps are 60 tokens, at 20 a second."""
    file = pairs(tmp_path, ["a?"] * 5)
    guess = preflight(of(folder, file, CONFIG)).seconds
    assert guess > 0
    run = Run.create("train", {"model": str(folder), "method": "lora", "device": "cpu"})
    run.report(stage="steps", done=2, total=2, tokens_per_s=20.0)
    assert preflight(of(folder, file, CONFIG)).seconds == 3.0
    assert preflight(of(folder, file, plain(batch=2, device="cpu", eval_share=0.0, method="full"))).seconds != 3.0


def test_a_step_that_the_processes_of_an_accelerate_config_cannot_share_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "accelerate.yaml"
    file.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nuse_cpu: true\nnum_processes: 4\n"
    )
    config = plain(batch=6, device="cpu", eval_share=0.0, accelerate_config=str(file))
    found = preflight(of(folder, pairs(tmp_path, ["a?"] * 6), config))
    assert found.problems == ("6 pairs a step cannot be shared out over 4 devices of 1: choose a multiple of 4",)
    broken = plain(device="cpu", accelerate_config=str(tmp_path / "none.yaml"))
    assert "there is no accelerate config" in preflight(of(folder, pairs(tmp_path, ["a?"] * 6), broken)).problems[0]


def test_weights_that_are_quantised_for_a_library_that_is_not_there_are_refused(folder: Path, tmp_path: Path) -> None:
    file = folder / "config.json"
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": quantised}))
    with pytest.raises(ValueError, match=r"model is quantised \(bitsandbytes\) and cannot be read here"):
        preflight(of(folder, pairs(tmp_path, ["a?", "b?"]), CONFIG))


def test_what_does_not_fit_is_refused_with_the_number_to_change(
    folder: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = preflight(of(folder, pairs, SETTINGS))
    assert (fits.pairs, fits.held_out, fits.steps, fits.cut, fits.problems) == (9, 3, 6, 0, ())
    assert fits.longest == len("question 11?so wrong 11") + 1
    assert preflight(of(folder, pairs, plain(batch=2, device="cpu", eval_share=0.25))).steps == 5
    monkeypatch.setattr("retmask.model.fit.free_bytes", lambda device: 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    found = preflight(of(folder, pairs, plain(batch=4, micro_batch=2, device="cpu")))
    assert "lower micro batch from 2 to 1" in found.problems[0]
    assert "free some, or choose another --out" in found.problems[1]
    with pytest.raises(ValueError, match="switch gradient checkpointing on"):
        TRAIN.new(of(folder, pairs, SETTINGS), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pairs_that_are_all_too_long(folder: Path, pairs: Path) -> None:
    rows = pairs.read_text().replace("so wrong", "so wrong " * 10)
    pairs.write_text(rows)
    found = preflight(of(folder, pairs, plain(max_length=32, batch=2, device="cpu")))
    assert found.cut == 1
    assert "every pair is longer than max length 32: raise it to" in found.problems[0]
