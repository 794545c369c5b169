"""The job that writes a checkpoint with heads masked in its weights, or with an adapter merged into them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retmask.compare.checkpoint import MANIFEST, check_free, export
from retmask.files import expanded
from retmask.heads.masks import HeadMask
from retmask.heads.rules import ANY_GRID, MaskRule
from retmask.model.weights import check_there, folder_grid
from retmask.runs.job import Job, Progress, Start, Work
from retmask.runs.run import Run, parent_ids
from retmask.runs.settings import REQUIRED, command_line, setting, shared, whole


@dataclass(frozen=True, kw_only=True)
class AblateSettings:
    """Which model is written into the folder `out`. A rule that says nothing masks nothing: the adapter is merged."""

    model: str = shared("model", REQUIRED)
    out: str = setting(REQUIRED, "folder for the checkpoint")
    rule: MaskRule = setting(MaskRule(), "which heads are masked")
    revision: str = shared("revision")
    adapter: str = shared("adapter")

    @property
    def command(self) -> list[str]:
        """The command line that does the same."""
        return command_line("ablate" if self.rule.given else "merge", self)


def _check(settings: AblateSettings, *_: Any) -> Start[AblateSettings]:
    check_there(settings.model, settings.adapter, settings.revision)
    rule, grid = settings.rule, folder_grid(settings.model)
    if rule.given:
        rule.check(grid)
    if grid or rule.heads or not rule.given:
        check_free(expanded(settings.out), rule.build(grid or ANY_GRID) if rule.given else HeadMask())
    settings = replace(whole(settings), out=str(expanded(settings.out).absolute()))
    return Start(settings, parent_ids(settings.adapter))


def written(settings: AblateSettings, trust_remote_code: bool = False) -> dict[str, Any]:
    """Write the checkpoint; its manifest, as `export` has it. ValueError, before anything loads, for what cannot be."""
    _check(settings)
    named = {"revision": settings.revision, "adapter": settings.adapter}
    return export(settings.model, settings.rule, expanded(settings.out), **named, trust_remote_code=trust_remote_code)


def _exported(work: Work[AblateSettings]) -> Iterator[Progress]:
    work.run.report(stage="exporting")
    manifest = written(work.settings, work.trust_remote_code)
    work.run.update(**{name: manifest[name] for name in ("model", "revision", "sha256")})
    yield Progress(1, 1, None)


ABLATE = Job("ablate", AblateSettings, _check, _exported)


def last_written(settings: AblateSettings) -> Run | None:
    """The last run with these settings; None also where what it wrote is gone."""
    run = next(ABLATE.alike(settings), None)
    is_gone = run is not None and run.status == "success" and not (Path(settings.out) / MANIFEST).is_file()
    return None if is_gone else run
