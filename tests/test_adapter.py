"""An adapter that does not fit its base, or is damaged, is one sentence and nothing else; real PEFT adapters."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_adapter, tiny_folder, tiny_hf

import retmask
from retmask.heads import Grid
from retmask.weights import resolve

IDS = torch.arange(2, 18)[None] * 7 % 120


def refusal(folder: Path, adapter: Path) -> str:
    """Why an adapter is not loaded: one sentence, and no warning beside it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(adapter|checkpoint).*")
        with pytest.raises(ValueError, match=str(adapter)) as caught:
            retmask.load(str(folder), adapter=str(adapter), device="cpu", context_tokens=128)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 500
    return said


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear", "task_type": "CAUSAL_LM"},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"use_dora": True, "bias": "lora_only"},
        {"rank_pattern": {"o_proj": 2}},
    ],
)
def test_whatever_peft_writes_is_merged_as_peft_has_it(tmp_path: Path, settings: dict[str, Any]) -> None:
    from peft import PeftModel

    folder, adapter = tiny_folder(tmp_path), tiny_adapter(tmp_path / "adapter", **settings)
    with torch.no_grad():
        model = retmask.load(str(folder), adapter=str(adapter), device="cpu", context_tokens=128)
        tuned = PeftModel.from_pretrained(tiny_hf("llama"), str(adapter))
        assert torch.allclose(model.native(IDS).logits, tuned(IDS).logits, atol=2e-4)
        assert not torch.allclose(model.native(IDS).logits, tiny_hf("llama")(IDS).logits, atol=0.01)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"target_modules": ["q_proj"]},
            "it holds 6 tensors that the model has no place for, such as base_model.model",
        ),
        ({"target_modules": ["q_proj", "k_proj", "o_proj"]}, "6 of its 18 tensors are missing, such as base_model"),
        ({"r": 2}, "lora_A.weight is 4 x 64 and would have to be 2 x 64"),
        ({"target_modules": ["c_attn"]}, "cannot be merged into model"),
        ({"peft_type": "NONE"}, "cannot be merged into model"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2}, "PEFT finds no 'prompt_embeddings'"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], change: dict[str, Any], says: str
) -> None:
    """PEFT would only warn, and go on with random numbers or without the tensors that have no place."""
    folder, adapter = tiny_folder(tmp_path), tiny_adapter(tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | change))
    capfd.readouterr()
    assert says in refusal(folder, adapter)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "damage", ["weights gone", "weights cut", "weights empty", "config gone", "config cut", "list"]
)
def test_a_damaged_adapter_is_one_sentence(tmp_path: Path, damage: str) -> None:
    folder, adapter = tiny_folder(tmp_path), tiny_adapter(tmp_path / "adapter")
    what, how = damage.split() if " " in damage else ("config", damage)
    file = adapter / {"weights": "adapter_model.safetensors", "config": "adapter_config.json"}[what]
    content = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "list": b"[1, 2]"}[how])
    said = refusal(folder, adapter)
    assert ("is no adapter" if how == "gone" else "cannot be merged into model") in said


def test_an_adapter_of_not_a_number_is_refused(tmp_path: Path) -> None:
    folder, adapter = tiny_folder(tmp_path), tiny_adapter(tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({name: x * float("nan") for name, x in tensors.items()}, adapter / "adapter_model.safetensors")
    assert "NaN" in refusal(folder, adapter)


def test_an_adapter_of_other_weights_is_refused(tmp_path: Path) -> None:
    folder, adapter = tiny_folder(tmp_path), tiny_adapter(tmp_path / "adapter")
    card = adapter / "retmask.json"
    digest = resolve(str(folder)).sha256
    card.write_text(json.dumps({"base": "model", "base_sha256": digest}))
    assert retmask.load(str(folder), adapter=str(adapter), device="cpu", context_tokens=128).grid == Grid(3, 4, 2)
    card.write_text(json.dumps({"base": "model", "base_sha256": None}))  # a base from the Hub has none
    retmask.load(str(folder), adapter=str(adapter), device="cpu", context_tokens=128)
    card.write_text(json.dumps({"base": "another-model", "base_sha256": "ab" * 32}))
    said = refusal(folder, adapter)
    assert f"was trained on another-model with SHA-256 abababababab…, and model has {digest[:12]}…" in said
    card.write_text("{")
    assert "does not say what the adapter was trained on" in refusal(folder, adapter)
