"""The steps of a training and its curves, from what it reported."""

import csv
import io
from typing import Any

from retmask.runs.run import Run

_CURVES = (
    "step", "loss", "chosen", "rejected", "margin", "accuracy", "logps_chosen", "logps_rejected", "grad_norm", "lr",
    "tokens_per_s", "memory",
)  # fmt: skip


def steps(run: Run) -> list[dict[str, Any]]:
    """The lines of progress of all steps, each step once, in order: what a resume has taken back is left out."""
    found: dict[int, dict[str, Any]] = {}
    for line in run.progress:
        done = line.get("done")
        if line.get("stage") == "loading" and isinstance(done, int):  # it goes on from the checkpoint of that step
            found = {step: known for step, known in found.items() if step <= done}
        elif line.get("stage") == "steps" and isinstance(done, int):
            found[done] = line
    return [found[step] for step in sorted(found)]


def last_step(run: Run) -> int:
    """The last step that was done, 0 before the first."""
    done = steps(run)
    return int(done[-1]["done"]) if done else 0


def curves_csv(run: Run) -> str:
    """The curves as CSV, a row a step."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _CURVES, extrasaction="ignore")
    writer.writeheader()
    writer.writerows({**line, "step": line["done"]} for line in steps(run))
    return out.getvalue()
