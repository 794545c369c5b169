"""Figures hold the values they were given, the groups of heads, the selection; foreign text stays text."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trials

from retmask.families.difference import difference
from retmask.figures import style
from retmask.figures.heads import copy_map, head_breakdown, needle_grid, rank_curve
from retmask.figures.maps import difference_map, head_heatmap
from retmask.figures.masking import MOST_ROWS, dose_curve, logprob_lines, trace_raster
from retmask.figures.rows import (
    breakdown_rows,
    copy_rows,
    difference_rows,
    dose_rows,
    head_rows,
    logprob_rows,
    recall_rows,
    to_csv,
    trace_rows,
)
from retmask.figures.style import HUE
from retmask.heads.grid import Grid, HeadId
from retmask.heads.scores import HeadScores, TrialLabel
from retmask.heads.trials import Trial

EVIL = '<a href="http://example.org">x</a>\n'


def some_scores(n_layers: int = 3, n_heads: int = 4, n_kv_heads: int | None = 2, n_trials: int = 5) -> HeadScores:
    values = np.random.default_rng(0).random((n_trials, n_layers, n_heads)) / 2
    values[:, 1, 2] = 0.9
    values[:, 0, 0] = 0.0
    return HeadScores("a-model", values, "set", n_kv_heads)


def a_trial(depth: float = 0.5, success: bool = True, length: int = 512, **changes: Any) -> Trial:
    fields = {
        "needle": "The key is under the mat.",
        "needle_span": (100, 103),
        "recall": 1.0 if success else 0.25,
        "scores": {HeadId(1, 2): 1.0},
        "copied": {HeadId(1, 2): ((2, 100), (3, 101), (4, 102))},
        "needle_tokens": (" under", EVIL, " mat"),
        "response_tokens": ("It", " is", " under", EVIL, " mat"),
    }
    return trials.a_trial(depth=depth, success=success, context_tokens=length, **(fields | changes))


def a_point(kind: str, k: int, seed: int | None = None, perplexity: float = 10.0, **changes: Any) -> dict[str, Any]:
    recalls = [1.0, 0.5, 0.0, 0.5]
    fields = {"recall": 0.5, "found": 0.25, "trials": 4, "recalls": recalls, "heads": "L1H2"}
    return {"kind": kind, "k": k, "seed": seed, "perplexity": perplexity} | fields | changes


def a_trace(n_steps: int = 4, **copied: Mapping[int, int]) -> Any:
    return SimpleNamespace(n_steps=n_steps, copied={HeadId.parse(name): steps for name, steps in copied.items()})


def texts(figure: Any) -> str:
    return str(figure.to_json())


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (1, "1st"),
        (2, "2nd"),
        (3, "3rd"),
        (4, "4th"),
        (11, "11th"),
        (12, "12th"),
        (13, "13th"),
        (21, "21st"),
        (102, "102nd"),
        (111, "111th"),
    ],
)
def test_ordinals(n: int, said: str) -> None:
    assert style.ordinal(n) == said


def test_map_shows_every_mean_from_zero_to_the_most() -> None:
    scores = some_scores()
    cells = head_heatmap(scores).data[0]
    assert np.allclose(cells.z, scores.mean, atol=1e-6)
    assert (cells.zmin, cells.zmax) == (0, pytest.approx(0.9))


def test_a_map_of_zeros_keeps_a_scale() -> None:
    cells = head_heatmap(HeadScores("m", np.zeros((1, 2, 2)))).data[0]
    assert (cells.zmin, cells.zmax) == (0, 1)


def test_the_hue_only_gets_darker() -> None:
    light = [sum(int(color[i : i + 2], 16) for i in (1, 3, 5)) for _, color in HUE]
    assert light == sorted(light, reverse=True)


def test_each_head_can_be_clicked_once_and_says_what_it_is() -> None:
    scores = some_scores()
    points = head_heatmap(scores, [HeadId(1, 2)], stamp=7).data[-1]
    assert [tuple(data) for data in points.customdata] == [(*head, 7) for head in scores.grid.heads()]
    assert isinstance(points.customdata, list | tuple)  # an array comes back from the browser as something else
    assert list(points.selectedpoints) == []
    text = points.text[1 * 4 + 2]
    for part in (
        "L1H2",
        "selected",
        "mean 0.900<br>95 % 0.900 to 0.900 over 5 different trials",
        "1st of 12",
        "copied in 100 % of 5 trials",
        "group 1",
    ):
        assert part in text
    assert "copied in 0 % of 5 trials" in points.text[0]


def test_selected_heads_are_outlined_and_no_others() -> None:
    outline = head_heatmap(some_scores(), [HeadId(0, 0), HeadId(2, 3)]).data[1]
    middles = {
        (np.mean(outline.y[i : i + 4]).round(6), np.mean(outline.x[i : i + 4]).round(6)) for i in range(0, 12, 6)
    }
    assert middles == {(0.0, 0.0), (2.0, 3.0)}


@pytest.mark.parametrize(
    ("n_heads", "n_kv_heads", "edges"),
    [(9, 3, [2.5, 5.5]), (32, 8, [3.5 + 4 * i for i in range(7)]), (4, 1, []), (4, None, []), (4, 4, [])],
)
def test_key_value_groups_are_ruled_off(n_heads: int, n_kv_heads: int | None, edges: list[float]) -> None:
    figure = head_heatmap(some_scores(2, n_heads, n_kv_heads))
    assert [shape.x0 for shape in figure.layout.shapes] == edges
    numbers = [note.text.split()[-1] for note in figure.layout.annotations]
    assert numbers == ([str(i) for i in range(n_kv_heads)] if n_kv_heads and n_kv_heads < n_heads else [])


@pytest.mark.parametrize(("n_layers", "n_heads"), [(30, 9), (18, 4), (32, 32), (36, 32), (80, 64)])
def test_rows_stay_tall_enough_to_click(n_layers: int, n_heads: int) -> None:
    figure = head_heatmap(some_scores(n_layers, n_heads, None, 2))
    margin = figure.layout.margin
    assert (figure.layout.height - margin.t - margin.b) / n_layers >= 13.9
    assert len(figure.data[-1].x) == n_layers * n_heads
    assert len(figure.layout.yaxis.tickvals) <= 20


def test_rank_curve_falls_and_marks_the_selection() -> None:
    scores = some_scores()
    _, curve, marked = rank_curve(scores, [HeadId(1, 2)]).data
    assert list(curve.y) == sorted(curve.y, reverse=True)
    assert list(curve.x) == list(range(1, 13))
    assert (list(marked.x), list(marked.y)) == ([1], [pytest.approx(0.9)])


def two_maps() -> tuple[HeadScores, HeadScores]:
    """Before and after on a 1 x 4 grid, a trial of each of three needles: L0H0 falls in two, L0H1 rises in all."""
    before = np.array([[[0.3, 0.0, 0.5, 0.0]], [[0.3, 0.0, 0.5, 0.0]], [[0.0, 0.0, 0.5, 0.0]]])
    after = np.array([[[0.1, 0.4, 0.5, 0.0]], [[0.1, 0.8, 0.5, 0.0]], [[0.1, 0.6, 0.5, 0.0]]])
    labels = tuple(TrialLabel(needle, 512, 0.5) for needle in "abc")
    return HeadScores("m", before, "set", 4, labels), HeadScores("m tuned", after, "set", 4, labels)


def test_what_holds_comes_first_with_the_interval_of_the_difference() -> None:
    rows = difference_rows(difference(*two_maps()))
    assert [(row["name"], row["change"], row["holds"]) for row in rows] == [
        ("L0H1", 0.6, True),
        ("L0H0", -0.1, False),
        ("L0H2", 0.0, False),
        ("L0H3", 0.0, False),
    ]
    assert (rows[0]["low"], rows[0]["high"], rows[1]["low"], rows[1]["high"]) == (0.4, 0.8, -0.2, 0.1)
    assert (rows[0]["before"], rows[0]["before_rank"], rows[0]["after"], rows[0]["after_rank"]) == (0.0, 3, 0.6, 1)
    assert to_csv(rows).startswith("name,layer,head,change,low,high,holds,before,")


def test_a_map_of_differences_is_as_dark_down_as_up_and_white_where_nothing_moved() -> None:
    before, after = two_maps()
    figure = difference_map(difference(before, after), marked=2)
    cells, outlines, points = figure.data
    assert np.allclose(cells.z, [[-0.1, 0.6, 0.0, 0.0]])
    assert (cells.zmin, cells.zmax) == (pytest.approx(-0.6), pytest.approx(0.6))
    assert [color for at, color in cells.colorscale if at == 0.5] == ["#ffffff"]
    assert list(outlines.x) == [0.54, 1.46, 1.46, 0.54, 0.54, None], "L0H0 may have moved by chance"
    assert points.text[1] == "<b>L0H1</b> +0.600<br>95 % +0.400 to +0.800<br>before 0.000, 3rd<br>after 0.600, 1st"
    assert points.selectedpoints is None, "it is to read only"
    assert points.customdata is None
    still = difference_map(difference(before, before)).data
    assert (still[0].zmin, still[0].zmax, len(still[1].x)) == (-1, 1, 0)


def test_head_rows_are_ranked_and_complete() -> None:
    rows = head_rows(some_scores(), [HeadId(0, 0)])
    assert [row["rank"] for row in rows] == list(range(1, 13))
    assert rows[0] == {
        "rank": 1,
        "name": "L1H2",
        "layer": 1,
        "head": 2,
        "kv_group": 1,
        "mean": 0.9,
        "low": 0.9,
        "high": 0.9,
        "over": "5 different trials",
        "activation": 1.0,
        "selected": False,
    }
    assert rows[-1]["name"] == "L0H0"
    assert rows[-1]["selected"]


def test_recall_by_length_and_depth() -> None:
    trials = [a_trial(0.0), a_trial(0.0, success=False, needle="another"), a_trial(1.0, length=1024)]
    rows = recall_rows(trials)
    assert rows == [
        {"length": 512, "depth": 0.0, "trials": 2, "found": 1, "recall": 0.625},
        {"length": 1024, "depth": 1.0, "trials": 1, "found": 1, "recall": 1.0},
    ]
    grid = needle_grid(trials)
    assert [list(line) for line in grid.data[0].z] == [[0.625, None], [None, 1.0]]
    assert grid.layout.yaxis.autorange == "reversed"


def test_breakdown_counts_successful_trials_only() -> None:
    trials = [a_trial(0.0), a_trial(1.0, scores={}), a_trial(0.5, success=False)]
    rows = breakdown_rows(trials, HeadId(1, 2))
    assert [(row["by"], row["trials"], row["score"]) for row in rows] == [
        ("needle", 2, 0.5),
        ("length", 2, 0.5),
        ("depth", 1, 1.0),
        ("depth", 1, 0.0),
    ]
    assert len(head_breakdown(trials, HeadId(1, 2)).data) == 3


def test_copied_tokens_are_named_from_both_sides() -> None:
    rows = copy_rows(a_trial(needle_tokens=(" under", " the", " mat")), HeadId(1, 2))
    assert [(row["step"], row["position"], row["needle_token"]) for row in rows] == [
        (2, 100, " under"),
        (3, 101, " the"),
        (4, 102, " mat"),
    ]
    assert copy_rows(a_trial(), HeadId(0, 0)) == []


def test_texts_of_models_and_files_are_no_html() -> None:
    trial = a_trial(needle=EVIL)
    for figure in (copy_map(trial, HeadId(1, 2)), head_breakdown([trial], HeadId(1, 2))):
        assert "<a" not in texts(figure).replace("\\u003c", "<")


def test_an_unsuccessful_head_has_an_empty_copy_map() -> None:
    assert len(copy_map(a_trial(copied={}), HeadId(1, 2)).data[0].x) == 0


def test_csv_has_a_line_of_names() -> None:
    assert to_csv([{"a": 1, "b": "x,y"}, {"a": 2, "b": None}]) == 'a,b\n1,"x,y"\n2,\n'
    assert to_csv([]) == ""


def test_png_without_a_browser_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="a PNG needs Chrome or Chromium"):
        style.image(head_heatmap(some_scores()), "png")


@pytest.mark.browser
def test_png_is_a_png(chromium: str) -> None:
    figure = head_heatmap(some_scores())
    assert style.image(figure, "png").startswith(b"\x89PNG")
    assert style.image(figure, "svg").startswith(b"<svg")


def test_grid_without_groups_has_no_column_for_them() -> None:
    assert head_rows(some_scores(n_kv_heads=None))[0]["kv_group"] is None
    assert Grid(3, 4).kv_group(HeadId(0, 0)) is None


def test_dose_rows_are_in_order_with_the_interval_of_their_trials() -> None:
    points = [a_point("top", 2), a_point("random", 2, 1), a_point("top", 0, recalls=[0.5] * 3), a_point("random", 2, 0)]
    rows = dose_rows(points)
    assert [(row["k"], row["kind"], row["seed"]) for row in rows] == [
        (0, "top", None),
        (2, "random", 0),
        (2, "random", 1),
        (2, "top", None),
    ]
    assert (rows[0]["low"], rows[0]["high"]) == (0.5, 0.5)
    assert 0 <= rows[3]["low"] < 0.5 < rows[3]["high"] <= 1
    assert set(rows[0]) == (set(points[0]) - {"recalls"}) | {"low", "high", "over"}
    assert rows == dose_rows(reversed(points))


def test_trials_of_a_needle_are_one_observation_of_a_dose() -> None:
    recalls = [0.0] * 4 + [0.5] * 4 + [1.0] * 4
    (row,) = dose_rows([a_point("top", 2, recalls=recalls, needles=[0] * 4 + [1] * 4 + [2] * 4)])
    assert (row["low"], row["high"], row["over"]) == (0.0, 1.0, "3 needles")
    (old,) = dose_rows([a_point("top", 2, recalls=recalls)])
    assert old["over"] == "12 trials"
    assert 0.2 < old["low"] < old["high"] < 0.8
    (few,) = dose_rows([a_point("top", 2, recalls=recalls[:8], needles=[0] * 4 + [1] * 4)])
    assert (few["low"], few["high"], few["over"]) == (None, None, "2 needles")
    assert dose_curve([a_point("top", 0, recalls=[0.5], needles=[0])]).data[0].error_y.array == (0,)


def test_both_dose_curves_begin_with_no_head_masked() -> None:
    random = [a_point("random", 8, seed, 11.0 + seed, recall=recall) for seed, recall in enumerate((0.25, 0.75))]
    figure = dose_curve([*random, a_point("top", 8, recall=0.125), a_point("top", 0, recall=1.0)])
    band, mean, draws, top = (line for line in figure.data if line.xaxis == "x")
    assert (list(mean.x), list(mean.y)) == ([0, 1], [1.0, 0.5])
    assert (list(band.x), list(band.y)) == ([0, 1, 1, 0], [1.0, 0.75, 0.25, 1.0])
    assert (list(draws.x), list(draws.y)) == ([1, 1], [0.25, 0.75])
    assert (list(top.x), list(top.y)) == ([0, 1], [1.0, 0.125])
    assert "random heads masked, seed 1<br>recall 0.75" in draws.text[1]
    assert top.text[0].startswith("no head masked")
    assert list(figure.layout.xaxis.ticktext) == list(figure.layout.xaxis2.ticktext) == ["0", "8"]
    perplexity = [line for line in figure.data if line.xaxis == "x2"]
    assert list(perplexity[1].y) == [10.0, 11.5]
    assert [line.showlegend for line in figure.data] == [True] * 4 + [False] * 4


def test_error_bars_end_where_the_rows_say() -> None:
    points = [a_point("top", 0), a_point("top", 4, recall=0.4, recalls=[0.4, 0.0, 0.8])]
    top, row = dose_curve(points).data[0], dose_rows(points)[1]
    assert top.y[1] + top.error_y.array[1] == pytest.approx(row["high"])
    assert top.y[1] - top.error_y.arrayminus[1] == pytest.approx(row["low"])


@pytest.mark.parametrize("points", [[], [a_point("top", 0)], [a_point("top", k) for k in (0, 1, 2)]])
def test_a_dose_run_in_progress_draws_what_it_has(points: list[dict[str, Any]]) -> None:
    figure = dose_curve(points)
    assert {line.name for line in figure.data} == {"top heads"}
    assert len(figure.data[0].x) == len(points)


@pytest.mark.parametrize(("most", "kind"), [(50.0, None), (51.0, "log"), (1e9, "log"), (1e250, "log")])
def test_perplexities_far_apart_have_a_logarithmic_axis(most: float, kind: str | None) -> None:
    axis = dose_curve([a_point("top", 0, perplexity=10.0), a_point("top", 8, perplexity=most)]).layout.yaxis2
    assert axis.type == kind
    if kind:
        assert 2 <= len(axis.tickvals) <= 12
        assert min(axis.tickvals) <= 10
        assert len(axis.tickvals) == len(axis.ticktext)


def test_trace_rows_say_what_was_copied_from_where() -> None:
    rows = trace_rows(a_trace(L3H1={2: 90, 0: 80}, L1H2={2: 91}, L0H0={}), ["a", "b", "c", "d"])
    assert [(row["step"], row["token"], row["head"], row["position"]) for row in rows] == [
        (0, "a", "L3H1", 80),
        (2, "c", "L1H2", 91),
        (2, "c", "L3H1", 90),
    ]
    assert list(rows[0]) == ["step", "token", "head", "layer", "head_index", "position"]
    assert (rows[0]["layer"], rows[0]["head_index"]) == (3, 1)


def test_a_raster_has_a_point_a_copy_and_the_busiest_head_on_top() -> None:
    trace = a_trace(L1H2={2: 91}, L3H1={2: 90, 0: 80}, L0H0={})
    figure = trace_raster(trace, ["a", "b", " c", "d"], [HeadId(1, 2)], step=2, head=HeadId(1, 2), stamp=9)
    points = figure.data[-1]
    assert [tuple(data) for data in points.customdata] == [(0, 3, 1, 9), (2, 1, 2, 9), (2, 3, 1, 9)]
    assert isinstance(points.customdata, list | tuple)
    assert (list(points.x), list(points.y)) == ([0, 2, 2], [0, 1, 0])
    assert list(points.marker.color) == [style.TEAL, style.ORANGE, style.TEAL]
    assert points.text[1] == 'L1H2 copied "␣c" from position 91'
    assert list(points.selectedpoints) == []
    assert points.unselected.marker.opacity == 1
    assert [style.ORANGE in name for name in figure.layout.yaxis.ticktext] == [False, True]
    across, down = figure.layout.shapes
    assert (across.x0, across.x1, down.y0, down.y1) == (1.5, 2.5, 0.5, 1.5)


def test_a_raster_of_many_heads_says_how_many_it_leaves_out() -> None:
    trace = a_trace(200, **{f"L{layer}H0": dict.fromkeys(range(layer + 1), 5) for layer in range(50)})
    figure = trace_raster(trace, [" long token text"] * 200, head=HeadId(0, 0))
    assert len(figure.layout.yaxis.ticktext) == MOST_ROWS == 40
    assert "L49H0" in figure.layout.yaxis.ticktext[0]
    assert min(data[1] for data in figure.data[-1].customdata) == 10
    assert figure.layout.annotations[0].text.startswith("and 10 more heads")
    assert figure.layout.shapes == ()  # the head that is looked at copied too little to be shown
    assert len(figure.layout.xaxis.tickvals) <= 80
    assert set(map(len, figure.layout.xaxis.ticktext)) == {12}
    assert figure.layout.height >= 18 * 40


def test_a_trace_without_copies_says_so() -> None:
    for trace in (a_trace(), a_trace(0), a_trace(L1H2={})):
        figure = trace_raster(trace, ["a"] * trace.n_steps, step=0, head=HeadId(1, 2))
        assert figure.layout.annotations[0].text == "No head copied anything."
        assert len(figure.data[-1].x) == 0


def test_log_probabilities_are_lines_that_tell_their_divergence() -> None:
    others = {"masked": [-2.0, -3.0], "random control": [-0.25, -1.5], "<b>tuned": [-0.5, -0.5]}
    args = ([-0.25, -1.0], others, [" a", "\n"], {"masked": [1.5, 0.125]})
    figure = logprob_lines(*args)
    assert [list(line.y) for line in figure.data] == [args[0], *others.values()]
    assert [line.line.color for line in figure.data] == [style.TEAL, style.ORANGE, style.MUTED, style.PURPLE]
    assert figure.data[1].text[0] == "␣a, masked<br>log-probability -2.00 nats<br>KL divergence 1.500 nats"
    assert figure.data[3].name == "&lt;b&gt;tuned"
    assert list(figure.layout.xaxis.ticktext) == ["␣a", "⏎"]
    assert logprob_rows(*args)[1] == {
        "step": 1,
        "token": "\n",
        "own": -1.0,
        "masked": -3.0,
        "random control": -1.5,
        "<b>tuned": -0.5,
        "kl masked": 0.125,
    }


def test_generated_tokens_are_no_html() -> None:
    tokens = [EVIL] * 4
    lines = logprob_lines([-1.0] * 4, {EVIL: [-2.0] * 4}, tokens, {})
    for figure in (lines, trace_raster(a_trace(L1H2={2: 91}), tokens)):
        assert "<a" not in texts(figure).replace("\\u003c", "<")
