"""Shards of one set of pairs joined into a run."""

from collections.abc import Sequence
from pathlib import Path

from retmask.files import sha256
from retmask.pairs.gate import faults
from retmask.pairs.job import PAIR, PairsSettings
from retmask.pairs.pair import FACTS, PAIRS, read_items, write_items, write_pairs
from retmask.runs.job import Start
from retmask.runs.run import Run
from retmask.runs.settings import from_record, same
from retmask.runs.worker import working
from retmask.text.prompts import digest

_FACTS = (*FACTS, "batch")  # of the shards, and of the whole


def join(folders: Sequence[Path], out: Path) -> Run:
    """The pairs of all shards as one run in `out`. ValueError unless each shard of one set is there once, and whole."""
    runs = [Run.open(folder) for folder in folders]
    _check(runs)
    record = runs[0].record
    settings = from_record(PairsSettings, {**runs[0].config, "shards": 1, "shard": 0})
    prompts = settings.items()
    if digest(prompts) != record.get("prompts_sha256"):
        raise ValueError("the prompts have changed since the shards were made: put them back as they were")
    made = {pair.id: pair for run in runs for pair in read_items(run.path)}
    pairs = [made[prompt.id] for prompt in prompts]
    kept = [pair for pair in pairs if not faults(pair, settings.allow)]
    whole = PAIR.claim(Start(settings, [run.path for run in runs]), out)
    with working(whole):
        whole.pin(**{name: record[name] for name in _FACTS if name in record})
        write_items(whole.path, pairs)
        write_pairs(whole.path, kept, bool(record.get("chat")), str(record.get("model", settings.model)))
        whole.update(done=len(pairs), kept=len(kept), pairs_sha256=sha256(whole.path / PAIRS))
    return whole


def _check(runs: Sequence[Run]) -> None:
    """ValueError unless these are all the shards of one set, each once and finished."""
    if not runs:
        raise ValueError("name the folders of the shards")
    alike = {"shard": 0, "device": ""}
    for run in runs:
        is_shard = run.record.get("kind") == "pairs"
        if not is_shard or not same(from_record(PairsSettings, {**runs[0].config, **alike}), {**run.config, **alike}):
            raise ValueError(f"{run.path} is not a shard of the same pairs as {runs[0].path}: leave it out")
        if run.status != "success":
            raise ValueError(f"{run.path} is not finished ({run.status}): let it go on first")
    for name in _FACTS:
        values = {str(run.record.get(name))[: 10 if name == "clock" else None] for run in runs}  # one day's
        if len(values) > 1 and name != "revision":  # a commit that changes no weights is none of theirs
            raise ValueError(f"the shards differ in {name}: make them all with the same model and settings")
    shards, wanted = sorted(run.config["shard"] for run in runs), list(range(runs[0].config["shards"]))
    if shards != wanted:
        raise ValueError(f"shards {', '.join(map(str, shards))} are there and 0 to {wanted[-1]} are wanted, each once")
