"""Scores: hand-worked cases, invariants, and every way a file can be wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from published import PUBLISHED, with_published

from retmask.families.concentration import concentration
from retmask.heads.grid import Grid, HeadId
from retmask.heads.scores import HeadScores, TrialLabel, printable, spearman
from retmask.heads.trials import collect_scores


def scores(*trials: list[list[float]]) -> HeadScores:
    return HeadScores("m", np.array(trials, dtype=float))


def test_ranking() -> None:
    found = scores([[0.0, 0.4], [0.2, 0.2]], [[0.0, 0.6], [0.2, 0.2]])
    assert found.top(4) == (HeadId(0, 1), HeadId(1, 0), HeadId(1, 1), HeadId(0, 0))  # a tie: layer, then head
    assert found.above(0.2) == (HeadId(0, 1), HeadId(1, 0), HeadId(1, 1))
    assert found.above(0.9) == ()
    np.testing.assert_array_equal(found.rank, [[4, 1], [2, 3]])
    np.testing.assert_array_equal(found.activation, [[0, 1], [1, 1]])


def test_interval_holds_the_mean_and_is_a_point_without_spread() -> None:
    found = scores([[0.0, 0.4]], [[0.0, 0.8]], [[0.0, 0.6]])
    low, high = found.interval[:2]
    assert low[0, 0] == high[0, 0] == 0
    assert 0.399 < low[0, 1] < found.mean[0, 1] < high[0, 1] < 0.801


def test_stability() -> None:
    assert scores([[0.9, 0.1, 0.0]], [[0.8, 0.2, 0.0]], [[0.7, 0.2, 0.0]]).stability() == 1
    assert scores([[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 0.9]]).stability() < 1
    assert scores([[1.0, 0.0]], [[0.0, 1.0]]).stability() is None, "draws of two say nothing"


def test_trials_of_a_needle_are_drawn_together() -> None:
    """Ten trials each of three needles, whose own means are 0, 0.3 and 0.9: of three, draws reach from 0 to 0.9."""
    values = np.repeat([0.0, 0.3, 0.9], 10).reshape(30, 1, 1) + np.tile(np.linspace(0, 0.05, 10), 3).reshape(30, 1, 1)
    alone = HeadScores("m", values)
    labelled = HeadScores("m", values, labels=labels("abc", 10))
    assert (alone.clusters.words, labelled.clusters.words) == ("30 different trials", "3 needles")
    low, high, n, unit = labelled.interval
    assert (low[0, 0], high[0, 0], n, unit) == (pytest.approx(0.025), pytest.approx(0.925), 3, "needle")
    assert np.ptp(alone.interval[:2]) < 0.35, "as if 30 trials were 30 observations"
    assert HeadScores("m", values[:20], labels=labels("ab", 10)).interval is None


def labels(needles: str, each: int) -> tuple[TrialLabel, ...]:
    return tuple(TrialLabel(needle, 512, depth / 10) for needle in needles for depth in range(each))


def test_copies_of_a_trial_are_drawn_together_where_no_needle_is_known() -> None:
    once = scores([[0.1]], [[0.5]], [[0.7]], [[0.2]])
    assert np.ptp(scores(*[[[0.1]], [[0.5]], [[0.7]], [[0.2]]] * 9).interval[:2]) == pytest.approx(
        np.ptp(once.interval[:2])
    )


def detected(folder: Path, needles: str = "aabbcc", **line: object) -> HeadScores:
    """Scores of one head in as many successful trials, and what a detection writes beside them."""
    kept = [
        {"needle": needle, "context_tokens": 512, "depth": i / 10, "success": True, "scores": {"0-1": round(i / 7, 6)}}
        for i, needle in enumerate(needles)
    ]
    folder.mkdir(exist_ok=True)
    HeadScores("m", np.array([[[0, i / 7]] for i in range(len(needles))])).save(folder / "scores.json")
    (folder / "run.json").write_text(json.dumps({"head_grid": {"n_layers": 1, "n_heads": 2}}))
    failed = kept[0] | {"success": False, "context_tokens": 1024}
    lines = [failed, *kept[:-1], kept[-1] | line, kept[0]]
    (folder / "trials.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines) + "{\n")
    return HeadScores.load(folder)


def test_a_detection_says_which_trials_its_scores_are_of(tmp_path: Path) -> None:
    found = detected(tmp_path)
    assert found.labels[1:3] == (TrialLabel("a", 512, 0.1), TrialLabel("b", 512, 0.2))
    assert (len(found.labels), found.clusters.words) == (6, "3 needles")
    assert collect_scores([], Grid(1, 2), "m", "set") is None


@pytest.mark.parametrize(
    "line",
    [
        {"scores": {"0-1": 0.3}},
        {"scores": {}},
        {"scores": 3},
        {"scores": {"0-1": "x"}},
        {"success": False},
        {"needle": 3},
        {"depth": None},
        {"scores": {"0-1": 0.714286, "0-0": 0.5}},
    ],
)
def test_trials_that_are_not_those_of_the_scores_label_nothing(line: dict[str, object], tmp_path: Path) -> None:
    found = detected(tmp_path, **line)
    assert (found.labels, found.clusters.unit) == ((), "different trial")


def test_spearman_by_hand() -> None:
    """Ranks 1.5 1.5 3 4 and 1 2 3.5 3.5: products of what they differ from 2.5 by sum to 4, squares to 4.5 each."""
    one, other = np.array([[0.0, 0.0], [0.2, 0.9]]), np.array([[0.1, 0.2], [0.5, 0.5]])
    assert spearman(one, other) == pytest.approx(4 / 4.5)
    assert spearman(one, -one) == pytest.approx(-1)
    assert spearman(one, one**3 + 1) == pytest.approx(1), "only the order counts"
    assert spearman(one, np.zeros((2, 2))) is None


def test_score_file_survives_the_disk(tmp_path: Path) -> None:
    found = scores([[0.5, 0.25], [0, 1 / 3]], [[0.1, 0], [0, 1]])
    found.save(tmp_path / "scores.json")
    (tmp_path / "run.json").write_text(
        json.dumps({"model": "tiny", "counting": "set", "head_grid": {"n_layers": 2, "n_heads": 2, "n_kv_heads": 1}})
    )
    read = HeadScores.load(tmp_path)
    np.testing.assert_allclose(read.values, found.values, atol=1e-6)
    assert (read.model, read.counting, read.grid) == ("tiny", "set", Grid(2, 2, 1))
    assert (tmp_path / "scores.json").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        ("[" * 100_000, "nested too deeply|is not JSON"),
        ("[]", "holds no scores"),
        ("{}", "holds no scores"),
        ('{"0-0": []}', "no successful trial"),
        ('{"L0H0": [1]}', 'keys are "layer-head"'),
        ('{"0-0": [1], "00-1": [1]}', 'keys are "layer-head"'),
        ('{"a": [1]}', 'keys are "layer-head"'),
        ('{"0-0": 1}', "is not a list"),
        ('{"0-0": [1], "0-1": [1, 2]}', "ragged"),
        ('{"0-0": [NaN]}', "not a finite number"),
        ('{"0-0": [Infinity]}', "not a finite number"),
        ('{"0-0": [true]}', "not a finite number"),
        ('{"0-0": ["1"]}', "not a finite number"),
        ('{"0-0": [-0.1]}', r"cannot be negative, unless the run\.json beside"),
        ('{"0-0": [1e308]}', "not a finite number up to 1000"),
        ('{"0-0": [1' + "0" * 400 + "]}", "not a finite number up to 1000"),
        ('{"0-0": [1' + "0" * 5000 + "]}", "file: 0-0 holds inf, which is not a finite number up to 1000"),
        ('{"0-0": [1], "0-0": [1]}', "stands twice"),
        ('{"0-0": [1], "1-1": [1]}', "L0H1 is missing"),
        ('{"9999-9999": [1]}', "missing"),
    ],
)
def test_malformed_score_files_get_one_sentence(text: str | bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        HeadScores.from_json(text, "file")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_foreign_name_sends_nothing_to_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[31m.json").write_text('{"0-0": [0.5]}')
    assert HeadScores.load(tmp_path / "a\x1b[31m.json").model == "a�[31m"
    with pytest.raises(ValueError, match=r"^a�b is not JSON"):
        HeadScores.from_json("{", "a\x9bb")
    assert printable("Qwen3 8B é 模型") == "Qwen3 8B é 模型"


def test_no_such_score_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no score file"):
        HeadScores.load(tmp_path)


def test_scores_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="1 x 2 heads and m has 30 x 9"):
        scores([[1, 0]]).check_grid(Grid(30, 9), "m")


@with_published
@pytest.mark.parametrize(
    ("name", "trials", "above", "best"),
    [("Llama-3.1-8B-Instruct", 342, 33, HeadId(15, 30)), ("Qwen3-8B", 600, 57, HeadId(22, 23))],
)
def test_published_files(name: str, trials: int, above: int, best: HeadId) -> None:
    found = HeadScores.load(PUBLISHED / f"{name}.json")
    assert (found.n_trials, len(found.above(0.1)), found.top(1)[0]) == (trials, above, best)
    assert concentration(found.mean).above == above
