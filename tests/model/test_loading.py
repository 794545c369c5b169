"""Names, folders and files that become a model, and those that are refused in a sentence."""

import json
from pathlib import Path

import pytest
import torch
from tiny import IDS, close, tiny_folder, tiny_hf

import retmask
from retmask.heads.grid import Grid
from retmask.model.weights import resolve


def test_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="pickle that could run code"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config\.json"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "there is no model without a name"),
        ("./nowhere", "there is no model at"),
        ("no.gguf", "there is no file"),
    ],
)
def test_names_that_are_nothing(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        resolve(name)


def test_model_code_does_not_run_unasked(tmp_path: Path) -> None:
    tiny_hf("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="--trust-remote-code"):
        retmask.load(str(tmp_path))
    assert not (tmp_path / "ran").exists()


EVIL = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({ran!r}).touch()
class Config(LlamaConfig):
    model_type = "evil"
class Model(LlamaForCausalLM):
    config_class = Config
"""


@pytest.mark.parametrize("model_type", ["evil", "t5", "llama"])
def test_remote_code_is_asked_for_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str) -> None:
    """Whatever the folder names, its code does not run, and nobody is asked whether it may."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = tiny_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": model_type,
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    if model_type == "t5":
        del config["auto_map"]["AutoConfig"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(EVIL.format(ran=str(tmp_path / "ran")))
    if model_type == "llama":  # transformers knows how to run it without the folder's code
        retmask.load(str(folder), device="cpu", context_tokens=128)
    else:
        with pytest.raises(ValueError, match="allow it with --trust-remote-code"):
            retmask.load(str(folder), device="cpu", context_tokens=128)
    assert not (tmp_path / "ran").exists()


def test_trusted_code_passes_the_estimate(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(EVIL.format(ran=str(tmp_path / "ran")))
    model = retmask.load(str(folder), device="cpu", context_tokens=128, trust_remote_code=True)
    assert (tmp_path / "ran").exists()
    with torch.no_grad():
        assert close(model.native(IDS).logits, tiny_hf("llama")(IDS).logits)


@pytest.mark.parametrize("damage", ["empty", "garbage", "layers", "shapes", "no tokenizer", "no causal model"])
def test_broken_folders_get_one_sentence(tmp_path: Path, damage: str) -> None:
    folder = tiny_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    if damage in ("empty", "garbage"):
        (folder / "model.safetensors").write_bytes(b"" if damage == "empty" else b"x" * 500)
    elif damage == "no tokenizer":
        for file in folder.glob("tokenizer*"):
            file.unlink()
    else:
        change = {
            "layers": {"num_hidden_layers": 5, "layer_types": None},
            "shapes": {"intermediate_size": 64},
            "no causal model": {"model_type": "t5"},
        }[damage]
        (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match="model") as caught:
        retmask.load(str(folder), device="cpu", context_tokens=128)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_local_folder_and_adapter(tmp_path: Path) -> None:
    """A merged adapter gives the logits of the PEFT model."""
    from peft import LoraConfig, get_peft_model

    folder = tiny_folder(tmp_path)
    torch.manual_seed(1)
    tuned = get_peft_model(tiny_hf("llama"), LoraConfig(target_modules=["q_proj", "o_proj"], init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "adapter")
    model = retmask.load(str(folder), adapter=str(tmp_path / "adapter"), device="cpu", context_tokens=128)
    with torch.no_grad():
        assert close(model.native(IDS).logits, tuned(IDS).logits)
    assert model.grid == Grid(3, 4, 2)
    with pytest.raises(ValueError, match="is no adapter"):
        retmask.load(str(folder), adapter=str(folder), device="cpu", context_tokens=128)
