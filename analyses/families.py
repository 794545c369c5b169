"""How few heads hold the score of a model, and where in its depth: the built-in models, and any score sets you name.

`python analyses/families.py` reads the maps that come with the project; `python analyses/families.py FILE ...` sets
these beside them: score files, folders of detections, names of runs, https addresses; `--only` leaves the shipped maps
out. Scores of other kinds (per-step counting, gates, lists) are shown, and `counting` tells them apart; their sizes do
not compare. Intervals are 95 % bootstrap over trials; copies of a trial are drawn together.
"""

import argparse
from typing import Any

from figures import BUILT_IN, opened, rounded, save, show

from retmask.concentration import concentration, intervals
from retmask.families import curves_together
from retmask.sets import ScoreSet


def row_of(name: str, one: ScoreSet) -> dict[str, Any]:
    """A set's figures of concentration, each with its interval; None where there is none."""
    figures = concentration(one.scores.mean)._asdict()
    spread = intervals(one.scores.values, distinct=True)
    row: dict[str, Any] = {
        "set": name, "family": one.family, "counting": one.scores.detector.name,
        "trials": one.n_trials if one.has_trials else None, "different": one.distinct if one.has_trials else None,
        "best": str(one.scores.top(1)[0]), "heads": figures.pop("n_heads"),
    }  # fmt: skip
    for figure, value in figures.items():
        low, high = spread[figure] or (None, None)
        row |= {figure: rounded(value), f"{figure}_low": rounded(low), f"{figure}_high": rounded(high)}
    return row


def main() -> None:
    """Read, print, write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="score sets beside the built-in models' maps")
    parser.add_argument("--only", action="store_true", help="leave out the built-in models' maps")
    options = parser.parse_args()
    sources = [*(() if options.only else BUILT_IN), *options.files]
    if not sources:
        parser.error("--only leaves nothing to read: name a score set")
    sets = opened(sources, with_trials=False)
    for one in sets.values():
        for warning in one.warnings:
            print(f"{one.source}: {warning}")
    rows = [row_of(name, one) for name, one in sets.items()]
    show(rows)
    save(curves_together({name: one.scores.mean for name, one in sets.items()}), rows, "families", width=1000)


if __name__ == "__main__":
    main()
