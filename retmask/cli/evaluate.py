"""`retmask evaluate`: what masking and fine-tuning changed, on held-out prompts."""

from collections.abc import Iterator, Mapping
from typing import Any

from retmask.cli.options import OutDir, TrustRemoteCode, out, print_table, progress, takes
from retmask.evaluate.job import EVALUATE, EvaluateSettings
from retmask.files import read_object
from retmask.heads.intervals import FEWEST, none_over, over, span
from retmask.runs.run import Run


def _evaluate(settings: EvaluateSettings, trust_remote_code: TrustRemoteCode = False, out_dir: OutDir = None) -> None:
    """Needle recall unmasked, masked and tuned on the same held-out prompts, with paired intervals."""
    run = EVALUATE.new(settings, out_dir)
    progress(EVALUATE.work(run, trust_remote_code), run, "{condition}".format)
    _report_evaluation(run)


evaluate = takes(EvaluateSettings, _evaluate)


def _report_evaluation(run: Run) -> None:
    results = read_object(run.path / "results.json")
    cells = (
        (row["condition"], f"{row['recall']:.3f}", span(row["low"], row["high"], ".3f"), f"{row['found']:.0%}")
        for row in results["conditions"]
    )
    print_table(("condition", "recall", "95 % interval", "found"), cells)
    needles = results["conditions"][0].get("needles")  # an evaluation from before these were counted drew prompts
    few = needles is not None and needles < FEWEST
    words = "prompts" if needles is None else over(needles, "needle")
    out.print(none_over(needles, "needle") if few else f"intervals over {words}")
    columns = ("difference", "mean", "95 % by prompts", "95 % by needles", "better", "worse")
    print_table(columns, map(_difference, results["differences"]))
    out.print(f"written to {run.path}")


def _difference(row: Mapping[str, Any]) -> Iterator[str]:
    """The cells of a difference between two conditions."""
    yield f"{row['condition']} - {row['against']}"
    yield f"{row['mean']:+.3f}"
    yield span(row["low"], row["high"], "+.3f")
    yield span(row["needle_low"], row["needle_high"], "+.3f")
    yield from (str(row["better"]), str(row["worse"]))
