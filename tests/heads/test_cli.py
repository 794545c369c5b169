"""The command `heads` on files that other projects publish: lists, gates, and what neither says of its model."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from retmask.cli.main import app

LIST = 'attn_head_set: "14-22,13-16,20-3"\nmodel_name_or_path: "{}"\n'


def heads(*words: object) -> Result:
    return CliRunner().invoke(app, ["heads", *map(str, words)])


@pytest.fixture
def published(tmp_path: Path) -> Path:
    file = tmp_path / "qr.yaml"
    file.write_text(LIST.format("meta-llama/Llama-3.1-8B-Instruct"))
    return file


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.yaml"
    file.write_text(LIST.format("mine"))
    return file


def test_a_list_of_a_published_model_has_its_grid(published: Path) -> None:
    said = heads(published, "--top", "2").stdout
    assert "a list of 3 heads in order, without scores; the model's grid: 32 x 32 heads" in said
    assert [line.split() for line in said.splitlines()[2:]] == [["1", "L14H22"], ["2", "L13H16"]]
    assert "0.6" not in said, "places are no scores"


def test_a_list_of_another_model_has_no_grid_until_its_model_is_named(own: Path, tmp_path: Path) -> None:
    assert "the model's grid: not known" in heads(own).stdout
    assert "is not known: name the model" in str(heads(own, "--random", "2").exception)
    sizes = {"num_hidden_layers": 24, "num_attention_heads": 24, "num_key_value_heads": 8}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    assert "24 x 24 heads" in heads(own, "--model", tmp_path).stdout
    drawn = json.loads(heads(own, "--model", tmp_path, "--heads", "L13H16", "--json").stdout)
    assert drawn == {"heads": [{"head": "L13H16", "rank": 2}]}
    other = heads(own, "--model", "smollm2-360m").exception
    assert "names L14H22 and does not fit on a grid of 32 x 15" in str(other)


def test_gates_are_told_of_the_query_heads_that_share_them(tmp_path: Path) -> None:
    folder = tmp_path / "SmolLM2-135M" / "lr=0.02"
    folder.mkdir(parents=True)
    rows = [[0.5, 0.25, -0.0001], *[[0.0, 0.0, 0.0]] * 29]
    text = "\n".join("\t".join(map(str, row)) for row in rows)
    (folder / "full_attention_heads.tsv").write_text(text)
    said = heads(folder, "--top", "4").stdout
    assert "1 gate lay outside 0 to 1 by up to 0.0001" in said
    assert "30 x 9 heads, learned gates" in said
    assert [line.split()[1] for line in said.splitlines()[3:7]] == ["L0H0", "L0H1", "L0H2", "L0H3"]
    assert "interval:" not in said
