"""Conditions answer the items of a suite: every line is on disk before the next document is asked."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retmask import files
from retmask.compare.conditions import Condition
from retmask.evaluate.results import NO_CONTEXT, SHUFFLED, markdown, results_of
from retmask.evaluate.suite import Suite, documents, make
from retmask.evaluate.weights import load, masks_of
from retmask.figures.rows import to_csv
from retmask.heads.masks import HeadMask
from retmask.items.floors import shuffled_context, without_context
from retmask.items.item import Item
from retmask.runs.job import Pace, Progress, Work
from retmask.runs.run import Run
from retmask.text.chat import Chat

if TYPE_CHECKING:
    from retmask.evaluate.job import EvaluateSettings

Answers = dict[tuple[str, str], dict[str, Any]]  # the lines of answers.jsonl by condition and item
_CHARS = 2  # of a token of one's own items, at least, about: how long a context the model is loaded for


def suite_answers(work: "Work[EvaluateSettings]") -> Iterator[Progress]:
    """Each document's answers are in answers.jsonl before the next is asked; at the end results.json, .csv and .md."""
    from retmask.evaluate.engine import measure
    from retmask.model.loading import release

    run, settings = work.run, work.settings
    named, answers, items = settings.conditions(), read_answers(run.path), read_items_of(run.path)
    asked = settings.asked
    longest = max(asked.lengths) if isinstance(asked, Suite) else max(len(item.message) for item in asked) // _CHARS
    run.report(stage="loading", done=len(answers))
    pace, masks = Pace(), dict[str, HeadMask]()
    for names in _by_weights(named):
        if items and all((name, item.id) in answers for name in names for item in items):
            continue
        release()
        model = load(work, names[0], named[names[0]], longest)
        if isinstance(asked, Suite):
            model.check_length(longest)  # before anything is answered
        masks = masks or masks_of(work, model.grid)
        chat = Chat.resumed(model.tokenizer, run.record)
        items = items or _stored(run, make(asked, chat, settings.seed) if isinstance(asked, Suite) else asked, chat)
        own = {name: masks.get(name, HeadMask()) for name in names}
        floors = settings.floors and not any(named[names[0]].weights)
        kinds = {item.id: _kinds([item], named, settings.floors) for item in items}
        tokens = {item.id: item.tokens or len(item.message) // _CHARS for item in items}
        total = sum(map(len, kinds.values()))
        pace.go_on()
        for document in documents(items):
            for part, under in _asking(document, own, floors):
                if all((name, item.id) in answers for name in under for item in part):
                    continue
                lines = measure(model, chat, part, under)  # all anew, as a batch of others rounds differently
                new = [line for line in lines if (line["condition"], line["item"]) not in answers]
                for line in new:
                    files.append_line(run.path / "answers.jsonl", line)
                    answers[line["condition"], line["item"]] = line
                asked_now = sum(tokens[line["item"]] for line in new)
                ahead = sum(tokens[item] for item in kinds for name in kinds[item] if (name, item) not in answers)
                yield Progress(len(answers), total, pace.left(asked_now, ahead), {"condition": names[0]})
        del model  # two need not fit
    _finish(run, items, answers, named)
    if pace.each:
        run.update(pace=pace.each)  # seconds a token of an answer's window


def read_answers(folder: Path) -> Answers:
    """The answers in a run's folder by condition and item, each once. Lines that are none are passed over."""
    lines = files.read_lines(folder / "answers.jsonl")
    return {(line["condition"], line["item"]): line for line in lines if _sound(line)}


def read_items_of(folder: Path) -> list[Item]:
    """The items that an evaluation in a folder asks; none before they are made."""
    return [Item.of(line) for line in files.read_lines(folder / "items.jsonl")]


def _sound(line: Mapping[str, Any]) -> bool:
    """Whether a line is an answer: a damaged file may hold anything."""
    are_texts = all(isinstance(line.get(name), str) for name in ("condition", "item", "response"))
    return are_texts and all(files.is_number(line.get(name)) for name in ("score", "logprob", "rank", "of"))


def _by_weights(named: Mapping[str, Condition]) -> list[list[str]]:
    """The names of conditions that answer with the same weights, the first condition's first."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, condition in named.items():
        groups.setdefault(condition.weights, []).append(name)
    return list(groups.values())


def _stored(run: Run, items: Iterator[Item] | Sequence[Item], chat: Chat) -> list[Item]:
    """The items, kept with the run, which says by which day's clock and with which text they are asked."""
    made = list(items)
    text = "".join(json.dumps(item.record, ensure_ascii=False) + "\n" for item in made)
    run.pin(items_sha256=files.sha256_text(text), **chat.facts)
    files.write_atomic(run.path / "items.jsonl", text)
    return made


def _asking(
    document: Sequence[Item], own: Mapping[str, HeadMask], floors: bool
) -> Iterator[tuple[Sequence[Item], Mapping[str, HeadMask]]]:
    """What is asked of a document under which names: the items, and without or with a shuffled context by the model."""
    yield document, own
    if floors and all(item.context for item in document):
        yield [without_context(item) for item in document], {NO_CONTEXT: HeadMask()}
        yield [shuffled_context(item) for item in document], {SHUFFLED: HeadMask()}


def _kinds(items: Sequence[Item], named: Mapping[str, Condition], floors: bool) -> list[str]:
    """The names under which items are asked."""
    return [*named, *([NO_CONTEXT, SHUFFLED] if floors and all(item.context for item in items) else [])]


def _finish(run: Run, items: Sequence[Item], answers: Answers, named: Mapping[str, Condition]) -> None:
    results = results_of(items, answers.values(), named, run.record)
    files.write_json(run.path / "results.json", results)
    files.write_atomic(run.path / "results.csv", to_csv(results["means"]))
    files.write_atomic(run.path / "results.md", markdown(results))
    overall = {row["condition"]: row["mean"] for row in results["means"] if row["level"] == "overall"}
    run.update(results=overall)
