"""The command line: `retmask ...`. Each command is the twin of something on the page."""

import io
import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main
from rich.table import Table

from retmask.cli import bench as cli_bench
from retmask.cli import families as cli_compare
from retmask.cli import jobs
from retmask.cli import runs as cli_runs
from retmask.cli import train as cli_train
from retmask.cli.options import (
    Above,
    Adapter,
    Depths,
    Device,
    Draw,
    Dtype,
    Exclude,
    Lengths,
    MaskFile,
    MaskHeads,
    Model,
    OutDir,
    PresetName,
    Revision,
    Scale,
    ScoreFile,
    Share,
    TopK,
    TrustRemoteCode,
    given,
    numbers,
    out,
    progress,
)
from retmask.compare.ablate import export
from retmask.compare.dose import KS, DoseConfig, new_dose, read_points
from retmask.compare.dose import dose as do_dose
from retmask.detect.job import (
    DEFAULT_MODEL,
    DetectConfig,
    new_detect,
    no_map_sentence,
    read_scores,
    same_prompts_sentence,
)
from retmask.detect.job import detect as do_detect
from retmask.figures.rows import dose_rows
from retmask.files import check_text, expanded, read_text
from retmask.heads.grid import HeadId, HeadMask, heads_words
from retmask.heads.grids import model_grid
from retmask.heads.intervals import LEVEL, none_over, over, span
from retmask.heads.masks import MaskRule, control, retrieval_heads
from retmask.heads.scores import THRESHOLD, HeadScores, scores_path
from retmask.heads.sets import head_scores, open_scores, read_set
from retmask.heads.trials import Trial, read_trials
from retmask.model.decoding import Sampling
from retmask.model.weights import check_there, folder_grid
from retmask.runs import faults
from retmask.runs.run import Cancelled, Run
from retmask.text.needle import NeedleTask, known_needle, load_haystack, load_needles

