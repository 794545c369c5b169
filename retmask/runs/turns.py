"""One heavy run at a time on a device: the others wait in line. File locks, no daemon.

The device's lock file is held by `flock` while a run works, and so is the ticket of each run that waits. The kernel
lets go of both on any death: nobody waits for a dead run, or behind a dead waiter.
"""

import fcntl
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retmask.files import home, number

POLL = 0.3  # seconds between two looks at the line


def device_key(name: str) -> str:
    """The device that `name` (as `--device` takes it, "" to choose) means: "cpu", "cuda-0"; without importing torch.

    A card is called what the machine calls it, also where CUDA_VISIBLE_DEVICES counts the cards anew.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job:  # the scheduler gives each job cards and cores of its own, and may number them all from 0
        return _key(f"slurm-{job}-{os.environ.get('SLURM_PROCID', '0')}-{name}")
    kind, _, number = name.strip().partition(":")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = [card.strip() for card in (visible or "").split(",")]
    if kind in ("", "cuda"):
        if not number and (visible in ("", "-1") or not any(Path("/dev").glob("nvidia[0-9]*"))):
            return "cpu"
        number = number or "0"
        known = number.isdecimal() and int(number) < len(cards) and cards[int(number)]
        kind, number = "cuda", known or number
    return _key(f"{kind}-{number}")


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def card_keys(most: int) -> list[str]:
    """The keys of the machine's NVIDIA cards that a job on several takes: the first `most` of them, 0 for all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = len(visible.split(",")) if visible else len(list(Path("/dev").glob("nvidia[0-9]*")))
    return [device_key(f"cuda:{number}") for number in range(min(most or there, there))]


def devices(kind: str, config: Mapping[str, Any]) -> list[str]:
    """The keys of the devices that a run works on, in one order. An export loads on the CPU; servers need none."""
    if config.get("server"):
        return ["servers"]
    key = device_key("cpu" if kind == "ablate" else str(config.get("device") or ""))
    if kind == "train" and key.startswith("cuda"):
        return sorted(set(card_keys(int(number(config.get("processes")))))) or [key]
    return [key]


@contextmanager
def turn(device: str, name: str, waiting: Callable[[str], None] | None = None) -> Iterator[int]:
    """Have the device of that key alone while the block runs, first come, first served; gives the lock's descriptor.

    A child process that inherits the descriptor keeps the turn for as long as it lives. `waiting` is called with the
    name of whoever has the device, if there is one to wait for, and again when it has become another's.
    """
    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    base = re.sub(r"[^A-Za-z0-9-]+", "-", f"device-{platform.node()}-{device}")  # machines may share the folder
    path = folder / f"{base}.lock"
    with path.open("ab") as lock:
        with _ticket(folder, base) as ticket:
            told = ""
            while not (_first(ticket, base) and locked(lock.fileno())):
                holder = path.read_text(encoding="utf-8", errors="replace")
                if waiting and holder not in ("", told):
                    told = holder
                    waiting(holder)
                time.sleep(POLL)
        try:
            _write(lock.fileno(), name)
            yield lock.fileno()
        finally:
            _write(lock.fileno(), "")


@contextmanager
def _ticket(folder: Path, base: str) -> Iterator[Path]:
    """A place at the end of the line: a file that is locked for as long as its owner waits."""
    while True:
        path = folder / f"{base}.{time.time_ns():020d}-{os.getpid()}-{threading.get_ident()}"
        with path.open("xb") as file:
            _flock(file.fileno(), fcntl.LOCK_EX)
            if not path.exists():  # somebody looked before it was locked, and took it for a dead one's
                continue
            try:
                yield path
            finally:
                path.unlink(missing_ok=True)
            return


def _first(ticket: Path, base: str) -> bool:
    """Whether nobody alive came before. Tickets of the dead are thrown away."""
    for other in sorted(ticket.parent.glob(f"{base}.[0-9]*-*")):
        if other >= ticket:
            break
        try:
            with other.open("rb") as file:
                if not _flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB):
                    return False
                other.unlink(missing_ok=True)
        except FileNotFoundError:
            continue
    return True


def locked(file: int) -> bool:
    """Whether this call has locked the file of that descriptor: nobody else has then. ValueError as `no_locks`."""
    return _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _flock(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        raise no_locks(error) from error
    return True


def no_locks(error: OSError) -> ValueError:
    """What to say where a file system has no locks: without them two would work at once and not know."""
    return ValueError(
        f"{home()} or the folder of the run lies on a file system without file locks (flock: {error.strerror}): "
        "choose another for RETMASK_HOME and --out, such as a local disk"
    )


def _write(file: int, text: str) -> None:
    os.ftruncate(file, 0)
    os.write(file, text.encode())
