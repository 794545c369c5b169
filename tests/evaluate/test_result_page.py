"""The result of an evaluation on its page: what it says follows from the answers, however many there are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from evaluations import CONDITIONS, items, masking_hurts, run_of
from page import opened, query, words
from streamlit.testing.v1 import AppTest

from app.evaluate.verdicts import sentences
from retmask.runs.run import Run

pytestmark = pytest.mark.usefixtures("fresh_home")


def tables(at: AppTest) -> list[str]:
    """The tables of means: that of categories, and that of tasks."""
    return [html.proto.body for html in at.get("html") if html.proto.body.startswith('<div class="means">')]


def verdict(run: Run) -> tuple[str, str]:
    """What is said of the first treatment."""
    _, says, text = next(iter(sentences(json.loads((run.path / "results.json").read_text()))))
    return says, text


def test_a_loss_is_said_and_marked() -> None:
    run = run_of(items(8), masking_hurts)
    says, text = verdict(run)
    assert says == "loss"
    assert text.startswith("A loss: overall -0.88 (95 % -")
    assert "against the best control, random=2:seed0" in text
    assert "loss in recall and rag" in text
    table, by_task, by_length = tables(opened("evaluate", evaluate=run.id))
    assert table.count('<span class="loss">▼</span>') == 3, "overall, recall, rag"
    assert table.count("▲") == 0
    assert [table.count(f'title="{name}"') for name in ("unmasked", *CONDITIONS)] == [1, 1, 1]
    assert '<tr class="floor"><th title="no context">' in table
    assert 'title="codes"' in by_task
    assert [by_length.count(f'title="{tokens} tokens"') for tokens in ("512", "1,024")] == [1, 1]


def test_the_same_answers_show_no_gain() -> None:
    run = run_of(items(8), lambda condition, place: place % 2 == 0)
    says, text = verdict(run)
    assert says == "not shown"
    assert text.startswith("No gain is shown: overall +0.00")
    assert "There are 32 items from 32 documents, and all differ alike." in text, "how little would show is not known"


def test_the_smallest_difference_that_would_have_shown_is_said() -> None:
    """Of as many answers by chance better as worse: 2.8 standard errors of their difference."""
    run = run_of(items(8), lambda condition, place: place % 4 == 0 or place % 4 == 1 + condition.startswith("masked"))
    says, text = verdict(run)
    assert says == "not shown"
    assert "With 32 items from 32 documents, a true difference of 0.36 would" in text


def test_the_guard_alone_is_spoken_of_by_category() -> None:
    guard = [replace(item, category="guard") for item in items(8)]
    assert verdict(run_of(guard, masking_hurts)) == ("", "By category: loss in guard.")
    alike = run_of(guard, lambda condition, place: True, name="evaluate-alike")
    assert verdict(alike) == ("", "No gain is shown in any category.")


def test_without_a_control_no_gain_is_called_one() -> None:
    run = run_of(items(8), lambda condition, place: condition != "unmasked" or place % 2 == 0, CONDITIONS[:1])
    assert verdict(run)[0] == "no control"
    assert verdict(run)[1].endswith("there is no control: add one, such as random=top:5%:seed0.")
    assert "▲" not in tables(opened("evaluate", evaluate=run.id))[0]


def test_too_few_documents_have_no_interval_and_say_why() -> None:
    run = run_of([item for item in items(2) if item.tokens == 512], masking_hurts)
    assert "some task has too few for an interval, which takes 3" in verdict(run)[1]
    assert "<small>" not in tables(opened("evaluate", evaluate=run.id))[0]


def test_what_is_there_so_far_is_shown() -> None:
    run = run_of(items(8), masking_hurts, share=0.5)
    assert not (run.path / "results.json").exists()
    at = opened("evaluate", evaluate=run.id)
    assert 'title="recall"' in tables(at)[0]
    assert tables(at)[0].count("<td>–</td>") >= 3, "nobody has come to rag"
    empty = run_of(items(8), masking_hurts, name="evaluate-empty", share=0)
    assert "Nothing has been answered yet" in words(opened("evaluate", evaluate=empty.id))


def test_ranks_and_log_probabilities() -> None:
    run = run_of(items(8), masking_hurts)
    at = opened("evaluate", {"result_figure": "ranks"}, evaluate=run.id)
    assert ">0.33<" in tables(at)[0], "third of four: likelier than one of three"
    at = opened("evaluate", {"result_figure": "logprobs"}, evaluate=run.id)
    assert ">-3.50<" in tables(at)[0]
    assert "-3.50 to -3.50" in tables(at)[0]


def test_perplexity_of_prose_is_a_table_of_its_own() -> None:
    """exp(0.5) where it answers, exp(3.5) where masked: e cubed as much."""
    prose = [replace(item, task="guard_perplexity", category="guard") for item in items(8)]
    run = run_of(prose, lambda condition, place: not condition.startswith("masked"))
    table = tables(opened("evaluate", {"result_figure": "perplexity"}, evaluate=run.id))[0]
    assert [table.count(f'title="{name}"') for name in ("perplexity", "ratio to unmasked")] == [1, 1]
    assert [table.count(f">{value}<") for value in ("1.65", "33.12", "20.09")] == [2, 1, 1]
    (run.path / "results.json").write_text(
        json.dumps(json.loads((run.path / "results.json").read_text()) | {"perplexity": []})
    )
    assert "No answer has this figure yet" in words(
        opened("evaluate", {"result_figure": "perplexity"}, evaluate=run.id)
    )


def test_twelve_conditions_with_long_names() -> None:
    name = f"<b>bold</b> {'long ' * 8}"
    conditions = ("masked=top:2", f"{name}: scaled=top:2:0.5", "random=2:seed0-8")
    run = run_of(items(4), masking_hurts, conditions)
    at = opened("evaluate", evaluate=run.id)
    assert tables(at)[0].count("<tr") == 1 + 12 + 3, "names, conditions, three floors"
    assert "<b>" not in "".join(tables(at))
    chosen = next(box for box in at.multiselect if box.key.startswith("result_drawn"))
    assert len(chosen.options) == 11
    assert len(chosen.value) == 2, "the treatments"


def test_the_grid_has_a_picker_of_tasks_and_conditions() -> None:
    run = run_of(items(4), masking_hurts)
    at = opened("evaluate", evaluate=run.id)
    task, condition = (
        next(box for box in at.selectbox if box.key == f"result_{of}-{run.id}") for of in ("task", "condition")
    )
    assert task.options == ["codes", "towns"]
    assert condition.options == ["unmasked", *CONDITIONS, "no context"]


def test_everything_can_be_taken_away() -> None:
    """The table, the forest plot and the grid as pictures and data, and one table for a paper."""
    at = opened("evaluate", evaluate=run_of(items(4), masking_hurts).id)
    labels = [button.proto.label for button in at.get("download_button")]
    assert labels.count("Markdown table for a paper") == 1
    assert [labels.count(kind) for kind in ("PNG", "SVG", "CSV")] == [3, 3, 5], (
        "those of tasks and lengths are no pictures"
    )


def test_the_page_of_runs_opens_it() -> None:
    run = run_of(items(2), masking_hurts)
    at = opened("runs", run=run.id)
    at = next(button for button in at.button if button.label == "Open in Evaluate").click().run()
    assert at.header[0].value == "Evaluate"
    assert query(at, "evaluate") == run.id


def test_an_evaluation_of_needles_has_its_table(fresh_home: Path) -> None:
    run = Run.create("evaluate", {"model": "m", "suite": "needles"}, fresh_home / "runs" / "old")
    rows = [{"condition": "unmasked", "recall": 0.5, "low": 0.4, "high": 0.6, "found": 0.5, "needles": 3}]
    (run.path / "results.json").write_text(json.dumps({"conditions": rows, "differences": []}))
    run.update(status="success")
    at = opened("evaluate", evaluate=run.id)
    assert any("recall" in table.value.columns for table in at.dataframe)
