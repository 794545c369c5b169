"""What an evaluation asks: the tasks of a suite, at which lengths and how many of each; or a file with items."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from retmask.compare.conditions import Condition
from retmask.files import check_text, expanded, read_text, settled, sha256_text
from retmask.items.item import CATEGORIES, Document, Item, Task
from retmask.items.packing import pack
from retmask.tasks import TASKS
from retmask.tasks.recall import score
from retmask.text.chat import Chat
from retmask.text.conversations import json_lines

NONE = "none"  # no suite: other suites' tasks or results alone
NEEDLES = "needles"  # not a suite of these tasks: needle recall, on the needles that detection did not use
_FIELDS = {"context", "question", "gold", "distractors", "prefix", "task", "category", "id"}


class Suite(NamedTuple):
    """Tasks by name (none: all), windows in tokens, and how many items of each task at each length.

    They are of so many `documents` at least: of fewer than 3 there is no interval.
    """

    tasks: tuple[str, ...]
    lengths: tuple[int, ...]
    items: int
    documents: int = 0


_QUICK = (
    "recall_multikey rag hops_two cite rerank_scored icl qa summary association guard_arithmetic guard_knowledge "
    "guard_perplexity"
)
SUITES = {
    "quick": Suite(tuple(_QUICK.split()), (1024,), 4, 4),
    "standard": Suite((), (1024, 4096), 24),
    "long": Suite((), (8192, 32768, 131072), 50),
}


def chosen(text: str) -> Suite:
    """The suite of that name, or one of the tasks and categories that are named, with commas between.

    ValueError for what is neither.
    """
    if text in SUITES:
        return SUITES[text]
    names: list[str] = []
    for word in (part.strip() for part in text.split(",")):
        tasks = [task.name for task in TASKS.values() if word in (task.name, task.category)]
        if not tasks:
            known = ", ".join([*SUITES, *CATEGORIES, *TASKS])
            raise ValueError(f"{word[:60]!r} is no suite, no task and no file of items: choose {known}")
        names += [name for name in tasks if name not in names]
    return SUITES["quick"]._replace(tasks=tuple(names))


def make(suite: Suite, chat: Chat, seed: int) -> Iterator[Item]:
    """The items of a suite, each task in turn. ValueError where a length is too short for a task."""
    for name in suite.tasks or TASKS:
        task = TASKS[name]
        for tokens in _lengths(suite, task):
            yield from pack(task, chat, tokens, _count(suite, task), seed)


def size(suite: Suite, served: bool = False) -> tuple[int, int]:
    """How many items a suite asks of every condition, or of a server, and how many tokens their windows have in all."""
    tasks = [TASKS[name] for name in suite.tasks or TASKS if TASKS[name].answers or not served]
    asked = [(_count(suite, task), _lengths(suite, task)) for task in tasks]
    return sum(n * len(lengths) for n, lengths in asked), sum(n * sum(lengths) for n, lengths in asked)


def _count(suite: Suite, task: Task) -> int:
    """How many items of a task are asked at each length."""
    return max(suite.items, suite.documents * len(task.plant(Random(0), suite.lengths[0]).questions))


def _lengths(suite: Suite, task: Task) -> tuple[int, ...]:
    """The lengths at which a task is asked: one where it has nothing that fills a longer context."""
    return suite.lengths if task.plant(Random(0), suite.lengths[0]).filler != () else suite.lengths[:1]


def task_of(item: Item) -> Task:
    """What an item's answers are judged by."""
    return TASKS.get(item.task, OWN)


def documents(items: Sequence[Item]) -> list[list[Item]]:
    """The items by document: the first of each task and length, then the second, so that all tasks fill up alike."""
    by_kind: dict[tuple[str, int], dict[str, list[Item]]] = {}
    for item in items:
        by_kind.setdefault((item.task, item.tokens), {}).setdefault(item.cluster, []).append(item)
    rounds = zip_longest(*(clusters.values() for clusters in by_kind.values()))
    return [document for document in chain.from_iterable(rounds) if document]


def read_items(path: Path) -> list[Item]:
    """One's own items from JSON lines: context, question, gold (a text or a list); distractors, prefix, task, id.

    An answer scores the share of the gold texts that stand in it. ValueError with the line for a mistake.
    """
    lines = list(json_lines(read_text(path), path.name))
    if not lines:
        raise ValueError(f"{path} holds no item: give at least one line")
    items = [_own(row, number, where) for where, number, row in lines]
    twice = next((name for name, count in Counter(item.id for item in items).items() if count > 1), None)
    if twice:
        raise ValueError(f"{path} has two items with the id {twice}: each may stand once")
    return items


def of_model(model: str, base: str, named: Mapping[str, Condition]) -> str | None:
    """The name of the condition whose weights a model is, by its folder's path or last name; None where none is."""
    folders = {name: each.tuned or each.model or base for name, each in named.items() if not (each.word or each.server)}
    whole = [name for name, folder in folders.items() if settled(folder) == settled(model)]
    last = [name for name, folder in folders.items() if _last(folder) == _last(model)]
    return next(iter(whole or last), None)


def _last(folder: str) -> str:
    return folder.rstrip("/").rpartition("/")[2].casefold()


def _own(row: Any, number: int, where: str) -> Item:
    if not isinstance(row, Mapping):
        raise ValueError(f"{where}: not an object with context, question and gold")
    if unknown := set(row) - _FIELDS:
        raise ValueError(f"{where}: {sorted(unknown)[0]!r} is no field of an item: write {', '.join(sorted(_FIELDS))}")
    gold, distractors = (_texts(row.get(name, []), f"{where}, {name}") for name in ("gold", "distractors"))
    values = {name: row.get(name, "") for name in ("context", "question", "prefix", "task", "id")}
    for name, value in values.items():
        if not isinstance(value, str):
            raise ValueError(f"{where}: {name} is not a text")
        check_text(value, f"{where}, {name}")
    if not values["question"].strip() or not gold:
        raise ValueError(f"{where}: {'gold' if values['question'].strip() else 'question'} is missing or empty")
    category = row.get("category", "recall")
    if category not in CATEGORIES:
        raise ValueError(f"{where}: {str(category)[:40]!r} is no category: choose {', '.join(CATEGORIES)}")
    task, own = values["task"] or OWN.name, values["id"] or f"{OWN.name}-{number}"
    if task in TASKS:
        raise ValueError(f"{where}: the task {task} is one of ours: choose another name")
    return Item(
        id=own,
        task=task,
        category=category,
        cluster=sha256_text(values["context"])[:16] if values["context"] else own,
        tokens=0,
        depth=None,
        context=values["context"],
        question=values["question"],
        gold=gold,
        distractors=distractors,
        prefix=values["prefix"],
    )


def _texts(value: Any, where: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{where}: not a text or a list of texts")
    return tuple(check_text(text, where) for text in texts)


def _unplanted(rng: Random, tokens: int) -> Document:
    raise ValueError("items of one's own are read from a file")


OWN = Task("own", "recall", 48, _unplanted, score)


def items_file(text: str) -> Path | None:
    """The file of items that a setting names; None where it names a suite or tasks."""
    path = expanded(text)
    return path if text.endswith((".jsonl", ".json")) or path.is_file() else None
