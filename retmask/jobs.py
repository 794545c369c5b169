"""The long jobs by kind, and the worker's one call.

Both skins use them: the command line in the foreground, the page through `Run.spawn`, which calls `work`.
"""

from collections.abc import Callable, Iterator
from typing import Any

from retmask import workers
from retmask.ablate import ablate
from retmask.detect import detect
from retmask.dose import dose
from retmask.evaluate import evaluate
from retmask.pairing import pairs
from retmask.runs import Run
from retmask.train import train

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
