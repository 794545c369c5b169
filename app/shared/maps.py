"""Maps of heads: what one holds, where it lies, and what it is called."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.shared.models import ModelRef
from retmask.detect.job import DEFAULT_MODEL
from retmask.files import expanded, home, mapping, shipped
from retmask.heads.grid import Grid
from retmask.heads.scores import HeadScores
from retmask.heads.trials import Trial
from retmask.runs import overview
from retmask.runs.run import Run, run_path


@dataclass(frozen=True, eq=False)
class HeadMap:
    """What is looked at: the scores (None while no trial has found its needle), what is known of them, the trials."""

    source: str
    path: Path
    scores: HeadScores | None
    trials: Sequence[Trial]
    record: dict[str, Any]
    run: Run | None

    @property
    def model(self) -> str:
        """The model's name, for people."""
        if self.ref and self.ref.base:
            return str(self.ref)
        return self.scores.model if self.scores else str(self._config.get("model", self.source))

    @property
    def grid(self) -> Grid | None:
        """The head grid, None as long as nothing says it."""
        if self.scores:
            return self.scores.grid
        size = self.record.get("head_grid")
        return Grid(**size) if isinstance(size, dict) else None

    @property
    def ref(self) -> ModelRef | None:
        """What the map's model is loaded by; None where the map does not say it."""
        if self.source in shipped_maps():
            return ModelRef(self.source)
        return ModelRef.of_config(self._config) if self.run and self._config.get("model") else None

    @property
    def loadable(self) -> str:
        """What the map's model can be loaded by; empty where the map does not say it, or says more than a name."""
        if self.source in shipped_maps():
            return self.source
        return str(self._config.get("model", "")) if self.run and not self.variant else ""

    @property
    def variant(self) -> str:
        """What the map's model is besides its name, in words: its adapter, its revision; empty for the model itself."""
        adapter, revision = (str(self._config.get(name) or "") for name in ("adapter", "revision"))
        parts = [f"with the adapter {adapter}"] * bool(adapter) + [f"at revision {revision}"] * bool(revision)
        return " and ".join(parts)

    @property
    def _config(self) -> dict[str, Any]:
        return mapping(self.record.get("config"))

    @property
    def argument(self) -> str:
        """The map as the command line takes it."""
        return self.source if self.source in shipped_maps() else str(self.path)

    def command(self, *options: str) -> str:
        """The command line that shows this map, with options."""
        return shlex.join(["retmask", "heads", self.argument, *options])


def shipped_maps() -> list[str]:
    """The names of the maps that come with the project, the default model's first."""
    folder = shipped("maps")
    names = [file.parent.name for file in folder.glob("*/scores.json")] if folder.is_dir() else []
    return sorted(names, key=lambda name: (name != DEFAULT_MODEL, name))


def label(name: str, *facts: str) -> str:
    """A map's name for people: a shipped one's model, what a run is called (with facts), a file's name.

    It never changes for as long as the map is there: Streamlit tells choices by their labels.
    """
    if name in shipped_maps():
        return f"{name} (shipped)"
    try:
        run = Run(locate(name))
    except ValueError:  # the picker shows it all the same; the page says what is wrong
        return name
    if run.record:
        tuned = "tuned" if ModelRef.of_config(run.config).base else ""
        return overview.label(run, tuned, *facts).removeprefix("detect-")  # as all of them are, and the list is narrow
    is_opened = run.path.parent.parent == home() / "opened"
    return f"{run.path.stem} · opened · {run.path.parent.name[:6]}" if is_opened else "/".join(run.path.parts[-2:])


def opened_files() -> list[str]:
    """Lasting copies of what was uploaded or fetched, newest first."""
    files = [file for file in (home() / "opened").glob("*/*") if not file.name.startswith(".")]
    return [str(file) for file in sorted(files, key=_written, reverse=True)]


def _written(file: Path) -> float:
    """When a file was written last, 0 for one that has gone since it was listed."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def locate(name: str) -> Path:
    """Where a map lies: the folder of a shipped map or of a run, or the path that `name` is. ValueError for no path."""
    if name in shipped_maps():
        return shipped("maps", name)
    try:
        path = run_path(name)
    except ValueError:
        return expanded(name)
    return path if path.is_dir() else expanded(name)


_MEASURED = ("grid", "counting", "scored", "template", "needles_sha256", "haystack")  # what scores depend on


def base_map(shown: HeadMap) -> str:
    """The map of the model that this map's model was fine-tuned from: a detection of the same trials, or the shipped.

    Empty where there is none, or where this map is of no fine-tuned model.
    """
    base = shown.ref.base if shown.ref else None
    if base is None or shown.scores is None:
        return ""
    for run in Run.all("detect"):
        ref = ModelRef.of_config(run.record.get("config") or {})
        same = (ref.place, ref.revision, ref.adapter) == (base.place, base.revision, base.adapter)
        if same and same_trials(shown.record, run.record) and run.status == "success":
            return run.id
    record = Run(shipped("maps", base.name)).record if base.name in shipped_maps() else {}
    counted = ("head_grid", "counting")
    return base.name if record and all(record.get(name) == shown.record.get(name) for name in counted) else ""


def same_trials(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two detections, by their records, asked the same trials in the same way."""
    return all(first.get(name) == second.get(name) for name in ("head_grid", *_MEASURED))
