"""An evaluation as its folder holds it: items, answers, results, and which items pass a filter. No widget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from app.shared import readers, session
from retmask.compare.conditions import Condition
from retmask.evaluate.answers import Answers, read_answers
from retmask.evaluate.job import EvaluateSettings
from retmask.evaluate.results import FLOORS, NO_CONTEXT, SHUFFLED, results_of
from retmask.files import line_at, mappings, placed_lines, read_object
from retmask.heads.rules import MASKED, UNMASKED
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
    (or the other way round). `search` stands in the question, the gold answers, or an answer.
    """

    category: str = ""
    task: str = ""
    length: int = 0
    way: str = "all"
    before: str = ""
    after: str = ""
    search: str = ""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Items in order, the lines of answers by condition and item, the conditions by name with their roles.

    The contexts of all items may be a gigabyte: they are left on disk, and `whole` reads one again.
    """

    file: Path
    stored: Sequence[tuple[int, Item]]
    answers: Answers
    roles: Mapping[str, str]

    @cached_property
    def items(self) -> list[Item]:
        """The items, without their contexts."""
        return [item for _, item in self.stored]

    def whole(self, place: int) -> Item:
        """The item at a place with its context. ValueError where the file has changed since."""
        start, item = self.stored[place]
        record = line_at(self.file, start)
        if record.get("id") != item.id:
            raise ValueError(f"the items in {self.file.parent} have changed: load the page anew")
        return Item.of(record)

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
        return fits and self._changed(item, wanted) and self._holds(item, wanted.search.casefold().strip())

    def _changed(self, item: Item, wanted: Filter) -> bool:
        if wanted.way == "all":
            return True
        before, after = self.score(wanted.before, item), self.score(wanted.after, item)
        if before is None or after is None:
            return False
        ways = {"better": after > before, "worse": after < before}
        ways |= {"lost": before >= FOUND > after, "found": after >= FOUND > before}
        return ways[wanted.way]

    def _holds(self, item: Item, search: str) -> bool:
        if not search:
            return True
        responses = (self.answers.get((name, item.id), {}).get("response", "") for name in self.answering)
        return any(search in text.casefold() for text in (item.id, item.question, *item.gold, *responses))


def evaluation_of(run: Run, beside: Sequence[Run] = ()) -> Evaluation:
    """What a run's folder holds now, read anew only when it has more; with the conditions of others `beside` it."""
    file, items = run.path / "items.jsonl", readers.cached(_items, run.path, "items.jsonl")
    if beside:
        named, answers, _ = _gathered(run, beside)
        return Evaluation(file, items, answers, {name: condition.role for name, condition in named.items()})
    answers = readers.cached(read_answers, run.path, "answers.jsonl")
    return Evaluation(file, items, answers, readers.cached(_roles, run.path, "items.jsonl"))


def results(run: Run, beside: Sequence[Run] = ()) -> Mapping[str, Any]:
    """Its tables: those that it has written, else of what is there so far, with fewer draws; empty before an answer.

    Those of all conditions where there are finished evaluations of the same items `beside` it.
    """
    if beside:
        return session.remembered("beside", (run.id, *(each.id for each in beside)), lambda: _together(run, beside))
    written = readers.cached(_written, run.path, "results.json")
    return written or readers.cached(_so_far, run.path, "answers.jsonl")


def _written(folder: Path) -> dict[str, Any]:
    record = read_object(folder / "results.json")
    return record if all(isinstance(record.get(name), list) for name in TABLES) else {}


def needle_rows(run: Run) -> list[dict[str, Any]]:
    """The conditions of an evaluation of needles, as its results have them."""
    return mappings(read_object(run.path / "results.json").get("conditions"))


def _so_far(folder: Path) -> dict[str, Any]:
    run, items, answers = Run(folder), [item for _, item in _items(folder)], read_answers(folder)
    named = from_record(EvaluateSettings, run.config).conditions()
    return results_of(items, answers.values(), named, run.record, LIVE_DRAWS) if items and answers else {}


def _together(run: Run, beside: Sequence[Run]) -> dict[str, Any]:
    named, answers, record = _gathered(run, beside)
    return results_of([item for _, item in _items(run.path)], answers.values(), named, record)


def _gathered(run: Run, beside: Sequence[Run]) -> tuple[dict[str, Condition], Answers, dict[str, Any]]:
    """The conditions of several evaluations by name, each once, what they answered, and what they pinned.

    One that has the name of another is called by its run too, as is a server that had another model. Floors are the
    first evaluation's.
    """
    named: dict[str, Condition] = {}
    gathered: list[tuple[Condition, Any]] = []
    answers: Answers = {}
    record: dict[str, Any] = {}
    base = str(run.config.get("model"))
    for each in (run, *beside):
        names = {} if named else {name: name for name in FLOORS}
        model = str(each.config.get("model"))
        for name, condition in from_record(EvaluateSettings, each.config).conditions().items():
            is_named = condition.model or condition.server or model == base
            whose = condition if is_named else replace(condition, model=model)
            if (asked := (whose, each.record.get(f"server of {name}"))) not in gathered:
                gathered.append(asked)
                names[name] = f"{name} ({each.id})" if name in named else name
                named[names[name]] = replace(whose, label=names[name]) if name in named else whose
        weights = each.record.get(f"weights of {UNMASKED}")
        for name, new in names.items():
            pinned = {f"{what} of {new}": each.record.get(f"{what} of {name}") for what in ("server", "thinking")}
            pinned[f"weights of {new}"] = each.record.get(f"weights of {name}") or weights
            mask = each.record.get("mask" if name == MASKED else f"mask of {name}")
            pinned["mask" if new == MASKED else f"mask of {new}"] = mask
            record |= {key: value for key, value in pinned.items() if value}
        for (name, item), line in readers.cached(read_answers, each.path, "answers.jsonl").items():
            if name in names:
                answers[names[name], item] = line | {"condition": names[name]}
    return named, answers, record


def _items(folder: Path) -> tuple[tuple[int, Item], ...]:
    """The items, with a dot for their contexts and where their lines begin; without lines that are none."""
    lines = placed_lines(folder / "items.jsonl")
    return tuple((place, replace(item, context=item.context and ".")) for place, line in lines if (item := _item(line)))


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
