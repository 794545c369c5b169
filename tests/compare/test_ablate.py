"""A checkpoint with the mask in its weights."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import CONFIGS, sharing_folder, tiny_folder, tiny_hf, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import retmask
from retmask.compare.ablate import ABLATE, AblateSettings
from retmask.compare.checkpoint import export
from retmask.heads.masks import load_mask
from retmask.heads.rules import MaskRule
from retmask.heads.scores import HeadScores
from retmask.runs.run import Run

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


def test_a_head_without_weights_of_its_own_cannot_be_written(tmp_path: Path) -> None:
    """Where layers share o_proj a head's columns are those of other layers' heads too: nothing is written."""
    source, out = sharing_folder(tmp_path), tmp_path / "out"
    with pytest.raises(ValueError, match=r"nothing was written: .* its heads have no weights of their own"):
        export(str(source), RULE, out, trust_remote_code=True)
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("tied", [True, False])
def test_a_tokenizer_gains_no_token_and_shared_weights_stay_shared(tmp_path: Path, tied: bool) -> None:
    """A tokenizer without end and padding has none afterwards."""
    source, out = tmp_path / "model", tmp_path / "out"
    config = copy.deepcopy(CONFIGS["llama"])
    config.tie_word_embeddings, config.eos_token_id, config.pad_token_id = tied, None, None
    AutoModelForCausalLM.from_config(config).save_pretrained(source)
    bare = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer, unk_token="?")
    bare.save_pretrained(source)
    export(str(source), RULE, out)
    made = AutoTokenizer.from_pretrained(out)
    assert made.get_vocab() == bare.get_vocab()
    assert made.special_tokens_map == {"unk_token": "?"}
    assert (made.eos_token, made.pad_token) == (None, None)
    assert ("lm_head.weight" in load_file(out / "model.safetensors")) is not tied


def test_scales_that_half_precision_rounds_are_no_other_model(tmp_path: Path) -> None:
    tiny_hf("qwen3").to(torch.bfloat16).save_pretrained(tmp_path / "half")
    tiny_tokenizer().save_pretrained(tmp_path / "half")
    rule = MaskRule(heads="L0H1:0.3,L1H0:0.7,L2H3:1.1")
    assert export(str(tmp_path / "half"), rule, tmp_path / "out")["dtype"] == "bfloat16"


def test_what_a_random_draw_left_out_is_written_down(tmp_path: Path) -> None:
    values = np.zeros((1, 3, 4))
    values[0, 1, 2] = 0.5
    HeadScores("tiny", values).save(tmp_path / "scores.json")
    rule = MaskRule(random=2, scores=str(tmp_path / "scores.json"))
    assert export(str(tiny_folder(tmp_path)), rule, tmp_path / "out")["excluded"] == ["L1H2"]
    assert "excluded" not in export(str(tmp_path / "model"), RULE, tmp_path / "other")


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


def test_what_a_killed_export_left_goes_and_what_a_neighbour_writes_stays(tmp_path: Path) -> None:
    source, left, neighbour = tiny_folder(tmp_path), ".out.abcd_123.part", ".out.v2.abcd_123.part"
    (tmp_path / left).mkdir()
    (tmp_path / neighbour).mkdir()
    export(str(source), RULE, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {source.name, "out", neighbour}


def test_what_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    source = str(tiny_folder(tmp_path))
    with pytest.raises(ValueError, match="L9H0 is outside"):
        export(source, MaskRule(heads="L9H0"), tmp_path / "out")
    with pytest.raises(ValueError, match="say in one way"):
        export(source, MaskRule(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_as_a_run(tmp_path: Path, fresh_home: Path) -> None:
    source, out = str(tiny_folder(tmp_path)), tmp_path / "out"
    run = ABLATE.new(AblateSettings(model=source, rule=MaskRule(heads="L0H1,L2H3:0.5"), out=str(out)))
    assert [found.id for found in Run.all("ablate")] == [run.id]
    assert run.command.startswith("retmask ablate ")
    list(ABLATE.work(run))
    assert run.status == "success"
    assert (out / "model.safetensors").is_file()
