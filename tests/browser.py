"""The one kit for tests in a real Chromium: a running app of its own, and when a page has come to rest."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from retmask.runs.run import Run

SETTLED = "[data-testid=stApp][data-test-script-state=notRunning]"
ROOT = Path(__file__).parent.parent
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def settled(tab: Any, rest: int = 400) -> None:
    """Wait until the page's script has run, and so many milliseconds for the browser to draw."""
    tab.wait_for_selector(SETTLED, timeout=60_000)
    tab.wait_for_timeout(rest)


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    """Wait until it holds; AssertionError when it does not in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.1)


def hurry(run: Run) -> None:
    """Let a run that was spawned, and that a test waits for, have its share of the processors.

    By itself it lets all others go first. Only root may change that (CAP_SYS_NICE): for others nothing happens.
    """
    wait_for(lambda: run.status != "queued")
    with suppress(OSError):  # where one may not, there are no such groups, or no more process
        Path(f"/proc/{run.record['pid']}/autogroup").write_text("0")


class App:
    """A Streamlit server on a free port, with a folder as its RETMASK_HOME; it can be ended and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"RETMASK_HOME": str(self.folder), "PYTHONPATH": path}
        command = [sys.executable, "-m", "streamlit", "run", "app/main.py", "--server.port", str(self.port)]
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--server.headless", "true"], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        for _ in range(240):
            assert self.process.poll() is None, "the app ended before it served anything"
            try:
                with urllib.request.urlopen(f"{self.address}_stcore/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.25)
        raise AssertionError("the app did not come up within a minute")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)  # what a page computes is finished first
