"""The seam for engines: a run's worker is started, and ended, on this machine.

`spawn` starts a worker, `Run.alive` looks for one, `cancel` and `remove` end it. These, by the functions of
`retmask.runs.processes`, are all that knows where a worker runs. Everything else reads what the worker writes into the
folder, so an engine for a cluster that shares the folder starts, looks for and ends its jobs in their place.
"""

import os
import shutil
import time
from collections.abc import Sequence
from itertools import pairwise

from retmask.files import home, number, write_atomic
from retmask.runs import processes
from retmask.runs.record import now
from retmask.runs.run import ACTIVE, ASKED, AT_ONCE, Run
from retmask.runs.worker import taken

_PATIENCE = 8.0  # seconds that processes get to stop by themselves
_TRAINING_PATIENCE = 300.0  # the same for a trainer, which finishes its step and saves; more where steps take long


def how_patient(run: Run) -> float:
    """Seconds that its processes get to stop by themselves, when asked; a trainer finishes its step and saves."""
    if run.record.get("kind") != "train":
        return _PATIENCE
    lines = run.latest  # of the last worker alone: between two of them may lie a night
    begin = max((i for i, line in enumerate(lines) if line.get("stage") == "loading"), default=0)
    times = [number(line.get("time")) for line in lines[begin:] if line.get("stage") in ("starting", "steps")]
    return max(_TRAINING_PATIENCE, 4 * max((later - earlier for earlier, later in pairwise(times)), default=0.0))


def spawn(run: Run, servers: Sequence[str] = ()) -> None:
    """Start the worker in a session of its own: it outlives the page, the server and the terminal.

    `servers` are addresses that a person has named or confirmed just now: it contacts no other. ValueError if a
    worker is there already.
    """
    with run.record_lock():  # of two who start it at once the second finds the first one's worker
        if run.alive or (run.recorded == "queued" and run.is_coming):
            raise ValueError(f"{run.id} is running already")
        (run.path / ASKED).unlink(missing_ok=True)
        begin = {"status": "queued", "spawned": time.time(), "error": None, "log_start": run.log_size}
        run.write(begin | {"place": processes.here(), "pid": None})
        run.write({"pid": processes.start(run.path, servers)})


def cancel(run: Run, patience: float | None = None) -> None:
    """Ask the run's processes to stop; make them after `patience` seconds, or at once where they were asked before.

    Nothing if there are none. Also those that a dead worker has left behind, as long as they have the lock file
    open. Where they cannot be seen from here, a request is left in the folder, which the worker obeys: the run may
    then go on for as long as `patience` when this returns.
    """
    twice, patience = run.asked, how_patient(run) if patience is None else patience
    if run.is_active:
        write_atomic(run.path / ASKED, AT_ONCE if twice else "")
    if run.is_active and run.elsewhere:
        until = time.monotonic() + min(patience, _PATIENCE)
        while run.is_active and time.monotonic() < until:
            time.sleep(0.1)
        return
    until = time.monotonic() + (1.0 if twice else patience)
    while run.is_active and time.monotonic() < until:
        if run.alive or processes.starting(run.record.get("pid"), run.path):
            break
        time.sleep(0.05)  # its worker has been asked for, and is not there yet
    going = run.is_active
    while True:
        processes.end(run.path, max(1.0, until - time.monotonic()), run.record.get("pid"))
        if not run.alive or time.monotonic() > until:  # it may have come just now
            break
    if going and not run.alive:
        if run.recorded in ACTIVE:
            run.update(status="cancelled", ended=now())
        (run.path / ASKED).unlink(missing_ok=True)


def remove(run: Run) -> None:
    """Delete the folder with all that is in it. A run that is half deleted is listed nowhere.

    ValueError for a run that goes on, and for a folder that does not lie under `RETMASK_HOME/runs`.
    """
    path, runs = run.path.absolute(), home() / "runs"
    if path.resolve().parent != runs or path.is_symlink() or not (path / "run.json").is_file():
        raise ValueError(f"{run.path} is no run under {runs}: only these are deleted here")
    if run.is_active:
        raise ValueError(f"{run.id} is not over, it is {run.status}: cancel it first")
    with taken(run):
        gone = runs / f".{run.id}.{time.time_ns()}.gone"
        os.replace(path, gone)
    for left in runs.glob(".*.gone"):  # also by a removal that was killed
        shutil.rmtree(left, ignore_errors=True)
    if gone.exists():
        raise OSError(f"{gone} could not be deleted whole: delete what is left by hand")
