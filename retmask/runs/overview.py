"""What a run looks like to a reader, on the page and on the command line: in figures, in words, beside another."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from retmask.files import is_number, mapping, number, read_lines
from retmask.runs.run import ACTIVE, Run, Status, length

STAGES = {  # of a run before it counts; any other stage is named after what it counts: trials, points, pairs, steps
    "loading": "Loading the model…",
    "exporting": "Writing the checkpoint…",
    "starting": "Starting the trainer…",
    "evaluating": "Measuring on the pairs held out…",
    "stopping": "Finishing the step and saving it…",
    "waiting": "Starting…",
}
FOUND = {
    "trials": "{found} found the needle",
    "pairs": "{kept} pairs kept",
    "steps": "loss {loss:.3f}",
}
_TIMES = ("created", "started", "ended", "spawned")
OF_THE_MOMENT = ("pid", "place", "log_start", "error", "command", "parents", "status", *_TIMES)
RESULTS = ("held_out", "results")  # of a record: figures by name
NOT_SETTINGS = (*OF_THE_MOMENT, *RESULTS, "config")
_MISSING = {"–", "0", "0.0", "false"}  # a setting that says nothing, or that an older version did not have
OF_A_LINE = ("time", "total", "eta")  # of progress: how far, not how well
INSIDE = ("run.json", "progress.jsonl", "log.txt", "lock")  # what every run's folder holds


@dataclass(frozen=True)
class Summary:
    """A run in a line of a table. Times are ISO 8601, empty where there is none yet; `seconds` is None before it began.

    `share` (0-1) and `words` say how far it is, `why` why it failed (one line, empty where it has not).
    """

    run: str
    kind: str
    model: str
    status: Status
    share: float
    words: str
    created: str
    started: str
    ended: str
    seconds: float | None
    parents: tuple[str, ...]
    path: str
    why: str

    @property
    def is_active(self) -> bool:
        """Whether it went on, or waited to."""
        return self.status in ACTIVE


class Output(NamedTuple):
    """A file that a run wrote, or a folder with all that is in it: its name in the run's folder, its size in bytes."""

    name: str
    size: int
    files: int


def summary(run: Run) -> Summary:
    """A run in a line."""
    record, status = run.record, run.status
    started, ended = str(record.get("started") or ""), str(record.get("ended") or "")
    share, words = progress(run, status)
    return Summary(
        run=run.reference,
        kind=str(record.get("kind", "")),
        model=model_of(record),
        status=status,
        share=share,
        words=words,
        created=str(record.get("created", "")),
        started=started,
        ended=ended,
        seconds=_seconds(started, ended, status),
        parents=tuple(run.parents),
        path=str(run.path),
        why=why(run, status),
    )


def why(run: Run, status: Status) -> str:
    """Why a run failed, in one line; empty for one that has not."""
    return " ".join(run.last_words.splitlines()[-1:]).strip() if status == "error" else ""


def label(run: Run, *facts: str) -> str:
    """What a run is called: its id, or the path of its folder; its model where that does not say it; facts."""
    model = Path(model_of(run.record)).name
    return " · ".join(filter(None, [run.reference, "" if model in run.id else model, *facts]))


def standing(run: Run) -> str:
    """How a run stands that is not finished, in a word; empty for one that is."""
    return {"queued": "waiting", "started": "running", "cancelled": "stopped", "error": "failed"}.get(run.status, "")


def model_of(record: Mapping[str, Any]) -> str:
    """The model that a run works with, as its settings name it; empty for none."""
    return str(mapping(record.get("config")).get("model") or record.get("model") or "")


