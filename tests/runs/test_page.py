"""The Runs page without a browser: what it says of runs in every state, and what can be done with them."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import page
import pytest
from page import codes, drawn, keys, press, query, words
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from app.shared import session
from app.shared.text import plain
from retmask.files import shipped
from retmask.heads.scores import HeadScores
from retmask.runs.run import NO_WORD, Run

pytestmark = pytest.mark.usefixtures("fresh_home")

BEST = HeadScores.load(shipped("maps", "smollm2-135m"))
WORKER = """
import sys, time
from pathlib import Path
from retmask.runs.run import Run
from retmask.runs.worker import working
run = Run(Path(sys.argv[1]))
with working(run):
    run.report(stage="trials", done=3, total=12, found=2, eta=90.0)
    print("on", flush=True)
    time.sleep(120)
"""


def opened(*looked_at: Run, **query: str) -> AppTest:
    """The Runs page, looking at these runs."""
    chosen = {"run": ",".join(run.id for run in looked_at)} if looked_at else {}
    return page.opened("runs", **chosen, **query)


def a_run(status: str, kind: str = "detect", name: str = "m", parents: tuple[str, ...] = (), **record: Any) -> Run:
    """A run as its worker leaves it."""
    run = Run.create(kind, {"model": "smollm2-135m", "counting": kind}, name=name, parents=parents)
    run.update(status=status, command=["retmask", kind, "smollm2-135m"], **record)
    return run


@pytest.fixture
def working() -> Iterator[tuple[Run, Run]]:
    """A run that goes on, and one that waits for it."""
    runs = [Run.create("detect", {"model": "m", "device": "cpu"}, name=name) for name in ("first", "second")]
    workers = []
    for run in runs:
        command = [sys.executable, "-c", WORKER, str(run.path)]
        workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
        until = time.monotonic() + 60
        while not run.progress:
            assert time.monotonic() < until
            time.sleep(0.02)
    yield runs[0], runs[1]
    for worker in workers:
        worker.kill()
        worker.communicate()


def test_without_runs_it_says_what_to_do() -> None:
    at = opened()
    assert "There are no runs yet" in at.info[0].value
    assert not at.dataframe
    assert at.button(key="runs_first").label == "Detect the heads of a model"


def test_the_table_lists_all_runs_and_filters_them() -> None:
    runs = [a_run("success", "detect"), a_run("error", "detect", "n"), a_run("cancelled", "train")]
    runs[1].update(parents=[runs[0].id])
    at = opened()
    table = at.dataframe[0].value
    assert set(table["run"]) == {run.id for run in runs}
    row = table[table["run"] == runs[1].id].iloc[0]
    assert (list(row["status"]), row["model"]) == (["error"], "smollm2-135m")
    assert row["made from"] == runs[0].id
    at = drawn(at.button_group[0].set_value(["detect"]).run())
    assert set(at.dataframe[0].value["run"]) == {runs[0].id, runs[1].id}
    at = drawn(at.button_group[1].set_value(["error"]).run())
    assert list(at.dataframe[0].value["run"]) == [runs[1].id]
    at = drawn(at.button_group[1].set_value(["queued"]).run())
    assert "No run is of this kind and status" in words(at)


def test_how_long_runs_took_sorts_as_text_and_is_empty_for_one_that_never_began() -> None:
    begun = "2026-01-01T00:00:00+00:00"
    for ended in ("2026-01-01T00:01:05+00:00", "2026-01-01T09:00:00+00:00", "2026-01-01T12:34:56+00:00"):
        a_run("success", started=begun, ended=ended)
    a_run("cancelled")
    assert sorted(opened().dataframe[0].value["took"]) == ["", "00:01:05", "09:00:00", "12:34:56"]


def test_rows_that_are_clicked_are_looked_at() -> None:
    from app.runs import lineage, table

    session.put("table", {"selection": {"rows": [2, 0, 7]}})
    picked = session.newest("runs", "table", lambda event: table.picked(event, ["a", "b", "c"]))
    picked()
    assert lineage.run_ids() == ["c", "a"]
    session.put("table", {"selection": {"rows": [1]}})
    session.newest("runs", "another", lambda event: None)
    picked()
    assert lineage.run_ids() == ["c", "a"], "another table is drawn by now"


def test_a_finished_run_closely() -> None:
    run = a_run("success", "detect", started="2026-01-01T10:00:00+00:00", ended="2026-01-01T10:01:00+00:00")
    run.report(stage="trials", done=12, total=12, found=9)
    BEST.save(run.path / "scores.json")
    at = opened(run)
    assert at.subheader[0].value == run.id
    assert "12 of 12 trials, 9 found the needle · begun 2026-01-01" in words(at)
    assert "took 60 s" in words(at)
    assert {"runs_open", "runs_delete"} <= keys(at)
    assert not {"runs_resume", f"runs_stop-{run.id}"} & keys(at)
    assert list(at.dataframe[1].value["file"]) == ["scores.json", "progress.jsonl", "run.json"]
    assert "retmask detect smollm2-135m" in codes(at)
    assert json.loads(at.json[0].value)["config"]["counting"] == "detect"


def test_the_map_of_a_run_is_opened() -> None:
    run = a_run("success", "detect")
    BEST.save(run.path / "scores.json")
    at = opened(run)
    at.button(key="runs_open").click().run()
    assert not at.exception
    assert query(at, "map") == run.id


def test_a_failed_run_says_its_last_words_and_goes_on(spawned: list[Run]) -> None:
    told, killed = a_run("error", error="MemoryError: <b>too</b> little"), a_run("started", name="killed")
    (killed.path / "log.txt").write_text("the end of the log\n")
    at = opened(told)
    assert "nothing done yet · made" in words(at)
    assert "This run failed" in words(at)
    assert codes(at)[0] == "MemoryError: <b>too</b> little"
    assert "the end of the log" in codes(opened(killed))[0]
    (killed.path / "log.txt").unlink()
    assert codes(opened(killed))[0] == NO_WORD
    press(at, "runs_resume")
    assert spawned == [told]


def test_a_run_that_cannot_be_resumed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run("cancelled")

    def refuse(_: Run) -> None:
        raise ValueError("it is running already")

    monkeypatch.setattr("app.shared.jobs.spawn", refuse)
    assert "it is running already" in words(press(opened(run), "runs_resume"))


def test_runs_that_go_on_and_wait_are_told_apart_and_cancelled(working: tuple[Run, Run]) -> None:
    first, second = working
    at = opened(first)
    assert at.main.get("progress")[0].proto.text == "3 of 12 trials, 2 found the needle, about 2 min left"
    assert not {"runs_delete", "runs_resume"} & keys(at)
    at = opened(second)
    assert "waiting behind" in words(at)
    assert at.main.get("progress")[0].proto.text.startswith("Waiting behind")
    at = press(at, f"runs_link-behind-{first.id}")
    assert at.subheader[0].value == first.id
    press(opened(second), f"runs_stop-{second.id}")
    until = time.monotonic() + 60
    while second.status != "cancelled":
        assert time.monotonic() < until
        time.sleep(0.05)
    assert first.status == "started"
    assert "What it had finished is kept" in words(opened(second))


def test_lineage_is_a_chain_of_links() -> None:
    scores = a_run("success", "detect")
    pairs = a_run("success", "pairs", parents=(scores.id, "gone-run"))
    train = a_run("success", "train", parents=(pairs.id,))
    at = opened(train)
    assert f"**{train.id}**" in words(at)
    assert "gone-run (not among the runs)" in words(at)
    at = press(at, f"runs_link-above-{scores.id}")
    assert at.subheader[0].value == scores.id
    assert query(at, "run") == scores.id
    assert f"runs_link-below-{pairs.id}" in keys(at)
    assert f"runs_link-below-{train.id}" not in keys(at)


def test_a_diamond_of_runs_is_drawn_with_each_once() -> None:
    scores = a_run("success", "detect")
    pairs = a_run("success", "pairs", parents=(scores.id,))
    train = a_run("success", "train", parents=(pairs.id, scores.id))
    last = a_run("success", "evaluate", parents=(train.id, scores.id))
    scores.update(parents=[last.id])  # a record that makes no sense
    at = opened(last)
    assert {f"runs_link-above-{run.id}" for run in (scores, pairs, train)} <= keys(at)


DAMAGED: list[dict[str, Any]] = [
    {"status": ["x"], "created": 3, "started": [], "ended": {}, "error": ["x"]},
    {"status": "no such status", "config": ["x"], "parents": {"a": 1}, "command": [1, None]},
    {"status": "queued", "spawned": "soon", "pid": None, "log_start": "x", "command": "retmask"},
    {"status": "cancelled", "kind": ["x"], "config": {"model": {"a": 1}, "count": "x", "allow": 3, "rule": [1]}},
    {"status": "error", "error": None, "log_start": -3, "started": "0001-01-01T00:00:00+00:00", "held_out": [1]},
    {"status": "success", "found": 10**400, "results": {"a": "x"}, "head_grid": 3, "config": {"tuned": {"a": 1}}},
]
LINES = (
    '{"stage": ["x"], "total": 3}\n{"stage": "trials", "done": "x", "total": "y"}\n'
    '{"stage": "pairs", "done": {}, "total": 7, "eta": "z", "kept": [], "rate": "w", "time": "x", "found": "x"}\n'
)


@pytest.mark.parametrize("kind", ["detect", "dose", "pairs", "train", "evaluate", "ablate"])
@pytest.mark.parametrize("record", DAMAGED)
def test_a_damaged_folder_breaks_no_page(kind: str, record: dict[str, Any]) -> None:
    run = a_run("success", kind)
    (run.path / "progress.jsonl").write_text(LINES)
    (run.path / "log.txt").write_text("x")
    run.update(**record)
    at = opened(run)
    assert at.subheader[0].value == run.id
    for name in ("heads", "pairs", "train"):
        at._page_hash = calc_hash(name)
        at.run()
        assert not at.exception, name


def test_an_evaluation_opens_the_training_that_it_measured() -> None:
    train = a_run("success", "train")
    (train.path / "adapter").mkdir()
    made = Run.create("evaluate", {"model": "m", "tuned": [f"x={train.path / 'adapter'}"]}, parents=[train.id])
    made.update(status="success")
    at = opened(made).button(key="runs_open").click().run()
    assert not at.exception
    assert query(at, "train") == train.id
    assert "runs_open" not in keys(opened(a_run("success", "evaluate")))


def test_the_address_of_a_deleted_training_is_taken_away() -> None:
    run = a_run("cancelled", "train")
    at = press(press(opened(run, train=run.id), "runs_delete"), "confirm_yes")
    assert "train" not in at.query_params


def test_a_name_that_is_too_long_for_a_path_is_no_run() -> None:
    for name in ("x" * 5000, "/" + "x" * 5000, "\0", "/root/x"):
        with pytest.raises(ValueError, match=r"."):
            Run.find(name)


def test_deleting_asks_first_and_names_what_was_made_from_it() -> None:
    scores = a_run("success", "detect")
    pairs = a_run("success", "pairs", parents=(scores.id,))
    at = press(opened(scores), "runs_delete")
    assert f"Delete `{scores.id}` with all that it wrote" in words(at)
    assert f"What was made from it stays: `{pairs.id}`" in words(at)
    at = press(at, "confirm_no")
    assert "confirm_yes" not in keys(at)
    at = press(press(at, "runs_delete"), "confirm_yes")
    assert f"The run {scores.id} is deleted" in words(at)
    assert [run.id for run in Run.all()] == [pairs.id]
    assert "run" not in at.query_params


def test_deleting_the_map_that_is_looked_at_goes_back_to_the_shipped_one() -> None:
    run = a_run("success", "detect")
    BEST.save(run.path / "scores.json")
    at = press(press(opened(run, map=run.id), "runs_delete"), "confirm_yes")
    assert query(at, "map") == "smollm2-135m"
    assert "There are no runs yet" in words(at)
    assert run.id not in next(box for box in at.selectbox if box.label == "Map").options


def test_a_late_message_of_the_table_does_not_take_a_followed_link_back() -> None:
    parent = a_run("success", "detect")
    child = a_run("success", "dose", parents=(parent.id,))
    at = opened(child)
    table = next(table.proto.id for table in at.dataframe if table.proto.id)

    def message(at: AppTest) -> Any:
        """What a browser sends: all widgets, and the first row of the table at the start."""
        states = at._tree.get_widget_states()
        row = states.widgets.add()
        row.id, row.string_value = table, json.dumps({"selection": {"rows": [0], "columns": [], "cells": []}})
        return states

    at = drawn(at._run(message(at)))
    assert query(at, "run") == child.id
    late = message(at)
    link = next(button for button in at.button if (button.key or "").startswith("runs_link"))
    at = press(at, str(link.key))
    assert query(at, "run") == parent.id
    assert query(drawn(at._run(late)), "run") == parent.id


def test_a_name_stays_one_piece_of_code() -> None:
    """A line break or a back-tick would end it, and what follows would be a stranger's link."""
    assert plain("a\n\n[x](http://evil) `b`") == "a [x](http://evil) 'b'"


