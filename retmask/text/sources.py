"""Prompts to answer that are read: from a file, or from a data set of the Hub."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from retmask.files import check_text, expanded, read_text
from retmask.text.conversations import Blank, check_texts, content, json_rows, passed_over, role, system, turns
from retmask.text.prompts import PairPrompt
from retmask.text.template import Turn

FILES = (".jsonl", ".json", ".txt")  # how a file of prompts ends; anything else is a data set of the Hub
_FORMS = ("prompt", "messages", "conversation", "conversations")
_HUB = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


class Prompts(NamedTuple):
    """Prompts that were read, and how many rows were passed over for each reason."""

    prompts: list[PairPrompt]
    passed_over: Mapping[str, int] = MappingProxyType({})

    @property
    def sentence(self) -> str:
        """What was passed over, in words; empty for nothing."""
        parts = [f"{count:,} {why}" for why, count in self.passed_over.items()]
        n = sum(self.passed_over.values())
        return f"{n:,} row{'s' * (n != 1)} passed over: {', '.join(parts)}" if parts else ""


def read_prompts(source: str, count: int = 0) -> Prompts:
    """Prompts from a .jsonl, .json or .txt file or a dataset on the Hub, `owner/name` or `owner/name:split`; 0: all.

    A row has a `prompt`, a text or a list of messages, or `messages` (OpenAI's): of these the turns after the last of
    the user's are left out. Or it has a `conversation` (LMSYS) or `conversations` (ShareGPT), of which the system turn
    and the user's first are taken. `answer` and `id` may be given. A text file has a prompt a line. Of a dataset at
    most `count` rows are taken. Rows in other languages than English, by their `language`, those `redacted` and those
    without text are passed over and counted; of a dataset also those that are no prompts. ValueError, one sentence
    with the place, for what is not such a source, or where nothing is left.
    """
    if count < 0:
        raise ValueError(f"{count} prompts are not possible: give 1 or more, or 0 for all")
    if source.casefold().endswith(FILES):
        read = _file_prompts(expanded(source))
        return read._replace(prompts=read.prompts[:count]) if count else read
    if not _HUB.fullmatch(source) or expanded(source).exists():
        raise ValueError(f"{source!r} holds no prompts: give a .jsonl, .json or .txt file, or a dataset as owner/name")
    return _hub_prompts(source, count)


def _file_prompts(path: Path) -> Prompts:
    """The prompts of a file. ValueError with the line for what is none, or where an id or all is missing."""
    lines: dict[str, int] = {}
    out, passed = [], Counter[str]()
    rows = _lines(path) if path.suffix.casefold() == ".txt" else json_rows(path)
    for where, number, row in rows:
        why = passed_over(row)
        if why:
            passed[why] += 1
            continue
        try:
            prompt = _prompt(row, where, f"{path.stem}-{number}", "file")
        except Blank:
            passed["without text"] += 1
            continue
        if prompt.id in lines:
            raise ValueError(
                f"{where}: the id {prompt.id!r} is that of line {lines[prompt.id]} too: each may stand once"
            )
        lines[prompt.id] = number
        out.append(prompt)
    read = Prompts(out, passed)
    if not out:
        raise ValueError(f"{path} holds no prompt to ask ({read.sentence or 'it is empty'}): give at least one")
    return read


def _lines(path: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # splitlines() would cut at U+2028 too
        if line.strip():
            yield f"{path.name}, line {number}", number, {"prompt": line.strip()}


def _prompt(row: Mapping[str, Any], where: str, number: str, arm: str) -> PairPrompt:
    """The prompt of a row, `number` where it gives none. `Blank` where it has no text."""
    own, answer = row.get("id"), row.get("answer")
    if own is not None and (isinstance(own, bool) or not isinstance(own, str | int) or not str(own).strip()):
        raise ValueError(f"{where}: id is not a text")
    if answer is not None and not isinstance(answer, str):
        raise ValueError(f"{where}: answer is not a text")
    name = number if own is None else str(own)
    for text, what in ((name, "id"), (answer or "", "answer")):
        check_text(text, f"{where}, {what}")
    return PairPrompt(name, _turns(row, where), arm, answer or "")


def _turns(row: Mapping[str, Any], where: str) -> tuple[Turn, ...]:
    """The turns of a row that are asked. `Blank` where the prompt is a text or null and there is none."""
    if not row.keys() & set(_FORMS):
        if not row:
            raise Blank(f"{where}: there is nothing in it")
        raise ValueError(f"{where}: there is no {', '.join(_FORMS)}, only {', '.join(row)[:80]}")
    check_texts(row, where)
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        return (*system(row), ("user", content(prompt, where)))
    asked = turns(_asked(row, where), where)
    if any(name == "system" for name, _ in asked[1:]):
        raise ValueError(f"{where}: a system turn stands after others: it may only come first")
    if not asked or asked[-1][0] == "system":
        raise ValueError(f"{where}: no turn of the user's, so there is nothing to answer")
    return tuple(asked)


def _asked(row: Mapping[str, Any], where: str) -> list[Any]:
    """The messages of a row that are asked, as they stand there."""
    name = next(name for name in _FORMS if name in row)
    held = row[name]
    messages = [held] if isinstance(held, Mapping) else held
    if not isinstance(messages, list):
        raise ValueError(f"{where}: {name} is {'not a text' if name == 'prompt' else 'no list of messages'}")
    messages = [*({"role": name, "content": text} for name, text in system(row, messages, where)), *messages]
    if name.startswith("conversation"):
        first = [message for message in messages if role(message) == "user"][:1]
        return [*(message for message in messages[:1] if role(message) == "system"), *first]
    last = max((at for at, message in enumerate(messages) if role(message) != "assistant"), default=-1)
    return messages[: last + 1]


def _hub_prompts(source: str, count: int) -> Prompts:
    """The first `count` usable rows of a dataset, whose ids are their numbers."""
    if not count:
        raise ValueError(f"the dataset {source} may be without end: say how many prompts to take")
    name, _, split = source.partition(":")
    out, passed = [], Counter[str]()
    for number, raw in enumerate(_hub_rows(name, split or "train")):
        row = {key: value for key, value in raw.items() if value is not None}
        if not raw.keys() & set(_FORMS):
            raise ValueError(f"the dataset {name} has no column {', '.join(_FORMS)}, only {', '.join(raw)}")
        why = passed_over(row)
        try:
            if not why:
                out.append(_prompt({**row, "id": None}, f"{name}, row {number}", f"{name}-{number}", "hub"))
        except Blank:
            why = "without text"
        except ValueError:  # nobody here can mend the row
            why = "that are no prompts"
        if why:
            passed[why] += 1
        if len(out) == count:
            break
    read = Prompts(out, passed)
    if not out:
        raise ValueError(f"the dataset {source} holds no prompt in English ({read.sentence}): choose another")
    return read


def _hub_rows(name: str, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a dataset as they come."""
    from datasets import load_dataset

    try:
        yield from load_dataset(name, split=split, streaming=True)
    except Exception as error:  # network, Hub, file formats: several libraries raise their own
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"the dataset {name} cannot be read: {reason}. Check its name and the network") from error