def _seconds(started: str, ended: str, status: Status) -> float | None:
    """How long a run has worked; None if it has not, or died at a time that nobody knows."""
    try:
        begin = datetime.fromisoformat(started)
        end = datetime.now(begin.tzinfo) if status == "started" else datetime.fromisoformat(ended)
        return max(0.0, (end - begin).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def progress(run: Run, status: Status | None = None) -> tuple[float, str]:
    """How far a run is: a share from 0 to 1, and the same in words."""
    status = status or run.status
    lines = run.latest
    last = lines[-1] if lines else {}
    stage = str(last.get("stage", "waiting"))
    if status in ACTIVE and run.asked:
        return _share(lines), stopping_words(run)
    if status == "queued":
        holder = behind(run)
        return 0.0, f"Waiting behind {holder}" if holder else "Starting…"
    if status == "started" and stage in STAGES:
        return 0.0, f"{STAGES[stage]} {_since(last)}".strip()
    counted = _last_count(lines)
    if counted is None:
        return float(status == "success"), "finished" if status == "success" else "nothing done yet"
    return _counted(counted, status)


def behind(run: Run) -> str:
    """The run that has the device which a queued run waits for, if that is known; empty for one that does not wait."""
    last: dict[str, Any] = next(reversed(run.latest), {})
    is_new = number(last.get("time")) >= number(run.record.get("spawned"))
    waits = run.status == "queued" and "behind" in last and is_new
    return str(last["behind"]) if waits else ""


def stopping_words(run: Run) -> str:
    """What a run does that has been asked to stop: a training finishes its step first."""
    return "Stopping after this step…" if run.record.get("kind") == "train" else "Stopping…"


def stage(run: Run) -> str:
    """What a run has said last that it does; empty where it has said nothing."""
    return str(run.latest[-1].get("stage", "")) if run.latest else ""


def _last_count(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return next((line for line in reversed(lines) if _counts(line) and number(line.get("total")) >= 1), None)


def _share(lines: Sequence[Mapping[str, Any]]) -> float:
    line = _last_count(lines) or {}
    return max(0.0, min(1.0, number(line.get("done")) / number(line.get("total"), 1.0)))


def _since(line: Mapping[str, Any]) -> str:
    """How long a stage has lasted, in words; empty for the first seconds, and where its line has no time."""
    seconds = time.time() - number(line.get("time"), time.time())
    return duration(seconds) if seconds >= 5 else ""


def _counted(line: Mapping[str, Any], status: Status) -> tuple[float, str]:
    done, total, unit = int(number(line.get("done"))), int(number(line.get("total"), 1.0)), str(line.get("stage", ""))
    count = f"{done:,} of {total:,}"
    words = [f"{count} {'prompts' if unit == 'pairs' else unit}"]
    if unit == "items":
        words = [f"making items: {count} ({line.get('task')})"]
    with suppress(KeyError, ValueError, TypeError):  # not counted for such a unit, or not in this line
        words += [FOUND[unit].format(**line)]
    eta, rate = number(line.get("eta")), number(line.get("rate"))
    if rate and status == "started":
        words += [f"{rate:.0f} tokens a second"]
    if eta and status == "started":
        words += [f"about {duration(eta)} left"]
    return _share([line]), ", ".join(words)


def _counts(line: Mapping[str, Any]) -> bool:
    """Whether a line of progress counts something, and does not only name a stage."""
    return str(line.get("stage", "")) not in STAGES


def duration(seconds: float) -> str:
    """Seconds for people: 40 s, 3 min, 2 h 10 min."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def when(time_iso: str, seconds: bool = False) -> str:
    """A time of a record (UTC) for people, in this machine's zone: 2026-01-31 14:05 CET; empty for none.

    All pages and commands show times so.
    """
    try:
        return datetime.fromisoformat(time_iso).astimezone().strftime(f"%Y-%m-%d %H:%M{':%S' * seconds} %Z")
    except (ValueError, OverflowError):
        return ""


def size(n: float) -> str:
    """Bytes for people: 512 B, 1.5 kB, 98.0 MB."""
    for unit in ("B", "kB", "MB"):
        if n < 999.95:
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:,.1f} GB"


def outputs(run: Run) -> list[Output]:
    """What a run has written, by name: files, and folders as one each; its own record, log and progress last."""
    found = []
    for path in sorted(run.path.iterdir()) if run.path.is_dir() else []:
        if path.name.startswith(".") or path.name == "lock":
            continue
        files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
        name = path.name if path.is_file() else f"{path.name}/"
        found.append(Output(name, sum(map(length, files)), len(files)))
    return sorted(found, key=lambda output: output.name in INSIDE)


def differences(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The settings and conditions in which runs differ: a row each with `setting`, and a column for each run's id."""
    rows = [(row, {*[*row.values()][1:]}) for row in _beside("setting", runs, map(settings, runs))]
    return [row for row, values in rows if len(values) > 1 and not ("–" in values and values <= _MISSING)]


def results(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The figures that runs have come to: a row each with `figure`, and a column for each run's id."""
    known = [{name: f"{value:,.4g}" for name, value in figures(run).items()} for run in runs]
    return _beside("figure", runs, known)


def _beside(first: str, runs: Sequence[Run], known: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    known = list(known)
    names = dict.fromkeys(name for one in known for name in one)
    columns = [run.reference for run in runs]
    return [{first: name} | dict(zip(columns, (one.get(name, "–") for one in known), strict=True)) for name in names]


def settings(run: Run) -> dict[str, str]:
    """What a run was told and what it ran with, flat (`versions.torch`), as text; what was left to choose as chosen."""
    record = run.record
    told = {name: value for name, value in mapping(record.get("config")).items() if value != ""}
    if record.get("kind") == "ablate" and "heads" in told:  # as exports once recorded them
        told["rule"] = {"heads": told.pop("heads")}
    known = {name: value for name, value in record.items() if name not in NOT_SETTINGS and not _is_figure(name, value)}
    return dict(_flat(told | {name: value for name, value in known.items() if name not in told}))


def figures(run: Run) -> dict[str, float]:
    """The numbers that a run has come to: those it recorded, those of its last step, the recalls of a curve."""
    record = run.record
    found = {name: value for name, value in record.items() if _is_figure(name, value)}
    for name in RESULTS:
        found |= {f"{name} {key}": value for key, value in mapping(record.get(name)).items()}
    last: dict[str, Any] = next((line for line in reversed(run.latest) if _counts(line)), {})
    found |= {name: value for name, value in last.items() if name not in OF_A_LINE and name not in found}
    if number(found.get("done")) and is_number(found.get("found")):
        found["share found"] = found["found"] / found["done"]
    for point in read_lines(run.path / "points.jsonl"):
        if point.get("kind") == "top":
            found |= {f"{what}, best {point.get('k')} heads": point.get(what) for what in ("recall", "perplexity")}
    return {name: float(value) for name, value in found.items() if is_number(value)}


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        elif value not in ("", None, []):
            yield before + name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_figure(name: str, value: object) -> bool:
    return is_number(value) and name not in (*OF_THE_MOMENT, "seed")
