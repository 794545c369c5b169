"""Files of prompts and of pairs as people have them: rows of JSON, and conversations in the ways they are written."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retmask.files import check_text, expanded, read_text
from retmask.text.template import Turn

_NAMES = {"system": "system developer", "user": "user human", "assistant": "assistant gpt model"}
_ROLES = {name: role for role, names in _NAMES.items() for name in names.split()}
_TOOLS = ("tool", "function", "observation", "function_call", "tool_call", "ipython")
_ENGLISH = ("english", "en", "eng")


class Blank(ValueError):
    """A row has a place for a text, and no text there."""


def json_rows(path: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The objects of a file, JSON lines or one array: where each stands, its number from 1, itself without null fields.

    ValueError, with the place, for what is no object; nothing for an empty file.
    """
    text = read_text(expanded(path))
    entries = _array(text)
    if entries is not None:
        for number, entry in enumerate(entries, 1):
            yield _object(entry, f"{path.name}, entry {number}", number)
        return
    for where, number, entry in json_lines(text, path.name):
        yield _object(entry, where, number)


def json_lines(text: str, name: str) -> Iterator[tuple[str, int, Any]]:
    """The values of JSON lines: where each stands in the file of that name, its number from 1, itself.

    ValueError, with the line, for what is no JSON.
    """
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would cut at U+2028 too
        if line.strip():
            where = f"{name}, line {number}"
            try:
                yield where, number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where}: not JSON ({error}): write a JSON list, or an object a line") from None


def _array(text: str) -> list[Any] | None:
    """The entries of a text that is one array of objects; None for any other."""
    if not text.lstrip().startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) and all(isinstance(entry, dict) for entry in value) else None


def _object(value: Any, where: str, number: int) -> tuple[str, int, dict[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: not an object, but {json.dumps(value)[:40]}")
    return where, number, {name: held for name, held in value.items() if held is not None}


def turns(value: Any, where: str) -> list[Turn]:
    """A conversation as (role, content), from messages with role and content, or from and value (ShareGPT).

    `Blank` for a turn without text; ValueError for what is no message, for tool calls, and for parts that are no text.
    """
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise ValueError(f"{where}: not a list of messages")
    return [_turn(message, where) for message in value]


def role(message: Any) -> str:
    """Whose turn a message is: system, user or assistant; empty where it does not say so."""
    name = message.get("role") or message.get("from") if isinstance(message, Mapping) else None
    return _ROLES.get(name, "") if isinstance(name, str) else ""


def _turn(message: Any, where: str) -> Turn:
    fields = {name: held for name, held in message.items() if held is not None} if isinstance(message, Mapping) else {}
    name = str(fields.get("role", fields.get("from")))
    if name in _TOOLS or fields.get("tool_calls") or fields.get("function_call"):
        raise ValueError(f"{where}: a turn calls a tool or is a tool's, and only texts can be read: leave the row out")
    if not role(message):
        raise ValueError(f"{where}: a message is no object with a role of {', '.join(_NAMES)}")
    key = "content" if "role" in fields else "value"
    if key not in message:
        raise ValueError(f"{where}: a message has no {key}")
    return role(message), content(fields.get(key, ""), where)


def content(value: Any, where: str) -> str:
    """A text, also one in parts, `[{"type": "text", "text": ...}]`. `Blank` for none; ValueError for anything else."""
    if isinstance(value, list):
        value = "".join(_part(part, where) for part in value)
    if not isinstance(value, str):
        raise ValueError(f"{where}: not a text, but {json.dumps(value)[:40]}")
    if not value.strip():
        raise Blank(f"{where}: the text is empty")
    return check_text(value, where)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    what = f"a part of type {kind!r}"[:60] if kind else "a part"
    raise ValueError(f"{where}: a message holds {what} that is no text: leave the row out")


def conversation(row: Mapping[str, Any], where: str) -> list[Turn] | None:
    """The turns in a row's `messages` or `conversations`, its `system` before them; None where it has neither."""
    held = row.get("messages", row.get("conversations"))
    if held is None:
        return None
    return [*system(row, held, where), *turns(held, where)]


def system(row: Mapping[str, Any], messages: Any = (), where: str = "") -> list[Turn]:
    """The system turn that a row has in a column of its own, if any. ValueError where its messages have one too."""
    text = row.get("system")
    if not isinstance(text, str) or not text.strip():
        return []
    if isinstance(messages, list) and messages and role(messages[0]) == "system":
        raise ValueError(f"{where}: there are two system turns, in the row and in its messages: leave one of them out")
    return [("system", text)]


def check_texts(row: Mapping[str, Any], where: str) -> None:
    """ValueError where a row has tools, images, turns in a column, or switches for the chat template.

    Without them its prompt is another one.
    """
    for name in ("tools", "images", "history", "chat_template_kwargs"):
        held = row.get(name)
        if any(held.values()) if isinstance(held, Mapping) else held not in (None, "", "[]", "{}", []):
            raise ValueError(f"{where}: the row has {name}, and only texts can be read: leave the row out")


def passed_over(row: Mapping[str, Any]) -> str:
    """Why a row is not taken, in a few words, from what data sets say of their rows; empty where it is."""
    if row.get("redacted"):
        return "redacted"
    language = str(row.get("language") or "en").casefold().replace("_", "-").partition("-")[0]
    return "" if language in _ENGLISH else "in other languages"
