"""The command line: `retmask ...`. Each command is the twin of something on the page."""

import json
import logging
import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from retmask import jobs
from retmask.files import shipped
from retmask.heads import HeadMask
from retmask.needle import load_needles
from retmask.retrieval import Trial, read_trials
from retmask.runs import Cancelled, Run
from retmask.scores import FEWEST_TRIALS, THRESHOLD, HeadScores

app = typer.Typer(
    help="Find the attention heads that copy from the context.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench = typer.Typer(help="Measure our speed against the plain way, in one process.", no_args_is_help=True)
app.add_typer(bench, name="bench")
out = Console(highlight=False, soft_wrap=True)

Model = Annotated[str, typer.Argument(help="built-in name, Hub id, folder with safetensors, or .gguf file")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1; by default cuda where there is one")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16; by default bfloat16 on cuda, else float32")]
PresetName = Annotated[str, typer.Option(help=f"the grid: {', '.join(jobs.PRESETS)}")]
Lengths = Annotated[str, typer.Option(help="context lengths in tokens, prompt and answer: 512,1024")]
Depths = Annotated[str, typer.Option(help="needle depths, 0 = beginning, 1 = end: 0,0.5,1")]


@app.command()
def detect(
    model: Model = jobs.DEFAULT_MODEL,
    preset: PresetName = "laptop",
    lengths: Lengths = "",
    depths: Depths = "",
    n_needles: Annotated[int, typer.Option(help="how many needles; by default the preset's, or all of --needles")] = 0,
    needles: Annotated[str, typer.Option(help="JSON or JSON lines: needle, question, answer (or real_needle)")] = "",
    haystack: Annotated[str, typer.Option(help="pydoc, essays, or a folder with .txt files")] = "pydoc",
    counting: Annotated[str, typer.Option(help="set: a position counts once; steps: at every step")] = "set",
    whole_needle: Annotated[bool, typer.Option("--whole-needle", help="score the needle, not its answer")] = False,
    keep_prompts: Annotated[bool, typer.Option("--keep-prompts", help="write prompt_ids into trials.jsonl")] = False,
    until_stable: Annotated[bool, typer.Option("--until-stable", help="stop when the top 5 % stay the same")] = False,
    revision: Annotated[str, typer.Option(help="branch, tag or commit of a Hub model")] = "",
    adapter: Annotated[str, typer.Option(help="a PEFT adapter folder, merged into the model")] = "",
    device: Device = "",
    dtype: Dtype = "",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="run code from the model's repository: only if you trust it")
    ] = False,
    out_dir: Annotated[Path | None, typer.Option("--out", help="folder for the results; the same continues it")] = None,
) -> None:
    """Find a model's retrieval heads: scores.json, run.json and trials.jsonl in a folder."""
    changes: dict[str, Any] = {
        "model": model,
        "needles": needles,
        "haystack": haystack,
        "counting": counting,
        "whole_needle": whole_needle,
        "keep_prompts": keep_prompts,
        "until_stable": until_stable,
        "revision": revision,
        "adapter": adapter,
        "device": device,
        "dtype": dtype,
    }
    changes |= {"lengths": _numbers(lengths, int, "--lengths")} if lengths else {}
    changes |= {"depths": _numbers(depths, float, "--depths")} if depths else {}
    if n_needles or needles:
        changes["n_needles"] = n_needles or len(load_needles(Path(needles)))
    run = jobs.new_detect(jobs.DetectConfig.preset(preset, **changes), out_dir)
    _follow(run, trust_remote_code)
    _report(run)


def _follow(run: Run, trust_remote_code: bool) -> None:
    """Do a detection in this process, with progress on the terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task(f"loading {run.record['config']['model']}", total=None)
        for step in jobs.detect(run, trust_remote_code):
            left = "" if step.eta is None else f", {step.eta:.0f} s left"
            says = f"{step.found} of {step.done} trials found the needle{left}"
            bar.update(line, completed=step.done, total=step.total, description=says)
            if not sys.stderr.isatty():
                typer.echo(f"{step.done}/{step.total}: {says}", err=True)


def _report(run: Run) -> None:
    """The result of a detection; exit code 1 with the model's answers if no trial found its needle."""
    trials, scores = read_trials(run.path), jobs.read_scores(run.path)
    if scores is None:
        typer.echo(jobs.no_map_sentence(trials))
        for trial in trials[:5]:
            typer.echo(f"  {trial.context_tokens} tokens, depth {trial.depth:g}: {trial.response[:100]!r}")
        raise typer.Exit(1)
    _print_heads(scores, scores.top(10), THRESHOLD, trials)
    record = run.record
    parity = f"the two views of the model differ by {record['parity']:.1e} in their logits at most"
    typer.echo(f"{record['dtype']} on {record['device']}, {record['attention']}; {parity}")
    typer.echo(f"written to {run.path}")


