"""What a training has made: the folder of the adapter or model, and the card that says where it comes from."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from retmask.files import mapping, number, write_atomic, write_json
from retmask.runs.run import Run
from retmask.train.checkpoints import ADAPTER, FULL
from retmask.train.curves import curves_csv, last_step, steps
from retmask.train.settings import TrainSettings

_OF_WHAT = ("model", "pairs", "revision")  # settings that the card has said already
_MOST_NAMED = 20  # pairs that the card names; run.json names all


def result(run: Run) -> Path | None:
    """The folder of the trained adapter or model; None as long as there is none."""
    found = [run.path / name for name in (ADAPTER, FULL) if (run.path / name).is_dir()]
    return found[0] if found else None


def write_card(run: Run) -> None:
    """Put the card, the curves and the record of where it comes from into the result's folder."""
    folder = result(run)
    if folder is None:
        return
    record = run.record
    config = record["config"]
    write_json(
        folder / "retmask.json",
        {
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
        },
    )
    if folder.name == ADAPTER and not Path(config["model"]).is_absolute():
        _name_base(folder, record["model"], config["revision"])
    write_atomic(folder / "curves.csv", curves_csv(run))
    write_atomic(folder / "README.md", _readme(run))


def _name_base(folder: Path, name: str, revision: str) -> None:
    """Let the adapter name its base model as people do, and not by the folder it was loaded from."""
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, settings | {"base_model_name_or_path": name, "revision": revision or None})


def _readme(run: Run) -> str:
    record, done = run.record, steps(run)
    config, made = record["config"], record.get("made_with", {})
    usual = {each.name: each.default for each in fields(TrainSettings) if each.name not in _OF_WHAT}
    changed = [f"| {name} | {value} |" for name, value in config.items() if value != usual.get(name, value)]
    rows = (
        [
            f"| {line['done']} | {_cells(line)} |"
            for line in [done[0], *done[len(done) // 2 : len(done) // 2 + 1], done[-1]]
        ]
        if done
        else []
    )
    held, sizes = mapping(record.get("held_out")), mapping(record.get("preflight"))
    left = [*map(str, sizes.get("left_out") or ())]
    names = ", ".join(left[:_MOST_NAMED]) + (", ..." if len(left) > _MOST_NAMED else "")
    accuracy = held.get("rewards/accuracies")
    what = "An adapter (LoRA)" if config["method"] == "lora" else "A model"
    return "\n".join(
        [
            "---",
            f"base_model: {record['model']}",
            "library_name: peft" if config["method"] == "lora" else "library_name: transformers",
            "tags: [retmask, dpo]",
            "---",
            "",
            f"# {record['model']}, fine-tuned on the contrast with its retrieval heads masked",
            "",
            f"{what} made by RetMask Workbench (method: arXiv 2601.11020): DPO on the model's own answers (chosen) "
            "against those of the same model with heads masked (rejected).",
            "",
            f"- base model: {record['model']}, revision {record.get('revision') or 'none'}, "
            f"SHA-256 {record.get('sha256') or 'not known'}",
            f"- masked heads: {made.get('mask', 'not recorded')}",
            f"- made from: {', '.join(run.parents) or 'a pairs file'}; pairs SHA-256 {record.get('pairs_sha256')}",
            f"- pairs: {sizes.get('pairs', '?')} to train on, {sizes.get('held_out', '?')} held out"
            + (f", {len(left)} left out that teach nothing at this max length: {names}" if left else ""),
            f"- numbers that were trained: {number(sizes.get('trained')):,.0f}",
            f"- steps: {last_step(run)}"
            + ("" if accuracy is None else f"; reward accuracy on held-out pairs: {accuracy:.2f}"),
            "",
            "Settings that differ from the defaults:",
            "",
            "| setting | value |",
            "|---|---|",
            *changed,
            "",
            "All steps are in curves.csv:",
            "",
            "| step | loss | reward of chosen | of rejected | margin | accuracy |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _cells(line: Mapping[str, Any]) -> str:
    names = ("loss", "chosen", "rejected", "margin", "accuracy")
    return " | ".join(f"{line[name]:.3f}" if name in line else "" for name in names)
