"""Two score sets closely: what is said of ties, gates and lists, and on which model their masks are measured."""

from pathlib import Path

import numpy as np
import pytest
from page import codes, press, query, words
from score_sets import BEST, GEMMA, SMOL, a_detection, a_set, answered, opened

from retmask.evaluate.job import EVALUATE, EvaluateSettings
from retmask.heads.grid import HeadId
from retmask.runs.run import Run

pytestmark = pytest.mark.usefixtures("fresh_home")

FLIPPED = BEST.values[:, ::-1, ::-1].copy()


def gates(path: Path, rows: list[list[float]]) -> str:
    """A gate file of DuoAttention."""
    path.write_text("\n".join("\t".join(map(str, row)) for row in rows) + "\n", encoding="utf-8")
    return str(path)


def ranked(path: Path, heads: str) -> str:
    """A list of QRHead."""
    path.write_text(f'model_name_or_path: some/model\nattn_head_set: "{heads}"\n', encoding="utf-8")
    return str(path)


def measured(revision: str = "", day: int = 1) -> Run:
    """A measurement of the best heads of the shipped map, and of the flipped one, on the default model."""
    top = BEST.top(14)
    flipped = [HeadId(29 - head.layer, 8 - head.head) for head in top]
    also = (f"one ={','.join(map(str, top))}", f"other={','.join(map(str, flipped))}")
    run = EVALUATE.new(EvaluateSettings(model=SMOL, also=also, trials=4, revision=revision))
    run.update(status="success", created=f"2026-01-{day:02}T12:00:00+00:00")
    return run


def answers(run: Run) -> None:
    for condition, recalls in {"unmasked": [1.0, 1.0], "one": [0.0, 1.0], "other": [1.0, 1.0]}.items():
        answered(run, condition, recalls)


def test_scores_below_0_are_compared(tmp_path: Path) -> None:
    files = [
        str(a_set(tmp_path / name, values[None]))
        for name, values in (("a.json", np.eye(4) - 0.1), ("b.json", np.eye(4)[::-1] - 0.1))
    ]
    assert "Neither set says how its model is loaded" in words(opened(*files, view="Agreement"))


def test_the_name_of_a_foreign_model_is_shown_as_it_is() -> None:
    one, other = a_detection("one"), a_detection("other", values=FLIPPED)
    config = {"model": "![x](https://evil.example/p.png)"}
    for run in (one, other):
        run.update(config=config)
    at = opened(one.id, other.id, view="Agreement")
    said = next(caption.value for caption in at.caption if caption.value.startswith("Masks the best"))
    assert r"\!\[x\]\(https\://evil.example/p.png\)" in said


def test_opening_a_set_on_heads_draws_the_sidebar_anew() -> None:
    run = a_detection("m")
    at = press(opened(SMOL, run.id, view="Agreement", map=GEMMA), "agree_open_B")
    assert query(at, "map") == run.id
    assert at.sidebar.selectbox[0].value == run.id


def test_ties_at_the_cut_are_told(tmp_path: Path) -> None:
    one = a_set(tmp_path / "a.json", [[[0.9, 0.5, 0.5], [0.5, 0.0, 0.0]]])
    other = a_set(tmp_path / "b.json", [[[0.9, 0.8, 0.1], [0.2, 0.0, 0.0]]])
    at = opened(str(one), str(other), view="Agreement")
    at.number_input(key="agree_k").set_value(2).run()
    assert at.metric[-1].value == "about 1 of 2"
    assert "3 heads of A share the score at the cut; those named are the first of them by layer." in words(at)
    assert "heads of B share" not in words(at)


def test_gates_are_of_key_value_heads_and_are_not_masked(tmp_path: Path) -> None:
    files = gates(tmp_path / "a.tsv", [[0.9, 0.1], [0.2, 0.3]]), gates(tmp_path / "b.tsv", [[0.1, 0.9], [0.2, 0.3]])
    at = opened(*files, view="Agreement")
    assert {"L0 KV0", "L0 KV1"} <= set(codes(at))
    assert "**Only A**, 1 key/value head" in words(at)
    assert "query heads alone are selected on Heads" in words(at)
    assert "Gates are of key/value heads, which masks do not take" in words(at)


def test_the_grid_of_two_lists_is_not_known(tmp_path: Path) -> None:
    files = ranked(tmp_path / "a.yaml", "0-1,2-3"), ranked(tmp_path / "b.yaml", "2-3,1-1")
    at = opened(*files, view="Agreement")
    assert "Both are lists, and their model's grid is not known: there is no map to draw." in words(at)
    assert "so they cannot be selected on Heads" in words(at)


def test_one_head_is_one_head_and_the_needles_set_how_many_prompts() -> None:
    at = opened(SMOL, a_detection("m", values=FLIPPED).id, view="Agreement")
    at.number_input(key="agree_k").set_value(1).run()
    assert "Masks the best 1 head of A" in words(at)
    at.number_input(key="disagree_trials").set_value(121).run()
    assert "the number of prompts must be a number from 1 to 120" in words(at).replace("\\", "")
    assert at.button(key="disagree").disabled
    at.number_input(key="agree_k").set_value(500).run()
    assert "the number of best heads must be a number from 1 to 270" in words(at).replace("\\", "")
    assert "Masks the best 14 heads of A" in words(at)
    at.number_input(key="sets_threshold").set_value(-1.0).run()
    assert "the threshold must be a number from 0 to 1,000" in words(at).replace("\\", "")


def test_answers_of_another_revision_are_not_shown() -> None:
    other = a_detection("m", values=FLIPPED)
    answers(measured(revision="abc"))
    assert "Masks the best 14 heads" in words(opened(SMOL, other.id, view="Agreement"))
    answers(measured())
    assert "mask A loses **1** and mask B **0**; both lose 0, only A **1**" in words(
        opened(SMOL, other.id, view="Agreement")
    )


def test_a_new_measurement_without_answers_leaves_the_last_ones() -> None:
    other = a_detection("m", values=FLIPPED)
    answers(measured())
    measured(day=2).update(status="cancelled")
    at = opened(SMOL, other.id, view="Agreement")
    assert "The measurement was stopped" in words(at)
    assert "only A **1**" in words(at)
