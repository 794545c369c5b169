"""Figures of an evaluation: every difference is drawn once, where it is, and foreign names stay text."""

from typing import Any

import pytest

from retmask.evaluate.statistics import Score, tables
from retmask.figures.evaluation import forest, means_map, score_grid
from retmask.figures.rows import depth_rows, forest_rows

EVIL = "<b onclick=alert(1)>" + "long name " * 20


def results(documents: int = 40, treatment: str = "masked", controls: int = 1) -> dict[str, Any]:
    """Base and controls find everything but the first, the treatment nothing but the first."""
    names = {"base": "base", treatment: "treatment"} | {f"control {i}": "control" for i in range(controls)}
    scores = [
        Score(task, task, f"{task}-{i}", f"{task}-{i}", name, float((i > 0) == (role != "treatment")))
        for task in ("recall", "rag")
        for i in range(documents)
        for name, role in names.items()
    ]
    made = tables(scores, names, 200).record  # type: ignore[arg-type]
    return {"conditions": [{"condition": name, "role": role} for name, role in names.items()], **made}


def test_rows_are_of_base_and_of_one_control_each() -> None:
    rows = forest_rows(results(controls=3))
    assert [row["name"] for row in rows][:1] == ["overall"]
    assert {(row["name"], row["condition"]) for row in rows if row["to"] == "control"} == {
        (name, "masked") for name in ("overall", "recall", "rag")
    }
    assert len({(row["name"], row["condition"], row["to"]) for row in rows}) == len(rows)
    assert {row["against"] for row in rows if row["to"] == "base"} == {"base"}
    assert all(row["mean"] == pytest.approx(-0.95) for row in rows if row["condition"] == "masked")
    assert all(row["holds"] == (row["condition"] == "masked") for row in rows)


@pytest.mark.parametrize("controls", [0, 1, 10])
def test_a_forest_has_every_difference_where_it_is(controls: int) -> None:
    made = results(controls=controls)
    rows, names = forest_rows(made), [row["condition"] for row in made["conditions"]]
    figure = forest(rows, names)
    drawn = sorted(x for trace in figure.data for x in trace.x)
    assert drawn == sorted(row["mean"] for row in rows)
    assert len({trace.xaxis for trace in figure.data}) == (2 if controls else 1)
    highs = [x + plus for trace in figure.data for x, plus in zip(trace.x, trace.error_x.array, strict=True)]
    lows = [x - minus for trace in figure.data for x, minus in zip(trace.x, trace.error_x.arrayminus, strict=True)]
    assert sorted(highs) == pytest.approx(sorted(row["high"] for row in rows))
    assert sorted(lows) == pytest.approx(sorted(row["low"] for row in rows))
    lines = [(trace.xaxis, y) for trace in figure.data for y in trace.y]
    assert len(set(lines)) == len(lines), "two dots in one line"


def test_a_condition_keeps_its_colour_whoever_else_is_drawn() -> None:
    made = results(controls=2)
    names = [row["condition"] for row in made["conditions"]]
    whole = forest(forest_rows(made), names)
    alone = forest([row for row in forest_rows(made) if row["condition"] == "control 1"], names)
    assert {trace.marker.line.color for trace in alone.data} <= {trace.marker.line.color for trace in whole.data}
    assert alone.data[0].marker.line.color != whole.data[0].marker.line.color


def test_too_few_documents_draw_dots_without_intervals() -> None:
    made = results(documents=2)
    rows = forest_rows(made)
    assert all(row["low"] is None and not row["holds"] for row in rows)
    figure = forest(rows, [row["condition"] for row in made["conditions"]])
    assert all(not any(trace.error_x.array) for trace in figure.data)
    assert "no interval" in figure.data[0].text[0]


def test_foreign_names_stay_text() -> None:
    made = results(treatment=EVIL)
    figures = forest(forest_rows(made), ["base", EVIL, "control 0"]), means_map(made["means"], {})
    for figure in figures:
        assert "<b onclick" not in figure.to_json().replace("\\u003c", "<")


def test_depths_are_counted_once_each() -> None:
    rows = depth_rows([(512, 0.0, 1.0), (512, 0.19, 0.0), (512, 1.0, 1.0), (1024, 0.5, 0.5)])
    assert [(row["length"], row["depth"], row["items"], row["score"]) for row in rows] == [
        (512, 0.0, 2, 0.5),
        (512, 0.8, 1, 1.0),
        (1024, 0.4, 1, 0.5),
    ]


@pytest.mark.parametrize("lengths", [[512], [512, 1024, 4096]])
def test_a_grid_has_a_cell_a_length_and_stretch(lengths: list[int]) -> None:
    figure = score_grid([(length, 0.1, 1.0) for length in lengths])
    cells = figure.data[0]
    assert list(cells.x) == [f"{length:,}" for length in lengths]
    assert [list(row) for row in cells.z] == [[1.0] * len(lengths), *([[None] * len(lengths)] * 4)]
    assert cells.y[0] == "0 % to 20 %"
    assert figure.layout.xaxis.domain[1] < 1


def test_the_map_has_every_mean_with_its_mark() -> None:
    made = results()
    means = [row for row in made["means"] if row["level"] != "task"]
    figure = means_map(means, {("masked", "recall"): "▼"})
    texts = [text for row in figure.data[0].text for text in row]
    assert len(texts) == len(means) == 9
    assert sum("▼" in text for text in texts) == 1
