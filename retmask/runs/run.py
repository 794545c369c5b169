"""One folder per long job: its record, its progress, its log and its outputs. Files are the only channel.

A worker holds `flock` on `RUN/lock` for as long as it lives: the kernel lets go on any death, so «alive» never
depends on a pid that may have been given to somebody else. Before it works it waits until no other run has its device
(`retmask.runs.turns`); until then it is queued.

A process that works for a run and may outlive its worker, such as a trainer, keeps `RUN/lock` open for appending: so it
is found when the run is cancelled, deleted, or taken up again, and ended.

A worker also gives signs of life (the time of `RUN/lock`) and looks for a request to stop (`RUN/cancel`): so it is
known to be alive, and can be stopped, from a machine that shares the folder and sees neither its lock nor its process.

The seam for engines: `spawn` starts a worker, `alive` looks for one, `cancel` and `remove` end it. These, by the four
functions of `retmask.runs.processes`, are all that knows where a worker runs. Everything else, `status`, `progress`
and the log too, reads what the worker writes into the folder, so an engine for a cluster that shares the folder
starts, looks for and ends its jobs in their place.
"""

import errno
import json
import os
import platform
import re
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from retmask.files import (
    append_line,
    expanded,
    home,
    inside,
    mapping,
    number,
    read_lines,
    read_object,
    read_tail,
    settled,
    write_atomic,
    write_json,
)
from retmask.runs import processes as workers
from retmask.runs.faults import sentence
from retmask.runs.turns import card_keys, device_key, locked, no_locks, turn

Status = Literal["queued", "started", "success", "cancelled", "error"]
STATUSES: tuple[Status, ...] = ("queued", "started", "success", "cancelled", "error")
MADE_OF = ("scores", "pairs", "adapter")  # settings that may name a run's folder, or a file in it
_NAMES = ("model", "adapter", "scores", "mask", "prompts", "needles", "haystack", "prose", "accelerate_config")
NO_WORD = "its worker ended without a word: it may have been killed or run out of memory"
ASKED = "cancel"  # the file in a run's folder that asks its worker to stop, on whichever machine that is
AT_ONCE = "now"  # what it holds after a second request
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_LEFT = (".record.lock", f".{ASKED}.", ".run.json.")  # what a crash may leave where a run was about to be made
_PATIENCE = 8.0  # seconds that processes get to stop by themselves
_TRAINING_PATIENCE = 300.0  # the same for a trainer, which finishes its step and saves; more where steps take long
_STARTING = 60.0  # seconds in which a worker that was asked for need not have got a pid
_PACKAGES = (
    "retmask", "torch", "transformers", "transformer-lens", "numpy", "trl", "peft", "accelerate", "datasets",
)  # fmt: skip


class Pace:
    """How long work will still take, from the steps since it began: neither waiting nor loading is counted.

    The first step, which also warms up, counts only for as long as it is the only one.
    """

    def __init__(self) -> None:
        self._steps, self._done, self._spent = 0, 0.0, 0.0
        self.go_on()

    def go_on(self) -> None:
        """Let the clock run from now on: after something that is no step, such as loading another model."""
        self._at = time.monotonic()

    def left(self, amount: float, ahead: float) -> float:
        """Seconds left after a step that has done so much of the work, when so much is ahead, in any unit."""
        seconds = time.monotonic() - self._at
        self.go_on()
        self._steps += 1
        if self._steps == 2:
            self._done = self._spent = 0.0
        self._done, self._spent = self._done + amount, self._spent + seconds
        return self.each * ahead

    @property
    def each(self) -> float:
        """Seconds that a unit of the work takes; 0 before the first step."""
        return self._spent / self._done if self._done else 0.0


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


