"""`retmask pairs` and `retmask join`: make contrastive pairs, and put the shards of such a run together."""

from pathlib import Path
from typing import Annotated

import typer

from retmask.cli.options import OutDir, TrustRemoteCode, out, print_table, progress, takes
from retmask.files import expanded, write_atomic
from retmask.pairs.files import llama_factory_text, read_rows
from retmask.pairs.gate import RULES, gate_counts, none_kept, statistics
from retmask.pairs.job import PAIR, PairsSettings
from retmask.pairs.join import join
from retmask.pairs.pair import PAIRS, read_items
from retmask.pairs.remote import LEFT
from retmask.runs.run import Run


def _pairs(
    settings: PairsSettings,
    llama_factory: Annotated[bool, typer.Option("--llama-factory", help="also write LLaMA-Factory's format")] = False,
    trust_remote_code: TrustRemoteCode = False,
    out_dir: OutDir = None,
) -> None:
    """Answer prompts unmasked (chosen) and masked (rejected): pairs.jsonl for DPO."""
    run = PAIR.new(settings, out_dir)
    steps = PAIR.work(run, trust_remote_code, (settings.server, settings.masked_server))
    progress(steps, run, lambda kept, rate, **_: f"{kept} pairs kept, {rate:.0f} tokens/s")
    _report_pairs(run)
    if llama_factory:
        write_atomic(run.path / "llama_factory.json", llama_factory_text(read_rows(run.path / PAIRS)))


pairs = takes(PairsSettings, _pairs)
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
    off = run.record["config"]["allow"]
    counts = gate_counts(items).items()
    rules = ((f"{name}: {RULES[name].says}" + " (switched off)" * (name in off), str(n)) for name, n in counts)
    print_table(("the gate", "pairs"), rules)
    kept = run.record.get("kept", 0)
    out.print(f"{kept} of {len(items)} pairs are kept: {run.path / PAIRS}")
    answered = [pair for pair in items if not pair.unanswered]
    if why := none_kept(answered, off):
        out.print(why)
    numbers = statistics(answered)
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
