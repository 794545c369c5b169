"""A run's folder: alive exactly while somebody works on it, whatever happens."""

import errno
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from retmask.files import append_line, home, read_lines, read_tail, settled, write_json
from retmask.runs import processes
from retmask.runs.engine import cancel, how_patient, remove, spawn
from retmask.runs.job import Pace
from retmask.runs.overview import progress
from retmask.runs.record import versions
from retmask.runs.run import NO_WORD, Run, parent_ids, run_path
from retmask.runs.turns import devices, turn
from retmask.runs.worker import Cancelled, working

WORKER = """
import sys, time
from pathlib import Path
from retmask.runs.run import Run
from retmask.runs.worker import working
with working(Run(Path(sys.argv[1]))):
    print("on", flush=True)
    time.sleep(60)
"""


ORPHANED = """
import subprocess, sys, time
from pathlib import Path
from retmask.runs.run import Run
from retmask.runs.worker import working
with working(Run(Path(sys.argv[1]))) as held:
    ignores = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", ignores], pass_fds=held)
    Path(sys.argv[1], "child").write_text(str(child.pid))
    print("on", flush=True)
    time.sleep(60)
"""


def start_worker(run: Run, code: str = WORKER) -> subprocess.Popen[bytes]:
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, start_new_session=True
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
    with working(run):
        assert run.alive
        assert run.status == "started"
        with pytest.raises(ValueError, match="worked on by another"), working(Run(run.path)):
            pass
        assert run.status == "started"  # the second worker changed nothing
    assert not run.alive
    assert run.status == "success"
    assert {one.id for one in Run.all("detect")} >= {run.id}
    assert Run.all("dpo") == []


def test_failure_and_cancel_are_recorded(fresh_home: Path) -> None:
    run = Run.create("detect", {})
    with pytest.raises(RuntimeError), working(run):
        raise RuntimeError("no space")
    assert (run.status, run.record["error"]) == ("error", "RuntimeError: no space")
    with pytest.raises(Cancelled), working(run):
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
    cancel(run)
    assert worker.wait(5) != 0
    assert run.status == "cancelled"


def test_cancel_through_a_link(fresh_home: Path, tmp_path: Path) -> None:
    run = Run.create("detect", {})
    worker = start_worker(run)
    (tmp_path / "link").symlink_to(run.path.parent)
    cancel(Run(tmp_path / "link" / run.id))
    assert worker.wait(5) != 0
    assert run.status == "cancelled"


def test_cancel_waits_for_a_worker_on_its_way(fresh_home: Path) -> None:
    run = Run.create("detect", {})
    run.update(spawned=time.time())
    late = threading.Timer(0.5, lambda: workers.append(subprocess.Popen([sys.executable, "-c", WORKER, str(run.path)])))
    workers: list[subprocess.Popen[bytes]] = []
    late.start()
    cancel(run)
    late.join()
    assert workers[0].wait(5) != 0
    assert run.status == "cancelled"


