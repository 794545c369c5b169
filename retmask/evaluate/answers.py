"""Conditions answer the items of a suite: every line is on disk before the next document is asked."""

import json
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retmask import files
from retmask.compare.conditions import Condition
from retmask.evaluate.backends import is_asked, load, masks_of, pin_server, served_lines, server_of
from retmask.evaluate.results import NO_CONTEXT, SHUFFLED, markdown, results_of
from retmask.evaluate.suite import Suite, documents, make, of_model, size, task_of
from retmask.figures.rows import to_csv
from retmask.heads.masks import HeadMask
from retmask.items.floors import shuffled_context, without_context
from retmask.items.item import EXTERNAL, Item
from retmask.items.packing import prompt
from retmask.items.published import read_published
from retmask.runs.job import Pace, Progress, Work
from retmask.runs.run import Run
from retmask.text.chat import Chat

if TYPE_CHECKING:
    from retmask.evaluate.benchmarks import Posed
    from retmask.evaluate.harness import HarnessLM
    from retmask.evaluate.job import EvaluateSettings
    from retmask.model.lens import LensModel

Answers = dict[tuple[str, str], dict[str, Any]]  # the lines of answers.jsonl by condition and item
_WITHOUT = {NO_CONTEXT: without_context, SHUFFLED: shuffled_context}
_OFTEN = 1.0  # seconds between two lines of progress while items are made
_CHARS = 2  # of a token of one's own items, at least, about: how long a context the model is loaded for


def suite_answers(work: "Work[EvaluateSettings]") -> Iterator[Progress]:
    """Each document's answers are in answers.jsonl before the next is asked; at the end results.json, .csv and .md."""
    run, settings = work.run, work.settings
    named, answers, items = settings.conditions(), read_answers(run.path), _kept(run)
    run.report(stage="loading", done=len(answers))
    read, published_lines = published(settings, named)
    _add(run, answers, published_lines)
    if not (settings.asked or settings.harness):
        items = items or (yield from _stored(run, read))

    def missing(names: Sequence[str]) -> dict[tuple[str, str], int]:
        return _missing(items, {name: named[name] for name in names}, settings.floors_asked, answers)

    groups = _by_weights(named)
    servers = {}
    for names in groups:  # before anything is loaded
        if named[names[0]].server and (missing(names) or not items):
            servers[names[0]] = server_of(named[names[0]])
            pin_server(run, names, servers[names[0]])
    here = Pace()
    paces = {name: pace for names in groups for pace in [Pace() if names[0] in servers else here] for name in names}
    for names in groups:
        if items and not missing(names):
            continue
        if names[0] in servers:
            batches = served_lines(run, servers[names[0]], names, items, missing(names))
        else:
            items, batches = yield from _loaded(work, names, items, read, answers)
        left = missing(list(named))
        total = len(answers) + len(left)
        pace = paces[names[0]]
        pace.go_on()
        for answered in batches:
            new = _add(run, answers, answered)
            done = sum(left.pop((line["condition"], line["item"])) for line in new)
            pace.left(done, 0)
            seconds = sum(paces.get(name, here).each * ahead for (name, _), ahead in left.items())  # 0: not known yet
            yield Progress(len(answers), total, seconds, {"condition": names[0]})
    _finish(run, items, answers, named)
    if here.each:
        run.update(pace=here.each)  # seconds a token of an answer's window


