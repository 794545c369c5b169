"""Which weights these are, where they come from, and what a folder that cannot be loaded gets told."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub
import numpy as np
import pytest
import torch
import transformers
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from tiny import tiny_adapter, tiny_folder, tiny_hf, tiny_tokenizer
from trainings import plain

import retmask
from retmask.compare.checkpoint import export
from retmask.files import home, sha256, sha256_text
from retmask.heads.rules import MaskRule
from retmask.model.fit import estimate
from retmask.model.weights import digest, resolve
from retmask.runs.run import Run
from retmask.train.job import _check_model

COMMIT = "0a1b2c3d4e" * 4
HOW: dict[str, Any] = {"device": "cpu", "context_tokens": 128}


def sharded(path: Path) -> Path:
    """The tiny model in a few files, and its tokenizer."""
    tiny_hf("llama").save_pretrained(path, max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(path)
    assert len(list(path.glob("*.safetensors"))) > 2
    return path


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of acme/Tiny's only commit in a cache of the Hub, which cannot be reached: the weights are a link."""
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    top = tmp_path / "hub" / "models--acme--Tiny"
    folder = top / "snapshots" / COMMIT
    shutil.copytree(tiny_folder(tmp_path), folder)
    (top / "blobs").mkdir()
    (folder / "model.safetensors").rename(top / "blobs" / "weights")
    (folder / "model.safetensors").symlink_to("../../blobs/weights")
    (top / "refs").mkdir()
    (top / "refs" / "main").write_text(COMMIT)
    return folder


def test_other_bytes_are_another_file_though_their_time_is_put_back(tmp_path: Path, fresh_home: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"a" * 100)
    before, found = file.stat(), digest(file)
    time.sleep(0.02)  # the clock of a file system may tick no oftener
    file.write_bytes(b"b" * 100)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest(file) == sha256(file) != found


def test_one_file_is_known_by_its_sha256_also_through_links(tmp_path: Path, cached: Path) -> None:
    folder = tiny_folder(tmp_path / "plain")
    assert resolve(str(folder)).sha256 == sha256(folder / "model.safetensors")
    assert resolve(str(cached)).sha256 == sha256(folder / "model.safetensors")


def test_every_byte_of_every_shard_counts(tmp_path: Path, fresh_home: Path) -> None:
    """Also past the first MiB of a file whose name and size stay: a masked copy is another model."""
    folder = sharded(tmp_path / "model")
    shards = sorted(folder.glob("*.safetensors"))
    known = resolve(str(folder)).sha256
    assert known == sha256_text("\n".join(sha256(shard) for shard in shards))
    shutil.copytree(folder, tmp_path / "copy")
    assert resolve(str(tmp_path / "copy")).sha256 == known
    last = tmp_path / "copy" / shards[-1].name
    last.write_bytes(last.read_bytes()[:-1] + b"\x7f")
    assert resolve(str(tmp_path / "copy")).sha256 != known
    export(str(folder), MaskRule(heads="L0H1"), tmp_path / "masked")
    assert resolve(str(tmp_path / "masked")).sha256 != known


def test_only_what_is_loaded_counts(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    known = resolve(str(folder)).sha256
    save_file({"x": torch.zeros(1)}, folder / "consolidated.safetensors")
    assert resolve(str(folder)).sha256 == known


def test_a_digest_is_kept_for_as_long_as_the_file_stays(tmp_path: Path, fresh_home: Path) -> None:
    folder = tiny_folder(tmp_path)
    file, known = folder / "model.safetensors", resolve(str(folder)).sha256
    (kept,) = (home() / "digests").iterdir()
    kept.write_text("ab" * 32)
    assert resolve(str(folder)).sha256 == "ab" * 32, "the file was read again"
    kept.write_text("damaged")
    assert resolve(str(folder)).sha256 == known
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"\x7f")
    os.utime(file, ns=(1, 1))
    assert resolve(str(folder)).sha256 not in (known, "ab" * 32)


def test_a_snapshot_by_path_and_by_name_is_one_model(cached: Path) -> None:
    by_path, by_name = resolve(str(cached)), resolve("acme/Tiny")
    assert (by_path.name, by_path.revision) == (by_name.name, by_name.revision) == ("acme/Tiny", COMMIT)
    assert by_path.sha256 == by_name.sha256 == sha256(cached / "model.safetensors")
    model = retmask.load("acme/Tiny", **HOW)
    assert (model.name, model.revision, model.sha256) == ("acme/Tiny", COMMIT, by_path.sha256)
    link = cached.parents[3] / "link"
    link.symlink_to(cached)
    assert resolve(str(link)).name == "acme/Tiny"


