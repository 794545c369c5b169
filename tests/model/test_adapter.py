"""An adapter that does not fit its base, or is damaged, is one sentence and nothing else; real PEFT adapters."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import CONFIGS, sharing_folder, tiny_adapter, tiny_folder, tiny_hf, tiny_tokenizer
from transformers import AutoModelForCausalLM

import retmask
from retmask.compare.checkpoint import export
from retmask.heads.grid import Grid
from retmask.heads.rules import MaskRule
from retmask.model.weights import resolve

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
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2}, "is of the kind PROMPT_TUNING, which adds tokens"),
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


def tied_folder(path: Path) -> Path:
    """A tiny model whose output takes its weights from the embedding."""
    config = copy.deepcopy(CONFIGS["llama"])
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.3)
    hf.save_pretrained(path / "model")
    tiny_tokenizer().save_pretrained(path / "model")
    return path / "model"


KINDS: dict[str, dict[str, Any]] = {
    "attention": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "bias": {"bias": "all"},
    "regex": {"target_modules": r".*layers\.1\.self_attn\.(q|v)_proj"},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "both ends": {"target_modules": ["embed_tokens", "lm_head"]},
    "head saved": {"modules_to_save": ["lm_head"]},
    "embedding saved": {"modules_to_save": ["embed_tokens"]},
    "some tokens": {"trainable_token_indices": {"embed_tokens": [3, 17]}},
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_folder_answers_as_peft_does(tmp_path: Path, kind: str, tied: bool) -> None:
    """Also where the adapter changes one of two layers that share their weights: they are two from then on."""
    folder = tied_folder(tmp_path) if tied else tiny_folder(tmp_path)
    torch.manual_seed(1)
    settings = {"r": 4, "target_modules": ["q_proj", "o_proj"], "init_lora_weights": False} | KINDS[kind]
    tuned: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "modules_to_save" in name or "trainable_tokens_delta" in name or (kind == "bias" and "bias" in name):
                parameter.normal_(0, 0.3)
    tuned.eval().save_pretrained(tmp_path / "adapter")
    wanted = tuned(IDS).logits
    plain = AutoModelForCausalLM.from_pretrained(folder)(IDS).logits
    assert not torch.allclose(wanted, plain, atol=0.1)
    export(str(folder), MaskRule(), tmp_path / "out", adapter=str(tmp_path / "adapter"))
    assert torch.allclose(AutoModelForCausalLM.from_pretrained(tmp_path / "out")(IDS).logits, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), "is of the kind PROMPT_TUNING, which adds"),
        (PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), "is of the kind PREFIX_TUNING, which adds"),
        (IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]), ""),
        (LoHaConfig(target_modules=["q_proj"]), ""),
    ],
)
def test_adapters_of_other_kinds(tmp_path: Path, settings: Any, says: str) -> None:
    """Those that are changes of weights are merged, the others refused."""
    folder, adapter = tiny_folder(tmp_path), tmp_path / "adapter"
    settings.inference_mode = False
    tuned: Any = get_peft_model(tiny_hf("llama"), settings)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3)
    tuned.eval().save_pretrained(adapter)
    if says:
        assert says in refusal(folder, adapter)
    else:
        model = retmask.load(str(folder), adapter=str(adapter), device="cpu", context_tokens=128)
        assert torch.allclose(model.native(IDS).logits, tuned(IDS).logits, atol=2e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_merge_that_answers_otherwise_is_refused(tmp_path: Path, dtype: str) -> None:
    """Where layers share o_proj the changes of all of them would add up in it; what a type rounds is no difference."""
    how: dict[str, Any] = {"device": "cpu", "context_tokens": 128, "dtype": dtype}
    folder, adapter = sharing_folder(tmp_path), tiny_adapter(tmp_path / "adapter", target_modules=["o_proj"])
    with pytest.raises(ValueError, match="answers otherwise once it is merged into model"):
        retmask.load(str(folder), adapter=str(adapter), trust_remote_code=True, **how)
    retmask.load(str(tiny_folder(tmp_path / "own")), adapter=str(adapter), **how)


def test_an_adapter_that_acts_on_some_tokens_only_is_refused(tmp_path: Path) -> None:
    """An activated LoRA acts from its invocation tokens on; in the weights it would act everywhere."""
    folder = tiny_folder(tmp_path)
    adapter = tiny_adapter(tmp_path / "adapter", alora_invocation_tokens=[1, 2], task_type="CAUSAL_LM")
    assert "cannot be merged into model" in refusal(folder, adapter)
