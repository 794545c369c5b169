"""`retmask evaluate`: what masking and fine-tuning changed, on held-out prompts."""

from collections.abc import Iterator, Mapping
from typing import Any

from retmask.cli.options import OutDir, TrustRemoteCode, out, print_table, progress, takes
from retmask.evaluate.job import EVALUATE, EvaluateSettings, contacted
from retmask.evaluate.results import not_served, shown
from retmask.files import read_object
from retmask.heads.intervals import FEWEST, none_over, over, span
from retmask.items.item import CATEGORIES, EXTERNAL
from retmask.runs.run import Run


def _evaluate(settings: EvaluateSettings, trust_remote_code: TrustRemoteCode = False, out_dir: OutDir = None) -> None:
    """Conditions on the same items of a suite, or on held-out needles: means, paired differences, verdicts."""
    run = EVALUATE.new(settings, out_dir)
    progress(EVALUATE.work(run, trust_remote_code, contacted(run)), run, _words)
    _report_evaluation(run)


evaluate = takes(EvaluateSettings, _evaluate)


def _words(condition: str = "", task: str = "", **_: Any) -> str:
    return condition or f"making items ({task})"


def _report_evaluation(run: Run) -> None:
    results = read_object(run.path / "results.json")
    if "means" in results:
        _report_suite(results)
        out.print(f"written to {run.path}")
        return
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


def _report_suite(results: Mapping[str, Any]) -> None:
    """Conditions by category with their floors, then how each differs from base, and what is to be said of it."""
    tasks = results.get("external", {})
    means = [row for row in [*results["means"], *results["floors"]] if shown(row, tasks)]
    cells = {(row["condition"], row["name"]): f"{row['mean']:.2f}" for row in means}
    conditions = list(dict.fromkeys(row["condition"] for row in means))
    names = [name for name in (*CATEGORIES, EXTERNAL, *tasks, "overall") if any(row["name"] == name for row in means)]
    print_table(["", *conditions], ([name, *(cells.get((each, name), "–") for each in conditions)] for name in names))
    says = dict.fromkeys(((name, task) for name in conditions for task in tasks), "")  # of a category alone
    says |= {(row["condition"], row["name"]): row["says"] for row in results["verdicts"]}
    base = results["conditions"][0]["condition"]
    gaps = [row for row in results["differences"] if shown(row, tasks) and row["against"] == base]
    columns = ("difference", "of", "mean", "95 % interval", "p (Holm)", "")
    print_table(columns, (_gap(row, says.get((row["condition"], row["name"]), "control")) for row in gaps))
    if served := not_served(results):
        out.print(served)


def _gap(row: Mapping[str, Any], says: str) -> Iterator[str]:
    """The cells of a difference to base."""
    yield from (f"{row['condition']} - {row['against']}", row["name"], f"{row['mean']:+.3f}")
    yield span(row["low"], row["high"], "+.3f")
    yield "–" if row["adjusted"] is None else f"{row['adjusted']:.3f}"
    yield says