@pytest.mark.parametrize("digest", [True, False])
def test_pairs_of_a_snapshot_are_pairs_of_the_model(cached: Path, fresh_home: Path, digest: bool) -> None:
    """Made by name and trained by path, or the other way round; with other weights, or at another commit, not."""
    for made, trained in (("acme/Tiny", str(cached)), (str(cached), "acme/Tiny")):
        run = Run.create("pairs", {"model": made, "revision": ""})
        found = resolve(made)
        run.update(model=found.name, revision=found.revision, sha256=found.sha256 if digest else None)
        file = run.path / "pairs.jsonl"
        row = {"prompt": "a", "chosen": "b", "rejected": "c", "model": found.name}
        file.write_text(json.dumps(row) + "\n")
        _check_model(plain(model=trained, pairs=str(file)))
        run.update(**({"sha256": "ab" * 32} if digest else {"revision": "f" * 40}))
        with pytest.raises(ValueError, match="another version of it" if digest else f"its revision {'f' * 40}"):
            _check_model(plain(model=trained, pairs=str(file)))


@pytest.mark.parametrize(
    ("base", "revision", "says"),
    [
        ("acme/Tiny", None, ""),
        ("ACME/tiny", COMMIT, ""),
        ("/somewhere/models--acme--Tiny/snapshots/" + COMMIT, None, ""),
        ("/home/somebody/their-name-for-it", None, ""),
        (None, None, ""),
        ("acme/Tiny-Instruct", None, "was trained on acme/Tiny-Instruct and this is acme/Tiny"),
        ("acme/Tiny", "f" * 40, f"at commit {'f' * 12}, and this is {COMMIT[:12]} (choose it with --revision)"),
        ("acme/Tiny", "main", ""),
    ],
)
@pytest.mark.parametrize("by_path", [True, False])
def test_the_base_that_an_adapter_names(
    tmp_path: Path, cached: Path, base: str | None, revision: str | None, says: str, by_path: bool
) -> None:
    adapter = tiny_adapter(tmp_path / "adapter")
    file = adapter / "adapter_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"base_model_name_or_path": base, "revision": revision}))
    name = str(cached) if by_path else "acme/Tiny"
    if not says:
        retmask.load(name, adapter=str(adapter), **HOW)
        return
    with pytest.raises(ValueError, match=r"change adapter_config\.json if you know that they are the same") as caught:
        retmask.load(name, adapter=str(adapter), **HOW)
    assert says in str(caught.value)


