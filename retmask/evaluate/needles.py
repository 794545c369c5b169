"""Needle recall of conditions on held-out prompts: an evaluation of the suite "needles"."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retmask import files
from retmask.detect.trials import different_prompts, pin_measure, run_trials
from retmask.evaluate.differences import summary
from retmask.evaluate.weights import load, masks_of
from retmask.figures.rows import to_csv
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
