"""One folder per long job: its record, its progress, its log and its outputs. Files are the only channel.

A worker holds `flock` on `RUN/lock` for as long as it lives: the kernel lets go on any death, so «alive» never
depends on a pid that may have been given to somebody else. Before it works it waits until no other run has its device
(`retmask.turns`); until then it is queued.

A process that works for a run and may outlive its worker, such as a trainer, keeps `RUN/lock` open for appending: so it
is found when the run is cancelled, deleted, or taken up again, and ended.

The seam for engines: `spawn` starts a worker, `alive` looks for one, `cancel` and `remove` end it. These, by the four
functions of `retmask.workers`, are all that knows where a worker runs. Everything else, `status`, `progress` and the
log too, reads what the worker writes into the folder, so an engine for a cluster that shares the folder starts, looks
for and ends its jobs in their place.
"""

import json
import os
import platform
import re
import shlex
import shutil
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from retmask import workers
from retmask.files import append_line, expanded, home, inside, read_lines, write_json
from retmask.turns import card_keys, device_key, locked, turn

Status = Literal["queued", "started", "success", "cancelled", "error"]
STATUSES: tuple[Status, ...] = ("queued", "started", "success", "cancelled", "error")
MADE_OF = ("scores", "pairs", "adapter")  # settings that may name a run's folder, or a file in it
NO_WORD = "its worker ended without a word: it may have been killed or run out of memory"
_STARTING = 60.0  # seconds in which a worker that was asked for need not have got a pid
_PACKAGES = (
    "retmask", "torch", "transformers", "transformer-lens", "numpy", "trl", "peft", "accelerate", "datasets",
)  # fmt: skip


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


