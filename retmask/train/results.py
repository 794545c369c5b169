"""What a training has done and made: its steps and curves, the folder of the adapter or model, and the card there."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from retmask.files import mapping, number, write_atomic, write_json
from retmask.runs.run import Run
from retmask.train.checkpoints import ADAPTER, FULL
from retmask.train.settings import TrainSettings

_IN_CARD = ("loss", "chosen", "rejected", "margin", "accuracy")
_CURVES = ("step", *_IN_CARD, "logps_chosen", "logps_rejected", "grad_norm", "lr", "tokens_per_s", "memory")
_OF_WHAT = ("model", "pairs", "revision")  # settings that the card has said already
_MOST_NAMED = 20  # pairs that the card names; run.json names all
_CARD = """---
base_model: {base}
library_name: {library}
tags: [retmask, dpo]
---

# {base}, fine-tuned on the contrast with its retrieval heads masked

{what} made by RetMask Workbench (method: arXiv 2601.11020): DPO on the model's own answers (chosen) against those of \
the same model with heads masked (rejected).

- base model: {base}, revision {revision}, SHA-256 {sha256}
- masked heads: {mask}
- made from: {parents}; pairs SHA-256 {pairs_sha256}
- pairs: {pairs} to train on, {held_out} held out{left_out}
- numbers that were trained: {trained:,.0f}
- steps: {steps}{accuracy}

Settings that differ from the defaults:

| setting | value |
|---|---|
{settings}

All steps are in curves.csv:

| step | loss | reward of chosen | of rejected | margin | accuracy |
|---|---|---|---|---|---|
{curves}
"""


def steps(run: Run) -> list[dict[str, Any]]:
    """The lines of progress of all steps, each step once, in order: what a resume has taken back is left out."""
    lines: dict[int, dict[str, Any]] = {}
    for line in run.progress:
        done = line.get("done")
        if line.get("stage") == "loading" and isinstance(done, int):  # it goes on from the checkpoint of that step
            lines = {step: earlier for step, earlier in lines.items() if step <= done}
        elif line.get("stage") == "steps" and isinstance(done, int):
            lines[done] = line
    return [lines[step] for step in sorted(lines)]


def last_step(run: Run) -> int:
    """The last step that was done, 0 before the first."""
    return max((int(line["done"]) for line in steps(run)), default=0)


def curves_csv(run: Run) -> str:
    """The curves as CSV, a row a step."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _CURVES, extrasaction="ignore")
    writer.writeheader()
    writer.writerows({**line, "step": line["done"]} for line in steps(run))
    return out.getvalue()


def result(run: Run) -> Path | None:
    """The folder of the trained adapter or model; None as long as there is none."""
    return next((run.path / name for name in (ADAPTER, FULL) if (run.path / name).is_dir()), None)


def write_card(run: Run) -> None:
    """Put the card, the curves and the record of where it comes from into the result's folder."""
    folder = result(run)
    if folder is None:
        return
    record, config = run.record, run.config
    origin = {
        "base": record["model"],
        "revision": record.get("revision"),
        "base_sha256": record.get("sha256"),
        "run": run.id,
        "parents": run.parents,
        "pairs_sha256": record.get("pairs_sha256"),
        "made_with": record.get("made_with", {}),
        "steps": last_step(run),
        "settings": {name: value for name, value in config.items() if name != "pairs"},
        "versions": record.get("versions", {}),
    }
    write_json(folder / "retmask.json", origin)
    if folder.name == ADAPTER and not Path(config["model"]).is_absolute():
        _name_base(folder / "adapter_config.json", record["model"], config["revision"])
    write_atomic(folder / "curves.csv", curves_csv(run))
    write_atomic(folder / "README.md", _card(run))


def _name_base(file: Path, name: str, revision: str) -> None:
    """Let the adapter name its base model as people do, and not by the folder it was loaded from."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    write_json(file, settings | {"base_model_name_or_path": name, "revision": revision or None})


def _card(run: Run) -> str:
    record, config = run.record, run.config
    sizes = mapping(record.get("preflight"))
    is_adapter = config["method"] == "lora"
    usual = {each.name: each.default for each in fields(TrainSettings) if each.name not in _OF_WHAT}
    changed = [f"| {name} | {value} |" for name, value in config.items() if value != usual.get(name, value)]
    left_out = [*map(str, sizes.get("left_out") or ())]
    names = ", ".join(left_out[:_MOST_NAMED]) + (", ..." if len(left_out) > _MOST_NAMED else "")
    accuracy = mapping(record.get("held_out")).get("rewards/accuracies")
    return _CARD.format(
        base=record["model"],
        library="peft" if is_adapter else "transformers",
        what="An adapter (LoRA)" if is_adapter else "A model",
        revision=record.get("revision") or "none",
        sha256=record.get("sha256") or "not known",
        mask=mapping(record.get("made_with")).get("mask", "not recorded"),
        parents=", ".join(run.parents) or "a pairs file",
        pairs_sha256=record.get("pairs_sha256"),
        pairs=sizes.get("pairs", "?"),
        held_out=sizes.get("held_out", "?"),
        left_out=f", {len(left_out)} left out that teach nothing at this max length: {names}" if left_out else "",
        trained=number(sizes.get("trained")),
        steps=last_step(run),
        accuracy="" if accuracy is None else f"; reward accuracy on held-out pairs: {accuracy:.2f}",
        settings="\n".join(changed),
        curves="\n".join(_rows(steps(run))),
    )


def _rows(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of the card's table: of the first step, the one in the middle, and the last."""
    shown = [lines[0], lines[len(lines) // 2], lines[-1]] if lines else []
    numbers = [[f"{line[name]:.3f}" if name in line else "" for name in _IN_CARD] for line in shown]
    return [f"| {' | '.join([str(line['done']), *cells])} |" for line, cells in zip(shown, numbers, strict=True)]
