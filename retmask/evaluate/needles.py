"""Needle recall of conditions on held-out prompts: an evaluation of the suite "needles"."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from retmask import files
from retmask.detect.trials import different_prompts, pin_measure, run_trials
from retmask.evaluate.backends import load, masks_of
from retmask.figures.rows import to_csv
from retmask.heads.intervals import Clusters, clusters, each, ends, interval
from retmask.heads.masks import HeadMask
from retmask.runs.job import Pace, Progress, Work
from retmask.runs.run import Run
from retmask.text.chat import Chat
from retmask.text.haystack import Haystack, load_haystack
from retmask.text.needle import NeedleTask, needles_sha256

if TYPE_CHECKING:
    from retmask.evaluate.job import EvaluateSettings
    from retmask.model.lens import LensModel

_KEY = ("condition", "needle", "context_tokens", "depth")


def texts(settings: "EvaluateSettings") -> tuple[list[NeedleTask], Haystack]:
    """The needle tasks of an evaluation, and the text they are hidden in. ValueError where there are none."""
    return settings.tasks(), load_haystack(settings.haystack)


def needle_answers(work: "Work[EvaluateSettings]") -> Iterator[Progress]:
    """Each answer is a line of answers.jsonl before the next batch; at the end results.json and results.csv."""
    from retmask.model.loading import release

    run, settings = work.run, work.settings
    (tasks, haystack), named = texts(settings), settings.conditions()
    answers = read_answers(run.path)
    pin_measure(run, tasks, bool(answers))
    run.pin(needles_sha256=needles_sha256(task.needle for task in tasks), haystack=haystack.facts)
    total = len(tasks) * len(named)
    run.report(stage="loading", done=len(answers), total=total)
    pace = Pace()
    model: LensModel | None = None
    weights: tuple[str, ...] = ()
    masks: dict[str, HeadMask] = {}
    for name, condition in named.items():
        if sum(key[0] == name for key in answers) >= files.number(_asked(run).get(name), len(tasks)):
            continue
        if model is None or condition.weights != weights:
            model = None  # two models need not fit
            release()
            model, weights = load(work, [name], condition, settings.context_tokens), condition.weights
        if not masks:  # all of them before the first answer: a head that is not there is to be said at once
            masks = masks_of(work, model.grid, list(named))
        chat = Chat.resumed(model.tokenizer, run.record)
        run.update(clock=chat.when.isoformat())  # all conditions are asked on one day
        asked = different_prompts(chat, tasks, haystack)
        if not any(condition.weights):
            run.update(same_prompts=len(tasks) - len(asked))
        run.update(asked={**_asked(run), name: len(asked)})
        total = len(asked) * len(named)
        left = {task: prompt for task, prompt in asked.items() if (name, *task.key) not in answers}
        pace.go_on()
        for batch in run_trials(model.under(masks.get(name, HeadMask())), left, haystack, chat=chat):
            for trial in batch:
                key = (name, trial.needle, trial.context_tokens, trial.depth)
                answers[key] = dict(zip(_KEY, key, strict=True)) | {"recall": trial.recall, "response": trial.response}
                files.append_line(run.path / "answers.jsonl", answers[key])
            yield Progress(len(answers), total, pace.left(len(batch), total - len(answers)), {"condition": name})
    results = summary(list(answers.values()), list(named))
    files.write_json(run.path / "results.json", results)
    files.write_atomic(run.path / "results.csv", to_csv(results["conditions"]))
    run.update(results={row["condition"]: row["recall"] for row in results["conditions"]})
    if pace.each:
        run.update(pace=pace.each / settings.context_tokens)


def _asked(run: Run) -> dict[str, Any]:
    """How many prompts each condition has been asked so far: tasks that ask the same prompt are one."""
    return files.mapping(run.record.get("asked"))


def read_answers(folder: Path) -> dict[Any, dict[str, Any]]:
    """The answers in a run's folder, each once, by condition and task. Lines that are none are passed over."""
    return {
        tuple(line[name] for name in _KEY): line for line in files.read_lines(folder / "answers.jsonl") if _sound(line)
    }


def _sound(line: Mapping[str, Any]) -> bool:
    """Whether a line is an answer: a damaged file may hold anything."""
    are_texts = all(isinstance(line.get(name), str) for name in ("condition", "needle", "response"))
    return are_texts and all(files.is_number(line.get(name)) for name in ("context_tokens", "depth", "recall"))


DRAWS = 10_000  # of the bootstrap


_DIGITS = 4


class Difference(NamedTuple):
    """Mean recall of one condition minus that of another on the same prompts, with 95 % paired bootstrap intervals.

    `low` and `high` draw prompts; `needle_low` and `needle_high` draw needles with all their prompts, which is the
    stricter, since prompts of one needle are alike. None where fewer than 3 can be drawn. `better` and `worse` count
    prompts, `needles` the needles.
    """

    condition: str
    against: str
    mean: float
    low: float | None
    high: float | None
    needle_low: float | None
    needle_high: float | None
    better: int
    worse: int
    needles: int


def summary(answers: Sequence[Mapping[str, Any]], conditions: Sequence[str]) -> dict[str, Any]:
    """Means of every condition, and differences of every two on the same prompts, the later minus the earlier.

    Recall is mean ROUGE-1 recall (0-1), found the share above 0.5; `low` and `high` are its 95 % interval over needles,
    each with all its prompts, None with fewer than 3. Prompts that not all conditions have answered are left out.
    """
    recalls: dict[str, dict[Any, float]] = {name: {} for name in conditions}
    for line in answers:
        if line["condition"] in recalls:
            prompt = (line["needle"], line["context_tokens"], line["depth"])
            recalls[line["condition"]][prompt] = float(line["recall"])
    prompts = sorted(set.intersection(*map(set, recalls.values())))
    values = {name: np.array([recalls[name][prompt] for prompt in prompts]) for name in conditions}
    needles = [prompt[0] for prompt in prompts]
    differences = [
        difference(later, earlier, values[later], values[earlier], needles)
        for earlier, later in combinations(conditions, 2)
    ]
    rows = [_row(name, values[name], clusters(needles, "needle")) for name in conditions]
    return {"conditions": rows, "differences": [gap._asdict() for gap in differences]}


def _row(condition: str, recalls: Float[np.ndarray, " prompt"], needles: Clusters) -> dict[str, Any]:
    low, high = ends(interval(recalls, needles, draws=DRAWS), _DIGITS)
    return {
        "condition": condition,
        "trials": len(recalls),
        "recall": round(float(recalls.mean()), _DIGITS),
        "low": low,
        "high": high,
        "found": round(float((recalls > 0.5).mean()), _DIGITS),
        "needles": needles.n,
    }


def difference(
    condition: str,
    against: str,
    recalls: Float[np.ndarray, " prompt"],
    baseline: Float[np.ndarray, " prompt"],
    needles: Sequence[str],
) -> Difference:
    """The paired difference of two conditions; `needles` says which prompts belong together."""
    gaps, by_needle = recalls - baseline, clusters(needles, "needle")
    low, high = ends(interval(gaps, each(len(gaps), "prompt"), draws=DRAWS), _DIGITS)
    needle_low, needle_high = ends(interval(gaps, by_needle, draws=DRAWS), _DIGITS)
    return Difference(
        condition,
        against,
        mean=round(float(gaps.mean()), _DIGITS),
        low=low,
        high=high,
        needle_low=needle_low,
        needle_high=needle_high,
        better=int((gaps > 0).sum()),
        worse=int((gaps < 0).sum()),
        needles=by_needle.n,
    )