def number(value: object, default: float = 0.0) -> float:
    """A number that a record gives, `default` where it is none: the folder may be damaged, or come from anybody."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return default
    return float(value)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Run:
    """A job's folder: `run.json` (the record), `progress.jsonl`, `log.txt`, `lock`, and what the job writes."""

    path: Path

    @classmethod
    def create(
        cls,
        kind: str,
        config: Mapping[str, Any],
        path: Path | None = None,
        name: str = "",
        parents: Sequence[str | Path] = (),
    ) -> "Run":
        """A new queued run; without `path` under `RETMASK_HOME/runs`, named after kind, `name` and time.

        `parents` are the runs that it is made from: ids, folders, or files in their folders.
        """
        if path is None:
            stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
            slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:30]
            path = _new_folder("-".join(part for part in (kind, slug, stamp) if part))
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path.resolve())
        known = list(dict.fromkeys(name for parent in parents for name in parent_ids(parent) or [str(parent)]))
        run.update(
            kind=kind, status="queued", config=dict(config), parents=known, created=now(), versions=versions()
        )  # fmt: skip
        return run

    @classmethod
    def claim(
        cls,
        kind: str,
        config: Mapping[str, Any],
        command: list[str],
        path: Path | None = None,
        name: str = "",
        parents: Sequence[str | Path] = (),
        before: Mapping[str, Any] | None = None,
    ) -> "Run":
        """A new queued run, or in `path` the one with the same settings that began there, to be taken up again.

        ValueError where `path` holds something else. `command` is the command line that does the same; `parents` as
        for `create`; `before` says what runs did that began before a setting was there.
        """
        if path is not None and path.exists():
            if not path.is_dir() or (any(path.iterdir()) and not (path / "run.json").is_file()):
                raise ValueError(f"{path} is not empty and holds no run: choose another --out")
            if (path / "run.json").is_file():
                run = cls.open(path)
                if run.record.get("kind") != kind or {**(before or {}), **run.config} != json.loads(json.dumps(config)):
                    raise ValueError(f"{path} holds a run with other settings: choose another --out")
                return run
        run = cls.create(kind, config, path, name, parents)
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
    def find(cls, name: str) -> "Run":
        """The run of that id, the only one whose id begins so, or the one in that folder. ValueError for none."""
        folder = expanded(name)
        is_folder = os.path.isdir(folder)  # Path.is_dir raises for a name that is too long, or not to be read
        if "/" in name and is_folder:
            return cls.open(folder)
        run_path(name)
        runs = [run for run in cls.all() if run.id.startswith(name)]
        runs = [run for run in runs if run.id == name] or runs
        if len(runs) > 1:
            raise ValueError(f"{len(runs)} runs begin with {name}, such as {runs[0].id}: write more of the name")
        if runs or is_folder:
            return runs[0] if runs else cls.open(folder)
        raise ValueError(f"there is no run {name}: `retmask runs list` shows those that there are")

    @classmethod
    def all(cls, kind: str | None = None) -> list["Run"]:
        """The runs under `RETMASK_HOME/runs`, newest first, of one kind or of all."""
        return [run for run, record in _listed() if kind in (None, record.get("kind"))]

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def reference(self) -> str:
        """What other runs call it: its id, or the path of a folder that lies elsewhere."""
        path = self.path.resolve()
        return path.name if path.parent == home() / "runs" else str(path)

    @property
    def parents(self) -> list[str]:
        """The runs that it is made from, ids or paths: those recorded, else those that its settings name."""
        return _parents(self.record)

    @property
    def children(self) -> list["Run"]:
        """The runs under `RETMASK_HOME/runs` that were made from it, newest first."""
        name = self.reference
        return [run for run, record in _listed() if name in _parents(record)]

    @property
    def record(self) -> dict[str, Any]:
        """The content of run.json, empty if it cannot be read."""
        try:
            value = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def config(self) -> dict[str, Any]:
        """The settings in run.json, empty if there are none."""
        return _config(self.record)

    def update(self, **fields: Any) -> None:
        """Change fields of run.json, atomically, also where several processes do."""
        with FileLock(self.path / ".record.lock"):
            write_json(self.path / "run.json", self.record | fields)

    @property
    def alive(self) -> bool:
        """Whether a worker holds the lock now."""
        return workers.held(self.path)

    @property
    def status(self) -> Status:
        """The recorded status; «error» where the record says queued or started and no worker is alive or on its way."""
        recorded = self._recorded
        if recorded not in ("started", "queued") or self.alive or (recorded == "queued" and self._coming):
            return recorded
        recorded = self._recorded  # once more: the worker may have ended between the two looks
        return "error" if recorded in ("started", "queued") else recorded

    @property
    def _recorded(self) -> Status:
        recorded = self.record.get("status")
        return next((status for status in STATUSES if status == recorded), "error")

    @property
    def _coming(self) -> bool:
        """Whether a worker has been asked for that need not have come to take the lock yet."""
        record = self.record
        if record.get("pid") is None:  # `spawn` is just starting it
            return time.time() - number(record.get("spawned")) < _STARTING
        return workers.starting(record["pid"], self.path)

    @property
    def last_words(self) -> str:
        """Why a run failed: the error it recorded, else the last lines of its log, else that it said nothing."""
        recorded = self.record.get("error")
        return str(recorded) if recorded else self.log_tail(5, of_last=True).strip() or NO_WORD

    @property
    def progress(self) -> list[dict[str, Any]]:
        """The lines of progress.jsonl so far."""
        return list(read_lines(self.path / "progress.jsonl"))

    def report(self, **fields: Any) -> None:
        """Append a line to progress.jsonl, stamped with the time (seconds since 1970)."""
        append_line(self.path / "progress.jsonl", {"time": round(time.time(), 2), **fields})

    def log_tail(self, lines: int = 20, of_last: bool = False) -> str:
        """The last lines of log.txt; with `of_last` only of what the last worker that was started has written."""
        try:
            log = (self.path / "log.txt").read_bytes()
        except OSError:
            return ""
        begin = max(0, int(number(self.record.get("log_start")))) if of_last else 0
        return "\n".join(log[begin:].decode(errors="replace").splitlines()[-lines:])

    @property
    def log_size(self) -> int:
        """The length of log.txt so far, in bytes."""
        log = self.path / "log.txt"
        return log.stat().st_size if log.exists() else 0

    def spawn(self) -> None:
        """Start the worker in a session of its own: it outlives the page, the server and the terminal.

        ValueError if one is there already.
        """
        if self.alive or (self._recorded == "queued" and self._coming):
            raise ValueError(f"{self.id} is running already")
        self.update(status="queued", spawned=time.time(), error=None, pid=None, log_start=self.log_size)
        self.update(pid=workers.start(self.path))

    @contextmanager
    def working(self) -> Iterator[tuple[int, ...]]:
        """Hold the lock, wait for the device, record how it goes and ends. SIGTERM and Ctrl-C become `Cancelled`.

        Gives file descriptors for a child process to inherit (`pass_fds`): as long as it has them it counts as this
        run's worker, is ended with it, and keeps its turn. ValueError if another worker has the run; what a dead one
        has left behind is ended.
        """
        with self._taken() as held:
            before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
            ending: dict[str, Any] = {"status": "success"}
            try:
                self._queue()
                with ExitStack() as turns:
                    devices = [
                        turns.enter_context(turn(device, self.reference, self._wait)) for device in self._devices
                    ]
                    self.update(status="started", started=now())
                    yield *held, *devices
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

    def _queue(self) -> None:
        """Record that this process has the run. What the log holds already is another's, unless `spawn` began it."""
        log = {} if self.record.get("pid") == os.getpid() else {"log_start": self.log_size}
        self.update(status="queued", pid=os.getpid(), started=None, ended=None, error=None, **log)

    @property
    def _devices(self) -> list[str]:
        """The devices that the run works on, in one order for all. An export loads on the CPU; servers need none."""
        record = self.record
        config = record.get("config", {})
        if config.get("server"):
            return ["servers"]
        key = device_key("cpu" if record.get("kind") == "ablate" else str(config.get("device") or ""))
        if record.get("kind") == "train" and key.startswith("cuda"):
            return sorted(set(card_keys(int(config.get("processes") or 0)))) or [key]
        return [key]

    def _wait(self, holder: str) -> None:
        self.report(stage="waiting", behind=holder)

    @contextmanager
    def _taken(self) -> Iterator[tuple[int, int]]:
        """Hold the lock file, and keep it open for appending; no other process works for the run then.

        ValueError after a second: `alive` holds it for a moment when it looks.
        """
        path = self.path / workers.LOCK
        path.touch()
        with path.open("rb+") as lock:
            until = time.monotonic() + 1
            while not locked(lock.fileno()):
                if time.monotonic() > until:
                    raise ValueError(f"{self.path} is being worked on by another process: wait for it, or cancel it")
                time.sleep(0.05)
            workers.end(self.path, patience=5.0)
            with path.open("ab") as member:
                yield lock.fileno(), member.fileno()

    def cancel(self, patience: float = 8.0) -> None:
        """Ask the run's processes to stop; after `patience` seconds make them. Nothing if there are none.

        Also those that a dead worker has left behind, as long as they have the lock file open.
        """
        until = time.monotonic() + patience
        while self._going and not self.alive and not self._on_its_way and time.monotonic() < until:
            time.sleep(0.05)  # its worker has been asked for, and is not there yet
        going = self._going
        while True:
            workers.end(self.path, max(1.0, until - time.monotonic()), self.record.get("pid"))
            if not self.alive or time.monotonic() > until:  # it may have come just now
                break
        if going and self._recorded in ("queued", "started"):
            self.update(status="cancelled", ended=now())

    @property
    def _going(self) -> bool:
        return self.status in ("queued", "started")

    @property
    def _on_its_way(self) -> bool:
        return workers.starting(self.record.get("pid"), self.path)

    def remove(self) -> None:
        """Delete the folder with all that is in it. A run that is half deleted is listed nowhere.

        ValueError for a run that goes on, and for a folder that does not lie under `RETMASK_HOME/runs`.
        """
        path, runs = self.path.absolute(), home() / "runs"
        if path.resolve().parent != runs or path.is_symlink() or not (path / "run.json").is_file():
            raise ValueError(f"{self.path} is no run under {runs}: only these are deleted here")
        if self._going:
            raise ValueError(f"{self.id} is not over, it is {self.status}: cancel it first")
        with self._taken():
            gone = runs / f".{self.id}.{time.time_ns()}.gone"
            os.replace(path, gone)
        for left in runs.glob(".*.gone"):  # also by a removal that was killed
            shutil.rmtree(left, ignore_errors=True)
        if gone.exists():
            raise OSError(f"{gone} could not be deleted whole: delete what is left by hand")

    @property
    def command(self) -> str:
        """The command line that does the same as this run; empty where the record has none."""
        parts = self.record.get("command")
        known = isinstance(parts, list) and all(isinstance(part, str) for part in parts)
        return shlex.join(parts) if known and parts else ""


