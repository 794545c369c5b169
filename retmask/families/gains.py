"""What fine-tuning has gained, beside how concentrated the model's retrieval heads were: the points of a scatter.

Two kinds of points, never of one measure: differences in score or needle recall (0 to 1) of our own evaluations, and
numbers from papers, such as HELMET's points (0 to 100). Each says what was measured and in which unit.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from retmask.families.concentration import Concentration, concentration
from retmask.files import mapping, mappings, number, read_object, shipped
from retmask.heads.formats import family
from retmask.heads.rules import TUNED, UNMASKED
from retmask.heads.sets import ScoreSet, read_set
from retmask.runs.run import Run, run_path

COPIES = ("set", "steps", "activation", "unknown")  # detectors whose concentration is told
ENOUGH = 10  # models, before a relation between two of their properties can be looked for at all
_OF_NEEDLES = ("recall", "needle_low", "needle_high", "trials")  # names of a figure, its interval, how many
_FURTHEST = 10  # runs from an evaluation back to the detection


class Gain(NamedTuple):
    """How much a model gained by its fine-tune, and how concentrated its base model's retrieval scores were.

    `before`, `after` and `gain` = after - before are in `unit`, and `measured` says on what. `low` and `high` are the
    95 % interval of the gain over needles, with all prompts of a needle drawn together; None for papers, which give
    none. `n` counts prompts, None where the source does not. `scores` names the score set that `figures` come
    from, with their counting; both are empty where the base model has none. `source` is a run's id or a citation.
    """

    model: str
    family: str
    source: str
    measured: str
    unit: str
    before: float
    after: float
    gain: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    scores: str = ""
    counting: str = ""
    figures: Concentration | None = None
    own: bool = False


def own_gains() -> list[Gain]:
    """The gains that our finished evaluations measured, newest first: "tuned" minus "unmasked" on the same prompts.

    Only conditions named "tuned", or "tuned 2" and so on, count: others may be controls. An evaluation whose folder
    is damaged is left out.
    """
    sets: dict[str, ScoreSet | None] = {}
    return [gain for run in Run.all("evaluate") for gain in _of_run(run, sets)]


def published_gains() -> list[Gain]:
    """The gains that papers report for models whose score files are public, with figures computed from these."""
    listed = json.loads(shipped("gains.json").read_text(encoding="utf-8"))
    for entry in listed:
        entry |= {"family": family(entry["model"]), "gain": round(entry["after"] - entry["before"], 6)}
        entry["figures"] = Concentration(**entry["figures"])
    return [Gain(**entry) for entry in listed]


def warning(points: Sequence[Gain]) -> str:
    """The sentence that goes with a scatter of these points: how many they are, and what they cannot show."""
    if not points:
        return "No gain has been measured yet: fine-tune a model, and evaluate it."
    counted = {point.counting for point in points if point.figures}
    models, ways = {point.model for point in points}, {(point.measured, point.unit) for point in points}
    sentence = f"{_many(len(points), 'point')} of {_many(len(models), 'model')}"
    if len(ways) > 1:
        sentence += f", measured in {len(ways)} ways whose sizes do not compare"
    if len(counted) > 1:
        sentence += f", their scores counted in {len(counted)} ways whose concentration does not compare"
    if len(models) < ENOUGH:
        return f"{sentence}: too few to say whether concentration and gain go together."
    return f"{sentence}: models differ in more than concentration, so this shows no cause."


def _many(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _of_run(run: Run, sets: dict[str, ScoreSet | None]) -> Iterator[Gain]:
    """The gains of one evaluation; none where it has no results that can be read."""
    results, config = read_object(run.path / "results.json"), run.config
    by_suite = "means" in results
    rows = {str(row.get("condition")): row for row in _overall(results, "means" if by_suite else "conditions")}
    differences = [row for row in _overall(results, "differences") if row.get("against") == UNMASKED]
    figure, low, high, n = ("mean", "low", "high", "items") if by_suite else _OF_NEEDLES
    how = (
        f"suite {config.get('suite')}"
        if by_suite
        else f"needle recall, {number(config.get('context_tokens')):.0f} tokens"
    )
    tuned = {name: row for row in differences if re.fullmatch(rf"{TUNED}( \d+)?", name := str(row.get("condition")))}
    model = config.get("model")
    if not tuned or not isinstance(model, str):
        return
    base = _base_set(run, model, sets)
    for condition, difference in tuned.items():
        scores = (rows.get(UNMASKED, {}).get(figure), rows.get(condition, {}).get(figure), difference.get("mean"))
        before, after, gain = (number(value, None) for value in scores)
        if before is None or after is None or gain is None:
            continue
        yield Gain(
            base.model if base else PurePosixPath(model).name,
            family(model) or (base.family if base else ""),
            run.reference,
            how,
            "score, 0 to 1" if by_suite else "recall, 0 to 1",
            before,
            after,
            gain,
            low=number(difference.get(low), None),
            high=number(difference.get(high), None),
            n=int(number(rows[condition].get(n))) or None,
            scores=base.source if base else "",
            counting=base.counting if base else "",
            figures=concentration(base.scores.mean) if base else None,
            own=True,
        )


def _overall(results: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The rows of a table of an evaluation; of a suite those over all categories."""
    return [row for row in mappings(results.get(name)) if row.get("level", "overall") == "overall"]


def _base_set(run: Run, model: str, sets: dict[str, ScoreSet | None]) -> ScoreSet | None:
    """The score set of the base model: the one that the evaluation or its training began with, else any other."""
    for source in _sources(run, model):
        if "://" in source:  # a record may come from anybody, and is to open no address
            continue
        if source not in sets:
            try:
                sets[source] = read_set(source)
            except ValueError:
                sets[source] = None
        score_set = sets[source]
        copies = score_set is not None and score_set.counting in COPIES
        if score_set and copies and not score_set.tuned and _is_of(score_set, model):
            return score_set
    return None


def _sources(run: Run, model: str) -> Iterator[str]:
    """What may hold the base model's scores, the nearest to the run first."""
    runs, seen = [run], 0
    while runs and seen < _FURTHEST:
        run_before, seen = runs.pop(0), seen + 1
        record, config = run_before.record, run_before.config
        if record.get("kind") == "detect":
            yield run_before.reference
        names = [mapping(config.get("rule")).get("scores"), config.get("scores")]
        yield from (name for name in names if isinstance(name, str) and name)
        runs += [parent for name in run_before.parents if (parent := _run(name))]
    yield model
    yield from (run.id for run in Run.all("detect") if run.config.get("model") == model)


def _run(name: str) -> Run | None:
    try:
        path = Path(name) if "/" in name else run_path(name)
    except ValueError:
        return None
    run = Run(path)
    return run if run.record else None


def _is_of(score_set: ScoreSet, model: str) -> bool:
    """Whether a set is of that model. A file that does not say was taken for it when heads were masked."""
    config = score_set.record.get("config")
    return not isinstance(config, dict) or config.get("model") == model
