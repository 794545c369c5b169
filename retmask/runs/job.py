"""A job: its settings, what is looked at before it begins, and the generator that works. All else about jobs is here.

A job claims a folder, or takes up again the run there with the same settings; it is skipped where it is finished;
while it works it holds the run's lock and has its device; every step is reported.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from retmask.files import expanded
from retmask.runs.run import Run
from retmask.runs.settings import check, from_record, record, same
from retmask.runs.worker import working

_LEFT = (".record.lock", ".cancel.", ".run.json.")  # what a crash may leave where a run was about to be made


class Settings(Protocol):
    """What a job's settings say beside their fields."""

    @property
    def model(self) -> str:
        """The model that the job works with."""

    @property
    def command(self) -> list[str]:
        """The command line that does the same."""


S = TypeVar("S", bound=Settings)


class Progress(NamedTuple):
    """How far a job is: steps done of all, seconds left (None: not known), and what else a line of progress says.

    A `stage` among these names what is counted, where that is not the job's own unit.
    """

    done: int
    total: int
    eta: float | None
    facts: Mapping[str, Any] = {}


class Start(NamedTuple, Generic[S]):
    """What a run may begin with: whole settings, the runs that it is made from, and what is put into its folder."""

    settings: S
    parents: Sequence[str | Path] = ()
    prepare: Callable[[Run], None] | None = None


class Work(NamedTuple, Generic[S]):
    """What a job works with: its run, its settings, and what a person allows it just now.

    A run's folder may come from anybody: it never says whether a model's own code may run, nor which servers may be
    sent to. `held` are file descriptors for a child process to inherit: it then counts as the run's worker.
    """

    run: Run
    settings: S
    trust_remote_code: bool
    servers: frozenset[str]
    held: tuple[int, ...] = ()

    @property
    def loading(self) -> dict[str, Any]:
        """How the model is loaded, as `retmask.load` takes it: None for what is left to it."""
        names = ("revision", "adapter", "device", "dtype")
        how = {name: getattr(self.settings, name) or None for name in names if hasattr(self.settings, name)}
        return how | {"trust_remote_code": self.trust_remote_code}


@dataclass(frozen=True)
class Job(Generic[S]):
    """A kind of run. `check(settings, out, trust_remote_code)` raises ValueError for what cannot be done.

    `unit` is what its steps count, as progress has it; a job without one writes its progress itself. `ready(work)`
    raises ValueError where what a run needs is gone, before it stands in line: its record stays as it was.
    """

    kind: str
    settings: type[S]
    check: Callable[[S, Path | None, bool], Start[S]]
    steps: Callable[[Work[S]], Iterator[Progress]]
    unit: str = ""
    ready: Callable[[Work[S]], object] | None = None

    def new(self, settings: S, out: Path | None = None, trust_remote_code: bool = False) -> Run:
        """A queued run with these settings; in `out` an unfinished one with the same is taken up again.

        ValueError where `out` holds something else, or what the settings name is not there or does not fit.
        """
        check(settings)
        return self.claim(self.check(settings, out, trust_remote_code), out)

    def claim(self, start: Start[S], out: Path | None) -> Run:
        """The same, of what has been looked at already."""
        run = self.unfinished(start.settings, out)
        if run is None:
            name, config = Path(start.settings.model).name, record(start.settings)
            path = expanded(out) if out else None
            run = Run.create(self.kind, config, path, name, start.parents, start.settings.command)
        if start.prepare:
            start.prepare(run)
        return run

    def unfinished(self, settings: S, out: Path | None) -> Run | None:
        """The run with the same settings that began in `out`; None where a new one can begin there.

        ValueError where it holds something else.
        """
        path = expanded(out) if out else None
        if path is None or not os.path.lexists(path):  # Path.exists raises for a name that is too long
            return None
        if not (path / "run.json").is_file():
            if not path.is_dir() or not all(file.name.startswith(_LEFT) for file in path.iterdir()):
                raise ValueError(f"{path} is not empty and holds no run: choose another --out")
            return None
        run = Run.open(path)
        if run.record.get("kind") != self.kind or not same(settings, run.config):
            raise ValueError(f"{path} holds a run with other settings: choose another --out")
        return run

    def alike(self, settings: S) -> Iterator[Run]:
        """The runs under `RETMASK_HOME/runs` with the same settings, newest first."""
        return (run for run in Run.all(self.kind) if same(settings, run.config))

    def work(self, run: Run, trust_remote_code: bool = False, servers: Sequence[str] = ()) -> Iterator[Progress]:
        """Do what a run says, or the rest of it; yields after every step, which is on disk by then.

        Nothing for a run that is finished. ValueError where something has changed since it began.
        """
        if run.status == "success":
            return
        work = Work(run, from_record(self.settings, run.config), trust_remote_code, frozenset(servers))
        if self.ready:
            self.ready(work)
        with working(run) as held, closing(self.steps(work._replace(held=held))) as steps:  # type: ignore[type-var]
            for step in steps:
                if self.unit:
                    eta = None if step.eta is None else round(step.eta, 1)
                    counted = {"stage": self.unit, "done": step.done, "total": step.total, "eta": eta}
                    run.report(**counted | dict(step.facts))
                yield step


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
