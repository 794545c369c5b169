"""Opening a model, whatever its folder says, installs nothing, fetches nothing and runs nothing of the folder's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import from_config, tiny_folder, tiny_tokenizer
from transformers import AutoModelForCausalLM, Gemma3Config

import retmask
from retmask.heads.grid import HeadId
from retmask.heads.masks import HeadMask

_TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "sliding_window": 40,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "eos_token_id": 127,
}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.fixture
def seeing(tmp_path: Path) -> Path:
    """A folder with a tiny Gemma 3 that has a vision part."""
    config = Gemma3Config(text_config=_TEXT, vision_config=_VISION, mm_tokens_per_image=4, image_token_index=124)
    from_config(config).save_pretrained(tmp_path / "seeing")
    tiny_tokenizer().save_pretrained(tmp_path / "seeing")
    return tmp_path / "seeing"


@torch.no_grad()
def test_a_model_that_also_sees_is_read_as_text_and_nothing_is_installed(
    seeing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TransformerLens' own loader runs `pip install torchvision` here."""
    started = []

    def fail(self: object, command: object, *_: object, **__: object) -> None:
        started.append(command)
        raise OSError("nothing may be started")

    monkeypatch.setattr(subprocess.Popen, "__init__", fail)
    model = retmask.load(str(seeing), device="cpu", context_tokens=128)
    assert started == []
    plain = AutoModelForCausalLM.from_pretrained(seeing).eval()
    ids = torch.arange(3, 60)[None]
    mask = HeadMask.of([HeadId(0, 1), HeadId(2, 3)])
    for head in mask.heads:
        o_proj = plain.model.language_model.layers[head.layer].self_attn.o_proj
        o_proj.weight[:, head.head * 16 : (head.head + 1) * 16] = 0
    with model.masked([mask]):
        assert torch.allclose(model.native(ids).logits, plain(ids).logits, atol=2e-5)
        assert torch.allclose(model.bridge(ids), plain(ids).logits, atol=2e-5)


def test_code_of_a_folder_does_not_run_for_its_architecture(tmp_path: Path) -> None:
    """The name alone makes TransformerLens' own loader import `modeling_internlm2.py` from the folder."""
    folder = tiny_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "architectures": ["InternLM2ForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_internlm2.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass InternLM2ForCausalLM: 0"
    )
    assert retmask.load(str(folder), device="cpu", context_tokens=128).grid.n_heads == 4
    assert not (tmp_path / "ran").exists()


_LOAD = """
import sys, retmask
from transformers.utils import is_kernels_available
retmask.load(sys.argv[1], device="cpu", context_tokens=128)
print(is_kernels_available())
"""


def test_no_kernels_are_fetched_and_nothing_is_written_outside_the_home(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    kernels = tmp_path / "site" / "kernels"
    kernels.mkdir(parents=True)
    (kernels / "__init__.py").write_text("__version__ = '0.18.2'\n")
    (tmp_path / "user").mkdir()
    places = {"HOME": str(tmp_path / "user"), "RETMASK_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "user")}
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path])}
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "HF_"))}
    command = [sys.executable, "-c", _LOAD, str(folder)]
    done = subprocess.run(command, env=clean | places | paths, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False"]
    assert list((tmp_path / "user").rglob("*")) == []
