"""What "nine of ten depths at position 0" does to a map.

The public code of RetMask moves a needle back to the end of a sentence, which it knows by two token ids of Llama-2.
With any other tokenizer it walks on to position 0, so that of ten depths nine are one prompt: in its published files 59
of 342 (Llama-3.1-8B) and 98 of 600 (Qwen3-8B) trials are different. Here the same is made of a detection whose needles
stand where they should: of each needle and length the trial of the lowest depth counts nine times, that of the
highest once, and the others not at all. With the middle depth in the place of the lowest it is a control: what comes
of counting one trial nine times, wherever its needle stands. No model runs.

`python analyses/depth_bias.py` takes the maps that come with the project; `--runs FOLDER ...` takes other detections.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from plotly import graph_objects as go

from analyses.figures import BUILT_IN, Curve, Panel, opened, panels, rounded, save, show
from retmask.families.concentration import concentration, intervals
from retmask.figures.style import MUTED
from retmask.heads.grid import share_count
from retmask.heads.intervals import Clusters, Interval, alike, clusters, each, interval
from retmask.heads.scores import TOP_SHARE, HeadScores, spearman
from retmask.heads.sets import ScoreSet
from retmask.heads.trials import Trial, collect_scores

COPIES = 9  # of ten depths
FIGURES = ("above", "gini", "hoyer", "top_5pct_share", "effective_heads")


def stuck(trials: Sequence[Trial], place: int = 0) -> list[Trial]:
    """The trials as they would be if all depths but the last stood at one: nine copies of one trial, and one other.

    For each needle and length; where one of the two was not tried it is left out. `place` is that of the depth among
    the depths, lowest first.
    """
    depths = sorted({trial.depth for trial in trials})
    by = {trial.key: trial for trial in trials}
    pairs = dict.fromkeys((trial.needle, trial.context_tokens) for trial in trials)
    both = [(by.get((*pair, depths[place])), by.get((*pair, depths[-1]))) for pair in pairs]
    return [trial for first, last in both if first and last for trial in [first] * COPIES + [last]]


def drawn_by(scores: HeadScores, distinct: bool) -> Clusters:
    """Each trial alone, as files without needles were read once; `distinct` draws a trial with all its copies."""
    return alike(scores.values, "different trial") if distinct else each(scores.n_trials, "trial")


def mean_bounds(scores: HeadScores, distinct: bool) -> Interval | None:
    """The 95 % bootstrap intervals of all heads' means, over trials, or over different trials."""
    return interval(scores.values, drawn_by(scores, distinct))


def compare(name: str, detection: ScoreSet) -> list[dict[str, Any]]:
    """A row for the map of all depths, for that of stuck needles, for that with honest intervals, for the control."""
    true, biased = detection.scores, stuck_scores(detection)
    middle = len({trial.depth for trial in detection.trials()}) // 2
    versions = (
        ("as placed", true, False),
        ("9 of 10 at position 0", biased, False),
        ("the same, copies drawn together", biased, True),
        ("9 of 10 in the middle, copies drawn together", stuck_scores(detection, middle), True),
    )
    return [_row(name, version, scores, distinct, true) for version, scores, distinct in versions]


def stuck_scores(detection: ScoreSet, place: int = 0) -> HeadScores:
    """The map of stuck needles. ValueError if none of these trials found its needle."""
    true = detection.scores
    biased = collect_scores(stuck(detection.trials(), place), true.grid, true.model, true.counting)
    if biased is None:
        raise ValueError(f"{detection.source} found no needle at these depths: there is nothing to compare")
    return biased