def whole(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the names of what is there as whole paths (`files.settled`): a record may hold them as typed."""
    from retmask.files import HAYSTACKS

    out = dict(config)
    for name, value in config.items():
        if isinstance(value, dict):
            out[name] = whole(value)
        elif isinstance(value, str) and name in _NAMES:
            out[name] = settled(value, HAYSTACKS if name == "haystack" else (), only_path=name in ("needles", "prose"))
    return out


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
        command: Sequence[str] = (),
    ) -> "Run":
        """A new queued run; without `path` under `RETMASK_HOME/runs`, named after kind, `name` and time.

        `parents` are the runs that it is made from: ids, folders, or files in their folders. `command` is the command
        line that does the same.
        """
        if path is None:
            stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
            slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:30]
            path = _new_folder("-".join(part for part in (kind, slug, stamp) if part))
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path.resolve())
        known = list(dict.fromkeys(name for parent in parents for name in parent_ids(parent) or [str(parent)]))
        run.update(
            kind=kind, status="queued", config=dict(config), parents=known, created=now(), versions=versions(),
            **({"command": list(command)} if command else {}),
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

        ValueError as `unfinished`. `command` is the command line that does the same; `parents` as for `create`.
        """
        path = expanded(path) if path else None
        there = cls.unfinished(kind, config, path, before)
        return there or cls.create(kind, config, path, name, parents, command)

    @classmethod
    def unfinished(
        cls, kind: str, config: Mapping[str, Any], path: Path | None, before: Mapping[str, Any] | None = None
    ) -> "Run | None":
        """The run with the same settings that began in `path`; None where a new one can begin there.

        ValueError where `path` holds something else. `before` says what runs did that began before a setting was there.
        """
        path = expanded(path) if path else None
        if path is None or not os.path.lexists(path):  # Path.exists raises for a name that is too long
            return None
        if not path.is_dir() or (not (path / "run.json").is_file() and any(map(_is_content, path.iterdir()))):
            raise ValueError(f"{path} is not empty and holds no run: choose another --out")
        if not (path / "run.json").is_file():
            return None
        run = cls.open(path)
        known, wanted = whole({**(before or {}), **run.config}), whole(json.loads(json.dumps(config)))
        if run.record.get("kind") != kind or known != wanted:
            raise ValueError(f"{path} holds a run with other settings: choose another --out")
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
        return read_object(self.path / "run.json")

    @property
    def config(self) -> dict[str, Any]:
        """The settings in run.json, empty if there are none."""
        return mapping(self.record.get("config"))

    def update(self, **fields: Any) -> None:
        """Change fields of run.json, atomically, also where several processes do."""
        with self._record_lock():
            self._write(fields)

    @contextmanager
    def _record_lock(self) -> Iterator[None]:
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

    def _write(self, fields: dict[str, Any]) -> None:
        """Change fields of run.json; the caller holds `_record_lock`."""
        write_json(self.path / "run.json", self.record | fields)

    @property
    def alive(self) -> bool:
        """Whether a worker has the run now: it holds the lock, or gives signs of life from where the lock is not seen.

        Only on the worker's own machine, and where the file system has locks, does a free lock say that it is dead.
        """
        held = workers.held(self.path)
        if held is None or (not held and self.elsewhere):
            return self._recorded in ("queued", "started") and workers.beats(self.path)
        return held

    @property
    def elsewhere(self) -> str:
        """The host where its last worker was started, if its processes cannot be seen from here; else empty."""
        place = str(self.record.get("place") or "")
        return place.partition("/")[0] or "another place" if place and place != workers.here() else ""

    @property
    def asked(self) -> bool:
        """Whether it has been asked to stop and has not stopped yet."""
        return (self.path / ASKED).exists() and self.status in ("queued", "started")

    @property
    def patience(self) -> float:
        """Seconds that its processes get to stop by themselves, when asked; a trainer finishes its step and saves."""
        if self.record.get("kind") != "train":
            return _PATIENCE
        lines = self.latest  # of the last worker alone: between two of them may lie a night
        begin = max((i for i, line in enumerate(lines) if line.get("stage") == "loading"), default=0)
        times = [number(line.get("time")) for line in lines[begin:] if line.get("stage") in ("starting", "steps")]
        return max(_TRAINING_PATIENCE, 4 * max((later - one for one, later in pairwise(times)), default=0.0))

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
        if record.get("pid") is None or self.elsewhere:  # `spawn` is just starting it, or it cannot be seen
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

    @property
    def latest(self) -> list[dict[str, Any]]:
        """The last lines of progress.jsonl, some hundreds: what is looked at often is not read whole."""
        return read_tail(self.path / "progress.jsonl")

    @property
    def progress_size(self) -> int:
        """The length of progress.jsonl so far, in bytes: it changes with every line."""
        return _length(self.path / "progress.jsonl")

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
        return _length(self.path / "log.txt")

    def spawn(self, servers: Sequence[str] = ()) -> None:
        """Start the worker in a session of its own: it outlives the page, the server and the terminal.

        `servers` are addresses that a person has named or confirmed just now: it contacts no other. ValueError if a
        worker is there already.
        """
        with self._record_lock():  # of two who start it at once the second finds the first one's worker
            if self.alive or (self._recorded == "queued" and self._coming):
                raise ValueError(f"{self.id} is running already")
            (self.path / ASKED).unlink(missing_ok=True)
            begin = {"status": "queued", "spawned": time.time(), "error": None, "log_start": self.log_size}
            self._write(begin | {"place": workers.here(), "pid": None})
            self._write({"pid": workers.start(self.path, servers)})

    @contextmanager
    def working(self) -> Iterator[tuple[int, ...]]:
        """Hold the lock, wait for the device, record how it goes and ends. SIGTERM and Ctrl-C become `Cancelled`.

        So does a request in the folder (`ASKED`). While it stops, SIGTERM says nothing new; Ctrl-C does.

        Gives file descriptors for a child process to inherit (`pass_fds`): as long as it has them it counts as this
        run's worker, is ended with it, and keeps its turn. ValueError if another worker has the run; what a dead one
        has left behind is ended.
        """
        with self._taken() as held:
            self._queue()
            over = threading.Event()
            attending = threading.Thread(target=self._attend, args=(over,), daemon=True)
            stop = _stopper(self.path)
            before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
            ending: dict[str, Any] = {"status": "success"}
            try:
                attending.start()
                with ExitStack() as turns:
                    devices = [turns.enter_context(turn(device, self.reference, self._wait)) for device in self.devices]
                    self.update(status="started", started=now())
                    yield *held, *devices
            except (Cancelled, KeyboardInterrupt, GeneratorExit):
                ending = {"status": "cancelled"}
                raise
            except BaseException as error:
                ending = {"status": "error", "error": sentence(error)}
                raise
            finally:
                for number in before:  # a second Ctrl-C must not stop the last word from being written
                    signal.signal(number, signal.SIG_IGN)
                over.set()
                attending.join()
                self.update(**ending, ended=now())
                (self.path / ASKED).unlink(missing_ok=True)
                for number, handler in before.items():
                    signal.signal(number, handler)

    def fail(self, error: BaseException) -> None:
        """Record why a worker could not do the run, where it has not done so itself and no other has the run."""
        if not self.alive and self._recorded in ("queued", "started"):
            self.update(status="error", error=sentence(error), ended=now())

    def _queue(self) -> None:
        """Record that this process has the run. What the log holds already is another's, unless `spawn` began it."""
        log: dict[str, Any] = {}
        record, place = self.record, workers.here()
        if (record.get("place"), record.get("pid")) != (place, os.getpid()):  # in containers pids are alike
            log = {"log_start": self.log_size}
            (self.path / ASKED).unlink(missing_ok=True)  # the last worker was asked
        workers.beat(self.path)
        self.update(status="queued", pid=os.getpid(), place=place, started=None, ended=None, error=None, **log)

    def _attend(self, over: threading.Event) -> None:
        """While this process works for the run: give signs of life, and obey a request to stop in its folder."""
        beaten, told = 0.0, False
        while not over.wait(0.5):
            if time.monotonic() - beaten > workers.BEAT:
                workers.beat(self.path)
                beaten = time.monotonic()
            asked = _asked(self.path)
            if asked == AT_ONCE and told:
                self._end_now()
            if asked is not None and not told:
                told = True
                os.kill(os.getpid(), signal.SIGTERM)  # wakes it from a wait too

    def _end_now(self) -> None:
        """End whoever works for the run, this process last, and say so: it was asked twice."""
        workers.end(self.path, 0.0)
        self.update(status="cancelled", ended=now())
        (self.path / ASKED).unlink(missing_ok=True)
        os._exit(143)

    @property
    def devices(self) -> list[str]:
        """The devices that the run works on, in one order for all. An export loads on the CPU; servers need none."""
        kind, config = self.record.get("kind"), self.config
        if config.get("server"):
            return ["servers"]
        key = device_key("cpu" if kind == "ablate" else str(config.get("device") or ""))
        if kind == "train" and key.startswith("cuda"):
            return sorted(set(card_keys(int(number(config.get("processes")))))) or [key]
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

    def cancel(self, patience: float | None = None) -> None:
        """Ask the run's processes to stop; make them after `patience` seconds, or at once where they were asked before.

        Nothing if there are none. Also those that a dead worker has left behind, as long as they have the lock file
        open. Where they cannot be seen from here, a request is left in the folder, which the worker obeys: the run may
        then go on for as long as `patience` when this returns.
        """
        twice, patience = self.asked, self.patience if patience is None else patience
        if self._going:
            write_atomic(self.path / ASKED, AT_ONCE if twice else "")
        if self._going and self.elsewhere:
            self._wait_for_the_end(min(patience, _PATIENCE))
            return
        until = time.monotonic() + (1.0 if twice else patience)
        while self._going and not self.alive and not self._on_its_way and time.monotonic() < until:
            time.sleep(0.05)  # its worker has been asked for, and is not there yet
        going = self._going
        while True:
            workers.end(self.path, max(1.0, until - time.monotonic()), self.record.get("pid"))
            if not self.alive or time.monotonic() > until:  # it may have come just now
                break
        if going and not self.alive:
            if self._recorded in ("queued", "started"):
                self.update(status="cancelled", ended=now())
            (self.path / ASKED).unlink(missing_ok=True)

    def _wait_for_the_end(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._going and time.monotonic() < until:
            time.sleep(0.1)

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
    settings = mapping(record.get("config"))
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
    for attempt in count(1):
        path = run_path(base if attempt == 1 else f"{base}-{attempt}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("count() does not end")


def _stopper(path: Path) -> Callable[[int, object], None]:
    """What answers signals: the first with `Cancelled`; while that takes its course only Ctrl-C once more."""
    stopping = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        if stopping and number == signal.SIGTERM:
            return
        stopping = True
        with suppress(OSError):  # whoever looks at the run sees that it is about to stop
            (path / ASKED).touch()
        raise Cancelled

    return stop


def _asked(path: Path) -> str | None:
    """What a request to stop holds; None where there is none."""
    try:
        return (path / ASKED).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _is_content(path: Path) -> bool:
    """Whether a file is more than what a crash leaves where a run was about to be made."""
    return not path.name.startswith(_LEFT)


def _length(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
