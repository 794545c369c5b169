"""An evaluation as its folder holds it: items, answers, results, and which items pass a filter. No widget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from app.shared import readers
from retmask.evaluate.answers import Answers, read_answers
from retmask.evaluate.job import EvaluateSettings
from retmask.evaluate.results import FLOORS, NO_CONTEXT, SHUFFLED, results_of
from retmask.files import mappings, read_lines, read_object
from retmask.items.item import Item
from retmask.runs.run import Run
from retmask.runs.settings import from_record

LIVE_DRAWS = 500  # of the bootstrap, while answers are still coming
TABLES = ("conditions", "means", "differences", "verdicts", "ranks", "logprobs", "floors")
WAYS = ("all", "better", "worse", "lost", "found")
FOUND = 0.5  # an answer of at least this score has found what was asked for


class Filter(NamedTuple):
    """Which items are gone through. Empty texts and a length of 0 let all pass.

    `way` is one of `WAYS`, of `after` beside `before`: its score is higher or lower, or it lost what `before` found
    (or the other way round). `words` stand in the question, the gold answers, or an answer.
    """

    category: str = ""
    task: str = ""
    length: int = 0
    way: str = "all"
    before: str = ""
    after: str = ""
    words: str = ""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Items in order, the lines of answers by condition and item, the conditions by name with their roles."""

    items: Sequence[Item]
    answers: Answers
    roles: Mapping[str, str]

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of every item by its id."""
        return {item.id: place for place, item in enumerate(self.items)}

    @cached_property
    def answering(self) -> list[str]:
        """The conditions in order, then the floors that were asked."""
        asked = {name for name, _ in self.answers}
        return [*self.roles, *(name for name in (NO_CONTEXT, SHUFFLED) if name in asked)]

    def score(self, condition: str, item: Item) -> float | None:
        """The score of a condition's answer, None before it has answered."""
        line = self.answers.get((condition, item.id))
        return None if line is None else float(line["score"])

    def shown(self, wanted: Filter) -> list[int]:
        """The places of the items that pass a filter."""
        return [place for place, item in enumerate(self.items) if self._passes(item, wanted)]

    def _passes(self, item: Item, wanted: Filter) -> bool:
        fits = wanted.category in ("", item.category) and wanted.task in ("", item.task)
        fits = fits and wanted.length in (0, item.tokens)
        return fits and self._changed(item, wanted) and self._holds(item, wanted.words.casefold().strip())

    def _changed(self, item: Item, wanted: Filter) -> bool:
        if wanted.way == "all":
            return True
        before, after = self.score(wanted.before, item), self.score(wanted.after, item)
        if before is None or after is None:
            return False
        ways = {"better": after > before, "worse": after < before}
        ways |= {"lost": before >= FOUND > after, "found": after >= FOUND > before}
        return ways[wanted.way]

    def _holds(self, item: Item, words: str) -> bool:
        if not words:
            return True
        responses = (self.answers.get((name, item.id), {}).get("response", "") for name in self.answering)
        return any(words in text.casefold() for text in (item.id, item.question, *item.gold, *responses))


def evaluation_of(run: Run) -> Evaluation:
    """What a run's folder holds now, read anew only when it has more."""
    items = readers.cached(_items, run.path, "items.jsonl")
    answers = readers.cached(read_answers, run.path, "answers.jsonl")
    return Evaluation(items, answers, readers.cached(_roles, run.path, "items.jsonl"))


def results(run: Run) -> Mapping[str, Any]:
    """Its tables: those that it has written, else of what is there so far, with fewer draws; empty before an answer."""
    written = readers.cached(_written, run.path, "results.json")
    return written or readers.cached(_so_far, run.path, "answers.jsonl")


def _written(folder: Path) -> dict[str, Any]:
    record = read_object(folder / "results.json")
    return record if all(isinstance(record.get(name), list) for name in TABLES) else {}


def needle_rows(run: Run) -> list[dict[str, Any]]:
    """The conditions of an evaluation of needles, as its results have them."""
    return mappings(read_object(run.path / "results.json").get("conditions"))


def _so_far(folder: Path) -> dict[str, Any]:
    run, items, answers = Run(folder), _items(folder), read_answers(folder)
    named = from_record(EvaluateSettings, run.config).conditions()
    return results_of(items, answers.values(), named, run.record, LIVE_DRAWS) if items and answers else {}


def _items(folder: Path) -> tuple[Item, ...]:
    """The items, without lines that are none."""
    return tuple(item for line in read_lines(folder / "items.jsonl") if (item := _item(line)))


def _item(line: Mapping[str, Any]) -> Item | None:
    try:
        item = Item.of(line)
    except (TypeError, ValueError):
        return None
    texts = (item.id, item.task, item.category, item.context, item.question, *item.gold, *item.distractors)
    spans = all(len(span) == 2 and all(isinstance(end, int) for end in span) for span in (*item.planted, *item.others))
    return item if spans and item.gold and all(isinstance(text, str) for text in texts) else None


def _roles(folder: Path) -> dict[str, str]:
    """The conditions that a run asks, in order, with their roles."""
    named = from_record(EvaluateSettings, Run(folder).config).conditions()
    return {name: condition.role for name, condition in named.items() if name not in FLOORS}
