"""What masking and fine-tuning change: conditions that answer the same items, of a suite, one's own, or needles."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from retmask import files
from retmask.compare.conditions import HELP, Condition, named, of_folders, of_masks, of_rule, parse
from retmask.evaluate.answers import published, suite_answers
from retmask.evaluate.backends import address_of, server_of
from retmask.evaluate.needles import needle_answers, texts
from retmask.evaluate.results import FLOORS, NO_CONTEXT, SHUFFLED
from retmask.evaluate.suite import NEEDLES, NONE, SUITES, Suite, chosen, items_file, read_items
from retmask.heads.rules import MaskRule
from retmask.items.item import Item
from retmask.model.weights import check_there, folder_grid
from retmask.pairs.job import check_named, sent
from retmask.pairs.job import contacted as asked_for_pairs
from retmask.runs.job import Job, Progress, Start, Work
from retmask.runs.run import Run, parent_ids
from retmask.runs.settings import REQUIRED, check, command_line, setting, shared, whole
from retmask.text.needle import NeedleTask, load_needles, needle_grid

_SUITE = "quick, standard or long; tasks or categories, with commas; a .jsonl file of items; needles. By default quick"
_HARNESS = "tasks of lm-eval, with commas; these need no download: niah_single_1, niah_multikey_2, niah_multikey_3, "
_HARNESS += "ruler_vt, ruler_cwe, ruler_fwe"
_TRIALS, _TOKENS, _HAYSTACK = 120, 512, "pydoc-end"
DEPTHS = (0.1, 0.3, 0.45, 0.65, 0.85)  # in no preset of detection


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Which conditions answer what: a suite of tasks, items of one's own, or needles that detection did not use.

    Beside a suite, or alone, tasks of lm-eval (`harness`) and what other suites have measured (`read`).

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
    suite: str = setting("", _SUITE, before=NEEDLES, names="file")
    lengths: tuple[int, ...] = setting(
        (), "windows in tokens, prompt and answer; by default the suite's", example="1024,4096"
    )
    items: int = setting(0, "items of each task at each length; 0: as many as the suite has", min=0, max=10_000)
    seed: int = setting(0, "of the items", min=0, max=2**31)
    harness: tuple[str, ...] = setting((), _HARNESS, example="niah_single_1,ruler_vt")
    read: tuple[str, ...] = setting((), "a result file of HELMET, olmo-eval or lm-eval; once for each", repeated=True)
    floors: bool = setting(True, "also ask without the context and, but for quick, with its words in disorder")
    trials: int = setting(_TRIALS, "prompts of the suite needles", min=1, max=1_000_000)
    context_tokens: int = shared("context_tokens", _TOKENS)
    needles: str = shared("needles")
    haystack: str = shared("haystack", _HAYSTACK)
    revision: str = shared("revision")
    device: str = shared("device")
    dtype: str = shared("dtype")

    def __post_init__(self) -> None:
        check(self)
        if not self.suite and (self.harness or self.read):
            object.__setattr__(self, "suite", NONE)
        if not self.suite:  # these are of the needles alone
            own = (self.trials, self.context_tokens, self.needles, self.haystack)
            object.__setattr__(self, "suite", "quick" if own == (_TRIALS, _TOKENS, "", _HAYSTACK) else NEEDLES)
        if self.suite in (NEEDLES, NONE) and (self.suite == NONE) != bool(self.harness or self.read):
            how = "asks nothing: add --harness or --read" if self.suite == NONE else "takes no --harness or --read"
            raise ValueError(f"--suite {self.suite} {how}, or choose another suite")
        if self.suite not in (NEEDLES, NONE) and not items_file(self.suite):
            chosen(self.suite)
        if any(each.server for each in self.conditions().values()) and (self.harness or self.suite == NEEDLES):
            raise ValueError(
                "a server is asked a suite or your own items only, neither needles nor tasks of lm-eval: choose a "
                "suite, or leave the server out"
            )

    @cached_property
    def asked(self) -> Suite | list[Item]:
        """What is asked: a suite's tasks, or items of one's own. ValueError for what is neither."""
        if self.suite == NONE:
            return []
        path = items_file(self.suite)
        if path:
            return read_items(path)
        suite = chosen(self.suite)._replace(lengths=self.windows)
        return suite._replace(items=self.items, documents=0) if self.items else suite

    @property
    def windows(self) -> tuple[int, ...]:
        """The lengths asked for, in tokens."""
        return tuple(sorted(set(self.lengths))) or SUITES.get(self.suite, SUITES["quick"]).lengths

    @property
    def floors_asked(self) -> tuple[str, ...]:
        """The floors that the model is asked for: a context in disorder takes as long as one in order."""
        return (NO_CONTEXT, *((SHUFFLED,) if self.suite != "quick" else ())) if self.floors else ()

    @property
    def many(self) -> int:
        """How many items of each task at each length."""
        return self.items or SUITES.get(self.suite, SUITES["quick"]).items

    def conditions(self) -> dict[str, Condition]:
        """The conditions by name, in order. ValueError for a name twice, a mask without one, or a wrong address."""
        written = [made for text in self.condition for made in parse(text, self.rule.scores, self.rule.exclude)]
        masked = [*of_rule(self.rule), *of_masks(self.also)]
        conditions = named([Condition(), *masked, *of_folders(self.tuned), *written])
        for condition in conditions.values():
            address_of(condition)
        for name in {*FLOORS} & {*conditions}:
            raise ValueError(f"{name} is what a floor is called: give the condition another label")
        return conditions

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
    for condition in settings.conditions().values():
        own = condition.model or ("" if condition.is_adapter else condition.tuned)
        if condition.server:
            server_of(condition)
        else:
            condition.check(folder_grid(own or settings.model), settings.model, settings.revision)
    _prepared(settings)
    tuned = [condition.whole() for condition in of_folders(settings.tuned)]
    written = [condition.whole() for text in settings.condition for condition in parse(text)]
    folders = [each.tuned or each.model for each in [*tuned, *written]]
    settings = replace(
        whole(settings),
        tuned=tuple(f"{each.label}={each.tuned}" for each in tuned),
        condition=tuple(map(str, written)),
        read=tuple(files.settled(file, only_path=True) for file in settings.read),
    )
    return Start(settings, parent_ids(*filter(None, folders), settings.rule.scores))


def _ready(work: Work[EvaluateSettings]) -> object:
    check_named(work, filter(None, map(address_of, work.settings.conditions().values())), sends(work.run))
    return _prepared(work.settings)


def _prepared(settings: EvaluateSettings) -> object:
    """What is asked. ValueError where that cannot be had."""
    if settings.suite == NEEDLES:
        return texts(settings)
    if settings.harness and find_spec("lm_eval") is None:
        raise ValueError("--harness needs lm-eval, which is not installed: pip install -e '.[eval]'")
    if settings.harness:
        from retmask.evaluate.benchmarks import check_tasks

        check_tasks(settings.harness)
    published(settings, settings.conditions())
    return settings.asked


def _steps(work: Work[EvaluateSettings]) -> Iterator[Progress]:
    return needle_answers(work) if work.settings.suite == NEEDLES else suite_answers(work)


EVALUATE = Job("evaluate", EvaluateSettings, _check, _steps, "answers", _ready)


def asks_suite(run: Run) -> bool:
    """Whether an evaluation asks a suite of tasks, or items of one's own, and not needles as all did before."""
    return bool(run.config.get("suite", NEEDLES) != NEEDLES)


def contacted(run: Run) -> tuple[str, ...]:
    """The addresses of the servers that a run of any kind sends to; none for one that only loads models."""
    return (*asked_for_pairs(run), *filter(None, map(address_of, _written(run))))


def sends(run: Run) -> str:
    """What a run with servers sends, and where to, for a person to judge: its folder may come from anybody."""
    suite = str(run.config.get("suite") or "")
    return sent(run, contacted(run), run.config.get("prompts") or (suite if items_file(suite) else ""))


def measured(run: Run) -> list[Path]:
    """The folders of the fine-tuned models that an evaluation has measured, in order; what says none is left out."""
    tuned = run.config.get("tuned")
    named = [str(text).rpartition("=")[2] for text in tuned] if isinstance(tuned, list) else []
    named += [condition.tuned for condition in _written(run)]
    folders = []
    for name in dict.fromkeys(filter(None, named)):
        with suppress(ValueError, OSError):
            folders.append(files.expanded(name).resolve())
    return folders


def _written(run: Run) -> Iterator[Condition]:
    """The conditions that a run's settings write as texts; what is none is left out."""
    texts = run.config.get("condition")
    for text in texts if isinstance(texts, list) else []:
        with suppress(ValueError):
            yield from parse(str(text))