def test_an_iterator_that_is_closed_is_a_cancelled_run(fresh_home: Path) -> None:
    run = Run.create("detect", {})

    def job() -> Iterator[int]:
        with working(run):
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
    cancel(run)
    assert run.status == "error"


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def ended(pid: int) -> bool:
    """Whether a process is gone, or only waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def nothing_to_do(fresh_home: Path) -> Run:
    """A run whose worker, if it is started, fails at once: there is no such haystack."""
    return Run.create("detect", {"model": "m", "haystack": "/nowhere", "device": "cpu"})


def test_a_run_waits_until_the_device_is_free(fresh_home: Path) -> None:
    first, second = Run.create("detect", {}, name="a"), Run.create("detect", {}, name="b")
    holder = start_worker(first)
    waiter = subprocess.Popen([sys.executable, "-c", WORKER, str(second.path)], stdout=subprocess.PIPE)
    until(lambda: second.progress)
    assert second.progress[0].items() >= {"stage": "waiting", "behind": first.id}.items()
    assert (second.alive, second.status, first.status) == (True, "queued", "started")
    cancel(first)
    assert waiter.stdout is not None
    assert waiter.stdout.readline() == b"on\n"
    assert second.status == "started"
    cancel(second)
    assert (holder.wait(5) != 0, waiter.wait(5) != 0) == (True, True)
    assert second.status == "cancelled"


def test_a_waiting_run_can_be_cancelled(fresh_home: Path) -> None:
    run = Run.create("detect", {"device": "cpu"})
    with turn("cpu", "somebody"):
        waiter = subprocess.Popen([sys.executable, "-c", WORKER, str(run.path)], start_new_session=True)
        until(lambda: run.progress)
        cancel(run)
        assert waiter.wait(5) != 0
    assert run.status == "cancelled"
    assert len([path for path in (home() / "locks").iterdir() if path.suffix != ".lock"]) == 0


def test_an_export_waits_for_the_cpu_only(fresh_home: Path) -> None:
    with turn("cuda-0", "somebody"), working(Run.create("ablate", {"device": "cuda:0"})):
        pass


def test_a_spawned_run_that_fails_says_why(nothing_to_do: Run) -> None:
    spawn(nothing_to_do)
    assert nothing_to_do.status == "queued"
    with pytest.raises(ValueError, match="running already"):
        spawn(nothing_to_do)
    until(lambda: nothing_to_do.status == "error")
    assert "there is no haystack folder /nowhere" in nothing_to_do.last_words


def test_a_worker_that_dies_before_it_works_is_an_error(nothing_to_do: Run) -> None:
    spawn(nothing_to_do)
    os.killpg(nothing_to_do.record["pid"], signal.SIGKILL)
    until(lambda: nothing_to_do.status == "error")
    assert nothing_to_do.last_words == NO_WORD


def test_cancelling_a_worker_that_has_not_come_yet(nothing_to_do: Run) -> None:
    spawn(nothing_to_do)
    cancel(nothing_to_do)
    assert nothing_to_do.status in ("cancelled", "error")  # it may have failed before
    assert ended(nothing_to_do.record["pid"])


def test_last_words_are_those_of_the_last_worker(fresh_home: Path) -> None:
    run = Run.create("detect", {})
    (run.path / "log.txt").write_text("\n".join(f"line {n}" for n in range(9)))
    assert run.last_words.splitlines() == [f"line {n}" for n in range(4, 9)]
    worker = start_worker(run)  # it writes no log
    worker.kill()
    worker.wait()
    assert run.last_words == NO_WORD
    run.update(error="ValueError: no")
    assert run.last_words == "ValueError: no"


def test_what_a_dead_worker_left_behind_is_ended(fresh_home: Path) -> None:
    """A child that inherits the lock keeps the run alive and is found without its worker; so is one that opens it."""
    run = Run.create("detect", {})
    worker = start_worker(run, ORPHANED)
    worker.kill()
    worker.wait()
    child = int((run.path / "child").read_text())
    assert (run.alive, run.status) == (True, "started")
    cancel(run, patience=0.3)
    assert ended(child)
    assert run.status == "cancelled"
    opens = f"import time; file = open({str(run.path / 'lock')!r}, 'ab'); print('on', flush=True); time.sleep(60)"
    stray = subprocess.Popen([sys.executable, "-c", opens], stdout=subprocess.PIPE)
    assert stray.stdout is not None
    stray.stdout.readline()
    assert not run.alive
    remove(run)
    assert stray.wait(5) == -signal.SIGTERM


def test_cancel_ends_the_whole_group(fresh_home: Path) -> None:
    """Also a grandchild that has nothing of the run open and ignores SIGTERM."""
    run = Run.create("detect", {})
    worker = start_worker(run, ORPHANED.replace(", pass_fds=held", ""))
    cancel(run, patience=0.5)
    assert worker.wait(5) != 0
    assert ended(int((run.path / "child").read_text()))
    assert run.status == "cancelled"


def test_whoever_only_looks_is_never_ended(fresh_home: Path) -> None:
    run = Run.create("detect", {})
    worker = start_worker(run)
    looks = f"import time; file = open({str(run.path / 'lock')!r}, 'rb'); print('on', flush=True); time.sleep(60)"
    looker = subprocess.Popen([sys.executable, "-c", looks], stdout=subprocess.PIPE)
    assert looker.stdout is not None
    looker.stdout.readline()
    cancel(run)
    worker.wait(5)
    assert looker.poll() is None
    looker.kill()
    looker.wait()


def test_lineage(fresh_home: Path, tmp_path: Path) -> None:
    scores = Run.create("detect", {"model": "m", "scores": "smollm2-135m", "adapter": None})
    (scores.path / "scores.json").write_text("{}")
    pairs = Run.create("pairs", {}, parents=[scores.path / "scores.json", scores.path, scores.id])
    train = Run.create("train", {}, tmp_path / "elsewhere", parents=[pairs.id, "Hub/data set"])
    old = Run.create("dose", {"scores": str(scores.path)})
    far = Run.create("evaluate", {"adapter": str(train.path / "adapter" / "last")}, name="far")
    assert scores.parents == []
    assert pairs.record["parents"] == [scores.id]
    assert train.parents == [pairs.id, "Hub/data set"]
    assert old.parents == [scores.id]
    assert {run.id for run in scores.children} == {pairs.id, old.id}
    assert far.parents == []  # there is no such folder yet
    (train.path / "adapter" / "last").mkdir(parents=True)
    assert far.parents == [str(train.path)]
    assert [run.id for run in train.children] == [far.id]


def test_parent_ids_leave_out_what_is_no_run(fresh_home: Path, tmp_path: Path) -> None:
    run = Run.create("detect", {})
    assert parent_ids("", "../x", "nothing", "~nobody/x", "smollm2-135m", tmp_path, "a b/c", run.id) == [run.id]


def test_find(fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.create("detect", {}, name="one")
    Run.create("detect", {}, name="one-more")
    outside = Run.create("detect", {}, tmp_path / "outside")
    monkeypatch.chdir(tmp_path)
    assert Run.find(run.id) == run
    assert Run.find("detect-one-m").id.startswith("detect-one-more")
    assert Run.find(str(outside.path)) == Run.find("outside") == Run.find("./outside") == outside
    for name, says in {
        "detect-one": "2 runs begin with detect-one, such as",
        "nothing": "there is no run nothing: `retmask runs list`",
        "../x": "'../x' is not a run name",
        "a/b": "'a/b' is not a run name",
        "": "an empty text is not a run name",
        str(tmp_path): "holds no run",
    }.items():
        with pytest.raises(ValueError, match=says):
            Run.find(name)


def test_remove(fresh_home: Path, tmp_path: Path) -> None:
    run, other = Run.create("detect", {}), Run.create("detect", {}, tmp_path / "out")
    worker = start_worker(run)
    with pytest.raises(ValueError, match="it is started: cancel it first"):
        remove(run)
    cancel(run)
    worker.wait(5)
    left = home() / "runs" / ".detect-old.1.gone"  # what a removal that was killed leaves
    left.mkdir()
    (left / "run.json").write_text('{"kind": "detect"}')
    assert [one.id for one in Run.all()] == [run.id]
    remove(run)
    assert Run.all() == []
    assert list((home() / "runs").iterdir()) == []
    (home() / "runs" / "link").symlink_to(other.path)
    for strange in (other, Run(home() / "runs" / "link"), Run(home() / "runs"), run):
        with pytest.raises(ValueError, match="only these are deleted here"):
            remove(strange)
    assert other.record


def test_no_secret_of_the_environment_is_written(nothing_to_do: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"HF_TOKEN": "hf_verysecret1", "OPENAI_API_KEY": "sk-verysecret2"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    spawn(nothing_to_do)
    until(lambda: nothing_to_do.status == "error")
    written = "".join(file.read_text() for file in nothing_to_do.path.iterdir() if file.is_file())
    assert "no haystack folder" in written
    assert not any(value in written for value in secrets.values())


def test_versions_name_what_trains() -> None:
    assert {"trl", "peft", "accelerate", "datasets"} <= set(versions())
    assert "unknown" not in versions().values()


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


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another machine sees of runs here: neither their locks nor their processes."""
    monkeypatch.setattr(processes, "here", lambda: "far/1/2")
    monkeypatch.setattr(processes, "held", lambda run: False)


