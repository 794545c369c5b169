"""How few heads hold the score of a model, and where in its depth: the built-in models, and any score sets you name.

`python analyses/families.py` reads the maps that come with the project; `python analyses/families.py FILE ...` sets
these beside them: score files, folders of detections, names of runs, https addresses; `--only` leaves the shipped maps
out. Scores of other kinds (per-step counting, gates) are shown, and `counting` tells them apart; their sizes do not
compare. A list of heads has no figures and no curve. Intervals are 95 % bootstrap over needles with all their trials;
of a file that does not say its needles, over the trials that differ.
"""

import argparse
from collections.abc import Mapping

from plotly import graph_objects as go

from analyses.figures import BUILT_IN, opened, save, show
from retmask.figures.concentration import curves_together
from retmask.figures.rows import set_rows
from retmask.heads.sets import ScoreSet


def draw(sets: Mapping[str, ScoreSet]) -> go.Figure:
    """The curves of all sets but lists of heads: places in a list are no scores."""
    return curves_together({name: score_set.scores.mean for name, score_set in sets.items() if not score_set.ranking})


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
    for score_set in sets.values():
        for warning in score_set.warnings:
            print(f"{score_set.source}: {warning}")
    rows = set_rows(list(sets.values()))
    show(rows)
    save(draw(sets), rows, "families", width=1000)


if __name__ == "__main__":
    main()
