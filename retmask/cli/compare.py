"""`retmask compare`, `dose` and `ablate`: what masking heads does to an answer, to a curve, and in the weights."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retmask.cli.options import OutDir, TrustRemoteCode, out, print_table, progress, takes
from retmask.compare.ablate import AblateSettings, written
from retmask.compare.comparison import Comparison, first_divergence
from retmask.compare.dose import DOSE, DoseSettings, read_points
from retmask.compare.settings import CompareSettings
from retmask.figures.rows import dose_rows
from retmask.heads.grid import HeadId, heads_words
from retmask.heads.intervals import span
from retmask.heads.masks import HeadMask
from retmask.model.weights import check_there, folder_grid

if TYPE_CHECKING:
    from retmask.model.lens import LensModel


def _compare(
    settings: CompareSettings,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON: texts, log-probabilities, copies")] = False,
) -> None:
    """Answer a prompt unmasked, masked, tuned, and with as many random heads masked, and say what differs."""
    context_tokens, sampling, rule = settings.context_tokens, settings.sampling, settings.rule
    check_there(settings.model, settings.adapter, settings.revision)
    conditions, grid = settings.conditions(), folder_grid(settings.model)
    for condition in conditions:
        condition.check(grid, settings.model, settings.revision)
    from retmask.compare.side_by_side import compare as answers

    names = ("revision", "adapter", "device", "dtype")
    how: dict[str, Any] = {name: getattr(settings, name) or None for name in names}
    how |= {"context_tokens": context_tokens, "trust_remote_code": trust_remote_code}
    model = conditions[0].load(settings.model, **how)
    model.check_length(settings.tokens if settings.needle else 0)
    columns = [condition.column(model.grid) for condition in conditions]
    excluded = sorted({*columns[1].mask.heads, *rule.excluded(model.grid)}) if rule.given and settings.control else []
    models: dict[Any, LensModel | None] = {conditions[0].weights: None}
    for place, condition in enumerate(conditions):
        if condition.weights not in models:
            models[condition.weights] = condition.load(settings.model, **how)
        columns[place] = columns[place]._replace(model=models[condition.weights])
    *_, last = answers(model, settings.encode(model.tokenizer), columns, settings.max_new_tokens, sampling)
    if as_json:
        return typer.echo(
            json.dumps(last.to_json() | {"control_excludes": list(map(str, excluded))}, ensure_ascii=False)
        )
    typer.echo(_side_by_side(last))
    if excluded:
        typer.echo(f"\nthe random control is drawn from all heads but these: {','.join(map(str, excluded))}")


compare = takes(CompareSettings, _compare)


def _side_by_side(comparison: Comparison) -> str:
    """A comparison in plain text."""
    lines = []
    if comparison.prompt.answer:
        lines += [f"right answer: {comparison.prompt.answer}", ""]
    for i, column in enumerate(comparison.columns):
        recall = comparison.recall(i)
        done = "masked" if not any(column.mask.scales.values()) else "scaled"
        facts = [f"{heads_words(len(column.mask))} {done}" if len(column.mask) else "no heads masked"]
        facts += [] if recall is None else [f"recall {recall:.2f}"]
        facts += [f"{len(comparison.token_ids[i])} tokens, {comparison.rate(i):.1f} a second"]
        at = first_divergence(comparison.token_ids[0], comparison.token_ids[i]) if i else None
        facts += [] if at is None else [f"differs from unmasked at token {at + 1}"]
        lines += [f"{column.name} ({', '.join(facts)})", f"  {comparison.text(i)}", ""]
    return "\n".join(lines).rstrip()


def _dose(settings: DoseSettings, trust_remote_code: TrustRemoteCode = False, out_dir: OutDir = None) -> None:
    """Recall and perplexity against the number of masked heads: the best ones, and random draws."""
    run = DOSE.new(settings, out_dir)
    progress(DOSE.work(run, trust_remote_code), run, lambda **_: _dose_words(read_points(run.path)[-1]))
    points, rows = dose_rows(read_points(run.path)), []
    for row in points:
        which = "unmasked" if not row["k"] else "best" if row["kind"] == "top" else f"random, seed {row['seed']}"
        between = span(row["low"], row["high"])
        figures = (f"{row['recall']:.2f}", between, f"{row['found']:.0%}", f"{row['perplexity']:.2f}")
        rows.append((str(row["k"]), which, *figures))
    print_table(("heads", "which", "recall", "95 % interval", "found", "perplexity"), rows)
    out.print(f"intervals over {row['over']}" if row["low"] is not None else f"no intervals: only {row['over']}")
    out.print(f"written to {run.path}")


def _dose_words(point: dict[str, Any]) -> str:
    which = "best" if point["kind"] == "top" else "random"
    what = f"{heads_words(point['k'], which)} masked" if point["k"] else "unmasked"
    return f"{what}: recall {point['recall']:.2f}, perplexity {point['perplexity']:.1f}"


dose = takes(DoseSettings, _dose)


def _ablate(settings: AblateSettings, trust_remote_code: TrustRemoteCode = False) -> None:
    """Write a checkpoint with heads masked in its weights, for plain transformers or any server."""
    manifest = written(settings, trust_remote_code)
    scales = {HeadId.parse(key): scale for key, scale in manifest["mask"]["scales"].items()}
    what = f"{heads_words(len(scales))} {'scaled' if any(scales.values()) else 'masked'} ({HeadMask(scales)})"
    typer.echo(f"{settings.model} with {what}, {manifest['dtype']}, in {settings.out}")


ablate = takes(AblateSettings, _ablate)