def test_a_run_is_seen_and_cancelled_from_another_machine(fresh_home: Path, far: None) -> None:
    run = Run.create("detect", {})
    worker = start_worker(run)
    assert (run.elsewhere, run.alive, run.status) == (platform.node(), True, "started")
    with pytest.raises(ValueError, match="running already"):
        spawn(run)
    cancel(run)
    assert worker.wait(5) == 1  # not by a signal: it has found the request
    assert (run.status, run.asked) == ("cancelled", False)
    assert not run.alive


def test_cancel_from_another_machine_writes_nothing_over_a_living_job(fresh_home: Path, far: None) -> None:
    run = Run.create("detect", {})
    worker = start_worker(run)
    worker.send_signal(signal.SIGSTOP)
    cancel(run, patience=0.2)
    assert (run.record["status"], run.asked) == ("started", True)
    cancel(run, patience=0.2)  # a second request: at once
    worker.send_signal(signal.SIGCONT)
    assert worker.wait(5) in (1, 143)
    assert run.status == "cancelled"


def test_a_pid_that_is_alike_in_another_container_says_nothing(fresh_home: Path) -> None:
    """The request to stop that a worker killed there left behind is not for this one, which has the same pid."""
    run = Run.create("detect", {})
    (run.path / "log.txt").write_text("its log")
    run.update(status="started", pid=os.getpid(), place="far/1/2")
    (run.path / "cancel").touch()
    with working(run):
        time.sleep(0.7)  # longer than it takes to look for a request
    assert (run.status, run.record["log_start"]) == ("success", 7)


