"""The dose curve on a tiny model: its points, that it goes on where it was, and the perplexity by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_folder, tiny_model

from retmask.compare.dose import DEPTHS, DOSE, DoseSettings, Point, read_points
from retmask.compare.effect import perplexity
from retmask.detect.job import PRESETS
from retmask.files import shipped
from retmask.heads.grid import Grid, HeadId
from retmask.heads.masks import HeadMask
from retmask.heads.scores import HeadScores
from retmask.model.lens import LensModel
from retmask.runs.worker import Cancelled
from retmask.text.haystack import load_haystack
from retmask.text.needle import load_needles

GRID = Grid(3, 4)


@pytest.fixture
def score_file(tmp_path: Path) -> str:
    values = np.zeros((1, 3, 4))
    values[0, 0, 1], values[0, 2, 3] = 0.9, 0.4
    HeadScores("tiny", values).save(tmp_path / "scores.json")
    return str(tmp_path / "scores.json")


def test_points_and_their_masks(score_file: str) -> None:
    config = DoseSettings(model="m", scores=score_file, ks=(2, 1), random_seeds=2)
    points = config.points(GRID)
    assert points[:3] == [Point("top", 0), Point("top", 1), Point("top", 2)]
    assert points[3:] == [Point("random", 1, 0), Point("random", 2, 0), Point("random", 1, 1), Point("random", 2, 1)]
    assert not len(config.mask(points[0], GRID))
    assert config.mask(points[2], GRID).heads == (HeadId(0, 1), HeadId(2, 3))
    assert all(not {HeadId(0, 1), HeadId(2, 3)} & set(config.mask(point, GRID).heads) for point in points[3:])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ks": (13,)}, "13 heads cannot be masked, the model has 12"),
        ({"ks": (11,)}, "11 random heads asked for"),
        ({"ks": (-1,)}, "-1 in masked heads is below 0"),
        ({"random_seeds": -1}, "random draws -1 is outside 0 to 1,000"),
        ({"trials": 0}, "trials 0 is outside 1 to"),
    ],
)
def test_impossible_curves(changes: dict[str, object], says: str, score_file: str) -> None:
    with pytest.raises(ValueError, match=says):
        DoseSettings(model="m", scores=score_file, **{"ks": (1,), **changes})


def test_nothing_that_detection_used_is_measured_with() -> None:
    """Neither needles nor depths of any preset, nor its haystack, nor one that somebody names by mistake."""
    config = DoseSettings(model="smollm2-135m", scores="smollm2-135m")
    tasks = config.tasks()
    assert len(tasks) == 24
    assert not {task.needle.needle for task in tasks} & {needle.needle for needle in load_needles()}
    assert not set(DEPTHS) & {depth for preset in PRESETS.values() for depth in preset.values["depths"]}
    used, other = load_haystack("pydoc").text, load_haystack("pydoc-end").text
    assert other[:3000] not in used[: len(used) // 2]
    assert used.endswith(other)
    with pytest.raises(ValueError, match="detection used the haystack pydoc too"):
        DoseSettings(model="smollm2-135m", scores="smollm2-135m", haystack="pydoc").tasks()
    own = str(shipped("needles.json"))
    assert {
        task.needle.name for task in DoseSettings(model="m", scores="smollm2-135m", needles=own, trials=20).tasks()
    } == {needle.name for needle in load_needles()[3:]}
    with pytest.raises(ValueError, match="5 needles that detection did not use give 20 trials and 21 were asked for"):
        DoseSettings(model="m", scores="smollm2-135m", needles=own, trials=21).tasks()


def test_a_haystack_is_that_of_the_detection_however_its_path_is_written(
    score_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a run is made: detections record whole paths, those of before the path as it was given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("This is a sentence about rivers. " * 800)
    model = str(tiny_folder(tmp_path))
    for recorded in ("texts", str(tmp_path / "texts")):
        (tmp_path / "run.json").write_text(json.dumps({"kind": "detect", "config": {"haystack": recorded}}))
        for given in ("texts", "texts/", str(tmp_path / "texts")):
            settings = DoseSettings(model=model, scores=score_file, haystack=given, ks=(1,), trials=4)
            with pytest.raises(ValueError, match="detection used the haystack"):
                DOSE.new(settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_list_of_heads_is_masked_in_its_order(tmp_path: Path) -> None:
    listed = tmp_path / "heads.yaml"
    listed.write_text('attn_head_set: "2-3,0-1"\n')
    config = DoseSettings(model="m", scores=str(listed), ks=(1, 2), random_seeds=1)
    assert config.mask(Point("top", 1), GRID).heads == (HeadId(2, 3),)
    assert not {HeadId(0, 1), HeadId(2, 3)} & set(config.mask(Point("random", 2, 0), GRID).heads)
    with pytest.raises(ValueError, match="3 heads cannot be masked, the list names 2"):
        DoseSettings(model="m", scores=str(listed), ks=(3,)).points(GRID)
    with pytest.raises(ValueError, match="is not fetched here"):
        DoseSettings(model="m", scores="https://example.org/scores.json")


def test_the_command_says_what_differs(score_file: str) -> None:
    config = DoseSettings(model="m", scores=score_file, ks=(0, 1), random_seeds=1, layer_matched=True)
    assert config.command[2:] == ["m", "--scores", score_file, "--ks", "0,1", "--random-seeds", "1", "--layer-matched"]


def test_a_curve_leaves_out_what_one_says(score_file: str) -> None:
    config = DoseSettings(model="m", scores=score_file, ks=(1,), random_seeds=100, exclude="25%")
    points = [point for point in config.points(config.map.scores.grid) if point.seed is not None]
    drawn = {config.mask(point, config.map.scores.grid).heads for point in points}
    best = set(config.map.scores.top_share(0.25))
    assert drawn
    assert not {head for heads in drawn for head in heads} & best
    assert config.command[-2:] == ["--exclude", "25%"]


def test_a_curve_goes_on_where_it_was_and_measures_each_point_once(tmp_path: Path, score_file: str) -> None:
    config = DoseSettings(
        model=str(tiny_folder(tmp_path)),
        scores=score_file,
        ks=(2,),
        random_seeds=1,
        trials=2,
        context_tokens=500,
        prose_tokens=80,
    )
    run = DOSE.new(config, tmp_path / "curve")
    steps = DOSE.work(run)
    assert next(steps)[:2] == (1, 3)
    with pytest.raises(Cancelled):
        steps.throw(Cancelled())  # type: ignore[attr-defined]
    assert run.status == "cancelled"
    before = read_points(run.path)
    again = DOSE.new(config, tmp_path / "curve")
    assert [at.done for at in DOSE.work(again)] == [2, 3]
    points = read_points(run.path)
    assert [(point["kind"], point["k"]) for point in points] == [("top", 0), ("top", 2), ("random", 2)]
    assert points[0] == before[0]
    assert len((run.path / "points.jsonl").read_text().splitlines()) == 3
    assert len((run.path / "dose.csv").read_text().splitlines()) == 4
    assert (run.path / "dose.png").is_file() or (run.path / "dose.html").is_file()
    assert list(DOSE.work(again)) == []
    assert again.record["excluded"] == ["L0H1", "L2H3"]
    assert points[0]["perplexity"] != points[1]["perplexity"]
    with pytest.raises(ValueError, match="holds a run with other settings"):
        DOSE.new(DoseSettings(model=str(tmp_path / "model"), scores=score_file, ks=(1,)), tmp_path / "curve")


@torch.no_grad()
def test_perplexity_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two windows of five letters, each read alone; the first letter of each is given."""
    monkeypatch.setattr("retmask.compare.effect.WINDOW", 5)
    model: LensModel = tiny_model("llama")
    text = "Copy this one"
    losses = []
    for part in ("Copy ", "this "):
        ids = torch.tensor([[ord(letter) for letter in part]])
        log = model.native(ids).logits[0, :-1].log_softmax(-1)
        losses += (-log.gather(-1, ids[0, 1:, None])[:, 0]).tolist()
    assert perplexity(model, text, 10, HeadMask()) == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    assert perplexity(model, text, 10, HeadMask.of([HeadId(0, 1)])) != pytest.approx(np.exp(np.mean(losses)), rel=1e-3)
