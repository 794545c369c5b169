"""Gains beside concentration: points of our evaluations and of papers."""

from pathlib import Path

import numpy as np
import pytest
from evaluations import items, run_of
from published import PUBLISHED, with_published

from retmask.evaluate.needles import summary
from retmask.families.concentration import concentration
from retmask.families.gains import Gain, own_gains, published_gains, warning
from retmask.files import write_json
from retmask.heads.rules import MASKED, TUNED, UNMASKED
from retmask.heads.scores import HeadScores
from retmask.runs.run import Run

GRID = {"n_layers": 1, "n_heads": 2, "n_kv_heads": 1}


def answers(**recalls: list[float]) -> list[dict[str, object]]:
    """Two prompts of each needle, with the recall of every condition."""
    return [
        {"condition": name, "needle": f"n{i // 2}", "context_tokens": 512, "depth": i % 2, "recall": recall}
        for name, values in recalls.items()
        for i, recall in enumerate(values)
    ]


def evaluation(model: str = "smollm2-135m", tuned: str = TUNED, parents: tuple[str, ...] = (), scores: str = "") -> Run:
    """A finished evaluation of six prompts: unmasked finds three of them, tuned four and half of another."""
    config = {"model": model, "context_tokens": 512, "rule": {"scores": scores}}
    run = Run.create("evaluate", config, name=model, parents=parents)
    found = answers(**{UNMASKED: [1, 0, 1, 0, 1, 0], MASKED: [0] * 6, tuned: [1, 1, 1, 0, 1, 0.5]})
    write_json(run.path / "results.json", summary(found, [UNMASKED, MASKED, tuned]))
    run.update(status="success")
    return run


def detection(model: str, adapter: str = "", mean: float = 0.5) -> Run:
    run = Run.create("detect", {"model": model, "adapter": adapter}, name=model)
    HeadScores(model, np.array([[[mean, 0.0]]]), "set").save(run.path / "scores.json")
    run.update(model=model, counting="set", head_grid=GRID, status="success")
    return run


def test_an_evaluation_is_a_point(fresh_home: Path) -> None:
    run = evaluation()
    (point,) = own_gains()
    assert (point.before, point.after, point.gain) == (0.5, 0.75, 0.25)
    assert (point.model, point.family, point.source, point.n, point.own) == ("smollm2-135m", "SmolLM", run.id, 6, True)
    assert (point.measured, point.unit) == ("needle recall, 512 tokens", "recall, 0 to 1")
    assert (point.low, point.high) == (0, 0.5), "drawn needles, not prompts"
    assert (point.scores, point.counting) == ("smollm2-135m", "set"), "the shipped map, where no other is known"
    assert point.figures is not None
    assert point.figures.n_heads == 270


def test_controls_are_no_gains(fresh_home: Path) -> None:
    evaluation(tuned="control")
    assert own_gains() == []
    evaluation(tuned="tuned 2")
    assert len(own_gains()) == 1


def test_the_map_is_the_one_that_the_training_began_with(fresh_home: Path) -> None:
    """An evaluation of an adapter that was trained on pairs made with a mask from a detection."""
    detected = detection("my/model")
    detection("my/model", adapter="a", mean=0.7)
    detection("my/model", mean=0.9)
    pairs = Run.create("pairs", {"model": "my/model", "rule": {"scores": detected.id}}, parents=[detected.path])
    train = Run.create("train", {"model": "my/model", "pairs": str(pairs.path)}, parents=[pairs.path])
    evaluation("my/model", parents=(train.id,))
    (point,) = own_gains()
    assert (point.scores, point.model) == (detected.id, "model")
    assert point.figures == concentration(np.array([[0.5, 0.0]]))


def test_any_detection_of_the_base_will_do_but_no_tuned_one(fresh_home: Path) -> None:
    evaluation("my/model", scores=detection("my/model", adapter="a").id)
    assert own_gains()[0].figures is None
    other = detection("my/model")
    assert own_gains()[0].scores == other.id


def test_a_file_that_the_mask_was_made_from(fresh_home: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    HeadScores("other", np.array([[[0.2, 0.1]]])).save(file)
    evaluation("my/model", scores=str(file))
    assert own_gains()[0].scores == str(file)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"differences": 1}',
        '{"differences": [1, {"condition": "tuned", "against": "unmasked"}]}',
        '{"conditions": [{"condition": "unmasked", "recall": "x"}, {"condition": "tuned", "recall": 1}], '
        '"differences": [{"condition": "tuned", "against": "unmasked", "mean": 1}]}',
    ],
)
def test_a_damaged_evaluation_is_left_out(fresh_home: Path, text: str) -> None:
    (evaluation().path / "results.json").write_text(text)
    good = evaluation()
    assert [point.source for point in own_gains()] == [good.id]


def test_an_evaluation_of_a_suite_is_a_point_of_its_overall_score(fresh_home: Path) -> None:
    run_of(items(2), lambda condition, place: condition == "tuned" or place % 2 == 0, ("tuned: masked=L0H1",))
    (point,) = own_gains()
    assert (point.measured, point.unit) == ("suite quick", "score, 0 to 1")
    assert (point.before, point.after, point.gain, point.n) == (0.5, 1.0, 0.5, 8)


def test_a_record_from_anybody_opens_no_address(fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retmask.heads.sets.fetch", lambda url: pytest.fail("an address was opened"))
    run = evaluation("https://example.org/m", scores="https://example.org/scores.json")
    run.update(parents=["https://example.org/scores.json", run.id, "../x"])
    assert own_gains()[0].figures is None


def test_published_gains() -> None:
    (point,) = published_gains()
    assert (point.model, point.family, point.own) == ("Llama-3.1-8B-Instruct", "Llama", False)
    assert (point.before, point.after, point.gain) == (46.40, 48.68, 2.28)
    assert (point.low, point.high, point.n) == (None, None, None)
    assert "2601.11020" in point.source
    assert "HELMET" in point.measured
    assert point.unit == "points, 0 to 100"
    assert point.gain / point.before == pytest.approx(0.0491, abs=1e-4)


@with_published
def test_published_figures_are_those_of_the_published_file() -> None:
    (point,) = published_gains()
    found = concentration(HeadScores.load(PUBLISHED / f"{point.model}.json").mean)
    assert point.figures is not None
    assert point.figures._asdict() == pytest.approx(found._asdict(), abs=1e-6)


def test_the_warning_says_how_little_there_is() -> None:
    one = Gain("a", "", "run", "needle recall, 512 tokens", "recall, 0 to 1", 0.5, 0.75, 0.25)
    assert warning([]).startswith("No gain has been measured yet")
    assert warning([one]) == "1 point of 1 model: too few to say whether concentration and gain go together."
    both = warning([one, one, *published_gains()])
    assert both.startswith("3 points of 2 models, measured in 2 ways whose sizes do not compare: too few")
    assert "no cause" in warning([one._replace(model=str(i)) for i in range(12)])