@app.command()
def heads(
    file_or_dir: Annotated[Path, typer.Argument(help="a score file, a folder of detect, or a built-in model")],
    top: Annotated[int, typer.Option(help="how many heads to list; by default 20, or all above --threshold")] = 0,
    threshold: Annotated[float, typer.Option(help="the mean score that makes a retrieval head")] = math.nan,
    only: Annotated[str, typer.Option("--heads", help="list these heads: L17H3,18-6")] = "",
    random: Annotated[int, typer.Option(help="list so many heads drawn from those below 0.1, as a control")] = 0,
    seed: Annotated[int, typer.Option(help="of the random draw")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Rank the heads of a score file, published or ours."""
    if not file_or_dir.exists() and shipped("maps", file_or_dir.name).is_dir() and file_or_dir.parent == Path():
        file_or_dir = shipped("maps", file_or_dir.name)  # the map that comes with a built-in model, by its name
    trials = read_trials(file_or_dir) if file_or_dir.is_dir() else []
    if trials and not (file_or_dir / "scores.json").exists():
        raise ValueError(jobs.no_map_sentence(trials))
    scores = HeadScores.load(file_or_dir)
    if threshold < 0 or top < 0 or random < 0:
        raise ValueError("--threshold, --top and --random cannot be negative")
    if bool(top or not math.isnan(threshold)) + bool(only) + bool(random) > 1:
        raise ValueError("--top and --threshold, --heads, and --random name heads in different ways: give one of them")
    listed = scores.top(top or 20) if top or math.isnan(threshold) else scores.above(threshold)
    if only or random:
        named = (
            HeadMask.parse(only, scores.grid)
            if only
            else HeadMask.random(scores.grid, random, seed, excluding=scores.above())
        )
        listed = tuple(sorted(named.heads, key=lambda head: int(scores.rank[head])))
    level = THRESHOLD if math.isnan(threshold) else threshold
    if not as_json:
        return _print_heads(scores, listed, level, trials)
    typer.echo(json.dumps({"heads": [_row(scores, head) for head in listed], "concentration": scores.concentration()}))


def _row(scores: HeadScores, head: Any) -> dict[str, Any]:
    low, high = scores.interval
    return {
        "head": str(head),
        "mean": round(float(scores.mean[head]), 6),
        "low": round(float(low[head]), 6),
        "high": round(float(high[head]), 6),
        "activation": round(float(scores.activation[head]), 6),
    }


def _print_heads(scores: HeadScores, listed: Any, threshold: float, trials: list[Trial]) -> None:
    table = Table("rank", "head", "mean", "95 % interval", "activation", box=None, pad_edge=False)
    for row in ({"rank": scores.rank[head], **_row(scores, head)} for head in listed):
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        table.add_row(str(row["rank"]), row["head"], f"{row['mean']:.3f}", interval, f"{row['activation']:.0%}")
    found = f"{scores.n_trials} of {len(trials)} trials found the needle" if trials else f"{scores.n_trials} trials"
    out.print(f"{scores.model}, {scores.grid} heads, {found}")
    out.print(table)
    figures = scores.concentration()
    out.print(f"{len(scores.above(threshold))} of {figures['n_heads']} heads >= {threshold:g}, best {scores.top(1)[0]}")
    if figures["gini"] is not None:
        share = f"top 5 % of heads hold {figures['top_5pct_share']:.1%} of the score"
        out.print(f"Gini {figures['gini']:.3f}, {share}, effective number of heads {figures['effective_heads']:.1f}")
    if scores.n_trials >= FEWEST_TRIALS:
        out.print(
            f"stability of the top 5 % {scores.stability():.0%}: how far bootstrap draws of the trials agree on it"
        )


@bench.command("detect")
def bench_detect(
    model: Model = jobs.DEFAULT_MODEL,
    preset: PresetName = "laptop",
    lengths: Lengths = "",
    depths: Depths = "",
    n_needles: Annotated[int, typer.Option(help="how many needles; by default the preset's")] = 0,
    device: Device = "",
    dtype: Dtype = "",
) -> None:
    """Run a detection and a plain loop on the same prompts; print both times, the ratio and the difference."""
    from retmask.bench import bench_detect as measure
    from retmask.model import load

    changes: dict[str, Any] = {"model": model, "device": device, "dtype": dtype}
    changes |= {"lengths": _numbers(lengths, int, "--lengths")} if lengths else {}
    changes |= {"depths": _numbers(depths, float, "--depths")} if depths else {}
    changes |= {"n_needles": n_needles} if n_needles else {}
    config = jobs.DetectConfig.preset(preset, **changes)
    loaded = load(model, device=device or None, dtype=dtype or None, context_tokens=max(config.lengths))
    times = measure(loaded, config)
    out.print(f"{loaded.name} on {loaded.device}, {loaded.dtype_name}, {loaded.attention}: {times.trials} trials")
    out.print(f"ours {times.ours:.1f} s, plain loop {times.plain:.1f} s, ratio {times.ratio:.3f}")
    out.print(
        f"same answers in {times.same_answers} of {times.trials} trials; scores differ in {times.differing_trials}, "
        f"by at most {times.largest_difference:.2g}"
    )


@app.command(hidden=True)
def worker(folder: Path) -> None:
    """Do a queued run: what the page starts. The page goes first where both want the processor."""
    os.nice(5)
    with suppress(OSError):  # where memory runs out, the kernel ends this and not the app
        Path("/proc/self/oom_score_adj").write_text("1000")
    jobs.work(Run.open(folder))


def _numbers(text: str, kind: Callable[[str], Any], flag: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"{flag} {text!r} is not a list of numbers: write them with commas, such as 512,1024"
        ) from None


def main() -> None:
    """Run a command. Wrong input is one sentence and exit code 2; an interrupted run says how to go on, code 130."""
    for library in ("transformers", "huggingface_hub"):  # their warnings are for programmers
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        app()
    except Cancelled:
        typer.echo(
            "stopped; what was finished is kept, and the same command with the same --out continues it", err=True
        )
        sys.exit(130)
    except (ValueError, OSError) as error:
        typer.echo(f"retmask: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
