"""`retmask runs ...`, and what it and the page say of a run."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from retmask.cli.main import app
from retmask.files import append_line, home
from retmask.runs import overview
from retmask.runs.run import Run
from retmask.runs.worker import working


def runs(*words: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, ["runs", *words], input=answer)


def says(*words: str, answer: str | None = None) -> str:
    done = runs(*words, answer=answer)
    assert done.exit_code == 0, done.output
    return done.output


def a_run(kind: str, status: str, name: str = "m", **record: Any) -> Run:
    """A run as its worker leaves it."""
    run = Run.create(kind, {"model": "models/smollm2-135m", "lengths": [256]}, name=name)
    run.update(status=status, command=["retmask", kind], **record)
    return run


@pytest.fixture
def detected(fresh_home: Path) -> Run:
    times = {"started": "2026-01-01T10:00:00+00:00", "ended": "2026-01-01T12:10:00+00:00"}
    run = a_run("detect", "success", found=9, done=18, seed=0, **times)
    run.report(stage="trials", done=18, total=18, found=9, eta=0.0)
    (run.path / "scores.json").write_text("x" * 1500)
    return run


@pytest.fixture
def failed(detected: Run) -> Run:
    return a_run("pairs", "error", error="RuntimeError: no space", parents=[detected.id])


def test_list(detected: Run, failed: Run) -> None:
    lines = says("list").splitlines()
    assert lines[0].split() == ["run", "kind", "status", "took", "progress"]
    (line,) = (line for line in lines if detected.id in line)
    assert re.split("  +", line.strip()) == [
        detected.id,
        "detect",
        "success",
        "2 h 10 min",
        "18 of 18 trials, 9 found the needle",
    ]
    (row,) = json.loads(says("list", "--status", "error", "--json"))
    assert (row["run"], row["kind"], row["parents"]) == (failed.id, "pairs", [detected.id])
    assert failed.id not in says("list", "--kind", "detect")
    assert "there are no runs of kind dose with status error" in says("list", "--kind", "dose", "--status", "error")


def test_show(detected: Run, failed: Run) -> None:
    shown = says("show", detected.id)
    for part in (f"made from it  {failed.id}", "scores.json (1.5 kB)", "took          2 h 10 min", str(detected.path)):
        assert part in shown
    assert "last words:\nRuntimeError: no space" in says("show", "pairs")
    assert json.loads(says("show", str(detected.path), "--json")) == detected.record


def test_what_a_terminal_obeys_is_not_printed(fresh_home: Path) -> None:
    """A run's folder may come from anybody, and libraries write colours into logs."""
    one, other = (a_run("detect", "error", model="\x1b[2Jevil", error="boom") for _ in "ab")
    for run in (one, other):
        run.update(config={"model": "\x1b[2Jevil", run.id: "\x1b[2J"})
        (run.path / "log.txt").write_text("\x1b[31mboom\x1b[0m\x1b]0;title\x07\n")
    for words in (("list",), ("show", one.id), ("compare", one.id, other.id)):
        assert not set("\x1b\x07") & set(says(*words))
    assert "boom" in says("show", one.id)


def test_compare(detected: Run, failed: Run) -> None:
    lines = [re.split("  +", line.strip()) for line in says("compare", detected.id, failed.id).splitlines() if line]
    assert ["setting", detected.id, failed.id] in lines
    assert ["kind", "detect", "pairs"] in lines
    assert ["share found", "0.5", "–"] in lines
    assert not [line for line in lines if line[0] in ("lengths", "versions.torch")]  # they are the same


def test_log(detected: Run) -> None:
    assert says("log", detected.id) == ""
    (detected.path / "log.txt").write_text("one\ntwo\n")
    assert says("log", detected.id, "--lines", "1") == "two\n"
    followed = says("log", detected.id, "--follow")
    assert followed == "one\ntwo\nsuccess: 18 of 18 trials, 9 found the needle\n"


def test_resume_log_and_cancel(failed: Run) -> None:
    failed.update(kind="detect", config={"model": "m", "haystack": "/nowhere"})
    assert f"retmask runs log {failed.id} --follow" in says("resume", failed.id)
    assert "there is no haystack folder /nowhere" in says("log", failed.id, "--follow")
    assert failed.status == "error"
    failed.update(status="started")
    holds = f"""
import time
from pathlib import Path
from retmask.runs.run import Run
from retmask.runs.worker import working
with working(Run(Path({str(failed.path)!r}))):
    print("on", flush=True)
    time.sleep(60)
"""
    worker = subprocess.Popen([sys.executable, "-c", holds], stdout=subprocess.PIPE, start_new_session=True)
    assert worker.stdout is not None
    worker.stdout.readline()
    assert "running already" in str(runs("resume", failed.id).exception)
    assert "it is started: cancel it first" in str(runs("rm", failed.id, "--yes").exception)
    assert says("cancel", failed.id) == f"{failed.id}: cancelled\n"
    assert worker.wait(5) != -signal.SIGKILL


