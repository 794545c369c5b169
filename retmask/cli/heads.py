"""`retmask detect` and `retmask heads`: find a model's retrieval heads, and rank those of a score set."""

import json
import math
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from retmask.cli.options import OutDir, TrustRemoteCode, out, print_table, progress, takes
from retmask.detect.job import DETECT, DetectSettings, no_map_sentence, same_prompts_sentence
from retmask.families.concentration import concentration
from retmask.heads.grid import HeadId, model_grid
from retmask.heads.intervals import LEVEL, none_over, over, span
from retmask.heads.masks import HeadMask
from retmask.heads.rules import EXCLUDE, retrieval_heads
from retmask.heads.scores import THRESHOLD, HeadScores, scores_path
from retmask.heads.sets import head_scores, read_set
from retmask.heads.trials import Trial, read_trials
from retmask.runs.run import Run


def _detect(settings: DetectSettings, trust_remote_code: TrustRemoteCode = False, out_dir: OutDir = None) -> None:
    """Find a model's retrieval heads: scores.json, run.json and trials.jsonl in a folder."""
    run = DETECT.new(settings, out_dir)
    progress(DETECT.work(run, trust_remote_code), run, "{found} of {done} trials found the needle".format)
    _report(run)


detect = takes(DetectSettings, _detect)


def _report(run: Run) -> None:
    """The result of a detection; exit code 1 with the model's answers if no trial found its needle."""
    trials = read_trials(run.path)
    if same := same_prompts_sentence(run.record):
        typer.echo(same)
    if not any(trial.success for trial in trials):
        typer.echo(no_map_sentence(trials))
        for trial in trials[:5]:
            typer.echo(f"  {trial.context_tokens} tokens, depth {trial.depth:g}: {trial.response[:100]!r}")
        raise typer.Exit(1)
    scores = HeadScores.load(run.path)
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
    exclude: Annotated[str, typer.Option(help=EXCLUDE)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Rank the heads of a score file, published or ours."""
    folder = scores_path(file_or_dir)
    trials = read_trials(folder) if folder.is_dir() else []
    if trials and not (folder / "scores.json").exists():
        raise ValueError(no_map_sentence(trials))
    opened, grid = read_set(file_or_dir), model_grid(model) if model else None
    alone = opened.grid is None and grid is None and not (only or random)  # a list: its order can be told all the same
    scores = opened.scores if alone else head_scores(opened, grid)
    if grid:
        scores.check_grid(grid, model)
    if threshold < 0 or top < 0 or random < 0:
        raise ValueError("--threshold, --top and --random cannot be negative")
    by_score = not math.isnan(threshold)
    if bool(top or by_score) + bool(only) + bool(random) > 1:
        raise ValueError("--top and --threshold, --heads, and --random name heads in different ways: give one of them")
    if exclude and not random:
        raise ValueError("--exclude says what --random leaves out: give both")
    excluded = retrieval_heads(scores, exclude) if random else ()
    if only or random:
        drawn = HeadMask.random(scores.grid, random, seed, excluding=excluded) if random else None
        mask = drawn or HeadMask.parse(only, scores.grid)
        listed = tuple(sorted(mask.heads, key=lambda head: int(scores.rank[head])))
    else:
        listed = scores.above(threshold) if by_score and not top else scores.top(top or 20)
    if scores.ranking:
        return _print_list(scores, listed, "not known" if alone else f"{scores.grid} heads", as_json)
    level = threshold if by_score else THRESHOLD
    if as_json:
        record = {
            "heads": [_row(scores, head) for head in listed],
            "interval": {
                "level": LEVEL,
                "over": scores.clusters.n,
                "unit": scores.clusters.unit,
            },  # none of fewer than 3
            "concentration": {"threshold": level} | concentration(scores.mean, level)._asdict(),
        }
        return typer.echo(json.dumps(record | ({"excluded": list(map(str, sorted(excluded)))} if random else {})))
    for note in opened.notes:
        out.print(note, style="yellow")
    if random:
        out.print(f"drawn from all heads but the {len(excluded)} retrieval heads: {HeadMask.of(excluded)}")
    return _print_heads(scores, listed, level, trials)


def _print_list(scores: HeadScores, listed: Sequence[HeadId], grid: str, as_json: bool) -> None:
    """A list of heads, which has an order and no scores."""
    ranks = {str(head): int(scores.rank[head]) for head in listed}
    if as_json:
        typer.echo(json.dumps({"heads": [{"head": head, "rank": rank} for head, rank in ranks.items()]}))
        return
    out.print(f"{scores.model}, a list of {scores.n_ranked} heads in order, without scores; the model's grid: {grid}")
    print_table(("rank", "head"), ((str(rank), head) for head, rank in ranks.items()))


def _row(scores: HeadScores, head: Any) -> dict[str, Any]:
    spread = scores.interval
    return {
        "head": str(head),
        "mean": round(float(scores.mean[head]), 6),
        "low": spread and round(float(spread.low[head]), 6),
        "high": spread and round(float(spread.high[head]), 6),
        "activation": round(float(scores.activation[head]), 6),
    }


def _print_heads(scores: HeadScores, listed: Any, threshold: float, trials: list[Trial]) -> None:
    rows = []
    for row in ({"rank": scores.rank[head], **_row(scores, head)} for head in listed):
        between = span(row["low"], row["high"], ".3f")
        rows.append((str(row["rank"]), row["head"], f"{row['mean']:.3f}", between, f"{row['activation']:.0%}"))
    basis = f"{scores.n_trials} of {len(trials)} trials found the needle" if trials else over(scores.n_trials, "trial")
    basis = scores.detector.says if scores.counting == "gates" else basis
    out.print(f"{scores.model}, {scores.grid} heads, {basis}")
    print_table(("rank", "head", "mean", "95 % interval", "activation"), rows)
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