def test_a_worker_elsewhere_without_a_sign_of_life_is_dead(fresh_home: Path, far: None) -> None:
    run = Run.create("detect", {})
    run.update(status="started", place="near/1/2")
    lock = run.path / processes.LOCK
    lock.touch()
    assert run.status == "started"
    os.utime(lock, (time.time() - 200, time.time() - 200))
    assert run.status == "error"


def test_without_file_locks_a_living_worker_is_not_dead(fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.create("detect", {})
    worker = start_worker(run)

    def refuse(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as here:
        here.setattr(fcntl, "flock", refuse)
        assert (processes.held(run.path), run.status) == (None, "started")
        with pytest.raises(ValueError, match="without file locks"):
            Run.create("detect", {})
        with pytest.raises(ValueError, match="without file locks"), turn("cpu", "x"):
            pass
    cancel(run)
    worker.wait(5)


def test_started_twice_at_once_is_started_once(nothing_to_do: Run) -> None:
    def is_started(_: int) -> bool:
        try:
            spawn(nothing_to_do)
        except ValueError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(is_started, range(6))) == 1
    until(lambda: nothing_to_do.status == "error")


def test_a_worker_that_has_ended_leaves_no_zombie(nothing_to_do: Run) -> None:
    spawn(nothing_to_do)
    pid = nothing_to_do.record["pid"]
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_failed_worker_records_a_sentence_and_logs_the_traceback(nothing_to_do: Run) -> None:
    spawn(nothing_to_do)
    until(lambda: nothing_to_do.status == "error")
    assert nothing_to_do.record["error"].startswith("there is no haystack folder /nowhere: ")
    until(lambda: "Traceback" in nothing_to_do.log_tail(50))
    assert "Traceback" not in nothing_to_do.last_words


FINISHES = """
import sys, time
from pathlib import Path
from retmask.runs.run import Run
from retmask.runs.worker import Cancelled, working
with working(Run(Path(sys.argv[1]))):
    try:
        print("on", flush=True)
        time.sleep(60)
    except Cancelled:
        time.sleep(SECONDS)
        Path(sys.argv[1], "saved").touch()
        raise
"""


def test_a_training_finishes_its_step_and_a_second_request_ends_it(fresh_home: Path) -> None:
    run = Run.create("train", {})
    assert how_patient(run) == 300
    for at in (0, 90, 170, 290):
        append_line(run.path / "progress.jsonl", {"stage": "steps", "time": 1000 + at})
    assert how_patient(run) == 480  # four times the longest step
    worker = start_worker(run, FINISHES.replace("SECONDS", "1"))
    os.kill(worker.pid, signal.SIGTERM)
    os.kill(worker.pid, signal.SIGTERM)  # asked by two: it does not break off what it has begun
    worker.wait(9)
    assert ((run.path / "saved").exists(), run.status) == (True, "cancelled")
    worker = start_worker(run, FINISHES.replace("SECONDS", "100"))
    first = threading.Thread(target=cancel, args=(run,))
    first.start()
    until(lambda: run.asked)
    assert progress(run) == (0.0, "Stopping after this step…")
    cancel(run)
    assert worker.wait(5) in (-signal.SIGKILL, 143)  # by this request, or by the worker that has found it
    first.join(9)
    assert (run.status, run.asked, first.is_alive()) == ("cancelled", False, False)


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_files_have_the_mode_that_the_person_wants(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "sub" / "a.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "sub" / "a.json").stat().st_mode & 0o777 == mode
    assert (tmp_path / "sub").stat().st_mode & 0o777 == 0o777 & ~umask


def test_what_runs_keep_are_whole_paths(tmp_path: Path, fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model", "texts", "smollm2-135m", "pydoc"):
        (tmp_path / name).mkdir()
    for name in ("needles", "n.json"):
        (tmp_path / name).touch()
    assert settled("model") == str(tmp_path / "model")
    assert settled("smollm2-135m") == "smollm2-135m"  # the built-in model is meant
    assert settled("pydoc", ("pydoc",)) == "pydoc"
    assert settled("needles") == "needles"
    assert settled("needles", only_path=True) == str(tmp_path / "needles")
    assert settled("n.json") == str(tmp_path / "n.json")
    assert [settled(name) for name in ("", "Org/model", "gone.json")] == ["", "Org/model", "gone.json"]


@pytest.mark.parametrize(("config", "device"), [([1], ""), ({"processes": "x", "device": "cuda:0"}, "cuda:0")])
def test_a_damaged_record_has_the_devices_of_the_settings_that_can_be_read(
    config: object, device: str, fresh_home: Path
) -> None:
    run, whole = Run.create("train", {}, name="a"), Run.create("train", {"device": device}, name="b")
    run.update(config=config)
    assert devices("train", run.config) == devices("train", whole.config)


def test_the_end_of_a_long_progress_is_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert read_tail(path) == []
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(1000)))
    assert [line["n"] for line in read_tail(path, 40)] == [997, 998, 999]


def test_the_pace_counts_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def after(seconds: float) -> None:
        clock[0] += seconds

    pace = Pace()
    after(600)  # the first step of a process on a busy machine
    assert pace.left(1, 20) == 12_000
    after(2)
    assert pace.left(1, 19) == 38
    after(6)
    assert pace.left(3, 16) == 8 / 4 * 16
    after(1000)  # another model is loaded
    pace.go_on()
    after(2)
    assert pace.left(1, 10) == 10 / 5 * 10
