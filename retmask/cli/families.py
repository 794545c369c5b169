"""`retmask families`: score sets side by side, how few heads hold each, and whether they name the same heads."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from retmask.families.agreement import Agreement, Agreements, agreement, every_two, set_agreement
from retmask.figures.concentration import curves_together
from retmask.figures.rows import Row, pair_rows, set_rows, to_csv
from retmask.figures.style import browser, cut
from retmask.files import write_atomic
from retmask.heads.scores import THRESHOLD, HeadScores
from retmask.heads.sets import STRANGERS, ScoreSet, labels, read_set, strangers
from retmask.heads.trials import By, Rule, recounted, slices

WIDTH = 1100  # pixels of the figure
out = Console(highlight=False, soft_wrap=True, markup=False)  # names may hold brackets
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
    small = min((one for one in sets if one.grid), key=lambda one: one.scores.grid.size, default=None)
    if small and k > small.scores.grid.size:
        raise ValueError(f"--k {k} is more than the {small.scores.grid.size} heads of {small.label}: choose fewer")
    if by and (html or png):
        raise ValueError("--html and --png draw whole sets: leave --by out")
    if by:
        names, found, parts = _parted(sets, by, k or None)
        rows = [{"part": name, "trials": part.n_trials} for name, part in zip(names, parts, strict=True)]
    else:
        names, rows = labels(sets), set_rows(sets, threshold)
        found = every_two(sets, lambda one, other: set_agreement(one, other, k or None))
    pairs = pair_rows(names, found)
    warnings = {} if by else {name: one.warnings for name, one in zip(names, sets, strict=True)}
    means = {name: one.scores.mean for name, one in zip(labels(sets), sets, strict=True) if not one.ranking}
    if (html or png) and not means:
        raise ValueError("a list of heads has no scores to draw: give --html and --png a map of scores too")
    _write(rows, means, threshold, csv, html, png)
    if as_json:
        typer.echo(json.dumps({"sets": rows, "agreement": pairs, "warnings": warnings}))
        return
    _print_parts(rows) if by else _print_sets(rows, threshold)
    for name, said in warnings.items():
        for one in said:
            out.print(f"{name}: {one}", style="yellow")
    _print_pairs(names, found)
    if not by and any(strangers(sets[i], sets[j]) for (i, j), one in found.items() if isinstance(one, Agreement)):
        out.print(STRANGERS)


def _parted(sets: list[ScoreSet], by: str, k: int | None) -> tuple[list[str], Agreements, list[HeadScores]]:
    """The parts of one detection, their names, and how far every two agree. ValueError where it cannot be parted."""
    if by not in (*_PARTS, "rule"):
        raise ValueError(f"--by {by!r} is unknown: choose needle, length, depth or rule")
    if len(sets) != 1:
        raise ValueError(f"--by parts one detection and {len(sets)} sets were given: give one")
    one, trials = sets[0], sets[0].trials()
    if not trials:
        raise ValueError(f"{one.source[-80:]} has no trials.jsonl beside it: --by needs the folder of a detection")
    if by == "rule":
        counted = {rule: recounted(trials, one.scores.grid, one.model, rule) for rule in _RULES}
        parts: dict[str, HeadScores] = {rule: scores for rule, scores in counted.items() if scores}
        if one.counting not in _RULES:
            parts[one.counting] = one.scores
    else:
        made = slices(trials, one.scores.grid, one.model, one.counting, _PARTS[by])
        parts = {str(level): scores for level, scores in made.items()}
    return list(parts), every_two(list(parts.values()), lambda a, b: agreement(a, b, k)), list(parts.values())


def _print_sets(rows: list[Row], threshold: float) -> None:
    """What every set is, and its figures, each with its interval in a line below."""
    for number, row in enumerate(rows, start=1):
        trials = "" if row["trials"] is None else f", {row['trials']} trials, {row['distinct']} of them distinct"
        trials += f", intervals over {row['over']}" if row["over"] else ""
        kind = "key/value heads" if row["level"] == "kv" else "heads"
        grid = f"{row['grid']} {kind}" if row["grid"] else "grid not known"
        out.print(f"{number}  {cut(str(row['label']), 60)}: {grid}{trials}, best {row['best']}")
    table = Table("", *(heading for heading, _ in _SHOWN.values()), box=None, pad_edge=False)
    for number, row in enumerate(rows, start=1):
        table.add_row(str(number), *(_figure(row, name) for name in _SHOWN))
    for column in table.columns:
        column.no_wrap = True
    out.print(table)
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
    table = Table("", "part", "successful trials", box=None, pad_edge=False)
    for number, row in enumerate(rows, start=1):
        table.add_row(str(number), cut(str(row["part"]), 60), str(row["trials"]))
    out.print(table)


def _print_pairs(names: list[str], found: Agreements) -> None:
    """How far every two agree, and how many cannot be compared, with the first reason."""
    known = {pair: one for pair, one in found.items() if isinstance(one, Agreement)}
    if known:
        table = Table("one", "other", "Spearman", "Jaccard", "same heads", box=None, pad_edge=False)
        for (i, j), one in known.items():
            spearman = "–" if one.spearman is None else f"{one.spearman:.3f}"
            shared = f"{round(one.overlap * one.k)} of the best {one.k}"
            pair = (f"{at + 1}  {cut(names[at], 20)}" for at in (i, j))
            table.add_row(*pair, spearman, f"{one.jaccard:.2f}", shared)
        for column in table.columns:
            column.no_wrap = True
        out.print(table)
    reasons = [why for why in found.values() if isinstance(why, str)]
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