def _row(model: str, version: str, scores: HeadScores, distinct: bool, true: HeadScores) -> dict[str, Any]:
    """Scores beside the true ones: changes and interval widths are means over the true best 5 % of heads."""
    best = true.top_share()
    spread = mean_bounds(scores, distinct)
    at = tuple(np.array(best).T)
    top, true_top = set(scores.top(len(best))), set(best)
    row: dict[str, Any] = {
        "model": model,
        "needles": version,
        "trials": scores.n_trials,
        "different": len(np.unique(scores.values.reshape(scores.n_trials, -1), axis=0)),
        "spearman": rounded(spearman(true.mean, scores.mean)),
        "top_5pct_shared": f"{len(top & true_top)} of {len(true_top)}",
        "mean_change": rounded(np.abs(scores.mean - true.mean)[at].mean()),
        "largest_change": rounded(np.abs(scores.mean - true.mean).max()),
        "interval_width": spread and rounded((spread.high - spread.low)[at].mean()),
        "true_mean_inside": spread and f"{int(_inside(true.mean, spread)[at].sum())} of {len(true_top)}",
    }
    figures, around = concentration(scores.mean)._asdict(), intervals(scores.values, drawn_by(scores, distinct))
    for name in FIGURES:
        between = around[name] or (None, None)
        row |= {name: rounded(figures[name]), f"{name}_low": rounded(between[0]), f"{name}_high": rounded(between[1])}
    return row


def by_depth(name: str, detection: ScoreSet) -> Curve:
    """The mean score of the best 5 % of heads in the successful trials of each depth, with its 95 % interval."""
    best = detection.scores.top_share()
    successes = [trial for trial in detection.trials() if trial.success]
    depths = sorted({trial.depth for trial in successes})
    parts = [[trial for trial in successes if trial.depth == depth] for depth in depths]
    means = [np.array([np.mean([trial.scores.get(head, 0.0) for head in best]) for trial in part]) for part in parts]
    by = [clusters([trial.needle for trial in part], "needle") for part in parts]
    spread = [interval(some, needles) for some, needles in zip(means, by, strict=True)]
    bounded = [spread_at for spread_at in spread if spread_at]
    if len(bounded) < len(spread):  # a band needs both ends everywhere
        bounded = []
    low, high = [float(spread_at.low) for spread_at in bounded], [float(spread_at.high) for spread_at in bounded]
    return Curve(name, depths, [float(some.mean()) for some in means], low, high)


def _inside(means: Float[np.ndarray, "layer head"], spread: Interval) -> Bool[np.ndarray, "layer head"]:
    return (spread.low <= means) & (means <= spread.high)


def draw(detections: Mapping[str, ScoreSet]) -> go.Figure:
    """Every head's mean, needles as placed against stuck ones; and what the best heads score at each depth."""
    sizes = " and ".join(str(share_count(detection.scores.grid.size, TOP_SHARE)) for detection in detections.values())
    figure = panels(
        [
            Panel(
                "a head's mean score",
                [],
                {"title": "needles as placed", "range": [-0.02, 1.02]},
                {"title": "9 of 10 at position 0", "range": [-0.02, 1.02]},
            ),
            Panel(
                f"best 5 % of heads, by depth ({sizes})",
                [by_depth(name, detection) for name, detection in detections.items()],
                {"title": "depth of the needle"},
                {"title": "mean score", "rangemode": "tozero"},
            ),
        ],
        height=400,
    )
    colors = {trace.name: trace.line.color for trace in figure.data if trace.mode == "lines"}
    for name, detection in detections.items():
        heads = [str(head) for head in detection.scores.grid.heads()]
        figure.add_trace(
            go.Scatter(
                x=detection.scores.mean.ravel(),
                y=stuck_scores(detection).mean.ravel(),
                text=heads,
                mode="markers",
                marker={"color": colors[name], "size": 6, "opacity": 0.7},
                name=name,
                showlegend=False,
                hovertemplate="%{text}: %{x:.3f}, stuck %{y:.3f}<extra></extra>",
            ),
            row=1,
            col=1,
        )
    figure.add_shape(
        type="line", x0=0, y0=0, x1=1, y1=1, line={"color": MUTED, "width": 1, "dash": "dot"}, row=1, col=1
    )
    return figure


def main() -> None:
    """Compare, print, write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", default=BUILT_IN, help="folders of detections, or built-in models")
    detections = opened(parser.parse_args().runs)
    rows = [row for name, detection in detections.items() for row in compare(name, detection)]
    show(rows)
    save(draw(detections), rows, "depth_bias")


if __name__ == "__main__":
    main()