def test_a_run_that_is_gone_is_a_sentence() -> None:
    a_run("success", "detect")
    for name in ("no-such-run", "../x", "a*b"):
        assert f"There is no run {name} any more" in words(opened(run=name))


def test_several_runs_beside_each_other() -> None:
    one, other = a_run("success", "detect", found=9, done=18), a_run("success", "dose", found=1)
    at = opened(one, other)
    assert at.subheader[0].value == "2 runs beside each other"
    figures, settings = at.dataframe[1].value, at.dataframe[2].value
    assert list(figures.columns) == ["figure", one.id, other.id]
    assert {"found", "share found"} <= set(figures["figure"])
    assert dict(zip(settings["setting"], settings[other.id], strict=True)) == {"counting": "dose", "kind": "dose"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "plain <b>text</b>"),
        ("b.json", '{"a": 1}'),
        ("c.json", "no JSON"),
        ("d.safetensors", "x"),
        ("e/f.txt", "x"),
    ],
)
def test_what_is_in_a_file_is_shown(name: str, content: str) -> None:
    path = a_run("success", "detect").path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    shown = path if path.parent.name != "e" else path.parent
    at = AppTest.from_function(_draw_content, args=(str(shown),), default_timeout=60).run()
    assert not at.exception
    texts = [element.value for element in (*at.code, *at.json, *at.caption)]
    expected = {"d.safetensors": "not a text", "e/f.txt": "f.txt  1 B", "b.json": '"a"'}.get(name, content)
    assert any(expected in text for text in texts)


def _draw_content(path: str) -> None:
    import pathlib  # this function is run as a page of its own

    from app.runs import files

    files.content(pathlib.Path(path))
