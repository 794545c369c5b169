"""Two processes on one machine: how long a detection takes alone and beside another, by how OpenMP's threads wait.

    python analyses/two_at_once.py [MODEL]

Needs an idle machine and some minutes; a detection that is not done after five is ended and counts as that. What
`retmask` sets by itself (in retmask/__init__.py) was chosen by these figures.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS: dict[str, dict[str, str]] = {
    "300,000 turns": {"GOMP_SPINCOUNT": "300000"},  # what libgomp does where nothing is said
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "1,000 turns": {"GOMP_SPINCOUNT": "1000"},
    "10,000 turns": {"GOMP_SPINCOUNT": "10000"},
    "100,000 turns": {"GOMP_SPINCOUNT": "100000"},
}
MOST = 300.0  # seconds


def seconds(model: str, setting: dict[str, str], at_once: int, folder: Path) -> list[float]:
    """How long each of so many detections takes that begin together. Each has its own home, or they would queue."""
    processes = []
    began = time.monotonic()
    for number in range(at_once):
        home = folder / f"home-{number}-{time.time_ns()}"
        home.mkdir()
        models = Path(os.environ.get("RETMASK_HOME") or Path.home() / ".cache" / "retmask") / "models"
        (home / "models").symlink_to(models)
        free = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
        command = [sys.executable, "-m", "retmask.cli", "detect", model, "--preset", "quick"]
        command += ["--out", str(home / "run")]
        environment = free | setting | {"RETMASK_HOME": str(home)}
        quiet = subprocess.DEVNULL
        processes.append(subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet))
    taken: dict[int, float] = {}
    while len(taken) < at_once:
        for process in processes:
            if process.pid not in taken and (process.poll() is not None or time.monotonic() - began > MOST):
                process.kill()
                process.wait()
                taken[process.pid] = time.monotonic() - began
        time.sleep(0.1)
    return sorted(taken.values())


def main() -> None:
    """Measure every setting and print the table, a row as soon as it is known."""
    model = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"
    print("| threads wait | alone, s | two at once, s |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, setting in SETTINGS.items():
            figures = [seconds(model, setting, at_once, Path(folder)) for at_once in (1, 2)]
            cells = [" and ".join("not done" if s > MOST else f"{s:.0f}" for s in each) for each in figures]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
