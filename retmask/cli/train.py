"""The second half of the command line: pairs, fine-tune, and what it changed."""

import inspect
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

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
from retmask.compare.ablate import export
from retmask.evaluate.job import EvaluateConfig, new_evaluate
from retmask.evaluate.job import evaluate as do_evaluate
from retmask.files import expanded, write_atomic
from retmask.heads.intervals import FEWEST, none_over, over, span
from retmask.heads.masks import MaskRule
from retmask.pairs.files import llama_factory_text, read_rows
from retmask.pairs.job import LEFT, PairsConfig, join, new_pairs
from retmask.pairs.job import pairs as do_pairs
from retmask.pairs.pair import PAIRS, RULES, gate_counts, read_items, statistics
from retmask.runs.run import Run
from retmask.train.job import checked, new_train, result, train_command
from retmask.train.job import train as do_train
from retmask.train.trainer import PRESETS, DpoConfig


def _rule(
    mask: str, heads: str, top_k: int, threshold: float, share: float, random: int, seed: int, scores: str,
    scale: float, exclude: str,
) -> MaskRule:  # fmt: skip
    return MaskRule(mask, heads, top_k, threshold, share, random, seed, scores, given(scale), exclude)


def pairs(
    model: Model,
    prompts: Annotated[
        str, typer.Option(help="a .jsonl, .json or .txt file, or a Hub dataset (owner/name), of what to ask")
    ] = "",
    generate: Annotated[str, typer.Option(help="make the prompts: grounded (a fact in a text) or chat")] = "",
    count: Annotated[int, typer.Option(help="how many prompts; by default all of a file")] = 0,
    seed: Annotated[int, typer.Option(help="of the prompts that are made, and of the answers")] = 0,
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
    temperature: Annotated[float, typer.Option(help="0: the likeliest token; above: drawn")] = 0.6,
    top_p: Annotated[float, typer.Option(help="draw from the likeliest tokens that reach this together")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="the longest answer, in tokens")] = 64,
    allow: Annotated[
        str, typer.Option(help=f"rules of the quality gate to switch off, with commas: {', '.join(RULES)}")
    ] = "",
    server: Annotated[
        str,
        typer.Option(
            help="an OpenAI-compatible server with the model as it is; a key for it: RETMASK_SERVER_KEYS=host:port=KEY"
        ),
    ] = "",
    masked_server: Annotated[str, typer.Option(help="one with the checkpoint that `retmask ablate` wrote")] = "",
    server_model: Annotated[str, typer.Option(help="the model there, where it serves several")] = "",
    masked_server_model: Annotated[str, typer.Option(help="the model there, where it serves several")] = "",
    shards: Annotated[int, typer.Option(help="share the prompts out over so many runs")] = 1,
    shard: Annotated[int, typer.Option(help="which of them this is, from 0; `retmask join` puts them together")] = 0,
    batch: Annotated[int, typer.Option(help="prompts answered together; by default what suits the device")] = 0,
    llama_factory: Annotated[bool, typer.Option("--llama-factory", help="also write LLaMA-Factory's format")] = False,
    revision: Revision = "",
    adapter: Adapter = "",
    device: Device = "",
    dtype: Dtype = "",
    trust_remote_code: TrustRemoteCode = False,
    out_dir: OutDir = None,
) -> None:
    """Answer prompts unmasked (chosen) and masked (rejected): pairs.jsonl for DPO."""
    rule = _rule(mask, heads, top_k, threshold, share, random, mask_seed, scores, scale, exclude)
    config = PairsConfig(
        model, rule, prompts, generate, count, seed, temperature, top_p, max_new_tokens,
        tuple(filter(None, allow.split(","))), shards, shard, batch, server, masked_server, server_model,
        masked_server_model, revision, adapter, device, dtype,
    )  # fmt: skip
    run = new_pairs(config, out_dir)
    steps = (
        (at.done, at.total, f"{at.kept} pairs kept, {at.rate:.0f} tokens/s", at.eta)
        for at in do_pairs(run, trust_remote_code, (config.server, config.masked_server))
    )
    progress(steps, run)
    _report_pairs(run)
    if llama_factory:
        write_atomic(run.path / "llama_factory.json", llama_factory_text(read_rows(run.path / PAIRS)))


_THINKS = "a server does not take the field that switches thinking off: its model may have thought before it answered"


def _report_pairs(run: Run) -> None:
    """What came out, what the gate left out, and what was not answered."""
    items = read_items(run.path)
    for words in (run.record.get("passed_over"), _THINKS if run.record.get("thinking") == LEFT else ""):
        if words:
            out.print(words)
    without = [pair for pair in items if pair.unanswered]
    for pair in without[:3]:
        out.print(f"not answered: prompt {pair.id}: {pair.unanswered}")
    if len(without) > 3:
        out.print(f"not answered: {len(without) - 3:,} more prompts")
    table = Table("the gate", "pairs", box=None, pad_edge=False)
    off = run.record["config"]["allow"]
    for name, found in gate_counts(items).items():
        table.add_row(f"{name}: {RULES[name].says}" + (" (switched off)" if name in off else ""), str(found))
    out.print(table)
    kept = run.record.get("kept", 0)
    out.print(f"{kept} of {len(items)} pairs are kept: {run.path / PAIRS}")
    numbers = statistics([pair for pair in items if not pair.unanswered])
    if numbers:
        out.print(
            f"mean length in tokens: prompt {numbers.prompt:.0f}, chosen {numbers.chosen:.0f}, rejected "
            f"{numbers.rejected:.0f}; the longest with its prompt {numbers.longest}"
        )