def _config(record: Mapping[str, Any]) -> dict[str, Any]:
    config = record.get("config")
    return config if isinstance(config, dict) else {}


def _listed() -> list[tuple[Run, dict[str, Any]]]:
    """The runs under `RETMASK_HOME/runs` with their records, each read once, newest first."""
    files = (home() / "runs").glob("*/run.json")
    runs = [Run(file.parent) for file in files if not file.parent.name.startswith(".")]
    known = [(run, record) for run in runs if (record := run.record)]
    return sorted(known, key=lambda one: (str(one[1].get("created", "")), one[0].id), reverse=True)


def _parents(record: Mapping[str, Any]) -> list[str]:
    """The runs that the one of that record is made from, each once."""
    recorded = record.get("parents")
    if isinstance(recorded, list) and recorded:
        return list(dict.fromkeys(map(str, recorded)))
    settings = _config(record)
    return parent_ids(*(settings[name] for name in MADE_OF if isinstance(settings.get(name), str)))


def parent_ids(*names: str | Path) -> list[str]:
    """The runs among these: ids, folders or files in folders of runs, each as its id or path, each once, in order."""
    return list(dict.fromkeys(run.reference for name in names for run in _run_of(name)))


def _run_of(name: str | Path) -> Iterable[Run]:
    """The run that a name or path means or lies in; none if it is none."""
    if not str(name).strip():
        return
    try:
        path = run_path(str(name))
    except ValueError:
        path = Path()
    if (path / "run.json").is_file() and path != Path():
        yield Run(path)
        return
    try:
        path = expanded(name).resolve()
    except ValueError:
        return
    if os.path.exists(path):  # Path.exists raises for a name that is too long to be one
        yield from (Run(folder) for folder in (path, *path.parents[:2]) if os.path.isfile(folder / "run.json"))


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
