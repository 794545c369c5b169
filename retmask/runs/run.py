"""One folder per long job: its record, its progress, its log and its outputs. Files are the only channel.

A worker holds `flock` on `RUN/lock` for as long as it lives: the kernel lets go on any death, so "alive" never
depends on a pid that may have been given to somebody else. Before it works it waits until no other run has its device
(`retmask.runs.turns`); until then it is queued. `worker` is that process, `engine` starts and ends it.
"""

import errno
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from retmask import files
from retmask.runs import processes
from retmask.runs.record import now, versions
from retmask.runs.turns import no_locks

Status = Literal["queued", "started", "success", "cancelled", "error"]
ACTIVE: tuple[Status, ...] = ("queued", "started")  # it goes on, or waits to
STATUSES: tuple[Status, ...] = ("queued", "started", "success", "cancelled", "error")
MADE_OF = ("scores", "pairs", "adapter")  # settings that may name a run's folder, or a file in it
NO_WORD = "its worker ended without a word: it may have been killed or run out of memory"
PROGRESS = "progress.jsonl"
ASKED = "cancel"  # the file in a run's folder that asks its worker to stop, on whichever machine that is
AT_ONCE = "now"  # what it holds after a second request
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_STARTING = 60.0  # seconds in which a worker that was asked for need not have got a pid


def run_path(name: str, root: Path | None = None) -> Path:
    """The folder of the run of that name. ValueError for what is no name, as `files.inside` has it."""
    return files.inside(root or files.home() / "runs", name, "run name")


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
        command: Sequence[str] = (),
    ) -> "Run":
        """A new queued run; without `path` under `RETMASK_HOME/runs`, named after kind, `name` and time.

        `parents` are the runs that it is made from: ids, folders, or files in their folders. `command` is the command
        line that does the same.
        """
        if path is None:
            stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
            parts = (kind, files.stem(name.replace(".", "-"), "", 30), stamp)
            path = _new_folder("-".join(filter(None, parts)))
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path.resolve())
        known = list(dict.fromkeys(name for parent in parents for name in parent_ids(parent) or [str(parent)]))
        facts = {"kind": kind, "status": "queued", "config": dict(config), "parents": known, "created": now()}
        run.update(**facts, versions=versions(), **({"command": list(command)} if command else {}))
        return run

    def pin(self, **facts: Any) -> None:
        """Record what is worked with. ValueError if the run began with something else: its results would be mixed.

        None in the record is what was not known then.
        """
        record = self.record
        for name, value in facts.items():
            if record.get(name) not in (value, None):
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
        folder = files.expanded(name)
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
        near = files.meant(name, cls.ids())
        raise ValueError(f"there is no run {name}: `retmask runs list` shows those that there are{near}")

    @classmethod
    def all(cls, kind: str | None = None) -> list["Run"]:
        """The runs under `RETMASK_HOME/runs`, newest first, of one kind or of all."""
        return [run for run, record in _listed() if kind in (None, record.get("kind"))]

    @classmethod
    def ids(cls, kind: str | None = None) -> list[str]:
        """The ids of the same, such as for a name that is mistyped."""
        return [run.id for run in cls.all(kind)]

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def reference(self) -> str:
        """What other runs call it: its id, or the path of a folder that lies elsewhere."""
        path = self.path.resolve()
        return path.name if path.parent == files.home() / "runs" else str(path)

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
        return files.read_object(self.path / "run.json")

    @property
    def config(self) -> dict[str, Any]:
        """The settings in run.json, empty if there are none."""
        return files.mapping(self.record.get("config"))

    def update(self, **fields: Any) -> None:
        """Change fields of run.json, atomically, also where several processes do."""
        with self.record_lock():
            self.write(fields)

    @contextmanager
    def record_lock(self) -> Iterator[None]:
        lock = FileLock(self.path / ".record.lock")
        try:
            lock.acquire()
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise no_locks(error) from error
            raise
        try:
            yield
        finally:
            lock.release()

    def write(self, fields: dict[str, Any]) -> None:
        """Change fields of run.json; the caller holds `_record_lock`."""
        files.write_json(self.path / "run.json", self.record | fields)

    @property
    def alive(self) -> bool:
        """Whether a worker has the run now: it holds the lock, or gives signs of life from where the lock is not seen.

        Only on the worker's own machine, and where the file system has locks, does a free lock say that it is dead.
        """
        is_held = processes.held(self.path)
        if is_held is None or (not is_held and self.elsewhere):
            return self.recorded in ACTIVE and processes.beats(self.path)
        return is_held

    @property
    def elsewhere(self) -> str:
        """The host where its last worker was started, if its processes cannot be seen from here; else empty."""
        place = str(self.record.get("place") or "")
        return place.partition("/")[0] or "another place" if place and place != processes.here() else ""

    @property
    def asked(self) -> bool:
        """Whether it has been asked to stop and has not stopped yet."""
        return (self.path / ASKED).exists() and self.is_active

    @property
    def status(self) -> Status:
        """The recorded status; "error" where the record says queued or started and no worker is alive or on its way."""
        recorded = self.recorded
        if recorded not in ACTIVE or self.alive or (recorded == "queued" and self.is_coming):
            return recorded
        recorded = self.recorded  # once more: the worker may have ended between the two looks
        return "error" if recorded in ACTIVE else recorded

    @property
    def is_active(self) -> bool:
        """Whether it goes on, or waits to."""
        return self.status in ACTIVE

    @property
    def recorded(self) -> Status:
        recorded = self.record.get("status")
        return next((status for status in STATUSES if status == recorded), "error")

    @property
    def is_coming(self) -> bool:
        """Whether a worker has been asked for that need not have come to take the lock yet."""
        record = self.record
        if record.get("pid") is None or self.elsewhere:  # `spawn` is just starting it, or it cannot be seen
            return time.time() - files.number(record.get("spawned")) < _STARTING
        return processes.starting(record["pid"], self.path)

    @property
    def last_words(self) -> str:
        """Why a run failed: the error it recorded, else the last lines of its log, else that it said nothing."""
        recorded = self.record.get("error")
        return str(recorded) if recorded else self.log_tail(5, of_last=True).strip() or NO_WORD

    @property
    def progress(self) -> list[dict[str, Any]]:
        """The lines of progress.jsonl so far."""
        return list(files.read_lines(self.path / PROGRESS))

    @property
    def latest(self) -> list[dict[str, Any]]:
        """The last lines of progress.jsonl, some hundreds: what is looked at often is not read whole."""
        return files.read_tail(self.path / PROGRESS)

    @property
    def progress_size(self) -> int:
        """The length of progress.jsonl so far, in bytes: it changes with every line."""
        return length(self.path / PROGRESS)

    def report(self, **fields: Any) -> None:
        """Append a line to progress.jsonl, stamped with the time (seconds since 1970)."""
        files.append_line(self.path / PROGRESS, {"time": round(time.time(), 2), **fields})

    def log_tail(self, lines: int = 20, of_last: bool = False) -> str:
        """The last lines of log.txt; with `of_last` only of what the last worker that was started has written."""
        try:
            log = (self.path / "log.txt").read_bytes()
        except OSError:
            return ""
        begin = max(0, int(files.number(self.record.get("log_start")))) if of_last else 0
        return "\n".join(log[begin:].decode(errors="replace").splitlines()[-lines:])

    @property
    def log_size(self) -> int:
        """The length of log.txt so far, in bytes."""
        return length(self.path / "log.txt")

    @property
    def command(self) -> str:
        """The command line that does the same as this run, in its folder; empty where the record has none."""
        parts = self.record.get("command")
        if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
            return ""
        out = [] if "--out" in parts or self.reference == self.id else ["--out", self.reference]
        return shlex.join([*parts, *out])