def _loaded(
    work: "Work[EvaluateSettings]", names: Sequence[str], items: list[Item], read: Sequence[Item], answers: Answers
) -> Generator[Progress, None, tuple[list[Item], Iterator[list[dict[str, Any]]]]]:
    """The items, made where there are none yet, and the lines of conditions whose weights are loaded for it."""
    from retmask.model.loading import release

    run, settings, asked = work.run, work.settings, work.settings.asked
    condition = settings.conditions()[names[0]]
    release()
    longest = max(settings.windows) if isinstance(asked, Suite) or settings.harness else _longest(asked)
    model = load(work, names, condition, longest)
    masks = masks_of(work, model.grid, names)
    chat = Chat.resumed(model.tokenizer, run.record)
    own = {name: masks.get(name, HeadMask()) for name in names}
    lm, posed = _posed(settings, model, chat, own) if settings.harness else (None, [])
    if isinstance(asked, Suite):
        model.check_length(max(asked.lengths))  # before items are made, which takes long for long ones
    if not items:
        made = chain(_made(settings, chat), (each.item for each in posed), read)
        items = yield from _stored(run, made, chat, size(asked) if isinstance(asked, Suite) else (0, 0))
    ours = [item for item in items if item.category != EXTERNAL]
    model.check_length(_longest_of(ours, chat))  # before anything is answered
    whole = {item.id: item for item in items}
    if changed := next((each.item.task for each in posed if each.item != whole.get(each.item.id)), ""):
        raise ValueError(f"{changed} asks other than when this run began: start a new one")
    floors = () if any(condition.weights) else settings.floors_asked
    lines = _suite_lines(model, chat, ours, own, floors, answers)
    return items, chain(lines, _harness_lines(lm, posed, own, answers))


def _suite_lines(
    model: "LensModel",
    chat: Chat,
    items: Sequence[Item],
    own: Mapping[str, HeadMask],
    floors: Sequence[str],
    answers: Answers,
) -> Iterator[list[dict[str, Any]]]:
    """The answers to a document that are not there yet; all anew, as a batch of others rounds differently."""
    from retmask.evaluate.engine import measure

    for document in documents(items):
        for part, under in _asking(document, own, floors):
            if not all((name, item.id) in answers for name in under for item in part):
                yield measure(model, chat, part, under)


def _harness_lines(
    lm: "HarnessLM | None", posed: Sequence["Posed"], own: Mapping[str, HeadMask], answers: Answers
) -> Iterator[list[dict[str, Any]]]:
    """The same for the documents of lm-eval's tasks."""
    for document in posed:
        if lm and not all((name, document.item.id) in answers for name in own):
            from retmask.evaluate.benchmarks import answers as given

            yield given(lm, document, list(own))


