"""A model with a mask or an adapter folded into its weights, as a folder that anything loads.

Scaling a head's output is scaling its columns of o_proj, so the folder needs none of our code: plain transformers, or
any server that loads such folders, answers as the masked model does.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from retmask.files import brief, home, read_object, sha256_text, write_json
from retmask.heads.grid import HeadId, heads_words
from retmask.heads.masks import HeadMask, mask_record
from retmask.heads.rules import MaskRule
from retmask.model.weights import read_config, resolve
from retmask.runs.record import now, versions

if TYPE_CHECKING:
    from torch import Tensor

    from retmask.model.lens import LensModel


MANIFEST = "mask.json"


def export(
    name: str, rule: MaskRule, out: Path, *, revision: str = "", adapter: str = "", trust_remote_code: bool = False
) -> dict[str, Any]:
    """Write the checkpoint with the rule's mask into `out`; its manifest (`mask.json` there), also if it was there.

    A rule that says nothing masks nothing: the adapter alone is merged then. The weights keep their stored type. The
    folder appears whole or not at all. ValueError where `out` holds anything else, the rule does not fit the model, the
    model cannot be loaded, or there is neither mask nor adapter.
    """
    from retmask.model.loading import facts, load
    from retmask.model.weights import grid_of

    source = resolve(name, revision or None)
    config = read_config(source, trust_remote_code)
    mask = HeadMask() if adapter and not rule.given else rule.build(grid_of(config))
    check_free(out, mask)
    model = load(
        name,
        revision=revision or None,
        adapter=adapter or None,
        device="cpu",
        dtype=_stored(config),
        context_tokens=1,
        trust_remote_code=trust_remote_code,
    )
    manifest = {"mask": mask_record(mask, model.grid, model.name), **facts(model, adapter)}
    manifest |= {"excluded": [*map(str, rule.excluded(model.grid))]} if rule.random else {}
    manifest |= {"created": now(), "versions": versions()}
    with _alone(out):
        if out.exists() and any(out.iterdir()):
            return _same(out, manifest)
        ours = re.compile(rf"\.{re.escape(out.name)}\.\w{{8}}\.part")  # not that of `name.v2`, which may be at work
        for left in filter(lambda path: ours.fullmatch(path.name), out.parent.iterdir()):  # by one that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".part") as folder:
            made = Path(folder) / "made"
            wanted = _write(model, mask, made)
            del model  # two models need not fit
            _check_written(made, wanted, manifest["dtype"], trust_remote_code)
            write_json(made / MANIFEST, manifest)
            usual = (made / MANIFEST).stat().st_mode
            for file in filter(Path.is_file, made.rglob("*")):
                file.chmod(usual)  # safetensors writes files that only their owner reads
            if out.exists():
                out.rmdir()
            os.replace(made, out)
    return manifest


def _stored(config: Any) -> str:
    """The name of the type in which a model's weights are stored."""
    types = (getattr(part, "dtype", None) for part in (config, config.get_text_config()))
    return str(next(filter(None, types), "float32")).removeprefix("torch.")


def _write(model: "LensModel", mask: HeadMask, folder: Path) -> "Tensor":
    """Write a model with the mask in its weights; how the masked model continues some tokens, as logits.

    ValueError where transformers cannot write it.
    """
    import torch

    from retmask.model.bridge import fold
    from retmask.model.parity import some_ids

    with torch.no_grad(), model.masked([mask]):
        wanted: Tensor = model.native(input_ids=some_ids(model.native), use_cache=False).logits
    fold(model, mask)
    try:
        model.native.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
    except Exception as error:
        raise ValueError(f"{model.name} cannot be written as a folder: {brief(error)}") from error
    return wanted


def _check_written(folder: Path, wanted: "Tensor", dtype: str, trusted: bool) -> None:
    """ValueError where what has been written, read back by plain transformers, answers otherwise than was wanted."""
    import torch

    from retmask.model.loading import read_back, release
    from retmask.model.parity import differ, some_ids

    release()
    kind: torch.dtype = getattr(torch, dtype)
    plain = read_back(folder, kind, trusted)
    with torch.no_grad():
        logits = plain(input_ids=some_ids(plain), use_cache=False).logits
    if gap := differ(logits, wanted, kind):
        raise ValueError(
            f"nothing was written: the folder would answer otherwise than the model with this mask or adapter (logits "
            f"differ by {gap}), since its heads have no weights of their own"
        )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """While open, no other process exports into that folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    locks = home() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{sha256_text(str(out.resolve()))[:16]}.lock"):
        yield


def check_free(out: Path, mask: HeadMask) -> None:
    """ValueError, before anything is loaded, where the folder holds something else than this mask's checkpoint."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        there = read_object(out / MANIFEST)["mask"]["scales"]
        scales = {HeadId.parse(key): float(scale) for key, scale in there.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{out} is not empty and holds no checkpoint of ours: choose another --out") from None
    if scales != dict(mask.scales):
        raise ValueError(
            f"{out} holds the checkpoint of another mask ({heads_words(len(scales))}): choose another --out"
        )


def _same(out: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest that is there. ValueError if it is not the same model's."""
    there = read_object(out / MANIFEST)
    for name in ("model", "revision", "sha256", "adapter_sha256", "dtype"):
        if there.get(name) != manifest[name]:
            raise ValueError(f"{out} holds a checkpoint with {name} {there.get(name)}: choose another --out")
    return there
