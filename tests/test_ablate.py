"""A checkpoint with the mask in its weights."""

import json
from pathlib import Path

import pytest
import torch
from tiny import CONFIGS, tiny_folder, tiny_hf, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import retmask
from retmask.ablate import ablate, export, new_ablate
from retmask.heads import Grid, HeadMask
from retmask.masks import MaskRule, load_mask
from retmask.runs import Run

IDS = torch.tensor([[5, 17, 99, 3, 42, 8, 64, 64, 12, 77, 23, 1]])
RULE = MaskRule(heads="L0H1,L2H3:0.5")


@pytest.mark.parametrize("family", CONFIGS)
def test_plain_transformers_answers_as_the_masked_model(family: str, tmp_path: Path) -> None:
    source, out = tiny_folder(tmp_path, family), tmp_path / "deep" / "masked"
    manifest = export(str(source), RULE, out)
    model = retmask.load(str(source), device="cpu", context_tokens=64)
    mask = RULE.build(model.grid)
    with torch.no_grad(), model.masked([mask]):
        hooked = model.native(IDS).logits
    plain = AutoModelForCausalLM.from_pretrained(out)
    assert torch.allclose(plain(IDS).logits, hooked, atol=2e-5)
    assert AutoTokenizer.from_pretrained(out).decode([72, 105]).replace(" ", "") == "Hi"
    assert manifest["mask"]["scales"] == {"0-1": 0.0, "2-3": 0.5}
    assert load_mask(str(out / "mask.json"), model.grid) == mask
    assert json.loads((out / "mask.json").read_text()) == manifest
    assert [path.name for path in out.parent.iterdir()] == ["masked"]


def test_the_stored_type_stays(tmp_path: Path) -> None:
    tiny_hf("llama").to(torch.bfloat16).save_pretrained(tmp_path / "half")
    tiny_tokenizer().save_pretrained(tmp_path / "half")
    assert export(str(tmp_path / "half"), RULE, tmp_path / "out")["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    source, out = str(tiny_folder(tmp_path)), tmp_path / "out"
    first = export(source, RULE, out)
    assert export(source, RULE, out) == first  # there already
    with pytest.raises(ValueError, match="holds the checkpoint of another mask"):
        export(source, MaskRule(heads="L0H0"), out)
    with pytest.raises(ValueError, match="not empty and holds no checkpoint"):
        export(source, RULE, tmp_path / "model")
    tiny_hf("llama", seed=1).save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="holds a checkpoint with model model"):
        export(str(tmp_path / "other"), RULE, out)
    assert json.loads((out / "mask.json").read_text()) == first


def test_what_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    source = str(tiny_folder(tmp_path))
    with pytest.raises(ValueError, match="L9H0 is outside"):
        export(source, MaskRule(heads="L9H0"), tmp_path / "out")
    with pytest.raises(ValueError, match="say in one way"):
        export(source, MaskRule(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_as_a_run(tmp_path: Path, fresh_home: Path) -> None:
    source, out = str(tiny_folder(tmp_path)), tmp_path / "out"
    mask = HeadMask.parse("L0H1,L2H3:0.5", Grid(3, 4))
    run = new_ablate(source, mask, Grid(3, 4), out)
    assert [found.id for found in Run.all("ablate")] == [run.id]
    assert run.command.startswith("retmask ablate ")
    for _ in ablate(run):
        pass
    assert run.status == "success"
    assert (out / "model.safetensors").is_file()
