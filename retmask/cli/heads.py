"""`retmask detect` and `retmask heads`: find a model's retrieval heads, and rank those of a score set."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main
from rich.table import Table

from retmask.cli.options import (
    Adapter,
    Depths,
    Device,
    Dtype,
    Exclude,
    Lengths,
    Model,
    OutDir,
    PresetName,
    Revision,
    TrustRemoteCode,
    numbers,
    out,
    progress,
)
from retmask.detect.job import (
    DEFAULT_MODEL,
    DetectConfig,
    new_detect,
    no_map_sentence,
    read_scores,
    same_prompts_sentence,
)
from retmask.detect.job import detect as do_detect
from retmask.families.concentration import concentration
from retmask.heads.grid import HeadId, model_grid
from retmask.heads.intervals import LEVEL, none_over, over, span
from retmask.heads.masks import HeadMask
from retmask.heads.rules import retrieval_heads
from retmask.heads.scores import THRESHOLD, HeadScores, scores_path
from retmask.heads.sets import head_scores, read_set
from retmask.heads.trials import Trial, read_trials
from retmask.runs.run import Run
from retmask.text.needle import load_needles


def detect(
    model: Model = DEFAULT_MODEL,
    preset: PresetName = "laptop",
    lengths: Lengths = "",
    depths: Depths = "",
    n_needles: Annotated[int, typer.Option(help="how many needles; by default the preset's, or all of --needles")] = 0,
    needles: Annotated[str, typer.Option(help="JSON or JSON lines: needle, question, answer (or real_needle)")] = "",
    haystack: Annotated[str, typer.Option(help="pydoc, essays, or a folder with .txt files")] = "pydoc",
    counting: Annotated[str, typer.Option(help="set: a position counts once; steps: at every step")] = "set",
    detector: Annotated[str, typer.Option(help="what a score is: copy, attention, query or causal")] = "copy",
    whole_needle: Annotated[bool, typer.Option("--whole-needle", help="score the needle, not its answer")] = False,
    keep_prompts: Annotated[bool, typer.Option("--keep-prompts", help="write prompt_ids into trials.jsonl")] = False,
    until_stable: Annotated[bool, typer.Option("--until-stable", help="stop when the top 5 % stay the same")] = False,
    revision: Revision = "",
    adapter: Adapter = "",
    device: Device = "",
    dtype: Dtype = "",
    trust_remote_code: TrustRemoteCode = False,
    out_dir: OutDir = None,
) -> None:
    """Find a model's retrieval heads: scores.json, run.json and trials.jsonl in a folder."""
    changes: dict[str, Any] = {
        "model": model,
        "needles": needles,
        "haystack": haystack,
        "counting": counting,
        "detector": detector,
        "whole_needle": whole_needle,
        "keep_prompts": keep_prompts,
        "until_stable": until_stable,
        "revision": revision,
        "adapter": adapter,
        "device": device,
        "dtype": dtype,
    }
    changes |= {"lengths": numbers(lengths, int, "--lengths", "512,1024")} if lengths else {}
    changes |= {"depths": numbers(depths, float, "--depths", "0,0.5,1")} if depths else {}
    if n_needles or needles:
        changes["n_needles"] = n_needles or len(load_needles(Path(needles)))
    run = new_detect(DetectConfig.preset(preset, **changes), out_dir)
    _follow(run, trust_remote_code)
    _report(run)


def _follow(run: Run, trust_remote_code: bool) -> None:
    """Do a detection in this process, with progress on the terminal."""
    steps = (
        (step.done, step.total, f"{step.found} of {step.done} trials found the needle", step.eta)
        for step in do_detect(run, trust_remote_code)
    )
    progress(steps, run)


def _report(run: Run) -> None:
    """The result of a detection; exit code 1 with the model's answers if no trial found its needle."""
    trials, scores = read_trials(run.path), read_scores(run.path)
    if same := same_prompts_sentence(run.record):
        typer.echo(same)
    if scores is None:
        typer.echo(no_map_sentence(trials))
        for trial in trials[:5]:
            typer.echo(f"  {trial.context_tokens} tokens, depth {trial.depth:g}: {trial.response[:100]!r}")
        raise typer.Exit(1)
    _print_heads(scores, scores.top(10), THRESHOLD, trials)
    record = run.record
    parity = f"the two views of the model differ by {record['parity']:.1e} in their logits at most"
    typer.echo(f"{record['dtype']} on {record['device']}, {record['attention']}; {parity}")
    typer.echo(f"written to {run.path}")