def join_shards(
    folders: Annotated[list[Path], typer.Argument(help="the folders of all shards")],
    out_dir: Annotated[Path, typer.Option("--out", help="folder for the whole")],
) -> None:
    """Put the shards of `retmask pairs --shards N` together, every pair once."""
    _report_pairs(join([expanded(folder) for folder in folders], expanded(out_dir)))


def _train(
    model: str, pairs: str, preset: str, out_dir: Path | None, check: bool, any_pairs: bool, revision: str,
    trust_remote_code: bool, changes: dict[str, Any],
) -> None:  # fmt: skip
    changes = {name: value for name, value in changes.items() if value is not None}
    if "epochs" in changes:  # who asks for epochs does not mean the preset's number of steps
        changes = {"max_steps": 0} | changes
    config = DpoConfig.preset(preset, **changes)
    if check:
        found = checked(
            model, pairs, config, out_dir, revision=revision, any_pairs=any_pairs, trust_remote_code=trust_remote_code
        )
        out.print(found.sentence)
        for words in (*found.problems, *found.warnings):
            out.print(f"- {words}")
        raise typer.Exit(1 if found.problems else 0)
    run = new_train(
        model, pairs, config, out_dir, revision=revision, any_pairs=any_pairs, trust_remote_code=trust_remote_code,
        command=[
            *train_command(model, pairs, config, preset),
            *(["--revision", revision] if revision else []),
            *(["--any-pairs"] if any_pairs else []),
        ],
    )  # fmt: skip
    progress(((at.done, at.total, _step_words(at.line), at.eta) for at in do_train(run, trust_remote_code)), run)
    held = (run.record.get("held_out") or {}).get("rewards/accuracies")
    if held is not None:
        out.print(f"reward accuracy on the pairs held out: {held:.2f}")
    out.print(f"written to {result(run)}")


def _step_words(line: Any) -> str:
    parts = [f"{name} {line[name]:.3f}" for name in ("loss", "margin", "accuracy") if name in line]
    return ", ".join(parts)


def _typed(fun: Any) -> Any:
    """The train command: its options are the fields of DpoConfig; one that is left out keeps the preset's value."""

    def train(**given: Any) -> None:
        own = {one.name for one in fields(DpoConfig)}
        changes = {name: value for name, value in given.items() if name in own}
        fun(**{name: value for name, value in given.items() if name not in own}, changes=changes)

    pairs = Annotated[str, typer.Option(help="pairs.jsonl, or the folder or run of `retmask pairs`")]
    presets = ", ".join(f"{name} ({preset.says})" for name, preset in PRESETS.items())
    wanted: list[tuple[str, Any, Any]] = [
        ("model", Model, inspect.Parameter.empty),
        ("pairs", pairs, inspect.Parameter.empty),
        ("preset", Annotated[str, typer.Option(help=presets)], "laptop"),
        ("out_dir", OutDir, None),
        ("check", Annotated[bool, typer.Option("--check", help="only say what it would take")], False),
        ("any_pairs", Annotated[bool, typer.Option("--any-pairs", help="also pairs that another model made")], False),
        ("revision", Revision, ""),
        ("trust_remote_code", TrustRemoteCode, False),
    ]  # fmt: skip
    for one in fields(DpoConfig):
        choices = " or ".join(filter(None, one.metadata.get("choices", ())))
        option = typer.Option(show_default=False, help=one.metadata["help"] + f": {choices}" * bool(choices))
        kind: Any = one.type
        wanted.append((one.name, Annotated[kind | None, option], None))
    only = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, only, default=default, annotation=hint) for name, hint, default in wanted]
    train.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    train.__annotations__ = {name: hint for name, hint, _ in wanted}
    train.__doc__ = "Fine-tune with DPO on pairs: an adapter, its card and its curves."
    return train


def merge(
    model: Model,
    adapter: Annotated[Path, typer.Option(help="the adapter's folder")],
    out_dir: Annotated[Path, typer.Option("--out", help="folder for the checkpoint")],
    revision: Revision = "",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write a checkpoint with an adapter merged into its weights, for plain transformers or any server."""
    made = export(
        model,
        MaskRule(),
        expanded(out_dir),
        revision=revision,
        adapter=str(adapter),
        trust_remote_code=trust_remote_code,
    )
    typer.echo(f"{model} with {adapter} merged, {made['dtype']}, in {out_dir}")


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
    rule = _rule(mask, heads, top_k, threshold, share, random, mask_seed, scores, scale, exclude)
    masks, folders = tuple(also or ()), tuple(tuned or ())
    config = EvaluateConfig(
        model, folders, rule, masks, trials, context_tokens, needles, haystack, revision, device, dtype
    )
    run = new_evaluate(config, out_dir)
    progress(((at.done, at.total, at.condition, at.eta) for at in do_evaluate(run, trust_remote_code)), run)
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


COMMANDS = {"pairs": pairs, "join": join_shards, "train": _typed(_train), "merge": merge, "evaluate": evaluate}
