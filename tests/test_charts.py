"""Figures hold the values they were given, the groups of heads, the selection; foreign text stays text."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from retmask import charts
from retmask.heads import Grid, HeadId
from retmask.retrieval import Trial
from retmask.scores import HeadScores

EVIL = '<a href="http://example.org">x</a>\n'


def some_scores(n_layers: int = 3, n_heads: int = 4, n_kv_heads: int | None = 2, n_trials: int = 5) -> HeadScores:
    values = np.random.default_rng(0).random((n_trials, n_layers, n_heads)) / 2
    values[:, 1, 2] = 0.9
    values[:, 0, 0] = 0.0
    return HeadScores("a-model", values, "set", n_kv_heads)


def a_trial(depth: float = 0.5, success: bool = True, length: int = 512, **changes: Any) -> Trial:
    scores: Mapping[HeadId, float] = {HeadId(1, 2): 1.0}
    fields = {
        "needle": "The key is under the mat.",
        "question": "Where is the key?",
        "answer": "under the mat",
        "context_tokens": length,
        "depth": depth,
        "needle_span": (100, 103),
        "prompt_tokens": 462,
        "response": "It is under the mat",
        "response_ids": (7, 8, 1, 2, 3),
        "recall": 1.0 if success else 0.25,
        "success": success,
        "scores": scores,
        "copied": {HeadId(1, 2): ((2, 100), (3, 101), (4, 102))},
        "needle_tokens": (" under", EVIL, " mat"),
        "response_tokens": ("It", " is", " under", EVIL, " mat"),
    }
    return Trial(**(fields | changes))


def texts(figure: Any) -> str:
    return str(figure.to_json())


@pytest.mark.parametrize(
    ("n", "said"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (13, "13th"), (21, "21st"),
     (102, "102nd"), (111, "111th")],
)  # fmt: skip
def test_ordinals(n: int, said: str) -> None:
    assert charts.ordinal(n) == said


def test_map_shows_every_mean_from_zero_to_the_most() -> None:
    scores = some_scores()
    cells = charts.head_heatmap(scores).data[0]
    assert np.allclose(cells.z, scores.mean, atol=1e-6)
    assert (cells.zmin, cells.zmax) == (0, pytest.approx(0.9))


def test_a_map_of_zeros_keeps_a_scale() -> None:
    cells = charts.head_heatmap(HeadScores("m", np.zeros((1, 2, 2)))).data[0]
    assert (cells.zmin, cells.zmax) == (0, 1)


def test_the_hue_only_gets_darker() -> None:
    light = [sum(int(color[i : i + 2], 16) for i in (1, 3, 5)) for _, color in charts.HUE]
    assert light == sorted(light, reverse=True)


def test_each_head_can_be_clicked_once_and_says_what_it_is() -> None:
    scores = some_scores()
    points = charts.head_heatmap(scores, [HeadId(1, 2)], stamp=7).data[-1]
    assert [tuple(data) for data in points.customdata] == [(*head, 7) for head in scores.grid.heads()]
    assert isinstance(points.customdata, list | tuple)  # an array comes back from the browser as something else
    assert list(points.selectedpoints) == []
    text = points.text[1 * 4 + 2]
    for part in (
        "L1H2",
        "selected",
        "mean 0.900 [0.900, 0.900]",
        "1st of 12",
        "copied in 100 % of 5 trials",
        "group 1",
    ):
        assert part in text
    assert "copied in 0 % of 5 trials" in points.text[0]


def test_selected_heads_are_outlined_and_no_others() -> None:
    outline = charts.head_heatmap(some_scores(), [HeadId(0, 0), HeadId(2, 3)]).data[1]
    middles = {
        (np.mean(outline.y[i : i + 4]).round(6), np.mean(outline.x[i : i + 4]).round(6)) for i in range(0, 12, 6)
    }
    assert middles == {(0.0, 0.0), (2.0, 3.0)}


@pytest.mark.parametrize(
    ("n_heads", "n_kv_heads", "edges"),
    [(9, 3, [2.5, 5.5]), (32, 8, [3.5 + 4 * i for i in range(7)]), (4, 1, []), (4, None, []), (4, 4, [])],
)
def test_key_value_groups_are_ruled_off(n_heads: int, n_kv_heads: int | None, edges: list[float]) -> None:
    figure = charts.head_heatmap(some_scores(2, n_heads, n_kv_heads))
    assert [shape.x0 for shape in figure.layout.shapes] == edges
    numbers = [note.text.split()[-1] for note in figure.layout.annotations]
    assert numbers == ([str(i) for i in range(n_kv_heads)] if n_kv_heads and n_kv_heads < n_heads else [])


@pytest.mark.parametrize(("n_layers", "n_heads"), [(30, 9), (18, 4), (32, 32), (36, 32), (80, 64)])
def test_rows_stay_tall_enough_to_click(n_layers: int, n_heads: int) -> None:
    figure = charts.head_heatmap(some_scores(n_layers, n_heads, None, 2))
    margin = figure.layout.margin
    assert (figure.layout.height - margin.t - margin.b) / n_layers >= 13.9
    assert len(figure.data[-1].x) == n_layers * n_heads
    assert len(figure.layout.yaxis.tickvals) <= 20


def test_rank_curve_falls_and_marks_the_selection() -> None:
    scores = some_scores()
    _, curve, marked = charts.rank_curve(scores, [HeadId(1, 2)]).data
    assert list(curve.y) == sorted(curve.y, reverse=True)
    assert list(curve.x) == list(range(1, 13))
    assert (list(marked.x), list(marked.y)) == ([1], [pytest.approx(0.9)])


def test_head_rows_are_ranked_and_complete() -> None:
    rows = charts.head_rows(some_scores(), [HeadId(0, 0)])
    assert [row["rank"] for row in rows] == list(range(1, 13))
    assert rows[0] == {"rank": 1, "name": "L1H2", "layer": 1, "head": 2, "kv_group": 1, "mean": 0.9, "low": 0.9,
                       "high": 0.9, "activation": 1.0, "selected": False}  # fmt: skip
    assert rows[-1]["name"] == "L0H0"
    assert rows[-1]["selected"]


def test_recall_by_length_and_depth() -> None:
    trials = [a_trial(0.0), a_trial(0.0, success=False, needle="another"), a_trial(1.0, length=1024)]
    rows = charts.recall_rows(trials)
    assert rows == [
        {"length": 512, "depth": 0.0, "trials": 2, "found": 1, "recall": 0.625},
        {"length": 1024, "depth": 1.0, "trials": 1, "found": 1, "recall": 1.0},
    ]
    grid = charts.needle_grid(trials)
    assert [list(line) for line in grid.data[0].z] == [[0.625, None], [None, 1.0]]
    assert grid.layout.yaxis.autorange == "reversed"


def test_breakdown_counts_successful_trials_only() -> None:
    trials = [a_trial(0.0), a_trial(1.0, scores={}), a_trial(0.5, success=False)]
    rows = charts.breakdown_rows(trials, HeadId(1, 2))
    assert [(row["by"], row["trials"], row["score"]) for row in rows] == [
        ("needle", 2, 0.5), ("length", 2, 0.5), ("depth", 1, 1.0), ("depth", 1, 0.0),
    ]  # fmt: skip
    assert len(charts.head_breakdown(trials, HeadId(1, 2)).data) == 3


def test_copied_tokens_are_named_from_both_sides() -> None:
    rows = charts.copy_rows(a_trial(needle_tokens=(" under", " the", " mat")), HeadId(1, 2))
    assert [(row["step"], row["position"], row["needle_token"]) for row in rows] == [
        (2, 100, " under"), (3, 101, " the"), (4, 102, " mat"),
    ]  # fmt: skip
    assert charts.copy_rows(a_trial(), HeadId(0, 0)) == []


def test_texts_of_models_and_files_are_no_html() -> None:
    trial = a_trial(needle=EVIL)
    for figure in (charts.copy_map(trial, HeadId(1, 2)), charts.head_breakdown([trial], HeadId(1, 2))):
        assert "<a" not in texts(figure).replace("\\u003c", "<")


def test_an_unsuccessful_head_has_an_empty_copy_map() -> None:
    assert len(charts.copy_map(a_trial(copied={}), HeadId(1, 2)).data[0].x) == 0


def test_csv_has_a_line_of_names() -> None:
    assert charts.to_csv([{"a": 1, "b": "x,y"}, {"a": 2, "b": None}]) == 'a,b\n1,"x,y"\n2,\n'
    assert charts.to_csv([]) == ""


def test_png_without_a_browser_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="a PNG needs Chrome or Chromium"):
        charts.png(charts.head_heatmap(some_scores()))


@pytest.mark.browser
def test_png_is_a_png(chromium: str) -> None:
    assert charts.png(charts.head_heatmap(some_scores())).startswith(b"\x89PNG")


def test_grid_without_groups_has_no_column_for_them() -> None:
    assert charts.head_rows(some_scores(n_kv_heads=None))[0]["kv_group"] is None
    assert Grid(3, 4).kv_group(HeadId(0, 0)) is None
