"""The job that writes a checkpoint in a process of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retmask.compare.checkpoint import check_free, export
from retmask.heads.grid import Grid
from retmask.heads.masks import HeadMask
from retmask.heads.rules import MaskRule
from retmask.model.weights import check_there
from retmask.runs.run import Run, parent_ids


def new_ablate(name: str, mask: HeadMask, grid: Grid, out: Path, revision: str = "", adapter: str = "") -> Run:
    """A run that exports the checkpoint in a process of its own.

    ValueError where `out` holds something else or there is no such model.
    """
    check_there(name)
    check_free(out, mask)
    config = {"model": name, "heads": str(mask), "out": str(out), "revision": revision, "adapter": adapter}
    command = ["retmask", "ablate", name, "--heads", str(mask), "--out", str(out)]
    command += ["--revision", revision] if revision else []
    command += ["--adapter", adapter] if adapter else []
    grid.check(mask.heads)
    return Run.claim("ablate", config, command, None, Path(name).name)


def new_merge(name: str, adapter: Path, out: Path, revision: str = "") -> Run:
    """A run that writes the model with an adapter merged into it.

    ValueError where `out` holds something else or there is no such model or adapter.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise ValueError(f"{adapter} is no adapter: there is no adapter_config.json in it")
    check_there(name)
    check_free(out, HeadMask())
    config = {"model": name, "heads": "", "out": str(out), "revision": revision, "adapter": str(adapter)}
    command = ["retmask", "merge", name, "--adapter", str(adapter), "--out", str(out)]
    command += ["--revision", revision] if revision else []
    return Run.claim("ablate", config, command, None, Path(name).name, parents=parent_ids(adapter))


def ablate(run: Run) -> Iterator[dict[str, Any]]:
    """Do what an export's run says; yields its manifest."""
    config = run.record["config"]
    with run.working():
        run.report(stage="exporting")
        rule = MaskRule(heads=config["heads"])
        manifest = export(
            config["model"], rule, Path(config["out"]), revision=config["revision"], adapter=config["adapter"]
        )
        run.update(**{name: manifest[name] for name in ("model", "revision", "sha256")})
        yield manifest