def heads(
    file_or_dir: Annotated[
        str, typer.Argument(help="a score file, a list of heads, gates, a folder of detect, or a built-in model")
    ],
    top: Annotated[int, typer.Option(help="how many heads to list; by default 20, or all above --threshold")] = 0,
    threshold: Annotated[float, typer.Option(help="the mean score that makes a retrieval head")] = math.nan,
    only: Annotated[str, typer.Option("--heads", help="list these heads: L17H3,18-6")] = "",
    random: Annotated[int, typer.Option(help="list so many heads drawn from the others, as a control")] = 0,
    seed: Annotated[int, typer.Option(help="of the random draw")] = 0,
    model: Annotated[
        str, typer.Option(help="whose grid a list or gates are for: its folder, or the name of a published model")
    ] = "",
    exclude: Exclude = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Rank the heads of a score file, published or ours."""
    folder = scores_path(file_or_dir)
    trials = read_trials(folder) if folder.is_dir() else []
    if trials and not (folder / "scores.json").exists():
        raise ValueError(no_map_sentence(trials))
    opened = read_set(file_or_dir)
    asked = model_grid(model) if model else None
    lone = opened.grid is None and asked is None and not (only or random)  # a list: its order can be told all the same
    scores = opened.scores if lone else head_scores(opened, asked)
    if asked:
        scores.check_grid(asked, model)
    if threshold < 0 or top < 0 or random < 0:
        raise ValueError("--threshold, --top and --random cannot be negative")
    if bool(top or not math.isnan(threshold)) + bool(only) + bool(random) > 1:
        raise ValueError("--top and --threshold, --heads, and --random name heads in different ways: give one of them")
    listed = scores.top(top or 20) if top or math.isnan(threshold) else scores.above(threshold)
    if exclude and not random:
        raise ValueError("--exclude says what --random leaves out: give both")
    excluded = retrieval_heads(scores, exclude) if random else ()
    if only or random:
        named = (
            HeadMask.parse(only, scores.grid)
            if only
            else HeadMask.random(scores.grid, random, seed, excluding=excluded)
        )
        listed = tuple(sorted(named.heads, key=lambda head: int(scores.rank[head])))
    level = THRESHOLD if math.isnan(threshold) else threshold
    if scores.counting == "ranking":
        return _print_list(scores, listed, "not known" if lone else f"{scores.grid} heads", as_json)
    if not as_json:
        for note in opened.notes:
            out.print(note, style="yellow")
        if random:
            out.print(f"drawn from all heads but the {len(excluded)} retrieval heads: {HeadMask.of(excluded)}")
        return _print_heads(scores, listed, level, trials)
    figures = {"threshold": level} | concentration(scores.mean, level)._asdict()
    rows = [_row(scores, head) for head in listed]
    told = {"heads": rows, "interval": _over(scores), "concentration": figures}
    typer.echo(json.dumps(told | ({"excluded": list(map(str, sorted(excluded)))} if random else {})))


def _print_list(scores: HeadScores, listed: Sequence[HeadId], grid: str, as_json: bool) -> None:
    """A list of heads, which has an order and no scores."""
    ranks = {str(head): int(scores.rank[head]) for head in listed}
    if as_json:
        typer.echo(json.dumps({"heads": [{"head": head, "rank": rank} for head, rank in ranks.items()]}))
        return
    table = Table("rank", "head", box=None, pad_edge=False)
    for head, rank in ranks.items():
        table.add_row(str(rank), head)
    out.print(f"{scores.model}, a list of {scores.n_ranked} heads in order, without scores; the model's grid: {grid}")
    out.print(table)


def _row(scores: HeadScores, head: Any) -> dict[str, Any]:
    spread = scores.interval
    return {
        "head": str(head),
        "mean": round(float(scores.mean[head]), 6),
        "low": spread and round(float(spread.low[head]), 6),
        "high": spread and round(float(spread.high[head]), 6),
        "activation": round(float(scores.activation[head]), 6),
    }


def _over(scores: HeadScores) -> dict[str, Any]:
    """What the intervals of the heads' means are: None of them where `over` is less than 3."""
    return {"level": LEVEL, "over": scores.clusters.n, "unit": scores.clusters.unit}


def _print_heads(scores: HeadScores, listed: Any, threshold: float, trials: list[Trial]) -> None:
    table = Table("rank", "head", "mean", "95 % interval", "activation", box=None, pad_edge=False)
    for row in ({"rank": scores.rank[head], **_row(scores, head)} for head in listed):
        between = span(row["low"], row["high"], ".3f")
        table.add_row(str(row["rank"]), row["head"], f"{row['mean']:.3f}", between, f"{row['activation']:.0%}")
    found = f"{scores.n_trials} of {len(trials)} trials found the needle" if trials else over(scores.n_trials, "trial")
    found = scores.detector.says if scores.counting == "gates" else found
    out.print(f"{scores.model}, {scores.grid} heads, {found}")
    out.print(table)
    by = scores.clusters
    if scores.counting != "gates":
        out.print(f"intervals over {by.words}" if scores.interval else none_over(by.n, by.unit))
    figures = concentration(scores.mean, threshold)
    out.print(f"{figures.above} of {figures.n_heads} heads >= {threshold:g}, best {scores.top(1)[0]}")
    if figures.gini is not None:
        share = f"top 5 % of heads hold {figures.top_5pct_share:.1%} of the score"
        out.print(f"Gini {figures.gini:.3f}, {share}, effective number of heads {figures.effective_heads:.1f}")
    stable = scores.stability()
    if stable is not None:
        out.print(f"stability of the top 5 % {stable:.0%}: how far bootstrap draws of {by.words} agree on it")
