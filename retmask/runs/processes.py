"""The processes of a run on this machine: started in a session of their own, found by the lock file they keep open.

A pid alone never says who a process is: it may have been given to somebody else by now.
"""

import fcntl
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

SERVERS = "RETMASK_SERVERS"  # in a worker's environment: the servers that it may contact, blanks between them
LOCK = "lock"  # the file in a run's folder that its processes keep open
BEAT = 15.0  # seconds between two signs of life
_STALE = 120.0  # seconds without one after which a worker counts as dead where its lock cannot be seen


def here() -> str:
    """The place whose processes this one sees, as no other has it: host name, boot, and namespace of processes."""
    parts = [platform.node()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]]
        parts += ["".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))]
    return "/".join(parts)


def beat(run: Path) -> None:
    """Give a sign of life: for those who look from another machine, or through a file system without locks."""
    with suppress(OSError):
        os.utime(run / LOCK)


def beats(run: Path) -> bool:
    """Whether there was a sign of life in the last two minutes."""
    try:
        return abs(time.time() - (run / LOCK).stat().st_mtime) < _STALE
    except OSError:
        return False


def confirmed() -> tuple[str, ...]:
    """The servers that this worker may contact, by the one who started it: a run's folder may come from anybody."""
    return tuple(os.environ.get(SERVERS, "").split())


def start(run: Path, servers: Iterable[str] = ()) -> int:
    """Start a worker for the run in that folder; its pid. What it says goes to log.txt there.

    `servers` are addresses that a person has named or confirmed: it contacts no other. It runs this very retmask,
    whatever lies in the folder that it is started from.
    """
    paths = filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), SERVERS: " ".join(servers)}
    with (run / "log.txt").open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "retmask.cli", "worker", str(run)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
        )
    threading.Thread(target=worker.wait, daemon=True).start()  # else it stays a zombie when it has ended
    return worker.pid


def starting(pid: object, run: Path) -> bool:
    """Whether that process is a worker that was started for the run: it may not have come to take the lock yet."""
    try:
        return isinstance(pid, int) and str(run) in psutil.Process(pid).cmdline()
    except (psutil.Error, ValueError):  # a dead one that nobody has waited for has no command line
        return False


def held(run: Path) -> bool | None:
    """Whether a process holds the run's lock now; None where that cannot be told, as on a file system without locks."""
    try:
        with (run / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None


def end(run: Path, patience: float, pid: object = None) -> None:
    """Ask the run's processes to stop; after `patience` seconds make them. Also the worker `pid` if it is starting."""
    known = _family(run, pid)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in known:
            with suppress(psutil.Error):  # it has ended, or it is another by that pid: psutil looks first
                process.send_signal(number)
        _wait(known, patience)
        known = {process for process in known if not _gone(process)} | _family(run)
        patience = 1.0


def _family(run: Path, pid: object = None) -> set[psutil.Process]:
    """The processes with the lock open for appending, their process groups where they lead one, and their descendants.

    Whoever looks whether a run is alive, or tries to take it, has it open too, but not so. Never this process.
    """
    lock = (run / LOCK).resolve()
    if pid is None and not lock.exists():
        return set()
    everybody = list(psutil.process_iter())
    found = {one for one in everybody if _has_open(one, lock) or (one.pid == pid and starting(pid, run))}
    leaders = {one.pid for one in found if _group(one) == one.pid}
    found |= {one for one in everybody if _group(one) in leaders}
    for one in list(found):
        with suppress(psutil.Error):
            found |= set(one.children(recursive=True))
    return {one for one in found if one.pid != os.getpid()}


def _has_open(process: psutil.Process, lock: Path) -> bool:
    try:
        if process.pid == os.getpid() or process.uids().real != os.getuid():
            return False
        return any(Path(file.path) == lock and getattr(file, "mode", "a")[0] == "a" for file in process.open_files())
    except psutil.Error:
        return False


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except OSError:
        return None


def _wait(processes: Iterable[psutil.Process], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not all(map(_gone, processes)):
        time.sleep(0.05)


def _gone(process: psutil.Process) -> bool:
    """Whether it has ended, be it that its parent has not taken notice."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True
