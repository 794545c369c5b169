"""A run's folder: alive exactly while somebody works on it, whatever happens."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from retmask.files import append_line, read_lines, write_json
from retmask.runs import Cancelled, Run, run_path

WORKER = """
import sys, time
from pathlib import Path
from retmask.runs import Run
with Run(Path(sys.argv[1])).working():
    print("on", flush=True)
    time.sleep(60)
"""


def start_worker(run: Run) -> subprocess.Popen[bytes]:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(run.path)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"on\n"
    return worker


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a..b", "x" * 65, "a\n", "/etc", "ünï"])
def test_names_that_could_leave_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run name"):
        run_path(name, tmp_path)


def test_good_name(tmp_path: Path) -> None:
    assert run_path("detect-smollm2-135m-1", tmp_path) == tmp_path / "detect-smollm2-135m-1"


def test_life_of_a_run(fresh_home: Path) -> None:
    run = Run.create("detect", {"model": "m"}, name="models/My model!")
    assert run.id.startswith("detect-models-My-model")
    assert Run.create("detect", {}, name="models/My model!").id != run.id
    with run.working():
        assert run.alive
        assert run.status == "started"
        with pytest.raises(ValueError, match="worked on by another"), Run(run.path).working():
            pass
        assert run.status == "started"  # the second worker changed nothing
    assert not run.alive
    assert run.status == "success"
    assert {one.id for one in Run.all("detect")} >= {run.id}
    assert Run.all("dpo") == []


def test_failure_and_cancel_are_recorded(fresh_home: Path) -> None:
    run = Run.create("detect", {})
    with pytest.raises(RuntimeError), run.working():
        raise RuntimeError("no space")
    assert (run.status, run.record["error"]) == ("error", "RuntimeError: no space")
    with pytest.raises(Cancelled), run.working():
        signal.raise_signal(signal.SIGTERM)
    assert run.status == "cancelled"
    assert run.record["error"] is None


def test_killed_worker_is_an_error_at_once(fresh_home: Path) -> None:
    run = Run.create("detect", {})
    worker = start_worker(run)
    assert run.status == "started"
    worker.kill()
    worker.wait()
    assert run.status == "error"


def test_cancel_ends_the_worker(fresh_home: Path) -> None:
    run = Run.create("detect", {})
    worker = start_worker(run)
    run.cancel()
    assert worker.wait(5) != 0
    assert run.status == "cancelled"


def test_cancel_through_a_link(fresh_home: Path, tmp_path: Path) -> None:
    run = Run.create("detect", {})
    worker = start_worker(run)
    (tmp_path / "link").symlink_to(run.path.parent)
    Run(tmp_path / "link" / run.id).cancel()
    assert worker.wait(5) != 0
    assert run.status == "cancelled"


def test_cancel_waits_for_a_worker_on_its_way(fresh_home: Path) -> None:
    run = Run.create("detect", {})
    run.update(spawned=time.time())
    late = threading.Timer(0.5, lambda: workers.append(start_worker(run)))
    workers: list[subprocess.Popen[bytes]] = []
    late.start()
    run.cancel()
    late.join()
    assert workers[0].wait(5) != 0
    assert run.status == "cancelled"


def test_an_iterator_that_is_closed_is_a_cancelled_run(fresh_home: Path) -> None:
    run = Run.create("detect", {})

    def job() -> Iterator[int]:
        with run.working():
            yield from range(9)

    for _ in job():
        break
    assert run.status == "cancelled"


def test_updates_of_two_processes_are_both_kept(fresh_home: Path) -> None:
    run = Run.create("detect", {})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: run.update(**{f"field{n}": n}), range(40)))
    assert {f"field{n}" for n in range(40)} <= set(run.record)


def test_cancel_never_signals_a_stranger(fresh_home: Path) -> None:
    """The record names a process that is alive and is not the worker: this one."""
    run = Run.create("detect", {})
    run.update(status="started", pid=os.getpid())
    run.cancel()
    assert run.status == "error"


def test_open_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds no run"):
        Run.open(tmp_path)


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_lines_after_a_cut_one_are_read(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2')
    append_line(path, {"n": 3, "text": "a\u2028b"})
    assert [line["n"] for line in read_lines(path)] == [1, 3]
