"""`retmask pairs` and `retmask join`: make contrastive pairs, and put the shards of such a run together."""

import math
from pathlib import Path
from typing import Annotated

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
    mask_rule,
    out,
    progress,
)
from retmask.files import expanded, write_atomic
from retmask.pairs.files import llama_factory_text, read_rows
from retmask.pairs.gate import RULES, gate_counts, statistics
from retmask.pairs.job import PairsConfig, new_pairs
from retmask.pairs.job import pairs as do_pairs
from retmask.pairs.join import join
from retmask.pairs.pair import PAIRS, read_items
from retmask.pairs.remote import LEFT
from retmask.runs.job import Progress
from retmask.runs.run import Run


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
    rule = mask_rule(mask, heads, top_k, threshold, share, random, mask_seed, scores, scale, exclude)
    config = PairsConfig(
        model, rule, prompts, generate, count, seed, temperature, top_p, max_new_tokens,
        tuple(filter(None, allow.split(","))), shards, shard, batch, server, masked_server, server_model,
        masked_server_model, revision, adapter, device, dtype,
    )  # fmt: skip
    run = new_pairs(config, out_dir)
    steps = (
        Progress(at.done, at.total, at.eta, {"kept": at.kept, "rate": at.rate})
        for at in do_pairs(run, trust_remote_code, (config.server, config.masked_server))
    )
    progress(steps, run, lambda kept, rate, **_: f"{kept} pairs kept, {rate:.0f} tokens/s")
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
