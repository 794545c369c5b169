"""The process that works for a run: it holds the lock, has its turn at a device, says how it goes, and can be stopped.

A worker holds `flock` on `RUN/lock` for as long as it lives. A process that works for a run and may outlive its worker,
such as a trainer, keeps `RUN/lock` open for appending: so it is found when the run is cancelled, deleted, or taken up
again, and ended.

A worker also gives signs of life (the time of `RUN/lock`) and looks for a request to stop (`RUN/cancel`): so it is
known to be alive, and can be stopped, from a machine that shares the folder and sees neither its lock nor its process.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from retmask.runs import processes
from retmask.runs.faults import sentence
from retmask.runs.processes import BEAT, LOCK
from retmask.runs.record import now
from retmask.runs.run import ACTIVE, ASKED, AT_ONCE, Run
from retmask.runs.turns import devices, locked, turn


class Cancelled(BaseException):
    """Raised inside a worker when it is asked to stop; no `except Exception` on the way may keep it."""


@contextmanager
def working(run: Run) -> Iterator[tuple[int, ...]]:
    """Hold the lock, wait for the device, record how it goes and ends. SIGTERM and Ctrl-C become `Cancelled`.

    So does a request in the folder (`ASKED`). While it stops, SIGTERM says nothing new; Ctrl-C does.

    Gives file descriptors for a child process to inherit (`pass_fds`): as long as it has them it counts as this
    run's worker, is ended with it, and keeps its turn. ValueError if another worker has the run; what a dead one
    has left behind is ended.
    """

    def waiting(holder: str) -> None:
        run.report(stage="waiting", behind=holder)

    with taken(run) as held:
        _queue(run)
        over = threading.Event()
        attending = threading.Thread(target=_attend, args=(run, over), daemon=True)
        stop = _stopper(run.path)
        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        ending: dict[str, Any] = {"status": "success"}
        try:
            attending.start()
            with ExitStack() as turns:
                keys = devices(str(run.record.get("kind")), run.config)
                having = [turns.enter_context(turn(key, run.reference, waiting)) for key in keys]
                run.update(status="started", started=now())
                yield *held, *having
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
            run.update(**ending, ended=now())
            (run.path / ASKED).unlink(missing_ok=True)
            for number, handler in before.items():
                signal.signal(number, handler)


def fail(run: Run, error: BaseException) -> None:
    """Record why a worker could not do the run, where it has not done so itself and no other has the run."""
    if not run.alive and run.recorded in ACTIVE:
        run.update(status="error", error=sentence(error), ended=now())


def _queue(run: Run) -> None:
    """Record that this process has the run. What the log holds already is another's, unless `spawn` began it."""
    log: dict[str, Any] = {}
    record, place = run.record, processes.here()
    if (record.get("place"), record.get("pid")) != (place, os.getpid()):  # in containers pids are alike
        log = {"log_start": run.log_size}
        (run.path / ASKED).unlink(missing_ok=True)  # the last worker was asked
    processes.beat(run.path)
    run.update(status="queued", pid=os.getpid(), place=place, started=None, ended=None, error=None, **log)


def _attend(run: Run, over: threading.Event) -> None:
    """While this process works for the run: give signs of life, and obey a request to stop in its folder."""
    beaten, told = 0.0, False
    while not over.wait(0.5):
        if time.monotonic() - beaten > BEAT:
            processes.beat(run.path)
            beaten = time.monotonic()
        asked = _asked(run.path)
        if asked == AT_ONCE and told:
            _end_now(run)
        if asked is not None and not told:
            told = True
            os.kill(os.getpid(), signal.SIGTERM)  # wakes it from a wait too


def _end_now(run: Run) -> None:
    """End whoever works for the run, this process last, and say so: it was asked twice."""
    processes.end(run.path, 0.0)
    run.update(status="cancelled", ended=now())
    (run.path / ASKED).unlink(missing_ok=True)
    os._exit(143)


@contextmanager
def taken(run: Run) -> Iterator[tuple[int, int]]:
    """Hold the lock file, and keep it open for appending; no other process works for the run then.

    ValueError after a second: `alive` holds it for a moment when it looks.
    """
    path = run.path / LOCK
    path.touch()
    with path.open("rb+") as lock:
        until = time.monotonic() + 1
        while not locked(lock.fileno()):
            if time.monotonic() > until:
                raise ValueError(f"{run.path} is being worked on by another process: wait for it, or cancel it")
            time.sleep(0.05)
        processes.end(run.path, patience=5.0)
        with path.open("ab") as member:
            yield lock.fileno(), member.fileno()


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
