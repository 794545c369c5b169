"""`retmask compare`, `dose` and `ablate`: what masking heads does to an answer, to a curve, and in the weights."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main
from rich.table import Table

from retmask.cli.flags import takes
from retmask.cli.options import (
    Above,
    Adapter,
    Device,
    Draw,
    Dtype,
    Exclude,
    MaskFile,
    MaskHeads,
    Model,
    OutDir,
    Revision,
    Scale,
    ScoreFile,
    Share,
    TopK,
    TrustRemoteCode,
    given,
    out,
    progress,
)
from retmask.compare.ablate import AblateSettings
from retmask.compare.checkpoint import export
from retmask.compare.dose import DOSE, DoseSettings, read_points
from retmask.detect.job import (
    DEFAULT_MODEL,
)
from retmask.figures.rows import dose_rows
from retmask.files import check_text, expanded, read_text
from retmask.heads.grid import HeadId, heads_words
from retmask.heads.intervals import span
from retmask.heads.masks import HeadMask
from retmask.heads.rules import CONTROL, MASKED, TUNED, UNMASKED, MaskRule, control, retrieval_heads
from retmask.heads.sets import read_scores
from retmask.model.weights import check_there, folder_grid
from retmask.text.haystack import load_haystack
from retmask.text.needle import NeedleTask, known_needle
from retmask.text.sampling import Sampling


def compare(
    model: Model = DEFAULT_MODEL,
    prompt: Annotated[str, typer.Option(help="your own text")] = "",
    prompt_file: Annotated[Path | None, typer.Option(help="a .txt file with your own text")] = None,
    answer: Annotated[str, typer.Option(help="the right answer to your own text: recall is shown")] = "",
    needle: Annotated[
        str, typer.Option(help="a needle that comes with the project, by name, hidden in a haystack")
    ] = "",
    tokens: Annotated[int, typer.Option(help="of the needle's context: prompt and room for the answer")] = 512,
    depth: Annotated[float, typer.Option(help="of the needle, 0 = beginning, 1 = end")] = 0.5,
    haystack: Annotated[str, typer.Option(help="pydoc, pydoc-end, essays, or a folder with .txt files")] = "pydoc-end",
    template: Annotated[str, typer.Option(help="chat or plain; by default chat where the model has a template")] = "",
    mask: MaskFile = "",
    heads: MaskHeads = "",
    top_k: TopK = 0,
    threshold: Above = 0.0,
    share: Share = 0.0,
    random: Draw = 0,
    scores: ScoreFile = "",
    scale: Scale = math.nan,
    exclude: Exclude = "",
    with_control: Annotated[bool, typer.Option("--control/--no-control", help="also mask as many random heads")] = True,
    control_seed: Annotated[int, typer.Option(help="of the random control, and of --random")] = 0,
    layer_matched: Annotated[
        bool, typer.Option("--layer-matched", help="draw the control from the same layers")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(help="the longest answer, in tokens")] = 64,
    temperature: Annotated[float, typer.Option(help="0: the likeliest token; above: drawn")] = 0.0,
    top_p: Annotated[float, typer.Option(help="draw from the likeliest tokens that reach this together")] = 1.0,
    seed: Annotated[int, typer.Option(help="of the drawn tokens: the same seed says the same again")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON: texts, log-probabilities, copies")] = False,
    tuned: Annotated[
        str, typer.Option(help="also answer with this fine-tuned model: the folder of an adapter or of a model")
    ] = "",
    revision: Revision = "",
    adapter: Adapter = "",
    trust_remote_code: TrustRemoteCode = False,
    device: Device = "",
    dtype: Dtype = "",
) -> None:
    """Answer a prompt unmasked, masked, tuned, and with as many random heads masked, and say what differs."""
    if bool(prompt) + bool(prompt_file) + bool(needle) != 1:
        raise ValueError("say what to ask in one way: --prompt TEXT, --prompt-file FILE, or --needle NAME")
    if answer and needle:
        raise ValueError("a needle has its answer: leave --answer out")
    if template not in ("", "chat", "plain"):
        raise ValueError(f"template {template!r} is unknown: choose chat or plain")
    chosen: Any = template or None
    rule = MaskRule(mask, heads, top_k, threshold, share, random, control_seed, scores, given(scale), exclude)
    if not rule.given and (scores or layer_matched or not math.isnan(scale)):
        raise ValueError(
            "which heads to mask is not said: add --top-k, --threshold, --share, --heads, --mask or --random"
        )
    task = NeedleTask(known_needle(needle), tokens, depth, template=chosen) if needle else None
    text = read_text(prompt_file) if prompt_file else check_text(prompt, "the prompt")
    if not (task or text.strip()):
        raise ValueError("the prompt is empty: give a text, or choose a needle")
    if task:
        load_haystack(haystack)
    sampling = Sampling(temperature, top_p, seed).check()
    check_there(model)
    if rule.given:
        rule.check(folder_grid(model))
    from retmask.compare.comparison import Column, Prompt
    from retmask.compare.side_by_side import compare as answers
    from retmask.model.loading import load, load_tuned

    how: dict[str, Any] = {
        "revision": revision or None,
        "device": device or None,
        "dtype": dtype or None,
        "context_tokens": tokens if needle else len(text) // 4 + max_new_tokens,
        "trust_remote_code": trust_remote_code,
    }
    loaded = load(model, adapter=adapter or None, **how)
    loaded.check_length(tokens if needle else 0)
    masked = rule.build(loaded.grid) if rule.given else HeadMask()
    columns = [Column(UNMASKED, HeadMask())]
    columns += [Column(MASKED, masked)] if rule.given else []
    columns += [Column(TUNED, HeadMask(), load_tuned(model, tuned, **how))] if tuned else []
    excluded: list[str] = []
    if rule.given and with_control:
        known = read_scores(scores, loaded.grid) if scores else None
        if known:
            known.check_grid(loaded.grid, model)
        drawn = control(masked, loaded.grid, control_seed, known, layer_matched, exclude)
        excluded = list(map(str, sorted({*masked.heads, *(retrieval_heads(known, exclude) if known else ())})))
        columns.append(Column(CONTROL, drawn))
    asked = (
        Prompt.of_needle(loaded.tokenizer, task, load_haystack(haystack))
        if task
        else Prompt.of_text(loaded.tokenizer, text, chosen, check_text(answer, "the answer"))
    )
    *_, last = answers(loaded, asked, columns, max_new_tokens, sampling)
    if as_json:
        return typer.echo(json.dumps(last.to_json() | {"control_excludes": excluded}, ensure_ascii=False))
    typer.echo(_side_by_side(last))
    if excluded:
        typer.echo(f"\nthe random control is drawn from all heads but these: {','.join(excluded)}")


def _side_by_side(comparison: Any) -> str:
    """A comparison in plain text."""
    from retmask.compare.differences import first_divergence

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
    table = Table("heads", "which", "recall", "95 % interval", "found", "perplexity", box=None, pad_edge=False)
    for row in dose_rows(read_points(run.path)):
        which = "unmasked" if not row["k"] else "best" if row["kind"] == "top" else f"random, seed {row['seed']}"
        between = span(row["low"], row["high"])
        figures = (f"{row['recall']:.2f}", between, f"{row['found']:.0%}", f"{row['perplexity']:.2f}")
        table.add_row(str(row["k"]), which, *figures)
    out.print(table)
    out.print(f"intervals over {row['over']}" if row["low"] is not None else f"no intervals: only {row['over']}")
    out.print(f"written to {run.path}")


def _dose_words(point: dict[str, Any]) -> str:
    which = "best" if point["kind"] == "top" else "random"
    what = f"{heads_words(point['k'], which)} masked" if point["k"] else "unmasked"
    return f"{what}: recall {point['recall']:.2f}, perplexity {point['perplexity']:.1f}"


dose = takes(DoseSettings, _dose)


def _ablate(settings: AblateSettings, trust_remote_code: TrustRemoteCode = False) -> None:
    """Write a checkpoint with heads masked in its weights, for plain transformers or any server."""
    made = export(
        settings.model,
        settings.rule,
        expanded(settings.out),
        revision=settings.revision,
        adapter=settings.adapter,
        trust_remote_code=trust_remote_code,
    )
    scales = {HeadId.parse(key): scale for key, scale in made["mask"]["scales"].items()}
    what = f"{heads_words(len(scales))} {'scaled' if any(scales.values()) else 'masked'} ({HeadMask(scales)})"
    typer.echo(f"{settings.model} with {what}, {made['dtype']}, in {settings.out}")


ablate = takes(AblateSettings, _ablate)