def test_rm(detected: Run, failed: Run) -> None:
    asked = says("rm", detected.id, answer="n\n")
    assert f"What was made from it is kept: {failed.id}." in asked
    assert "nothing was deleted" in asked
    assert "is deleted" in says("rm", detected.id, answer="y\n")
    assert "is deleted" in says("rm", failed.id, "--yes")
    assert Run.all() == []
    assert f"there are no runs: `retmask detect` makes one, in {home() / 'runs'}" in says("list")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["show", "../x"], "'../x' is not a run name"),
        (["rm", "a/b", "--yes"], "'a/b' is not a run name"),
        (["log", "nothing"], "there is no run nothing"),
        (["cancel", "detect"], "is over: its status is success"),
        (["resume", "detect"], "is finished: there is nothing left to do"),
        (["rm", "/", "--yes"], "holds no run"),
        (["compare", "detect"], "name two or more"),
        (["list", "--status", "over"], "status 'over' is unknown: choose queued, started"),
    ],
)
def test_wrong_input_is_one_sentence(detected: Run, words: list[str], sentence: str) -> None:
    done = runs(*words)
    assert isinstance(done.exception, ValueError)
    assert sentence in str(done.exception)
    assert detected.record


def test_a_run_outside_is_shown_and_never_deleted(detected: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(detected.path, copy)
    assert f"run           {copy}" in says("show", str(copy))
    assert "only these are deleted here" in str(runs("rm", str(copy), "--yes").exception)
    assert copy.is_dir()


@pytest.mark.parametrize(
    ("status", "line", "share", "words"),
    [
        ("success", {}, 1.0, "finished"),
        ("cancelled", {"stage": "loading", "total": 9}, 0.0, "nothing done yet"),
        (
            "cancelled",
            {"stage": "trials", "done": 3, "total": 12, "found": 2, "eta": 60},
            0.25,
            "3 of 12 trials, 2 found",
        ),
        ("success", {"stage": "points", "done": 1200, "total": 1200}, 1.0, "1,200 of 1,200 points"),
        ("cancelled", {"stage": "steps", "done": 1, "total": 4, "loss": 0.69314}, 0.25, "1 of 4 steps, loss 0.693"),
    ],
)
def test_progress_in_words(fresh_home: Path, status: str, line: dict[str, Any], share: float, words: str) -> None:
    run = a_run("detect", status)
    if line:
        run.report(**line)
    found = overview.progress(run)
    assert found[0] == share
    assert found[1].startswith(words)
    assert "left" not in found[1]


def test_progress_of_a_run_that_goes_on(fresh_home: Path) -> None:
    run, seen = a_run("detect", "queued"), []
    lines = [
        {"stage": "waiting", "behind": "x"},
        {"stage": "loading"},
        {"stage": "trials", "done": 1, "total": 2, "eta": 300},
    ]
    with working(run):
        for line in lines[1:]:
            run.report(**line)
            seen.append(overview.progress(run)[1])
    assert seen == ["Loading the model…", "1 of 2 trials, about 5 min left"]
    run.report(**lines[0])
    run.update(status="queued", spawned=time.time() - 9, pid=None)
    assert (overview.progress(run), overview.behind(run)) == ((0.0, "Waiting behind x"), "x")
    run.update(spawned=time.time() + 9)  # it has been started again since
    assert (overview.progress(run), overview.behind(run)) == ((0.0, "Starting…"), "")


def test_figures_of_a_curve_and_of_a_training(fresh_home: Path) -> None:
    curve, training = a_run("dose", "success"), a_run("train", "success", held_out={"accuracy": 0.75})
    append_line(curve.path / "points.jsonl", {"kind": "top", "k": 4, "recall": 0.25, "perplexity": 20.5})
    append_line(curve.path / "points.jsonl", {"kind": "random", "k": 4, "recall": 1.0, "perplexity": 20.0})
    training.report(stage="steps", done=4, total=4, loss=0.5, eta=None)
    assert overview.figures(curve) == {"recall, best 4 heads": 0.25, "perplexity, best 4 heads": 20.5}
    assert overview.figures(training) == {"held_out accuracy": 0.75, "done": 4.0, "loss": 0.5}
    rows = {row["figure"]: row for row in overview.results([curve, training])}
    assert rows["loss"] == {"figure": "loss", curve.id: "–", training.id: "0.5"}


def test_outputs_are_files_and_folders_and_the_runs_own_files_last(detected: Run) -> None:
    (detected.path / "adapter" / "deep").mkdir(parents=True)
    for name in ("adapter/a", "adapter/deep/b"):
        (detected.path / name).write_bytes(b"x" * 2_000_000)
    names = [output.name for output in overview.outputs(detected)]
    assert names == ["adapter/", "scores.json", "progress.jsonl", "run.json"]
    adapter = overview.outputs(detected)[0]
    assert (overview.size(adapter.size), adapter.files) == ("4.0 MB", 2)


@pytest.mark.parametrize(
    ("n", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (98_000_000, "98.0 MB"), (2**40, "1,099.5 GB")],
)
def test_sizes(n: int, words: str) -> None:
    assert overview.size(n) == words
