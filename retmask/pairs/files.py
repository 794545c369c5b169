"""Files of preference pairs: read in the forms that people have, as TRL reads them, or refused with the line."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from retmask.files import check_text, expanded, meant
from retmask.pairs.pair import NAMES, PAIRS
from retmask.runs.run import Run, run_path
from retmask.text.chat import plain
from retmask.text.conversations import Blank, check_texts, content, conversation, json_rows, system, turns
from retmask.text.template import Turn, Turns

_KEPT = ("id", "model", "answer")  # columns for people and for checks; training passes over them
_HH = "\n\nAssistant:"  # what comes before every answer in Anthropic's HH
Row = dict[str, Any]


def pairs_file(name: str | Path) -> Path:
    """The file of pairs that a file, a run's folder or a run's name means. ValueError where there is none."""
    path = expanded(name)
    if not os.path.exists(path) and "/" not in str(name):  # Path.exists raises in a folder that may not be read
        path = run_path(str(name))
    path = path / PAIRS if os.path.isdir(path) else path
    if not os.path.isfile(path):
        ways = f"give a .jsonl file, or a folder or run of `retmask pairs`{meant(str(name), Run.ids('pairs'))}"
        raise ValueError(f"there are no pairs at {name}: {ways}")
    return path


def read_rows(path: Path) -> list[Row]:
    """The pairs of a file as TRL's rows with an explicit prompt: all texts, or all messages with one turn as answer.

    JSON lines or an array of: prompt, chosen and rejected; chosen and rejected alone, which begin with the prompt
    (TRL's implicit prompt, Anthropic's HH); `messages` or `conversations` with chosen and rejected (LLaMA-Factory).
    ValueError, with the line, for any other.
    """
    rows = [_row(row, where) for where, _, row in json_rows(path)]
    if not rows:
        raise ValueError(f"the pairs file {path} is empty: give at least two pairs")
    kinds = {isinstance(row["prompt"], list) for row in rows}
    if len(kinds) > 1:
        raise ValueError(f"{path.name} mixes prompts as text and as messages: use one of them")
    return rows


def rows_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as JSON lines: what `read_rows` reads in any run."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def doubts(train: Sequence[Row], held_out: Sequence[Row] = ()) -> list[str]:
    """What speaks against a set of pairs, each in a sentence: answers that do not differ, pairs that are repeated."""
    whole = [*train, *held_out]
    same = sum(row["chosen"] == row["rejected"] for row in whole)
    again = sum(count - 1 for count in Counter(_key(row, *NAMES) for row in whole).values())
    trained = {_key(row, "prompt") for row in train}
    seen = sum(_key(row, "prompt") in trained for row in held_out)
    out = []
    if same:
        have = "pairs have" if same != 1 else "pair has"
        out.append(f"{same:,} {have} the same answer as chosen and as rejected, which teaches nothing")
    if again:
        out.append(f"{again:,} of the {len(whole):,} pairs are repetitions of another")
    if seen:
        out.append(
            f"{seen:,} of the {len(held_out):,} pairs held out have a prompt that is also trained on: what is measured "
            "on them says little"
        )
    return out


def _key(row: Row, *names: str) -> str:
    return json.dumps([row[name] for name in names])


def _row(row: Mapping[str, Any], where: str) -> Row:
    for name in NAMES[1:]:
        if name not in row:
            raise ValueError(f"{where}: {name} is missing; there is only {', '.join(row)[:80] or 'nothing'}")
    check_texts(row, where)
    prompt = _prompt(row, where)
    chosen, rejected = (_value(row[name], where, name) for name in NAMES[1:])
    if system(row) and not isinstance(prompt, list):
        raise ValueError(f"{where}: system stands beside no list of messages: give the prompt as messages")
    if isinstance(chosen, str) and isinstance(rejected, str) and not isinstance(prompt, list):
        read = _row_of_texts(prompt, chosen, rejected, where)
    elif isinstance(chosen, list) and isinstance(rejected, list):
        read = _row_of_turns(prompt, chosen, rejected, where)
    else:
        raise ValueError(f"{where}: prompt, chosen and rejected are to be all texts or all messages")
    about = {name: row[name] for name in _KEPT if name in row}
    for name, value in about.items():
        check_text(str(value), f"{where}, {name}")
    return read | about


def _prompt(row: Mapping[str, Any], where: str) -> str | list[Turn] | None:
    """The prompt of a row; None where it is implicit."""
    if "prompt" in row:
        prompt = _value(row["prompt"], where, "prompt")
        return [*system(row, row["prompt"], where), *prompt] if isinstance(prompt, list) else prompt
    try:
        return conversation(row, f"{where}, the conversation")
    except Blank as error:
        raise ValueError(str(error)) from None


def _value(value: Any, where: str, name: str) -> str | list[Turn]:
    messages = isinstance(value, list) and all(isinstance(message, Mapping) for message in value)
    if not value or not (messages or isinstance(value, str | Mapping)):
        raise ValueError(f"{where}: {name} is missing, empty, or neither a text nor a list of messages")
    try:
        return content(value, f"{where}, {name}") if isinstance(value, str) else turns(value, f"{where}, {name}")
    except Blank:
        raise ValueError(f"{where}: {name} is missing, empty, or has a turn without text") from None


def _row_of_texts(prompt: str | None, chosen: str, rejected: str, where: str) -> Row:
    """A row of plain texts. Without a prompt it is what both answers begin with, in HH up to the last answer."""
    if prompt is not None:
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    n = len(list(takewhile(lambda two: two[0] == two[1], zip(chosen, rejected, strict=False))))
    at = chosen.rfind(_HH, 0, n)
    n = at + len(_HH) if at >= 0 else n - (chosen[n - 1 : n] == " ")  # TRL leaves the blank to the answers
    row = {"prompt": chosen[:n], "chosen": chosen[n:], "rejected": rejected[n:]}
    for name, text in row.items():
        if not text.strip():
            raise ValueError(
                f"{where}: there is no prompt, and chosen and rejected do not begin with one and go on differently: "
                f"{name} would be empty"
            )
    return row


def _row_of_turns(prompt: str | list[Turn] | None, chosen: list[Turn], rejected: list[Turn], where: str) -> Row:
    """A row of messages. Where the prompt is no list, it is the turns that both answers begin with."""
    if not isinstance(prompt, list):
        most = min(len(chosen), len(rejected)) - 1  # the last turns are the answers, also where they are the same
        n = len(list(takewhile(lambda two: two[0] == two[1], zip(chosen[:most], rejected, strict=False))))
        if n and prompt is not None and prompt.strip() not in [text.strip() for _, text in chosen[:n]]:
            raise ValueError(
                f"{where}: prompt is none of the turns that chosen and rejected begin with: drop one of them"
            )
        if n:
            prompt, chosen, rejected = chosen[:n], chosen[n:], rejected[n:]
        elif prompt is None:
            raise ValueError(f"{where}: there is no prompt, and chosen and rejected do not begin with the same turns")
        else:
            prompt = [("user", prompt)]
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        _check_answer(answer, prompt, f"{where}: {name}")
    if prompt[-1][0] != "user":
        raise ValueError(f"{where}: the prompt ends with a turn of the {prompt[-1][0]}'s: it is to be the user's")
    return {name: Turns.of(each).messages for name, each in zip(NAMES, (prompt, chosen, rejected), strict=True)}


def _check_answer(answer: list[Turn], prompt: list[Turn], where: str) -> None:
    """ValueError unless an answer is one turn of the assistant's."""
    if answer[: len(prompt)] == prompt:
        raise ValueError(f"{where} begins with the prompt once more: leave the prompt out, there or as a column")
    if answer[-1][0] != "assistant":
        raise ValueError(f"{where} ends with a turn of the {answer[-1][0]}'s: it is to be the assistant's answer")
    if len(answer) > 1:
        raise ValueError(f"{where} has {len(answer)} turns after the prompt: an answer is one turn of the assistant's")


def llama_factory(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of TRL's format in that of LLaMA-Factory (ShareGPT with ranking: conversations, chosen, rejected)."""
    return [_ranked(row) for row in rows]


def _ranked(row: Mapping[str, Any]) -> dict[str, Any]:
    prompt = row["prompt"] if isinstance(row["prompt"], list) else [{"role": "user", "content": row["prompt"]}]
    system = [turn for turn in prompt if turn["role"] == "system"]
    names = {"user": "human", "assistant": "gpt"}
    asked = [{"from": names[turn["role"]], "value": turn["content"]} for turn in prompt if turn["role"] in names]
    answers = {name: row[name][0]["content"] if isinstance(row[name], list) else row[name] for name in NAMES[1:]}
    ranked = {name: {"from": "gpt", "value": text} for name, text in answers.items()}
    return {"conversations": asked, **ranked} | ({"system": plain(system).text} if system else {})


def llama_factory_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """A file in LLaMA-Factory's format."""
    return json.dumps(llama_factory(rows), indent=1, ensure_ascii=False) + "\n"
