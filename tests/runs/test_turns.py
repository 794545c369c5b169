"""Turns at a device: never two at a time, first come, first served, and the dead are in nobody's way."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from retmask.files import home, read_lines
from retmask.runs.turns import device_key, turn

WORKER = """
import signal, sys, time
from pathlib import Path
from retmask.files import append_line
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so do its children
from retmask.runs.turns import turn
log, name, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
waiting = lambda holder: append_line(log, {"event": "waits", "name": name, "behind": holder})
append_line(log, {"event": "comes", "name": name})
with turn("cpu", name, waiting):
    append_line(log, {"event": "begins", "name": name})
    time.sleep(seconds)
    append_line(log, {"event": "ends", "name": name})
"""


@pytest.fixture
def log(fresh_home: Path, tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def start(log: Path, name: str, seconds: float = 0.0) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORKER, str(log), name, str(seconds)])


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def events(log: Path, event: str) -> list[str]:
    return [line["name"] for line in read_lines(log) if line["event"] == event]


def tickets() -> list[Path]:
    return [path for path in (home() / "locks").iterdir() if path.suffix != ".lock"]


def test_two_processes_never_overlap(log: Path) -> None:
    workers = [start(log, str(n), 0.05) for n in range(4)]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    steps = [line for line in read_lines(log) if line["event"] in ("begins", "ends")]
    assert [line["event"] for line in steps] == ["begins", "ends"] * 4
    assert all(one["name"] == other["name"] for one, other in zip(steps[::2], steps[1::2], strict=True))
    assert tickets() == []


def test_whoever_came_first_goes_first_and_knows_behind_whom(log: Path) -> None:
    waiters = []
    with turn("cpu", "the first"):
        for n in range(3):
            waiters.append(start(log, f"waiter {n}"))
            until(lambda n=n: f"waiter {n}" in events(log, "waits"))
    assert [worker.wait(60) for worker in waiters] == [0] * 3
    assert events(log, "begins") == ["waiter 0", "waiter 1", "waiter 2"]
    first = [line["behind"] for line in read_lines(log) if line["event"] == "waits"][:3]
    assert first == ["the first"] * 3


def test_a_killed_holder_frees_the_device(log: Path) -> None:
    holder = start(log, "holder", 60)
    until(lambda: events(log, "begins"))
    waiter = start(log, "waiter")
    until(lambda: events(log, "waits"))
    holder.kill()
    holder.wait()
    assert waiter.wait(60) == 0
    assert events(log, "begins") == ["holder", "waiter"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_waiter_that_goes_is_in_nobodys_way(log: Path, number: int) -> None:
    with turn("cpu", "holder"):
        gone, left = start(log, "gone"), None
        until(lambda: events(log, "waits"))
        left = start(log, "left")
        until(lambda: "left" in events(log, "waits"))
        os.kill(gone.pid, number)
        assert gone.wait(60) != 0
    assert left.wait(60) == 0
    assert events(log, "begins") == ["left"]
    assert tickets() == []


def test_two_threads_take_turns_and_two_devices_do_not(fresh_home: Path) -> None:
    order: list[str] = []

    def other() -> None:
        with turn("cpu", "other", lambda holder: order.append(f"behind {holder}")):
            order.append("other")

    thread = threading.Thread(target=other)
    with turn("cpu", "one"):
        thread.start()
        until(lambda: order)
        with turn("cuda-0", "one"):
            order.append("one")
    thread.join(60)
    assert order == ["behind one", "one", "other"]


def test_a_child_that_inherits_the_descriptor_keeps_the_turn(log: Path) -> None:
    with turn("cpu", "parent") as held:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[held])
    waiter = start(log, "waiter")
    until(lambda: events(log, "comes"))
    time.sleep(0.5)
    assert events(log, "begins") == []
    child.communicate(timeout=60)
    assert waiter.wait(60) == 0


@pytest.mark.parametrize(
    ("name", "visible", "cards", "key"),
    [
        ("", None, False, "cpu"),
        ("cuda", None, False, "cpu"),
        ("", None, True, "cuda-0"),
        ("cuda", "", True, "cpu"),
        ("cuda", "-1", True, "cpu"),
        ("cuda", "3,5", True, "cuda-3"),
        ("cuda:1", "3,5", True, "cuda-5"),
        ("cuda:1", None, False, "cuda-1"),
        ("cuda", "GPU-0A/..", True, "cuda-gpu-0a"),
        ("cpu", None, True, "cpu"),
        ("mps", None, False, "mps"),
        ("../../x", None, False, "x"),
    ],
)
def test_a_device_has_one_key(
    name: str, visible: str | None, cards: bool, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([Path("/dev/nvidia0")] * cards))
    assert device_key(name) == key