def _add(run: Run, answers: Answers, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Append the lines that are not there yet; which these are."""
    new = [line for line in lines if (line["condition"], line["item"]) not in answers]
    for line in new:
        files.append_line(run.path / "answers.jsonl", line)
        answers[line["condition"], line["item"]] = line
    return new


def _made(settings: "EvaluateSettings", chat: Chat) -> Iterator[Item]:
    asked = settings.asked
    return make(asked, chat, settings.seed) if isinstance(asked, Suite) else iter(asked)


def _longest(items: Sequence[Item]) -> int:
    return max((len(item.message) for item in items), default=0) // _CHARS


def _longest_of(items: Sequence[Item], chat: Chat) -> int:
    """The longest window in tokens, of one's own items as this model reads them."""
    return max((item.tokens or len(prompt(item, chat)) + task_of(item).answer_tokens for item in items), default=0)


def _posed(
    settings: "EvaluateSettings", model: "LensModel", chat: Chat, own: Mapping[str, HeadMask]
) -> tuple["HarnessLM", list["Posed"]]:
    from retmask.evaluate.benchmarks import documents as posed
    from retmask.evaluate.harness import HarnessLM

    lm = HarnessLM(model, chat, list(own.values()))
    return lm, posed(lm, settings.harness, settings.windows, settings.many, settings.seed)


def published(settings: "EvaluateSettings", named: Mapping[str, Condition]) -> tuple[list[Item], list[dict[str, Any]]]:
    """The items and answers of result files. ValueError for a file that is none, or of no condition's model."""
    items: dict[str, Item] = {}
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for path in map(files.expanded, settings.read):
        published = read_published(path)
        name = of_model(published.model, settings.model, named)
        if name is None:
            raise ValueError(
                f"{path} is of the model {published.model[:80]}, and no condition here is: add it with --condition "
                "'NAME: model=FOLDER'"
            )
        for item, line in zip(published.items, published.lines, strict=True):
            if (name, item.id) in lines or items.setdefault(item.id, item).question != item.question:
                raise ValueError(f"{path} has {item.task} of {name} again, or with other questions: leave it out")
            lines[name, item.id] = {"condition": name} | line
    return list(items.values()), list(lines.values())


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
    numbers = ("score", *(name for name in ("logprob", "rank", "of") if name in line))  # other suites say no more
    return are_texts and all(files.is_number(line.get(name)) for name in numbers)


def _by_weights(named: Mapping[str, Condition]) -> list[list[str]]:
    """The names of conditions that answer with the same weights, the first condition's first."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, condition in named.items():
        groups.setdefault(condition.weights, []).append(name)
    return list(groups.values())


def _kept(run: Run) -> list[Item]:
    """The items that the run began with; none before they are made, or where their file is not whole."""
    path = run.path / "items.jsonl"
    whole = path.is_file() and files.sha256_text(path.read_text(encoding="utf-8", errors="replace"))
    return read_items_of(run.path) if whole and whole == run.record.get("items_sha256") else []


def _stored(
    run: Run, items: Iterable[Item], chat: Chat | None = None, expected: tuple[int, int] = (0, 0)
) -> Generator[Progress, None, list[Item]]:
    """The items, kept with the run, which says by which day's clock and with which text they are asked.

    Those of a suite are counted, as long ones take minutes: so many are `expected`, with so many tokens in all.
    """
    digest, pace, counted = sha256(), Pace(), 0.0
    total, ahead = expected
    with files.replacing(run.path / "items.jsonl") as file:
        for number, item in enumerate(items, start=1):
            line = json.dumps(item.record, ensure_ascii=False) + "\n"
            file.write(line)
            digest.update(line.encode())
            ahead -= item.tokens
            left = pace.left(item.tokens, ahead)
            if number <= total and time.monotonic() > counted + _OFTEN:
                counted = time.monotonic()
                yield Progress(number, total, left, {"stage": "items", "task": item.task})
        run.pin(items_sha256=digest.hexdigest(), **(chat.facts if chat else {}))
    return read_items_of(run.path)


def _asking(
    document: Sequence[Item], own: Mapping[str, HeadMask], floors: Sequence[str]
) -> Iterator[tuple[Sequence[Item], Mapping[str, HeadMask]]]:
    """What is asked of a document under which names: the items, and without or with a shuffled context by the model."""
    yield document, own
    among = [item for item in document if item.context]
    for name in floors if among else ():
        yield [_WITHOUT[name](item) for item in among], {name: HeadMask()}


def _missing(
    items: Sequence[Item], named: Mapping[str, Condition], floors: Sequence[str], answers: Answers
) -> dict[tuple[str, str], int]:
    """What these conditions have not answered yet, by condition and item: its window in tokens, about.

    The floors are asked of the first one's weights, where these are the model's own.
    """
    floors = () if all(any(condition.weights) for condition in named.values()) else floors
    return {
        (name, item.id): item.tokens or len(item.message) // _CHARS
        for item in items
        for name in [
            *(name for name, condition in named.items() if is_asked(condition, item)),
            *(floors if item.context and item.category != EXTERNAL else ()),
        ]
        if (name, item.id) not in answers
    }


def _finish(run: Run, items: Sequence[Item], answers: Answers, named: Mapping[str, Condition]) -> None:
    results = results_of(items, answers.values(), named, run.record)
    files.write_json(run.path / "results.json", results)
    files.write_atomic(run.path / "results.csv", to_csv(results["means"]))
    files.write_atomic(run.path / "results.md", markdown(results))
    means = {(row["condition"], row["name"]): row["mean"] for row in results["means"] if row["level"] != "task"}
    which = "overall" if any(name == "overall" for _, name in means) else EXTERNAL
    run.update(results={condition: mean for (condition, name), mean in means.items() if name == which})
