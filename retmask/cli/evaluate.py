"""`retmask evaluate`: what masking and fine-tuning changed, on held-out prompts."""

import json
import math
from typing import Annotated

import typer
from rich.table import Table

from retmask.cli.options import (
    Above,
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
    mask_rule,
    out,
    progress,
)
from retmask.evaluate.job import EvaluateConfig, new_evaluate
from retmask.evaluate.job import evaluate as do_evaluate
from retmask.heads.intervals import FEWEST, none_over, over, span
from retmask.runs.job import Progress
from retmask.runs.run import Run


def evaluate(
    model: Model,
    tuned: Annotated[
        list[str] | None, typer.Option(help="an adapter or model folder, or name=folder; give several times")
    ] = None,
    mask: MaskFile = "",
    heads: MaskHeads = "",
    top_k: TopK = 0,
    threshold: Above = 0.0,
    share: Share = 0.0,
    random: Draw = 0,
    mask_seed: Annotated[int, typer.Option(help="of --random")] = 0,
    scores: ScoreFile = "",
    scale: Scale = math.nan,
    exclude: Exclude = "",
    also: Annotated[
        list[str] | None, typer.Option(help="a further masked condition: name=L17H3,L18H6; give several times")
    ] = None,
    trials: Annotated[int, typer.Option(help="prompts, on needles and depths that detection did not use")] = 120,
    context_tokens: Annotated[int, typer.Option(help="of a prompt with its answer")] = 512,
    needles: Annotated[str, typer.Option(help="JSON or JSON lines, as for detect")] = "",
    haystack: Annotated[str, typer.Option(help="pydoc-end, essays, or a folder with .txt files")] = "pydoc-end",
    revision: Revision = "",
    device: Device = "",
    dtype: Dtype = "",
    trust_remote_code: TrustRemoteCode = False,
    out_dir: OutDir = None,
) -> None:
    """Needle recall unmasked, masked and tuned on the same held-out prompts, with paired intervals."""
    rule = mask_rule(mask, heads, top_k, threshold, share, random, mask_seed, scores, scale, exclude)
    masks, folders = tuple(also or ()), tuple(tuned or ())
    config = EvaluateConfig(
        model, folders, rule, masks, trials, context_tokens, needles, haystack, revision, device, dtype
    )
    run = new_evaluate(config, out_dir)
    steps = (
        Progress(at.done, at.total, at.eta, {"condition": at.condition}) for at in do_evaluate(run, trust_remote_code)
    )
    progress(steps, run, "{condition}".format)
    _report_evaluation(run)


def _report_evaluation(run: Run) -> None:
    found = json.loads((run.path / "results.json").read_text(encoding="utf-8"))
    table = Table("condition", "recall", "95 % interval", "found", box=None, pad_edge=False)
    for row in found["conditions"]:
        table.add_row(
            row["condition"], f"{row['recall']:.3f}", span(row["low"], row["high"], ".3f"), f"{row['found']:.0%}"
        )
    out.print(table)
    needles = found["conditions"][0].get("needles")  # an evaluation from before these were counted drew prompts
    few = needles is not None and needles < FEWEST
    words = "prompts" if needles is None else over(needles, "needle")
    out.print(none_over(needles, "needle") if few else f"intervals over {words}")
    columns = ("difference", "mean", "95 % by prompts", "95 % by needles", "better", "worse")
    table = Table(*columns, box=None, pad_edge=False)
    for row in found["differences"]:
        table.add_row(
            f"{row['condition']} - {row['against']}",
            f"{row['mean']:+.3f}",
            span(row["low"], row["high"], "+.3f"),
            span(row["needle_low"], row["needle_high"], "+.3f"),
            str(row["better"]),
            str(row["worse"]),
        )
    out.print(table)
    out.print(f"written to {run.path}")
