"""One folder per long job: its record, its progress, its log and its outputs. Files are the only channel.

A worker holds `flock` on `RUN/lock` for as long as it lives: the kernel lets go on any death, so «alive» never
depends on a pid that may have been given to somebody else.
"""

import fcntl
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import IO, Any, Literal

import psutil
from filelock import FileLock

from retmask.files import append_line, home, inside, read_lines, write_json

Status = Literal["queued", "started", "success", "cancelled", "error"]
_PACKAGES = ("retmask", "torch", "transformers", "transformer-lens", "numpy")


class Cancelled(BaseException):
    """Raised inside a worker when it is asked to stop; no `except Exception` on the way may keep it."""


def run_path(name: str, root: Path | None = None) -> Path:
    """The folder of the run of that name. ValueError for what is no name, as `files.inside` has it."""
    return inside(root or home() / "runs", name, "run name")


def versions() -> dict[str, str]:
    """The versions that a result depends on: Python, this package and the libraries under it."""
    out = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            out[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            out[package] = "unknown"
    return out


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Run:
    """A job's folder: `run.json` (the record), `progress.jsonl`, `log.txt`, `lock`, and what the job writes."""

    path: Path

    @classmethod
    def create(cls, kind: str, config: Mapping[str, Any], path: Path | None = None, name: str = "") -> "Run":
        """A new queued run; without `path` under `RETMASK_HOME/runs`, named after kind, `name` and time."""
        if path is None:
            stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
            slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:30]
            path = _new_folder("-".join(part for part in (kind, slug, stamp) if part))
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path.resolve())
        run.update(kind=kind, status="queued", config=dict(config), created=now(), versions=versions())
        return run

    @classmethod
    def claim(
        cls, kind: str, config: Mapping[str, Any], command: list[str], path: Path | None = None, name: str = ""
    ) -> "Run":
        """A new queued run, or in `path` the one with the same settings that began there, to be taken up again.

        ValueError where `path` holds something else. `command` is the command line that does the same.
        """
        if path is not None and path.exists():
            if not path.is_dir() or (any(path.iterdir()) and not (path / "run.json").is_file()):
                raise ValueError(f"{path} is not empty and holds no run: choose another --out")
            if (path / "run.json").is_file():
                run = cls.open(path)
                if run.record.get("kind") != kind or run.record.get("config") != json.loads(json.dumps(config)):
                    raise ValueError(f"{path} holds a run with other settings: choose another --out")
                return run
        run = cls.create(kind, config, path, name)
        run.update(command=command)
        return run

    def pin(self, **facts: Any) -> None:
        """Record what is worked with. ValueError if the run began with something else: its results would be mixed."""
        record = self.record
        for name, value in facts.items():
            if record.get(name, value) != value:
                raise ValueError(
                    f"{self.path} began with {name} {record[name]}, and it is {value} now: choose another --out"
                )
        self.update(**facts)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """An existing run. ValueError where the folder holds none."""
        run = cls(path.resolve())
        if not run.record:
            raise ValueError(f"{path} holds no run: there is no run.json in it that can be read")
        return run

    @classmethod
    def all(cls, kind: str | None = None) -> list["Run"]:
        """The runs under `RETMASK_HOME/runs`, newest first, of one kind or of all."""
        runs = [cls(file.parent) for file in (home() / "runs").glob("*/run.json")]
        runs = [run for run in runs if run.record and kind in (None, run.record.get("kind"))]
        return sorted(runs, key=lambda run: str(run.record.get("created", "")), reverse=True)

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def record(self) -> dict[str, Any]:
        """The content of run.json, empty if it cannot be read."""
        try:
            value = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def update(self, **fields: Any) -> None:
        """Change fields of run.json, atomically, also where several processes do."""
        with FileLock(self.path / ".record.lock"):
            write_json(self.path / "run.json", self.record | fields)

    @property
    def alive(self) -> bool:
        """Whether a worker holds the lock now."""
        try:
            with (self.path / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except BlockingIOError:
            return True
        except OSError:
            return False

    @property
    def status(self) -> Status:
        """The recorded status; «error» where the record says started and no worker is alive."""
        recorded: Status = self.record.get("status", "error")
        if recorded not in ("started", "queued") or self.alive:
            return recorded
        record = self.record  # once more: the worker may have ended between the two looks
        recorded = record.get("status", "error")
        age = time.time() - float(record.get("spawned", 0))
        return "error" if recorded == "started" or (recorded == "queued" and age > 60) else recorded

    @property
    def progress(self) -> list[dict[str, Any]]:
        """The lines of progress.jsonl so far."""
        return list(read_lines(self.path / "progress.jsonl"))

    def report(self, **fields: Any) -> None:
        """Append a line to progress.jsonl, stamped with the time (seconds since 1970)."""
        append_line(self.path / "progress.jsonl", {"time": round(time.time(), 2), **fields})

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of log.txt."""
        try:
            return "\n".join((self.path / "log.txt").read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def spawn(self) -> None:
        """Start the worker in a session of its own: it outlives the page, the server and the terminal."""
        if self.alive:
            raise ValueError(f"{self.id} is running already")
        self.update(status="queued", spawned=time.time(), error=None)
        with (self.path / "log.txt").open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-m", "retmask.cli", "worker", str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold the lock, record the status and how it ended. SIGTERM and Ctrl-C become `Cancelled`.

        ValueError if another worker has the run.
        """
        with (self.path / "lock").open("ab") as lock:
            self._take(lock)
            before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
            ending: dict[str, Any] = {"status": "success"}
            try:
                self.update(status="started", started=now(), pid=os.getpid(), ended=None, error=None)
                yield
            except (Cancelled, KeyboardInterrupt, GeneratorExit):
                ending = {"status": "cancelled"}
                raise
            except BaseException as error:
                ending = {"status": "error", "error": f"{type(error).__name__}: {error}"[:2000]}
                raise
            finally:
                for number in before:  # a second Ctrl-C must not stop the last word from being written
                    signal.signal(number, signal.SIG_IGN)
                self.update(**ending, ended=now())
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _take(self, lock: IO[bytes]) -> None:
        """Hold the lock file, or ValueError after a second: `alive` holds it for a moment when it looks."""
        for _ in range(20):
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
        raise ValueError(f"{self.path} is being worked on by another process: wait for it, or cancel it")

    def cancel(self, patience: float = 8.0) -> None:
        """Ask the worker's process group to stop; after `patience` seconds make it. Nothing if none is alive."""
        until = time.monotonic() + patience
        while self.status == "queued" and not self.alive and time.monotonic() < until:
            time.sleep(0.05)  # its worker is on the way
        pid = self.record.get("pid")
        if not self.alive or not isinstance(pid, int) or not self._is_worker(pid):
            return
        group = os.getpgid(pid)
        own = group == pid  # started by `spawn`: the group is the worker's; else it is somebody's terminal
        self._signal(pid, own, signal.SIGTERM)
        while self.alive and time.monotonic() < until:
            time.sleep(0.05)
        if self.alive:
            self._signal(pid, own, signal.SIGKILL)
            self.update(status="cancelled", ended=now())

    def _is_worker(self, pid: int) -> bool:
        """Whether that process has this run's lock open: a pid alone may mean somebody else by now."""
        try:
            return any(Path(file.path) == self.path.resolve() / "lock" for file in psutil.Process(pid).open_files())
        except psutil.Error:
            return False

    @staticmethod
    def _signal(pid: int, group: bool, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(pid, number) if group else os.kill(pid, number)

    @property
    def command(self) -> str:
        """The command line that does the same as this run."""
        return shlex.join(self.record.get("command", []))


def _new_folder(base: str) -> Path:
    """A folder of that name, or the name and a number, that this call has made: two at a time get two."""
    for number in count(1):
        path = run_path(base if number == 1 else f"{base}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("count() does not end")


def _stop(number: int, frame: object) -> None:
    raise Cancelled
