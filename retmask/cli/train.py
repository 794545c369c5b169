"""`retmask train` and `retmask merge`: fine-tune on pairs, and write a checkpoint of the result."""

from typing import Annotated, Any

import typer

from retmask.cli.options import OutDir, TrustRemoteCode, out, progress, takes
from retmask.compare.ablate import AblateSettings, written
from retmask.train.job import TRAIN, checked
from retmask.train.results import result
from retmask.train.settings import TrainSettings


def _train(
    settings: TrainSettings,
    out_dir: OutDir = None,
    check: Annotated[bool, typer.Option("--check", help="only say what it would take")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Fine-tune with DPO on pairs: an adapter, its card and its curves."""
    if check:
        found = checked(settings, out_dir, trust_remote_code)
        out.print(found.sentence)
        for words in (*found.problems, *found.warnings):
            out.print(f"- {words}")
        raise typer.Exit(1 if found.problems else 0)
    run = TRAIN.new(settings, out_dir, trust_remote_code)
    progress(TRAIN.work(run, trust_remote_code), run, _step_words)
    held = (run.record.get("held_out") or {}).get("rewards/accuracies")
    if held is not None:
        out.print(f"reward accuracy on the pairs held out: {held:.2f}")
    out.print(f"written to {result(run)}")


def _step_words(**line: Any) -> str:
    return ", ".join(f"{name} {line[name]:.3f}" for name in ("loss", "margin", "accuracy") if name in line)


train = takes(TrainSettings, _train)


def _merge(settings: AblateSettings, trust_remote_code: TrustRemoteCode = False) -> None:
    """Write a checkpoint with an adapter merged into its weights, for plain transformers or any server."""
    if not settings.adapter:
        raise ValueError("say which adapter is merged: --adapter FOLDER")
    manifest = written(settings, trust_remote_code)
    typer.echo(f"{settings.model} with {settings.adapter} merged, {manifest['dtype']}, in {settings.out}")


merge = takes(AblateSettings, _merge, without="rule")
