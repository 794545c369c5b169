"""What a fine-tune changed: needle recall of unmasked | masked | tuned on the same held-out prompts, in pairs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retmask import files
from retmask.compare.conditions import HELP, Condition, named, of_folders, of_masks, of_rule, parse
from retmask.detect.trials import different_prompts, pin_measure, run_trials
from retmask.evaluate.differences import summary
from retmask.figures.rows import to_csv
from retmask.heads.grid import Grid
from retmask.heads.masks import HeadMask
from retmask.heads.rules import MASKED, UNMASKED, MaskRule
from retmask.model.weights import check_there, folder_grid
from retmask.runs.job import Job, Pace, Progress, Start, Work
from retmask.runs.run import Run, parent_ids
from retmask.runs.settings import REQUIRED, check, command_line, setting, shared, whole
from retmask.text.chat import Chat
from retmask.text.haystack import Haystack, load_haystack
from retmask.text.needle import NeedleTask, load_needles, needle_grid, needles_sha256

if TYPE_CHECKING:
    from retmask.model.lens import LensModel

DEPTHS = (0.1, 0.3, 0.45, 0.65, 0.85)  # in no preset of detection
_KEY = ("condition", "needle", "context_tokens", "depth")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Which conditions answer which held-out prompts.

    `tuned` are folders of adapters (or of whole checkpoints), each perhaps with a name before: `control=folder`; the
    first is "tuned" without one. `rule` says which heads the masked condition masks, if there is to be one, and `also`
    further masked conditions by name: `query heads=L17H3,L18H6`; any other is a `condition`, as
    `retmask.compare.conditions` reads it. `trials` prompts of `context_tokens` tokens are spread over needles and
    depths. ValueError for what cannot be.
    """

    model: str = shared("model", REQUIRED)
    tuned: tuple[str, ...] = setting((), "an adapter or model folder, or name=folder; once for each", repeated=True)
    rule: MaskRule = setting(MaskRule(), "the masked condition", flags={"seed": "mask-seed"})
    also: tuple[str, ...] = setting((), "a further masked condition: name=L17H3,L18H6; once for each", repeated=True)
    condition: tuple[str, ...] = setting((), HELP, repeated=True)
    trials: int = setting(120, "prompts, on needles and depths that detection did not use", min=1, max=1_000_000)
    context_tokens: int = shared("context_tokens", 512)
    needles: str = shared("needles")
    haystack: str = shared("haystack", "pydoc-end")
    revision: str = shared("revision")
    device: str = shared("device")
    dtype: str = shared("dtype")

    def __post_init__(self) -> None:
        check(self)
        self.conditions()

    def conditions(self) -> dict[str, Condition]:
        """The conditions by name, in order. ValueError for a name twice, or a mask without one."""
        written = [made for text in self.condition for made in parse(text, self.rule.scores, self.rule.exclude)]
        masked = [*of_rule(self.rule), *of_masks(self.also)]
        return named([Condition(), *masked, *of_folders(self.tuned), *written])

    def tasks(self) -> list[NeedleTask]:
        """The needle tasks, spread evenly. ValueError where needles and depths give fewer."""
        needles = load_needles(files.expanded(self.needles) if self.needles else files.shipped("needles_held_out.json"))
        grid = needle_grid(needles, [self.context_tokens], DEPTHS)
        if len(grid) < self.trials:
            raise ValueError(
                f"{len(needles)} needles at {len(DEPTHS)} depths give {len(grid)} trials and {self.trials} were asked "
                "for: choose fewer, or more needles with --needles"
            )
        return grid[: self.trials]

    @property
    def command(self) -> list[str]:
        """The command line that does the same."""
        return command_line("evaluate", self)


def _check(settings: EvaluateSettings, *_: Any) -> Start[EvaluateSettings]:
    check_there(settings.model)
    grid = folder_grid(settings.model)
    for condition in settings.conditions().values():
        condition.check(grid)
    _texts(settings)
    tuned = [condition.whole() for condition in of_folders(settings.tuned)]
    written = [condition.whole() for text in settings.condition for condition in parse(text)]
    folders = [each.tuned or each.model for each in [*tuned, *written]]
    settings = replace(
        whole(settings),
        tuned=tuple(f"{each.label}={each.tuned}" for each in tuned),
        condition=tuple(map(str, written)),
    )
    return Start(settings, parent_ids(*filter(None, folders), settings.rule.scores))


def _texts(settings: EvaluateSettings) -> tuple[list[NeedleTask], Haystack]:
    return settings.tasks(), load_haystack(settings.haystack)


def _answers(work: Work[EvaluateSettings]) -> Iterator[Progress]:
    """Each answer is a line of answers.jsonl before the next batch; at the end results.json and results.csv."""
    from retmask.model.loading import release

    run, settings = work.run, work.settings
    (tasks, haystack), named = _texts(settings), settings.conditions()
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
            model, weights = _load(work, name, condition), condition.weights
        if not masks:  # all of them before the first answer: a head that is not there is to be said at once
            masks = _masks(work, model.grid)
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


EVALUATE = Job("evaluate", EvaluateSettings, _check, _answers, "answers", lambda work: _texts(work.settings))


def _asked(run: Run) -> dict[str, Any]:
    """How many prompts each condition has been asked so far: tasks that ask the same prompt are one."""
    return files.mapping(run.record.get("asked"))


def _load(work: Work[EvaluateSettings], name: str, condition: Condition) -> "LensModel":
    """The model of a condition. ValueError where the run began with other weights."""
    from retmask.model.loading import facts

    model = condition.load(work.settings.model, **work.loading, context_tokens=work.settings.context_tokens)
    weights = facts(model, condition.tuned if condition.is_adapter else "")
    digest = weights["adapter_sha256"] or weights["sha256"]
    whose = name if any(condition.weights) else UNMASKED
    work.run.pin(**{f"weights of {whose}": digest}, dtype=weights["dtype"])
    return model


def _masks(work: Work[EvaluateSettings], grid: Grid) -> dict[str, HeadMask]:
    """The masks of all conditions that have one, by name. ValueError where the run began with others."""
    rule, named = work.settings.rule, work.settings.conditions()
    masks = {name: condition.mask(grid) for name, condition in named.items() if condition.word}
    work.run.pin(**{"mask" if name == MASKED else f"mask of {name}": str(mask) for name, mask in masks.items()})
    if rule.random:
        work.run.update(excluded=[*map(str, rule.excluded(grid))])
    return masks


def read_answers(folder: Path) -> dict[Any, dict[str, Any]]:
    """The answers in a run's folder, each once, by condition and task. Lines that are none are passed over."""
    return {
        tuple(line[name] for name in _KEY): line for line in files.read_lines(folder / "answers.jsonl") if _sound(line)
    }


def _sound(line: Mapping[str, Any]) -> bool:
    """Whether a line is an answer: a damaged file may hold anything."""
    are_texts = all(isinstance(line.get(name), str) for name in ("condition", "needle", "response"))
    return are_texts and all(files.is_number(line.get(name)) for name in ("context_tokens", "depth", "recall"))


def measured(run: Run) -> Path | None:
    """The folder of the model that an evaluation has measured first; None where it says none."""
    folders = run.config.get("tuned")
    name = str(folders[0]).rpartition("=")[2] if isinstance(folders, list) and folders else ""
    try:
        return files.expanded(name).resolve() if name else None
    except (ValueError, OSError):
        return None
