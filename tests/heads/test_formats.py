"""Files of three formats, what their names tell, and every way a file can be wrong."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from published import DUO, GATES, LIST

from retmask.heads.formats import family, model_of
from retmask.heads.grid import Grid, HeadId
from retmask.heads.sets import ScoreSet, read_set, read_text


def test_a_qrhead_list() -> None:
    found = read_text(LIST, "configs/Llama-3.1-8B-Instruct_qr_head_NQ.yaml")
    assert (found.model, found.family, found.level, found.ranking) == ("Llama-3.1-8B-Instruct", "Llama", "query", True)
    assert found.label == "Llama-3.1-8B-Instruct · QRHead list · qr_head_NQ"
    assert (found.grid, found.n_trials, found.counting) == (Grid(32, 32, 8), 1, "ranking")
    assert found.scores.top(4) == (HeadId(14, 22), HeadId(13, 16), HeadId(20, 3), HeadId(14, 0))
    assert sorted(found.scores.values[found.scores.values > 0]) == [0.25, 0.5, 0.75, 1]
    assert found.trials() == []
    (warning,) = found.warnings
    assert "4 heads without scores" in warning


def test_a_list_layer_by_layer_may_be_no_ranking() -> None:
    found = read_text(b'attn_head_set: "10_3,10_24,11_11"\nmodel_name_or_path: google/gemma-3-4b-it', "x.yaml")
    assert (found.family, found.grid) == ("Gemma", None)
    assert found.warnings[0] == "it names L10H24, and gemma-3-4b-it has 34 x 8 heads: it may be of another model"
    assert "layer by layer" in found.warnings[2]


def test_duo_attention_gates() -> None:
    found = read_text(GATES, DUO)
    assert (found.model, found.family, found.level) == ("Mistral-7B-Instruct-v0.2", "Mistral", "kv")
    assert found.label == "Mistral-7B-Instruct-v0.2 · DuoAttention gates"
    assert (found.scores.grid, found.counting, found.ranking) == (Grid(3, 2), "gates", False)
    np.testing.assert_array_equal(found.scores.values, [[[0.605, 0], [1, 0], [0.25, 1]]])
    assert found.warnings[0] == (
        "2 gates lay outside 0 to 1 by up to 0.002, as rounding in bfloat16 leaves them, and count as 0 or 1"
    )
    assert "compared with other gates only" in found.warnings[1]
    assert read_text(b"0.5\r\n0.25\r\n", "one-kv-head.tsv").scores.grid == Grid(2, 1)


def test_content_tells_the_format_not_the_name() -> None:
    assert read_text(LIST, "a.json").ranking
    assert read_text(GATES, "a.yaml").level == "kv"
    assert read_text(b'\xef\xbb\xbf{"0-0": [0.5]}', "a.tsv").counting == "unknown"


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/meta/Llama-3.1-8B/resolve/main/scores.json", "Llama-3.1-8B"),
        ("/meta/Llama-3.1-8B/resolve/3f2a/detections/scores.json", "detections"),
        ("/someone/Qwen3-8B/raw/refs/heads/main/scores.json", "Qwen3-8B"),
        ("/someone/Qwen3-8B/main/full_attention_heads.tsv", "Qwen3-8B"),
        ("/someone/Qwen3-8B/blob/v1/lr=0.02/full_attention_heads.tsv", "Qwen3-8B"),
        ("/a/resolve/main/Llama-7B.json", "Llama-7B"),
        ("/scores.json", "unnamed"),
        ("", "unnamed"),
        ("a\x1b]0;x\x07.json", "a�]0;x�"),
    ],
)
def test_the_model_that_a_path_tells(path: str, model: str) -> None:
    assert model_of(path) == model


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama"),
        ("TinyLlama-1.1B", "Llama"),
        ("/data/llama/Qwen3-8B/", "Qwen"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "Qwen"),
        ("deepseek-ai/DeepSeek-V2-Lite", "DeepSeek"),
        ("gemma3-270m", "Gemma"),
        ("HuggingFaceTB/SmolLM2-135M", "SmolLM"),
        ("Mixtral-8x7B", "Mistral"),
        ("Olmo-3-7B-Think", "OLMo"),
        ("microsoft/Phi-3-mini", "Phi"),
        ("dolphin-7b", ""),
        ("gpt2", "GPT-2"),
        ("GPT-2-xl", "GPT-2"),
        ("EleutherAI/pythia-70m", "Pythia"),
        ("yi-34b", "Yi"),
        ("my-model", ""),
        ("", ""),
    ],
)
def test_families(model: str, expected: str) -> None:
    assert family(model) == expected


BAD = [
    (b"", "is empty"),
    (b" \n\t\n", "is empty"),
    (b"# only this\n", "is empty"),
    (b"\xff\xfe\x00\x01", "not text"),
    (b"\x89PNG\r\n", "not text"),
    (b"a\x00b", "not text"),
    (b"hello world", "none that can be read"),
    (b"<!doctype html>", "web page"),
    (b"{", "is not JSON"),
    (b"[" * 100_000, "is not JSON|nested too deeply"),
    (b'{"0-0": [NaN]}', "not a finite number"),
    (b'{"0-0": [1' + b"0" * 5000 + b"]}", "bad-file: 0-0 holds inf"),
    (b'{"0-0": [1], "0-0": [1]}', "stands twice"),
    (b"name: x\n", "no attn_head_set"),
    (b"attn_head_set:\n", "no attn_head_set"),
    (b"attn_head_set: [1, 2]\n", "no attn_head_set"),
    (b"x:\n  attn_head_set: 1-2\n", "no attn_head_set"),
    (b"- attn_head_set: 1-2\nx: 1\n", "is not YAML|no attn_head_set"),
    (b'attn_head_set: "full_heads"\n', "names all heads"),
    (b'attn_head_set: "1-2,3-4,1-2"\n', "lists L1H2 twice"),
    (b'attn_head_set: "1-2,,3-4"\n', "'' is not a head"),
    (b'attn_head_set: "1-2,x"\n', "'x' is not a head"),
    (b'attn_head_set: "9999-9999"\n', "'9999-9999' is not a head"),
    (b'attn_head_set: "-1-2"\n', "'-1-2' is not a head"),
    (b"attn_head_set: 1-2\nattn_head_set: 1-3\n", "stands twice"),
    (b"a: &a [x]\nattn_head_set: *a\n", "aliases"),
    (b"attn_head_set: " + b"[" * 5000, "nested too deeply"),
    (b"a: " + b"{a: " * 5000, "nested too deeply"),
    (b'attn_head_set: "\\UFFFFFFFF"\n', "is not YAML"),
    (b'attn_head_set: "1-2\n', "is not YAML"),
    (b"attn_head_set: 1-2\n\tx: 3\n", "is not YAML"),
    (b"a: 1\n" + b"#" * 2**18, "larger than 256 KiB"),
    (b"0.5\n" * 70_000, "larger than 256 KiB"),
    (b"0.5\t" * 10_000, "1 rows of 10001 columns"),
    (b"1\n" * 10_000, "10000 rows of 1 columns"),
    (b"0.5\t0.5\n0.5\n", "is ragged: row 2 has 1 columns and row 1 has 2"),
    (b"0.5\t\n", "row 1 holds '', which is no gate"),
    (b"0.5\tnan\n", "row 1 holds 'nan'"),
    (b"0.5\tinf\n", "row 1 holds 'inf'"),
    (b"0.5\t1_0\n", "row 1 holds '1_0'"),
    (b"0.5\tx\n", "row 1 holds 'x'"),
    (b"0.5\n-0.02\n", "row 2 holds '-0.02'"),
    (b"0.5\n1.02\n", "row 2 holds '1.02'"),
    (b"1e999\n", "row 1 holds '1e999'"),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("content", "says"), BAD, ids=range(len(BAD)))
def test_bad_files_get_one_sentence_soon(content: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "bad-file"
    file.write_bytes(content)
    for read in (lambda: read_text(content, "bad-file"), lambda: read_set(str(file))):
        with pytest.raises(ValueError, match=says) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 250


def test_merge_keys_build_nothing() -> None:
    """A list of merges of merges would be 9^9 pairs."""
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    with pytest.raises(ValueError, match="aliases"):
        read_text("\n".join([*lines, "attn_head_set: 1-2"]).encode(), "bomb.yaml")


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retmask.heads.formats.MAX_FILE_BYTES", 100)
    file = tmp_path / "large.json"
    file.write_text('{"0-0": [' + "0.5," * 100 + "0.5]}")
    with pytest.raises(ValueError, match="larger than 64 MiB"):
        read_set(str(file))


@given(st.binary(max_size=60) | st.text(alphabet="-_0123456789,:\"'\n\t{}[]&*!%@|>attn_head_set.e ", max_size=60))
def test_anything_is_a_set_or_a_sentence(content: bytes | str) -> None:
    raw = content if isinstance(content, bytes) else b"attn_head_set: " + content.encode()
    with contextlib.suppress(ValueError):
        assert isinstance(read_text(raw, "x"), ScoreSet)
