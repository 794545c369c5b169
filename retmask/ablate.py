"""A model with a mask or an adapter folded into its weights, as a folder that anything loads.

Scaling a head's output is scaling its columns of o_proj, so the folder needs none of our code: plain transformers, or
any server that loads such folders, answers as the masked model does.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from retmask.files import home, sha256_text, write_json
from retmask.heads import Grid, HeadId, HeadMask
from retmask.masks import MaskRule, mask_record
from retmask.runs import Run, now, parent_ids, versions

MANIFEST = "mask.json"


def export(
    name: str,
    rule: MaskRule,
    out: Path,
    *,
    revision: str = "",
    adapter: str = "",
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Write the checkpoint with the rule's mask into `out`; its manifest (`mask.json` there), also if it was there.

    A rule that says nothing masks nothing: the adapter alone is merged then. The weights keep their stored type. The
    folder appears whole or not at all. ValueError where `out` holds anything else, the rule does not fit the model, the
    model cannot be loaded, or there is neither mask nor adapter.
    """
    from retmask.bridge import fold
    from retmask.loading import facts, load
    from retmask.model import grid_of
    from retmask.weights import read_config, resolve

    config = read_config(resolve(name, revision or None), trust_remote_code)
    mask = HeadMask() if adapter and not rule.given else rule.build(grid_of(config))
    _check_free(out, mask)
    model = load(
        name,
        revision=revision or None,
        adapter=adapter or None,
        device="cpu",
        dtype=str(getattr(config, "dtype", None) or "float32").removeprefix("torch."),
        context_tokens=1,
        trust_remote_code=trust_remote_code,
    )
    known = facts(model, adapter)
    record = mask_record(mask, model.grid, model.name)
    manifest = {"mask": record, **known, "created": now(), "versions": versions()}
    fold(model, mask)
    with _alone(out):
        if out.exists() and any(out.iterdir()):
            return _same(out, manifest)
        for left in out.parent.glob(f".{out.name}.*.part"):  # by an export that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".part") as folder:
            made = Path(folder) / "made"
            model.native.save_pretrained(made)
            model.tokenizer.save_pretrained(made)
            write_json(made / MANIFEST, manifest)
            usual = (made / MANIFEST).stat().st_mode
            for file in filter(Path.is_file, made.rglob("*")):
                file.chmod(usual)  # safetensors writes files that only their owner reads
            if out.exists():
                out.rmdir()
            os.replace(made, out)
    return manifest


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """While open, no other process exports into that folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    locks = home() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{sha256_text(str(out.resolve()))[:16]}.lock"):
        yield


def _check_free(out: Path, mask: HeadMask) -> None:
    """ValueError, before anything is loaded, where the folder holds something else than this mask's checkpoint."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        there = json.loads((out / MANIFEST).read_text(encoding="utf-8"))["mask"]["scales"]
        scales = {HeadId.parse(key): float(scale) for key, scale in there.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{out} is not empty and holds no checkpoint of ours: choose another --out") from None
    if scales != dict(mask.scales):
        raise ValueError(f"{out} holds the checkpoint of another mask ({len(scales)} heads): choose another --out")


def _same(out: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest that is there. ValueError if it is not the same model's."""
    there: dict[str, Any] = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    for name in ("model", "revision", "sha256", "adapter_sha256", "dtype"):
        if there.get(name) != manifest[name]:
            raise ValueError(f"{out} holds a checkpoint with {name} {there.get(name)}: choose another --out")
    return there


def new_ablate(name: str, mask: HeadMask, grid: Grid, out: Path, revision: str = "", adapter: str = "") -> Run:
    """A run that exports the checkpoint in a process of its own. ValueError where `out` holds something else."""
    _check_free(out, mask)
    config = {"model": name, "heads": str(mask), "out": str(out), "revision": revision, "adapter": adapter}
    command = ["retmask", "ablate", name, "--heads", str(mask), "--out", str(out)]
    command += ["--revision", revision] if revision else []
    command += ["--adapter", adapter] if adapter else []
    grid.check(mask.heads)
    return Run.claim("ablate", config, command, None, Path(name).name)


def new_merge(name: str, adapter: Path, out: Path, revision: str = "") -> Run:
    """A run that writes the model with an adapter merged into it. ValueError where `out` holds something else."""
    if not (adapter / "adapter_config.json").is_file():
        raise ValueError(f"{adapter} is no adapter: there is no adapter_config.json in it")
    _check_free(out, HeadMask())
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
