"""`retmask train` and `retmask merge`: fine-tune on pairs, and write a checkpoint of the result."""

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from retmask.cli.options import Model, OutDir, Revision, TrustRemoteCode, out, progress
from retmask.compare.checkpoint import export
from retmask.files import expanded
from retmask.heads.rules import MaskRule
from retmask.runs.job import Progress
from retmask.train.card import result
from retmask.train.job import checked, new_train, train_command
from retmask.train.job import train as do_train
from retmask.train.settings import PRESETS, DpoConfig


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
    steps = (Progress(at.done, at.total, at.eta, {"line": at.line}) for at in do_train(run, trust_remote_code))
    progress(steps, run, lambda line, **_: _step_words(line))
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


train = _typed(_train)


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
