"""`retmask families`: score sets side by side, how few heads hold each, and whether they name the same heads."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from retmask.cli.options import out, print_table
from retmask.families.agreement import Agreement, Agreements, agreement, every_two, set_agreement
from retmask.figures.concentration import curves_together
from retmask.figures.rows import Row, pair_rows, set_rows, to_csv
from retmask.figures.style import browser, cut
from retmask.files import unknown, write_atomic
from retmask.heads.scores import THRESHOLD, HeadScores
from retmask.heads.sets import STRANGERS, ScoreSet, labels, read_set, strangers
from retmask.heads.trials import By, Rule, recounted, slices

WIDTH = 1100  # pixels of the figure
_PARTS: dict[str, By] = {"needle": "needle", "length": "length", "depth": "depth"}
_RULES: tuple[Rule, ...] = ("set", "steps", "activation")
_SHOWN = {  # figures in the table of sets: name, heading, how a value is written
    "above": ("heads", "{:.0f}"),
    "gini": ("Gini", "{:.3f}"),
    "hoyer": ("Hoyer", "{:.3f}"),
    "top_1pct_share": ("top 1 %", "{:.0%}"),
    "top_5pct_share": ("top 5 %", "{:.0%}"),
    "half_heads": ("half in", "{:.0f}"),
    "effective_heads": ("effective", "{:.1f}"),
}


def families(
    sources: Annotated[
        list[str], typer.Argument(help="built-in models, runs, score files, lists of heads, or https addresses")
    ],
    k: Annotated[int, typer.Option(help="how many best heads of each to compare; by default 5 % of the heads")] = 0,
    threshold: Annotated[float, typer.Option(help="the mean score that makes a retrieval head")] = THRESHOLD,
    by: Annotated[
        str, typer.Option(help="part one detection and compare its parts: needle, length, depth or rule")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    csv: Annotated[Path | None, typer.Option(help="write the table of sets here")] = None,
    html: Annotated[Path | None, typer.Option(help="write the curves here, to look at in a browser")] = None,
    png: Annotated[Path | None, typer.Option(help="write the curves here as a picture")] = None,
) -> None:
    """How concentrated each map of heads is, and whether two name the same heads."""
    if k < 0 or not threshold >= 0:
        raise ValueError("--k and --threshold cannot be negative")
    sets = [read_set(source) for source in sources]
    smallest = min((each for each in sets if each.grid), key=lambda each: each.scores.grid.size, default=None)
    if smallest and k > smallest.scores.grid.size:
        most = f"the {smallest.scores.grid.size} heads of {smallest.label}"
        raise ValueError(f"--k {k} is more than {most}: choose fewer")
    if by and (html or png):
        raise ValueError("--html and --png draw whole sets: leave --by out")
    if by:
        rows, agreements = _parted(sets, by, k or None)
        names = [str(row["part"]) for row in rows]
    else:
        names, rows = labels(sets), set_rows(sets, threshold)
        agreements = every_two(sets, lambda first, second: set_agreement(first, second, k or None))
    warnings = {} if by else {name: each.warnings for name, each in zip(names, sets, strict=True)}
    means = {name: each.scores.mean for name, each in zip(labels(sets), sets, strict=True) if not each.ranking}
    if (html or png) and not means:
        raise ValueError("a list of heads has no scores to draw: give --html and --png a map of scores too")
    _write(rows, means, threshold, csv, html, png)
    if as_json:
        pairs = pair_rows(names, agreements)
        return typer.echo(json.dumps({"sets": rows, "agreement": pairs, "warnings": warnings}))
    _print_parts(rows) if by else _print_sets(rows, threshold)
    for name, sentences in warnings.items():
        for sentence in sentences:
            out.print(f"{name}: {sentence}", style="yellow")
    _print_pairs(names, agreements)
    compared = [pair for pair, agreed in agreements.items() if isinstance(agreed, Agreement)]
    if not by and any(strangers(sets[i], sets[j]) for i, j in compared):
        out.print(STRANGERS)


def _parted(sets: list[ScoreSet], by: str, k: int | None) -> tuple[list[Row], Agreements]:
    """The parts of one detection, and how far every two agree. ValueError where it cannot be parted."""
    if by not in (*_PARTS, "rule"):
        raise unknown("--by", by, (*_PARTS, "rule"))
    if len(sets) != 1:
        raise ValueError(f"--by parts one detection and {len(sets)} sets were given: give one")
    (whole,) = sets
    trials, grid, model = whole.trials(), whole.scores.grid, whole.model
    if not trials:
        raise ValueError(f"{whole.source[-80:]} has no trials.jsonl beside it: --by needs the folder of a detection")
    if by == "rule":
        counted = {rule: recounted(trials, grid, model, rule) for rule in _RULES}
        parts: dict[str, HeadScores] = {rule: scores for rule, scores in counted.items() if scores}
        parts |= {} if whole.counting in _RULES else {whole.counting: whole.scores}
    else:
        levels = slices(trials, grid, model, whole.counting, _PARTS[by])
        parts = {str(level): scores for level, scores in levels.items()}
    rows: list[Row] = [{"part": name, "trials": scores.n_trials} for name, scores in parts.items()]
    return rows, every_two(list(parts.values()), lambda first, second: agreement(first, second, k))


def _print_sets(rows: list[Row], threshold: float) -> None:
    """What every set is, and its figures, each with its interval in a line below."""
    for number, row in enumerate(rows, start=1):
        trials = "" if row["trials"] is None else f", {row['trials']} trials, {row['distinct']} of them distinct"
        trials += f", intervals over {row['over']}" if row["over"] else ""
        kind = "key/value heads" if row["level"] == "kv" else "heads"
        grid = f"{row['grid']} {kind}" if row["grid"] else "grid not known"
        out.print(f"{number}  {_named(str(row['label']), 60)}: {grid}{trials}, best {row['best']}")
    figures = ((str(number), *(_figure(row, name) for name in _SHOWN)) for number, row in enumerate(rows, start=1))
    print_table(("", *(heading for heading, _ in _SHOWN.values())), figures)
    out.print(
        f"heads: with a mean of at least {threshold:g}; half in: the fewest heads that hold half of the sum; "
        "effective: exp of the entropy; below each its 95 % interval"
    )


def _figure(row: Row, name: str) -> str:
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    form = _SHOWN[name][1]
    if value is None:
        return "–"
    return form.format(value) + ("" if low is None else f"\n{form.format(low)}-{form.format(high)}")


def _print_parts(rows: list[Row]) -> None:
    cells = (
        (str(number), _named(str(row["part"]), 60), str(row["trials"])) for number, row in enumerate(rows, start=1)
    )
    print_table(("", "part", "successful trials"), cells)


def _named(name: str, most: int) -> str:
    """A name in one line: on a terminal at most so long, whole where it is piped."""
    return cut(name, most if out.is_terminal else out.width)


def _print_pairs(names: list[str], agreements: Agreements) -> None:
    """How far every two agree, and how many cannot be compared, with the first reason."""
    rows = []
    for (i, j), agreed in agreements.items():
        if isinstance(agreed, Agreement):
            spearman = "–" if agreed.spearman is None else f"{agreed.spearman:.3f}"
            shared = f"{round(agreed.overlap * agreed.k)} of the best {agreed.k}"
            pair = (f"{at + 1}  {_named(names[at], 20)}" for at in (i, j))
            rows.append((*pair, spearman, f"{agreed.jaccard:.2f}", shared))
    if rows:
        print_table(("one", "other", "Spearman", "Jaccard", "same heads"), rows)
    reasons = [reason for reason in agreements.values() if isinstance(reason, str)]
    if reasons:
        pairs = f"{len(reasons)} pairs are" if len(reasons) > 1 else "One pair is"
        out.print(f"{pairs} not compared head by head, because {reasons[0].partition(':')[0]}")


def _write(
    rows: list[Row], means: dict[str, Any], threshold: float, csv: Path | None, html: Path | None, png: Path | None
) -> None:
    """The files that are asked for. ValueError where one cannot be written."""
    figure = curves_together(means, threshold=threshold) if html or png else None
    if png and browser() is None:
        raise ValueError("--png needs Chrome or Chromium: install one, or take --html")
    try:
        if csv:
            write_atomic(csv, to_csv(rows))
        if html and figure:
            write_atomic(html, figure.to_html())
        if png and figure:
            png.write_bytes(figure.to_image("png", width=WIDTH, height=figure.layout.height, scale=2))
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be written: {error.strerror}") from None