def test_a_model_and_an_adapter_in_one_folder_are_refused(tmp_path: Path) -> None:
    """Transformers would run the two unmerged and save the adapter alone, without the mask."""
    folder = tiny_folder(tmp_path)
    shutil.copytree(tiny_adapter(tmp_path / "adapter"), folder, dirs_exist_ok=True)
    says = "holds a model and an adapter: move the adapter_\\* files into a folder of their own"
    with pytest.raises(ValueError, match=says):
        retmask.load(str(folder), **HOW)
    with pytest.raises(ValueError, match=says):
        export(str(folder), MaskRule(heads="L0H1"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def changed(**settings: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))

    return change


def written(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text(text)

    return write


def lost(folder: Path) -> None:
    next(folder.glob("*-of-*.safetensors")).unlink()


def cut(folder: Path) -> None:
    shard = sorted(folder.glob("*-of-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])


BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "config list": (written("config.json", "[1]"), "config.json is no JSON object"),
    "config cut": (written("config.json", '{"a": '), "config.json cannot be read as JSON"),
    "config nest": (written("config.json", "[" * 100_000), "config.json cannot be read as JSON"),
    "kind": (changed(model_type="no-such-kind"), "there is no model model that can be read"),
    "no kind": (changed(model_type=None), "there is no model model that can be read"),
    "kind list": (changed(model_type=["llama"]), "there is no model model that can be read"),
    "layers": (changed(num_hidden_layers="three"), "there is no model model that can be read"),
    "heads": (changed(num_attention_heads=0), "model"),
    "activation": (changed(hidden_act="no-such"), "is no causal language model that can be read"),
    "rope": (changed(rope_parameters={"rope_type": "no-such"}), "model"),
    "quantised": (changed(quantization_config=BNB), "model is quantised (bitsandbytes) and cannot be read here"),
    "quantised otherwise": (changed(quantization_config={"quant_method": "no-such"}), ""),
    "quantised list": (changed(quantization_config=["x"]), "model"),
    "shard lost": (lost, "lacks 1 of its"),
    "shard cut": (cut, "the weights of model cannot be loaded"),
    "index list": (written("model.safetensors.index.json", "[]"), "does not say which file holds which weights"),
    "index cut": (written("model.safetensors.index.json", "{"), "does not say which file holds which weights"),
    "index names numbers": (
        written("model.safetensors.index.json", '{"weight_map": {"a": 1}}'),
        "does not say which file holds which weights",
    ),
    "tokenizer list": (written("tokenizer.json", "[1]"), "model has no tokenizer that can be read"),
    "tokenizer cut": (written("tokenizer.json", '{"version": '), "model has no tokenizer that can be read"),
    "tokenizer empty": (written("tokenizer.json", "{}"), "model has no tokenizer that can be read"),
    "tokenizer config": (written("tokenizer_config.json", "[1]"), "model has no tokenizer that can be read"),
    "tokenizer length": (
        written("tokenizer_config.json", '{"model_max_length": "x", "unk_token": "?"}'),
        "model has no tokenizer that can be read",
    ),
    "index nest": (written("model.safetensors.index.json", "[" * 100_000), "does not say which file holds which"),
    "tokenizer class": (
        written("tokenizer_config.json", '{"tokenizer_class": "NoSuchTokenizer"}'),
        "",
    ),
    "generation": (written("generation_config.json", "[1]"), "the weights of model cannot be loaded"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_what_cannot_be_loaded_is_said_in_one_sentence(tmp_path: Path, damage: str) -> None:
    folder = sharded(tmp_path / "model")
    breaks, says = BROKEN[damage]
    breaks(folder)
    if not says:  # may be read all the same
        retmask.load(str(folder), **HOW)
        return
    with pytest.raises(ValueError, match="model") as caught:
        retmask.load(str(folder), **HOW)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("damage", ["empty", "junk", "cut", "weights gone"])
def test_a_gguf_that_cannot_be_converted_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Also one that lacks weights, for which transformers would put random numbers."""
    monkeypatch.setenv("RETMASK_HOME", str(tmp_path / "home"))
    file = tmp_path / "model.gguf"
    writer = GGUFWriter(file, "llama")
    writer.add_vocab_size(128)
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_head_count(4)
    writer.add_feed_forward_length(48)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("token_embd.weight", np.zeros((128, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if damage != "weights gone":
        file.write_bytes({"empty": b"", "junk": b"x" * 5000, "cut": file.read_bytes()[:300]}[damage])
    says = "weights are missing, such as model" if damage == "weights gone" else "model.gguf cannot be read as GGUF: "
    with pytest.raises(ValueError, match=says) as caught:
        resolve(str(file))
    assert "\n" not in str(caught.value)
    assert not [path for path in (home() / "models").iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("kind", ["MambaConfig", "RwkvConfig"])
def test_a_model_without_heads_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tiny_folder(tmp_path)
    getattr(transformers, kind)(vocab_size=128, hidden_size=32, num_hidden_layers=2).save_pretrained(folder)
    for ask in (
        lambda: retmask.load(str(folder), **HOW),
        lambda: estimate(str(folder), 100),
        lambda: export(str(folder), MaskRule(heads="L0H1"), tmp_path / "out"),
    ):
        with pytest.raises(ValueError, match="has no attention heads"):
            ask()


@pytest.mark.parametrize(
    "settings",
    [
        {"_attn_implementation": "flash_attention_2", "attn_implementation": "flash_attention_2"},
        {"_attn_implementation": "no-such-kernel"},
        {"attn_implementation": "kernels-community/flash-attn"},
        {"pad_token_id": 128},
        {"pad_token_id": -129},
        {"pad_token_id": -1},
    ],
)
def test_what_is_not_the_models_to_say_is_left_out(tmp_path: Path, settings: dict[str, Any]) -> None:
    """How to compute attention here, and a padding token that there is not: the answers are the model's."""
    folder = tiny_folder(tmp_path)
    changed(**settings)(folder)
    ids = torch.arange(2, 18)[None]
    with torch.no_grad():
        model = retmask.load(str(folder), **HOW)
        assert torch.allclose(model.native(ids).logits, tiny_hf("llama")(ids).logits, atol=2e-5)
    export(str(folder), MaskRule(heads="L0H1"), tmp_path / "out")


def test_a_masked_copy_of_other_weights_is_not_taken_for_them(tmp_path: Path) -> None:
    """An adapter of a checkpoint in several files is refused on its masked copy, which has the same names and sizes."""
    folder, adapter = sharded(tmp_path / "model"), tiny_adapter(tmp_path / "adapter")
    (adapter / "retmask.json").write_text(json.dumps({"base": "model", "base_sha256": resolve(str(folder)).sha256}))
    retmask.load(str(folder), adapter=str(adapter), **HOW)
    for shard in folder.glob("*.safetensors"):
        tensors = load_file(shard)
        save_file({name: x * (0.5 if "o_proj" in name else 1) for name, x in tensors.items()}, shard, {"format": "pt"})
    with pytest.raises(ValueError, match="was trained on model with SHA-256"):
        retmask.load(str(folder), adapter=str(adapter), **HOW)
