"""Trials: asked in batches, kept on disk, and what belongs together in a run."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from trials import a_trial, scores_of

from retmask.detect.trials import batches, pin_measure, stable_for
from retmask.files import append_line
from retmask.heads.grid import Grid, HeadId
from retmask.heads.trials import Trial, collect_scores, read_trials
from retmask.runs.run import Run
from retmask.text.needle import Needle, NeedlePrompt, NeedleTask


@pytest.mark.parametrize(
    ("answer", "begun", "refused"), [("восемь", True, True), ("восемь", False, False), ("eight", True, False)]
)
def test_answers_of_two_measures_do_not_stand_in_one_run(
    answer: str, begun: bool, refused: bool, fresh_home: Path
) -> None:
    """A run that does not say was judged by ROUGE of a-z, which is the same for ASCII; one that says it goes on."""
    run, tasks = Run.create("detect", {}, name="m"), [NeedleTask(Needle("n", "q", answer), 256, 0.5)]
    with pytest.raises(ValueError, match="began with a measure of recall") if refused else nullcontext():
        pin_measure(run, tasks, begun)
    if not refused:
        pin_measure(run, tasks, True)
        run.update(judged_by="another")
        with pytest.raises(ValueError, match="began with judged_by another"):
            pin_measure(run, tasks, True)


def trial(needle: str, success: bool, **scores: float) -> Trial:
    copied = {HeadId(0, 1): ((0, 1), (1, 2))}
    read = {"needle_tokens": ("x", "é", "\n"), "prompt_ids": (10, 11, 12, 13, 11, 14)}
    return a_trial(needle=needle, success=success, scores=scores_of(**scores), copied=copied, **read)


def test_trial_survives_the_disk_and_a_broken_line(tmp_path: Path) -> None:
    first, second = trial("one", True, h0_1=0.5), trial("two", False)
    append_line(tmp_path / "trials.jsonl", first.to_json(keep_prompt=True))
    with (tmp_path / "trials.jsonl").open("ab") as file:
        file.write(b'{"needle": "cut sho')  # killed while writing
    append_line(tmp_path / "trials.jsonl", second.to_json())
    append_line(tmp_path / "trials.jsonl", first.to_json())  # written again: counts once
    read = read_trials(tmp_path)
    assert read[0] == first
    assert [one.needle for one in read] == ["one", "two"]
    assert read[1].prompt_ids == ()


DAMAGED: dict[str, list[object]] = {
    "needle_span": [[5, 5], [1], [-1, 4], [4, 1], 3, ["1", "4"]],
    "depth": [None, "0.5", float("nan")],
    "context_tokens": [[1], True],
    "prompt_tokens": [{}],
    "recall": [None],
    "needle": [["a"]],
    "response": [None],
    "scores": [[1], {"0-0": "x"}, {"0-0": 10**400}, {"nobody": 1}],
    "copied": [{"0-0": 5}, {"0-0": [[0]]}, {"0-0": [[0, None]]}, 3],
    "response_ids": [3],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in DAMAGED for value in DAMAGED[field]])
def test_a_damaged_trial_is_passed_over(tmp_path: Path, field: str, value: object) -> None:
    good = trial("one", True, h0_1=0.5)
    (tmp_path / "trials.jsonl").write_text(json.dumps(good.to_json() | {field: value}) + "\n")
    append_line(tmp_path / "trials.jsonl", good.to_json())
    assert [one.needle_span for one in read_trials(tmp_path)] == [(1, 4)]
    assert len(read_trials(tmp_path)) == 1


def test_a_head_off_the_grid_is_named() -> None:
    with pytest.raises(ValueError, match="head L0H5 is outside this model's 1 x 2 grid"):
        trial("a", True, h0_5=0.5).dense(Grid(1, 2))


def test_only_trials_that_found_the_needle_count() -> None:
    grid = Grid(1, 2)
    scores = collect_scores(
        [trial("a", True, h0_1=0.5), trial("b", False, h0_0=1.0), trial("c", True)], grid, "m", "set"
    )
    assert scores is not None
    np.testing.assert_array_equal(scores.mean, [[0, 0.25]])
    assert collect_scores([trial("b", False, h0_0=1.0)], grid, "m", "set") is None


def test_stable_for_counts_back_to_the_last_change_of_the_top() -> None:
    grid = Grid(1, 20)  # top 5 % is one head
    trials = [trial("a", True, h0_1=0.5), trial("b", True, h0_2=0.9), trial("x", False), trial("c", True, h0_2=0.1)]
    assert stable_for(trials, grid) == 2
    assert stable_for(trials[:1], grid) == 1
    assert stable_for([], grid) == 0


def test_batches_are_of_one_length_and_start_small() -> None:
    prompts = [NeedlePrompt((0,) * n, (1, 4), "answer", "plain", 0.5) for n in (5, 9, 5, 5, 9, 5, 5)]
    found = list(batches(prompts, 4))
    assert found == [[0], [1, 4], [2, 3, 5, 6]]
    assert sorted(i for batch in batches(prompts, 1) for i in batch) == list(range(7))
