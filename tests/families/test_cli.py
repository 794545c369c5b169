"""`retmask families`: what it prints of sets worked by hand, what it writes, and what it refuses."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from published import PUBLISHED, with_published
from rich.console import Console
from typer.testing import CliRunner, Result

from retmask.cli.main import app
from retmask.figures.style import browser
from retmask.heads.scores import HeadScores


@pytest.fixture
def run() -> Callable[..., Result]:
    """The command, piped."""
    return lambda *words: CliRunner().invoke(app, ["families", *map(str, words)])


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two maps of four heads: the best two of one are L0H0 and L0H1, of the other L0H1 and L1H0."""
    paths = tmp_path / "one.json", tmp_path / "other.json"
    values = [[[0.9, 0.6], [0.0, 0.0]]], [[[0.0, 0.9], [0.6, 0.0]]]
    for path, mean in zip(paths, values, strict=True):
        HeadScores("tiny", np.array(mean * 4)).save(path)
    return paths


def test_two_sets_by_hand(run: Callable[..., Result], two: tuple[Path, Path]) -> None:
    found = json.loads(run(*two, "--json", "--k", "2").stdout)
    one, other = found["sets"]
    assert (one["grid"], one["above"], one["half_heads"], one["trials"], one["distinct"]) == ("2 x 2", 2, 1, 4, 1)
    assert one["gini"] == pytest.approx(other["gini"]) == pytest.approx(0.55)  # (3 * 0.9 + 1 * 0.6) / (4 * 1.5)
    assert one["gini_low"] is None  # four copies of one trial are no sample
    (pair,) = found["agreement"]
    assert (pair["k"], pair["overlap"], pair["why"]) == (2, 0.5, "")
    assert pair["jaccard"] == pytest.approx(1 / 3)
    assert any("only 1 of 4 trials differ" in said for said in found["warnings"][one["label"]])


def test_for_people(run: Callable[..., Result], two: tuple[Path, Path]) -> None:
    said = run(*two).stdout
    assert "1  one · score file: 2 x 2 heads, 4 trials, 1 of them distinct, best L0H0" in said
    assert "below each its 95 % interval" in said
    assert "1 of the best 1" not in said
    assert "0 of the best 1" in said  # 5 % of four heads is one
    assert "Models of different names are compared here" in said


def test_other_grids_are_said_once(run: Callable[..., Result], two: tuple[Path, Path]) -> None:
    said = run(*two, "smollm2-135m").stdout
    assert said.count("not compared head by head") == 1
    assert "2 pairs are not compared head by head" in said


def test_a_list_has_no_figures(run: Callable[..., Result], two: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text('attn_head_set: "0-1,1-0"\nmodel_name_or_path: "tiny"\n')
    found = json.loads(run(two[1], path, "--json").stdout)
    assert (found["sets"][1]["gini"], found["sets"][1]["trials"]) == (None, None)
    assert (found["agreement"][0]["spearman"], found["agreement"][0]["overlap"]) == (None, 1.0)


def test_names_are_printed_as_they_are(run: Callable[..., Result], two: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "a & [bold]b.json"
    path.write_bytes(two[0].read_bytes())
    assert "1  a & [bold]b · score file" in run(path).stdout


def test_two_to_four_sets_fit_a_terminal(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(width=100, soft_wrap=True, markup=False, force_terminal=True, color_system=None)
    for module in ("families", "options"):
        monkeypatch.setattr(f"retmask.cli.{module}.out", terminal)
    rng = np.random.default_rng(0)
    names = [f"an-organisation-with-a-long-name-{i}-Instruct.json" for i in range(4)]
    for name in names:
        HeadScores("m", rng.random((40, 36, 32)) ** 8).save(tmp_path / name)
    lines = run(*(tmp_path / name for name in names)).stdout.splitlines()
    tables = [line for line in lines if not line.startswith(("heads:", *"1234"))]
    assert max(map(len, tables)) <= 100
    assert sum("of the best 58" in line for line in lines) == 6  # a line a pair, none broken


def test_lists_alone_have_nothing_to_draw(run: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text('attn_head_set: "0-1,1-0"\nmodel_name_or_path: "tiny"\n')
    assert "has no scores to draw" in str(run(path, "--html", tmp_path / "a.html").exception)


@pytest.mark.parametrize(("by", "parts"), [("needle", 3), ("length", 3), ("depth", 5), ("rule", 3)])
def test_the_parts_of_a_detection(run: Callable[..., Result], by: str, parts: int) -> None:
    found = json.loads(run("smollm2-135m", "--by", by, "--json").stdout)
    assert len(found["sets"]) == parts
    assert len(found["agreement"]) == parts * (parts - 1) / 2
    trials = [row["trials"] for row in found["sets"]]
    assert trials == [40] * 3 if by == "rule" else sum(trials) == 40


def test_files(run: Callable[..., Result], two: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(*two, "--csv", tmp_path / "a.csv", "--html", tmp_path / "a.html").exit_code == 0
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [row["best"] for row in rows] == ["L0H0", "L0H1"]
    assert "plotly" in (tmp_path / "a.html").read_text().lower()


@pytest.mark.browser
@pytest.mark.skipif(browser() is None, reason="no Chrome or Chromium")
def test_a_picture(run: Callable[..., Result], two: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(*two, "--png", tmp_path / "a.png").exit_code == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere.json"], "there is no score set at nowhere.json"),
        (["smollm2-135m", "--k", "-1"], "--k and --threshold cannot be negative"),
        (["smollm2-135m", "--k", "271"], "--k 271 is more than the 270 heads of smollm2-135m"),
        (["smollm2-135m", "--by", "depth", "--html", "a.html"], "--html and --png draw whole sets"),
        (["https://host:abc/x"], "'https://host:abc/x' is no address"),
        (["smollm2-135m", "--threshold", "nan"], "--k and --threshold cannot be negative"),
        (["smollm2-135m", "--by", "colour"], "--by 'colour' is unknown: choose needle, length, depth, rule"),
        (["smollm2-135m", "gemma-3-270m", "--by", "depth"], "--by parts one detection and 2 sets were given"),
        (["http://127.0.0.1/scores.json"], "only https addresses are"),
        (["smollm2-135m", "--csv", "/proc/no/a.csv"], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(run: Callable[..., Result], words: list[str], says: str) -> None:
    found = run(*words)
    assert isinstance(found.exception, ValueError)
    assert says in str(found.exception)


@with_published
def test_the_published_files(run: Callable[..., Result]) -> None:
    files = [PUBLISHED / "Llama-3.1-8B-Instruct.json", PUBLISHED / "Qwen3-8B.json"]
    llama, qwen = json.loads(run(*files, "--json").stdout)["sets"]
    assert (llama["above"], llama["distinct"], qwen["distinct"]) == (33, 59, 98)
    assert json.loads(run(files[1], "--threshold", "0.05", "--json").stdout)["sets"][0]["above"] == 98


def test_parts_are_named_whole_where_they_are_piped(run: Callable[..., Result]) -> None:
    lines = run("smollm2-135m", "--by", "needle").stdout.splitlines()
    first, second, third = (line[3:].split("  ")[0] for line in lines[1:4])
    assert max(map(len, (first, second, third))) > 80
    assert lines[5].startswith(f"1  {first}")
    assert f"2  {second}" in lines[5]
    assert f"3  {third}" in lines[7]
    assert lines[7].rstrip().endswith("of the best 14")
