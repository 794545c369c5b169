"""Which heads the detectors name, how far they agree, and what masking the best of each does to recall.

All detectors score the heads on the same needle prompts (`retmask/heads/detectors.py` defines them). For the best heads
of each the dose curve (`retmask dose`) gives recall on needles, depths and a haystack that no detection has used: the
detector whose heads take recall down the furthest names the heads that matter most. Random heads are the control.

`python analyses/detectors.py` does this for the default model, `--models` for others. Detections and curves are runs
under RETMASK_HOME, `by-DETECTOR-MODEL` and `dose-by-DETECTOR-MODEL`: taken up again where they were interrupted, and
never made twice. Some 15 minutes for SmolLM2 on two idle CPU cores.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, get_args

import plotly.graph_objects as go

from analyses.figures import RESULTS, Curve, Panel, panels, rounded, save, show
from retmask.compare.dose import DOSE, DoseSettings, read_points
from retmask.detect.job import DETECT, DetectSettings
from retmask.families.agreement import agreement
from retmask.figures.rows import dose_rows, to_csv
from retmask.files import write_atomic
from retmask.heads.detectors import DetectorName
from retmask.heads.grid import Grid, share_count
from retmask.heads.scores import TOP_SHARE, HeadScores
from retmask.heads.trials import read_trials, recounted
from retmask.runs.run import Run, run_path

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
SHARES = (0.02, TOP_SHARE)  # of all heads, that the curves mask
TRIALS, DRAWS = 36, 2
CONTROL = "random heads"


def detected(model: str, detector: DetectorName) -> Run:
    """The detection of a model's heads by a detector, made first where it is not finished."""
    settings = DetectSettings(model=model, detector=detector, n_needles=3, lengths=(512,), depths=DEPTHS)
    run = DETECT.new(settings, run_path(f"by-{detector}-{model}"))
    for step in DETECT.work(run):
        print(f"{model}, {detector}: {step.done} of {step.total} trials, {step.eta or 0:.0f} s left", flush=True)
    return run


def masked(model: str, detector: str, scores: Run, grid: Grid) -> list[dict[str, Any]]:
    """The points of the dose curve of a detector's best heads; random draws for the first detector alone."""
    config = DoseSettings(
        model=model,
        scores=str(scores.path),
        ks=tuple(share_count(grid.size, share) for share in SHARES),
        trials=TRIALS,
        random_seeds=DRAWS if detector == "copy" else 0,
        prose_tokens=512,
    )
    run = DOSE.new(config, run_path(f"dose-by-{detector}-{model}"))
    for step in DOSE.work(run):
        print(f"{model}, masked by {detector}: {step.done} of {step.total} points, {step.eta:.0f} s left", flush=True)
    return dose_rows(read_points(run.path))


def agreements(maps: Mapping[str, HeadScores]) -> Iterator[dict[str, Any]]:
    """A row for every two detectors: the rank correlation of all heads, and the overlap of the best 5 %."""
    for (name, first), (other_name, second) in combinations(maps.items(), 2):
        shared = agreement(first, second)
        yield {
            "one": name,
            "other": other_name,
            "spearman": rounded(shared.spearman),
            "overlap": rounded(shared.overlap),
            "k": shared.k,
        }


def study(model: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What is measured of a model: the rows of agreement, and those of the dose curves."""
    runs = {name: detected(model, name) for name in get_args(DetectorName)}
    maps = {name: HeadScores.load(run.path) for name, run in runs.items()}
    grid, trials = maps["copy"].grid, read_trials(runs["copy"].path)
    for rule in ("steps", "activation"):
        recount = recounted(trials, grid, model, rule)
        if recount:
            maps[rule] = recount
    for name, scores in maps.items():
        print(f"{model}, {name}: {scores.n_trials} trials, best {', '.join(map(str, scores.top(5)))}", flush=True)
    curves = []
    for name, run in runs.items():
        for point in masked(model, name, run, grid):
            kind = name if point["kind"] == "top" else CONTROL
            curves.append({"model": model, "masked by": kind, **{key: point[key] for key in _SHOWN}})
    return [{"model": model, **row} for row in agreements(maps)], curves


_SHOWN = ("k", "seed", "recall", "low", "high", "found", "perplexity", "trials", "heads")


def draw(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """A panel a model: recall by the number of masked heads, a line a detector."""
    parts = []
    for model in dict.fromkeys(row["model"] for row in rows):
        curves = []
        for name in (*get_args(DetectorName), CONTROL):
            points = [row for row in rows if row["model"] == model and row["masked by"] == name]
            curves += [_curve(name, draw) for draw in _draws(points, rows, model)]
        ks = sorted({row["k"] for row in rows if row["model"] == model})
        across = {"title": "heads masked", "tickvals": ks}
        parts.append(Panel(model, curves, across, {"title": "recall", "range": [0, 1]}))
    return panels(parts, height=400)


def _draws(points: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], model: str) -> list[list[Any]]:
    """The points of each line of a detector: one line, or one a random draw, which begins at the unmasked point."""
    start = [row for row in rows if row["model"] == model and row["k"] == 0][:1]
    seeds = sorted({row["seed"] for row in points if row["seed"] is not None})
    return [[*start, *(row for row in points if row["seed"] == seed)] for seed in seeds] if seeds else [list(points)]


def _curve(name: str, points: Sequence[Mapping[str, Any]]) -> Curve:
    return Curve(
        name,
        [row["k"] for row in points],
        [row["recall"] for row in points],
        dash="dot" if name == CONTROL else "solid",
    )


def main() -> None:
    """Detect, mask, print, write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2-135m"], help="built-in or other models")
    options = parser.parse_args()
    agreed: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for model in options.models:
        agreed_rows, curve_rows = study(model)
        agreed, rows = agreed + agreed_rows, rows + curve_rows
    show(agreed)
    show([{key: row[key] for key in row if key != "heads"} for row in rows])
    save(draw(rows), rows, "detectors")
    write_atomic(RESULTS / "detectors-agreement.csv", to_csv(agreed))


if __name__ == "__main__":
    main()
