"""Scores: hand-worked cases, invariants, and every way a file can be wrong."""

import json
from pathlib import Path

import numpy as np
import pytest

from retmask.heads import Grid, HeadId
from retmask.scores import HeadScores, printable, spearman

PUBLISHED = Path(__file__).parents[2] / "shared" / "reference" / "head_scores"


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
    low, high = found.interval
    assert low[0, 0] == high[0, 0] == 0
    assert 0.399 < low[0, 1] < found.mean[0, 1] < high[0, 1] < 0.801


def test_stability() -> None:
    assert scores([[0.9, 0.1, 0.0]], [[0.8, 0.2, 0.0]]).stability() == 1
    assert scores([[1.0, 0.0]], [[0.0, 1.0]]).stability() < 1


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


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published score files are not here")
@pytest.mark.parametrize(
    ("name", "trials", "above", "best"),
    [("Llama-3.1-8B-Instruct", 342, 33, HeadId(15, 30)), ("Qwen3-8B", 600, 57, HeadId(22, 23))],
)
def test_published_files(name: str, trials: int, above: int, best: HeadId) -> None:
    found = HeadScores.load(PUBLISHED / f"{name}.json")
    assert (found.n_trials, len(found.above(0.1)), found.top(1)[0]) == (trials, above, best)
    assert found.concentration().above == above
