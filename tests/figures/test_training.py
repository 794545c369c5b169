"""Curves hold the values of the steps, each step once; a held-out accuracy has the interval that it should."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from retmask.figures.training import BEHIND, LEARNING, MOST_POINTS, PANELS, thinned, training_curves
from retmask.runs.run import Run
from retmask.train.results import curves_csv, last_step, steps

STEPS = [
    {"done": 1, "total": 4, "loss": 0.69, "chosen": 0.0, "rejected": 0.0, "margin": 0.0, "accuracy": 0.5, "lr": 1e-5},
    {"done": 2, "total": 4, "loss": 0.5, "chosen": -0.1, "rejected": -0.6, "margin": 0.5, "accuracy": 1.0, "lr": 1e-4},
]


def curve(figure: Any, name: str) -> tuple[list[Any], list[Any]]:
    """The points of the only curve of that name."""
    (found,) = [trace for trace in figure.data if trace.name == name]
    return list(found.x), list(found.y)


def titles(figure: Any) -> list[str]:
    return [note.text for note in figure.layout.annotations if note.text]


def test_every_panel_holds_the_values_of_the_steps() -> None:
    figure = training_curves(STEPS)
    assert curve(figure, "loss") == ([1, 2], [0.69, 0.5])
    assert curve(figure, "margin") == ([1, 2], [0.0, 0.5])
    assert curve(figure, "learning rate") == ([1, 2], [1e-5, 1e-4])
    assert titles(figure) == [PANELS[name].title for name in (*LEARNING, *BEHIND)]


def test_margin_is_the_distance_between_the_two_rewards() -> None:
    figure = training_curves(STEPS, LEARNING)
    chosen, rejected, margin = (curve(figure, name)[1] for name in ("chosen", "rejected", "margin"))
    assert margin == pytest.approx([a - b for a, b in zip(chosen, rejected, strict=True)])


def test_a_value_that_is_missing_or_no_number_leaves_a_gap() -> None:
    known = [{"done": 1, "loss": None}, {"done": 2, "loss": "<b>"}, {"done": 3, "loss": float("nan")}, {"done": 4}]
    figure = training_curves([*known, {"done": "x"}, {"done": 5, "loss": 0.25}], ("loss",))
    assert curve(figure, "loss") == ([1, 2, 3, 4, 5], [None, None, None, None, 0.25])
    assert "<b>" not in figure.to_json()


@pytest.mark.parametrize(("done", "total", "last"), [(1, 16, 4), (4, 16, 16), (8, 16, 16), (16, 16, 16), (20, 16, 20)])
def test_the_axis_reaches_to_what_is_planned_but_not_too_far(done: int, total: int, last: int) -> None:
    at = [{"done": i, "total": total, "loss": 1.0} for i in range(1, done + 1)]
    low, high = training_curves(at, ("loss",)).layout.xaxis.range
    assert low <= 1
    assert last <= high <= last * 1.05


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 1), (3, 2), (8, 2)])
def test_every_panel_is_as_high_as_a_single_one(n: int, columns: int) -> None:
    def heights(figure: Any) -> list[float]:
        layout = figure.layout
        inner = layout.height - layout.margin.t - layout.margin.b
        axes = [layout[f"yaxis{i + 1 if i else ''}"] for i in range(len(titles(figure)))]
        return [(axis.domain[1] - axis.domain[0]) * inner for axis in axes]

    (single,) = heights(training_curves(STEPS, ("loss",)))
    assert heights(training_curves(STEPS, (*LEARNING, *BEHIND)[:n], columns)) == pytest.approx([single] * n)


def test_no_step_is_a_figure_without_points() -> None:
    assert all(len(trace.x) == 0 for trace in training_curves([]).data)


@pytest.mark.parametrize("n", [0, 1, MOST_POINTS, MOST_POINTS + 1, 10 * MOST_POINTS + 7])
def test_a_long_training_is_thinned_evenly_with_its_ends(n: int) -> None:
    known = [{"done": i} for i in range(1, n + 1)]
    kept = [step["done"] for step in thinned(known, MOST_POINTS)]
    assert len(kept) <= MOST_POINTS + 1
    assert kept[:1] + kept[-1:] == ([1, n] if n else [])
    assert len({b - a for a, b in pairwise(kept[:-1])}) <= 1


def a_resumed_run(folder: Path) -> Run:
    """Steps 1 to 5; then from the checkpoint of step 3 on, steps 4 to 6 with other losses, one line cut short."""
    run = Run(folder)
    run.report(stage="loading", done=0)
    for step in range(1, 6):
        run.report(stage="steps", done=step, total=6, loss=1.0)
    with (folder / "progress.jsonl").open("a") as file:
        file.write('{"stage": "steps", "done": 9')
    run.report(stage="loading", done=3)
    run.report(stage="starting", step=3)
    for step in range(4, 7):
        run.report(stage="steps", done=step, total=6, loss=0.5)
    return run


def test_a_resumed_training_is_one_curve_with_each_step_once(tmp_path: Path) -> None:
    done = steps(a_resumed_run(tmp_path))
    assert curve(training_curves(done), "loss") == ([1, 2, 3, 4, 5, 6], [1.0, 1.0, 1.0, 0.5, 0.5, 0.5])


def test_what_a_resume_takes_back_is_gone_until_it_is_done_again(tmp_path: Path) -> None:
    run = a_resumed_run(tmp_path)
    lines = (tmp_path / "progress.jsonl").read_text().splitlines()
    (tmp_path / "progress.jsonl").write_text("\n".join(lines[:-2]) + "\n")
    assert [(line["done"], line["loss"]) for line in steps(run)] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 0.5)]
    assert last_step(run) == 4
    assert [line.split(",")[0] for line in curves_csv(run).splitlines()] == ["step", "1", "2", "3", "4"]


def test_lines_from_elsewhere_that_are_no_steps_are_passed_over(tmp_path: Path) -> None:
    bad = [{"stage": "steps"}, {"stage": "steps", "done": "2"}, {"stage": "loading", "done": "x"}, {"done": 3}]
    (tmp_path / "progress.jsonl").write_text("\n".join(map(json.dumps, bad)))
    assert steps(Run(tmp_path)) == []
