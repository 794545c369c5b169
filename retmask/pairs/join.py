"""Shards of one set of pairs joined into a run."""

from collections.abc import Sequence
from pathlib import Path

from retmask.files import sha256
from retmask.pairs.gate import faults
from retmask.pairs.job import PAIR, PairsSettings
from retmask.pairs.pair import PAIRS, read_items, write_items, write_pairs
from retmask.runs.job import Start
from retmask.runs.run import Run
from retmask.runs.settings import from_record
from retmask.text.prompts import digest


def join(folders: Sequence[Path], out: Path) -> Run:
    """The pairs of all shards as one run in `out`. ValueError unless each shard of one set is there once, and whole."""
    runs = [Run.open(folder) for folder in folders]
    if not runs:
        raise ValueError("name the folders of the shards")
    alike = [{**run.config, "shard": 0, "device": ""} for run in runs]
    for run, own in zip(runs, alike, strict=True):
        if run.record.get("kind") != "pairs" or own != alike[0]:
            raise ValueError(f"{run.path} is not a shard of the same pairs as {runs[0].path}: leave it out")
        if run.status != "success":
            raise ValueError(f"{run.path} is not finished ({run.status}): let it go on first")
    same = ("model", "sha256", "adapter_sha256", "mask", "prompts_sha256", "chat", "batch", "thinking", "clock")
    for name in same:
        if len({str(run.record.get(name))[: 10 if name == "clock" else None] for run in runs}) > 1:  # one day's
            raise ValueError(f"the shards differ in {name}: make them all with the same model and settings")
    there, wanted = sorted(run.record["config"]["shard"] for run in runs), list(range(alike[0]["shards"]))
    if there != wanted:
        raise ValueError(f"shards {', '.join(map(str, there))} are there and 0 to {wanted[-1]} are wanted, each once")
    settings = from_record(PairsSettings, {**runs[0].config, "shards": 1, "shard": 0})
    prompts = settings.items()
    if digest(prompts) != runs[0].record.get("prompts_sha256"):
        raise ValueError("the prompts have changed since the shards were made: put them back as they were")
    pairs = {pair.id: pair for run in runs for pair in read_items(run.path)}
    joined = [pairs[prompt.id] for prompt in prompts]
    whole = PAIR.claim(Start(settings, [run.path for run in runs]), out)
    with whole.working():
        whole.pin(**{name: runs[0].record[name] for name in same if name in runs[0].record})
        write_items(whole.path, joined)
        kept = [pair for pair in joined if not faults(pair, settings.allow)]
        write_pairs(whole.path, kept, bool(whole.record.get("chat")), str(whole.record.get("model", settings.model)))
        whole.update(done=len(prompts), kept=len(kept), pairs_sha256=sha256(whole.path / PAIRS))
    return whole