def _listed() -> list[tuple[Run, dict[str, Any]]]:
    """The runs under `RETMASK_HOME/runs` with their records, each read once, newest first."""
    found = (files.home() / "runs").glob("*/run.json")
    runs = [Run(file.parent) for file in found if not file.parent.name.startswith(".")]
    known = [(run, record) for run in runs if (record := run.record)]
    return sorted(known, key=lambda one: (str(one[1].get("created", "")), one[0].id), reverse=True)


def _parents(record: Mapping[str, Any]) -> list[str]:
    """The runs that the one of that record is made from, each once."""
    recorded = record.get("parents")
    if isinstance(recorded, list) and recorded:
        return list(dict.fromkeys(map(str, recorded)))
    settings = files.mapping(record.get("config"))
    return parent_ids(*(settings[name] for name in MADE_OF if isinstance(settings.get(name), str)))


def parent_ids(*names: str | Path) -> list[str]:
    """The runs among these: ids, folders or files in folders of runs, each as its id or path, each once, in order."""
    return list(dict.fromkeys(run.reference for name in names for run in _run_of(name)))


def _run_of(name: str | Path) -> list[Run]:
    """The run that a name or path means, or those that it lies in; none if it is none."""
    if not str(name).strip():
        return []
    with suppress(ValueError):
        path = run_path(str(name))
        if (path / "run.json").is_file():
            return [Run(path)]
    with suppress(ValueError):
        path = files.expanded(name).resolve()
        if os.path.exists(path):  # Path.exists raises for a name that is too long to be one
            return [Run(folder) for folder in (path, *path.parents[:2]) if os.path.isfile(folder / "run.json")]
    return []


def _new_folder(base: str) -> Path:
    """A folder of that name, or the name and a number, that this call has made: two at a time get two."""
    for attempt in count(1):
        path = run_path(base if attempt == 1 else f"{base}-{attempt}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("count() does not end")


def length(file: Path) -> int:
    """The size of a file in bytes; 0 where it cannot be told, as of one that was deleted just now."""
    try:
        return file.stat().st_size
    except OSError:
        return 0
