"""How many trials name the top 5 % of heads surely, and what else changes them: the needle, the length, the depth.

- **Two samples**: how far the top 5 % of two random samples of n trials overlap that share no trial. **A sample
  against all** is the same with all the trials, in which the sample is: it nears 1 whatever the noise. A top has
  as many heads in each sample; heads that tie at its cut share the places (`retmask.families.agreement`).
- **Needle, length, depth**: the mean overlap of the tops of the parts, every two of them, and the same where the
  trials are shuffled among parts of these sizes. A part is a smaller sample and so less sure: only an overlap below
  what shuffling gives says that the needle, the length or the depth itself matters.

`python analyses/stability.py` takes the maps that come with the project, 45 trials each; `--runs FOLDER ...` takes
other detections. `--wide` first makes a wider one of each built-in model: 8 needles, 3 lengths, 5 depths, 120 trials,
some 10 minutes on two idle CPU cores. It is the run `wide-MODEL` under RETMASK_HOME, is taken up again where it was
interrupted, and never made twice.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from analyses.figures import BUILT_IN, Curve, Dot, Panel, opened, panels, rounded, save, show
from retmask.detect.job import DETECT, DetectSettings
from retmask.families.agreement import Overlap, orders, overlap_of, split_half, top_size, tops
from retmask.figures.style import log_ticks
from retmask.heads.intervals import middle
from retmask.heads.scores import TOP_SHARE
from retmask.heads.sets import ScoreSet
from retmask.heads.trials import By, slices
from retmask.runs.run import run_path

LENGTHS, DEPTHS = (384, 768, 1536), (0.0, 0.25, 0.5, 0.75, 1.0)
DRAWS = 200
TWO, WITHIN = "two samples", "sample against all"


def wide(model: str) -> str:
    """The folder of the wider detection of a built-in model, made first where it is not finished."""
    settings = DetectSettings(model=model, n_needles=8, lengths=LENGTHS, depths=DEPTHS)
    run = DETECT.new(settings, run_path(f"wide-{model}"))
    for progress in DETECT.work(run):
        print(f"{model}: {progress.done} of {progress.total} trials, {progress.eta or 0:.0f} s left", flush=True)
    return str(run.path)


def shuffled(values: Float[np.ndarray, "trial layer head"], part: Int[np.ndarray, " trial"], seed: int = 0) -> Overlap:
    """The mean overlap where the trials are shuffled among parts of the same sizes, over 200 draws."""
    rng = np.random.default_rng(seed)
    drawn = [parts_overlap(values, rng.permutation(part)) for _ in range(DRAWS)]
    return Overlap(len(values), float(np.mean(drawn)), *middle(np.array(drawn)))


def parts_overlap(
    values: Float[np.ndarray, "trial layer head"], part: Int[np.ndarray, " trial"], share: float = TOP_SHARE
) -> float:
    """The mean overlap (0-1) of the top `share` (0-1) of heads of every two parts; `part` numbers each trial's part.

    The top has as many heads in every part, at most those above 0 in all the trials together. nan for fewer than 2
    parts or where every score is 0.
    """
    flat = values.reshape(len(values), -1)
    k, names = top_size(flat, share), np.unique(part)
    if len(names) < 2 or not k:
        return float("nan")
    best = tops(flat, part == names[:, None], k)
    return float((best @ best.T)[np.triu_indices(len(names), 1)].mean() / k)


def stability_curve(
    values: Float[np.ndarray, "trial layer head"], share: float = TOP_SHARE, draws: int = 200, seed: int = 0
) -> list[Overlap]:
    """How far the top `share` (0-1) of heads of 1, 2, 4, 8 ... random trials overlaps that of all; empty if all is 0.

    The last point is all the trials, 1 by construction unless heads tie at the cut. The sample is part of the whole, so
    the curve nears 1 however noisy the trials are: read how early it rises, and take `split_half` for how far samples
    agree.
    """
    flat = values.reshape(len(values), -1)
    n, k = len(flat), top_size(flat, share)
    if not k:
        return []
    places = orders(n, draws, seed)
    whole = tops(flat, np.ones((1, n), dtype=bool), k)
    sizes = [2**i for i in range(n.bit_length()) if 2**i < n] + [n]
    return [overlap_of(size, (tops(flat, places < size, k) * whole).sum(axis=1) / k) for size in sizes]


def rows_of(name: str, detection: ScoreSet) -> list[dict[str, Any]]:
    """The table of a detection."""
    values = detection.scores.values
    sizes = [2**i for i in range(len(values).bit_length()) if 2 ** (i + 1) <= len(values)]
    samples = [split_half(values, draws=DRAWS, size=size) for size in sizes]
    rows = [_row(name, TWO, "", *overlap) for overlap in samples if overlap]
    rows += [_row(name, WITHIN, "", *overlap) for overlap in stability_curve(values, draws=DRAWS)]
    half = split_half(values, draws=DRAWS)
    rows += [_row(name, "split half", "", *half)] if half else []
    stable, by = detection.scores.stability(), detection.scores.clusters.words
    rows += [] if stable is None else [_row(name, "bootstrap", by, len(values), stable)]
    for by in get_args(By):
        parts = slices(detection.trials(), detection.scores.grid, name, detection.counting, by)
        if len(parts) < 2:
            continue
        sizes = [part.n_trials for part in parts.values()]
        what = f"{len(parts)} parts of {min(sizes)} to {max(sizes)}"
        together, which = np.concatenate([part.values for part in parts.values()]), np.repeat(range(len(parts)), sizes)
        rows.append(_row(name, by, what, sum(sizes), parts_overlap(together, which)))
        rows.append(_row(name, f"{by}, shuffled", what, *shuffled(together, which)))
    return rows


def _row(
    model: str, kind: str, what: str, trials: int, overlap: float, low: float | None = None, high: float | None = None
) -> dict[str, Any]:
    return {
        "model": model,
        "kind": kind,
        "what": what,
        "trials": trials,
        "overlap": rounded(overlap),
        "low": rounded(low),
        "high": rounded(high),
    }


def draw(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """The overlap by number of trials, and by needle, length and depth beside what shuffling gives."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    curves = []
    for model, (kind, dash) in ((model, how) for model in models for how in ((TWO, "solid"), (WITHIN, "dot"))):
        points = [row for row in rows if row["model"] == model and row["kind"] == kind]
        curve = Curve(model, [row["trials"] for row in points], [row["overlap"] for row in points], dash=dash)
        if kind == TWO:
            curve = curve._replace(low=[row["low"] for row in points], high=[row["high"] for row in points])
        curves.append(curve)
    kinds = [kind for by in get_args(By) for kind in (by, f"{by}, shuffled")]
    dots = [
        Dot(kind, row["model"], row["overlap"], row["low"], row["high"])
        for kind in kinds
        for row in rows
        if row["kind"] == kind
    ]
    ticks = log_ticks(max(row["trials"] for row in rows))
    return panels(
        [
            Panel(
                "two samples (line, 95 %), a sample against all (dots)",
                curves,
                {"title": "trials", "type": "log", "tickvals": ticks, "ticktext": [str(tick) for tick in ticks]},
                {"title": "overlap of the top 5 %", "range": [-0.02, 1.02]},
            ),
            Panel(
                "parts by needle, length and depth", dots, {"title": "mean overlap of two parts", "range": [0, 1.02]}
            ),
        ],
        height=400,
    )


def main() -> None:
    """Make what is not there, measure, print, write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", default=BUILT_IN, help="folders of detections, or built-in models")
    parser.add_argument("--wide", action="store_true", help="the wider detections of the built-in models")
    options = parser.parse_args()
    sources = [wide(model) for model in BUILT_IN] if options.wide else options.runs
    rows = [row for name, found in opened(sources).items() for row in rows_of(name, found)]
    show(rows)
    save(draw(rows), rows, "stability")


if __name__ == "__main__":
    main()