app = typer.Typer(
    help="Find the attention heads that copy from the context.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
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


@app.command()
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
    figures = {"threshold": level} | scores.concentration(level)._asdict()
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
    figures = scores.concentration(threshold)
    out.print(f"{figures.above} of {figures.n_heads} heads >= {threshold:g}, best {scores.top(1)[0]}")
    if figures.gini is not None:
        share = f"top 5 % of heads hold {figures.top_5pct_share:.1%} of the score"
        out.print(f"Gini {figures.gini:.3f}, {share}, effective number of heads {figures.effective_heads:.1f}")
    stable = scores.stability()
    if stable is not None:
        out.print(f"stability of the top 5 % {stable:.0%}: how far bootstrap draws of {by.words} agree on it")


@app.command()
def ask(
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
    from retmask.compare.side_by_side import Column, Prompt, compare
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
    columns = [Column("unmasked", HeadMask())]
    columns += [Column("masked", masked)] if rule.given else []
    columns += [Column("tuned", HeadMask(), load_tuned(model, tuned, **how))] if tuned else []
    excluded: list[str] = []
    if rule.given and with_control:
        known = open_scores(scores, loaded.grid) if scores else None
        if known:
            known.check_grid(loaded.grid, model)
        drawn = control(masked, loaded.grid, control_seed, known, layer_matched, exclude)
        excluded = list(map(str, sorted({*masked.heads, *(retrieval_heads(known, exclude) if known else ())})))
        columns.append(Column("random control", drawn))
    asked = (
        Prompt.of_needle(loaded.tokenizer, task, load_haystack(haystack))
        if task
        else Prompt.of_text(loaded.tokenizer, text, chosen, check_text(answer, "the answer"))
    )
    *_, last = compare(loaded, asked, columns, max_new_tokens, sampling)
    if as_json:
        return typer.echo(json.dumps(last.to_json() | {"control_excludes": excluded}, ensure_ascii=False))
    typer.echo(_side_by_side(last))
    if excluded:
        typer.echo(f"\nthe random control is drawn from all heads but these: {','.join(excluded)}")


def _side_by_side(comparison: Any) -> str:
    """A comparison in plain text."""
    from retmask.compare.side_by_side import first_divergence

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


@app.command()
def dose(
    model: Model,
    scores: Annotated[str, typer.Option(help="a score file, a folder of detect, or a built-in model's name")],
    ks: Annotated[str, typer.Option(help="how many heads to mask")] = ",".join(map(str, KS)),
    random_seeds: Annotated[int, typer.Option(help="how many random draws of each size")] = 5,
    layer_matched: Annotated[
        bool, typer.Option("--layer-matched", help="draw from the layers of the best heads")
    ] = False,
    exclude: Exclude = "",
    trials: Annotated[
        int, typer.Option(help="needle trials a point, on needles and depths detection did not use")
    ] = 24,
    context_tokens: Annotated[int, typer.Option(help="of a trial: prompt and answer")] = 512,
    prose_tokens: Annotated[int, typer.Option(help="tokens of plain prose for the perplexity")] = 2048,
    needles: Annotated[str, typer.Option(help="JSON or JSON lines, as for detect")] = "",
    haystack: Annotated[str, typer.Option(help="pydoc-end, essays, or a folder with .txt files")] = "pydoc-end",
    prose: Annotated[str, typer.Option(help="a text file; by default the last quarter of Python's manual")] = "",
    revision: Revision = "",
    adapter: Adapter = "",
    device: Device = "",
    dtype: Dtype = "",
    trust_remote_code: TrustRemoteCode = False,
    out_dir: OutDir = None,
) -> None:
    """Recall and perplexity against the number of masked heads: the best ones, and random draws."""
    config = DoseConfig(
        model, scores, numbers(ks, int, "--ks", "0,14,27"), random_seeds, layer_matched, trials, context_tokens,
        prose_tokens, needles, haystack, prose, revision, adapter, device, dtype, exclude,
    )  # fmt: skip
    run = new_dose(config, out_dir)
    progress(((at.done, at.total, _dose_words(at.points[-1]), at.eta) for at in do_dose(run, trust_remote_code)), run)
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


@app.command()
def ablate(
    model: Model,
    out_dir: Annotated[Path, typer.Option("--out", help="folder for the checkpoint")],
    mask: MaskFile = "",
    heads: MaskHeads = "",
    top_k: TopK = 0,
    threshold: Above = 0.0,
    share: Share = 0.0,
    random: Draw = 0,
    seed: Annotated[int, typer.Option(help="of the random draw")] = 0,
    scores: ScoreFile = "",
    scale: Scale = math.nan,
    exclude: Exclude = "",
    revision: Revision = "",
    adapter: Adapter = "",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write a checkpoint with heads masked in its weights, for plain transformers or any server."""
    rule = MaskRule(mask, heads, top_k, threshold, share, random, seed, scores, given(scale), exclude)
    manifest = export(
        model, rule, expanded(out_dir), revision=revision, adapter=adapter, trust_remote_code=trust_remote_code
    )
    scales = {HeadId.parse(key): scale for key, scale in manifest["mask"]["scales"].items()}
    done = "scaled" if any(scales.values()) else "masked"
    typer.echo(
        f"{model} with {heads_words(len(scales))} {done} ({HeadMask(scales)}), {manifest['dtype']}, in {out_dir}"
    )


for name, command in (cli_train.COMMANDS | cli_compare.COMMANDS).items():
    app.command(name)(command)
app.add_typer(cli_runs.app, name="runs")
app.add_typer(cli_bench.app, name="bench")


@app.command(hidden=True)
def worker(folder: Path) -> None:
    """Do a queued run: what the page starts. The page goes first where both want the processor."""
    os.nice(19)  # measured: beside it the page answers at nearly full speed, at 5 it took half as long again
    with suppress(OSError):  # Linux may share time among sessions first: niceness alone then counts within one
        Path("/proc/self/autogroup").write_text("19")
    with suppress(OSError):  # where memory runs out, the kernel ends this and not the app
        Path("/proc/self/oom_score_adj").write_text("1000")
    run = Run.open(folder)
    try:
        jobs.work(run)
    except Exception as error:
        traceback.print_exc()  # into the run's log: whoever reports a fault finds it there
        run.fail(error)
        raise


@app.callback()
def everything(
    debug: Annotated[
        bool, typer.Option("--debug", help="show the traceback of an error; before or after a command")
    ] = False,
) -> None:
    """What holds for every command: `main` reads `--debug` wherever it stands."""


def main() -> None:
    """Run the command of this process's arguments, and end with its exit code."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run a command; its exit code. Whatever goes wrong is one sentence on stderr, with `--debug` after its traceback.

    2: an input is wrong. 1: a command's own «no», or something that nobody has foreseen. 130: stopped by the person.
    """
    for library in ("transformers", "huggingface_hub"):  # their warnings are for programmers
        logging.getLogger(library).setLevel(logging.ERROR)
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal cannot show must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")
    if "--debug" in arguments:
        os.environ["RETMASK_DEBUG"] = "1"
    try:
        words = [_text(word) for word in arguments if word != "--debug"]
        code = _command()(words, "retmask", standalone_mode=False)
        code = code if isinstance(code, int) else 0
        if code == 130:  # Ctrl-C outside a run
            typer.echo("retmask: stopped", err=True)
        return code
    except Cancelled:
        typer.echo(
            "stopped; what was finished is kept, and the same command with the same --out continues it", err=True
        )
        return 130
    except typer.Abort:
        typer.echo("retmask: stopped, nothing was done", err=True)
        return 130
    except Exception as error:
        return _refused(error)


@cache
def _command() -> Any:
    """The commands as typer has them: putting them together takes as long as many a command."""
    return typer.main.get_command(app)


def _text(word: str) -> str:
    """An argument. ValueError for bytes that are no text: no record could hold them."""
    if "\0" in word or any("\ud800" <= letter <= "\udfff" for letter in word):
        raise ValueError(f"the argument {word[:80]!a} is no text in UTF-8: write it so, or rename the file")
    return word


def _refused(error: Exception) -> int:
    """Say in a sentence why a command could not be run; the exit code."""
    usage, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context:
        typer.echo(context.get_help())
        return 2
    if faults.debugging() and not usage:
        traceback.print_exc()
    if usage:
        where = f": `{context.command_path} --help` shows what can be given" if context else ""
        words = " ".join(usage().split()).rstrip(".") + where
    else:
        words = faults.sentence(error) if faults.is_expected(error) else faults.unexpected(error)
    typer.echo(f"retmask: {words}", err=True)
    return 2 if usage or faults.is_expected(error) else 1


if __name__ == "__main__":
    main()
