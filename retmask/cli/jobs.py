"""The long jobs by kind, and the worker's one call.

Both skins use them: the command line in the foreground, the page through `Run.spawn`, which calls `work`.
"""

from collections.abc import Callable, Iterator
from typing import Any

from retmask.compare.ablate import ablate
from retmask.compare.dose import dose
from retmask.detect.job import detect
from retmask.evaluate.job import evaluate
from retmask.pairs.job import pairs
from retmask.runs import processes as workers
from retmask.runs.run import Run
from retmask.train.job import train

KINDS: dict[str, Callable[[Run], Iterator[Any]]] = {
    "detect": detect,
    "dose": dose,
    "ablate": ablate,
    "pairs": lambda run: pairs(run, servers=workers.confirmed()),
    "train": train,
    "evaluate": evaluate,
}


def work(run: Run) -> None:
    """Do a run's job to its end: what the worker process calls. ValueError for a run of no kind that is known."""
    kind = run.record.get("kind")
    if kind not in KINDS:
        raise ValueError(f"{run.path} is a run of kind {kind!r}: known are {', '.join(KINDS)}")
    for _ in KINDS[kind](run):
        pass
