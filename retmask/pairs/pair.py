"""Preference pairs: one prompt, the unmasked model's answer (chosen) and the masked model's (rejected). No model.

A run's folder holds every pair in items.jsonl, and in pairs.jsonl those that pass the gate, as TRL reads them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from retmask.files import check_text, read_lines, write_atomic
from retmask.text.chat import plain
from retmask.text.template import Turn, Turns

if TYPE_CHECKING:
    from retmask.text.prompts import PairPrompt
    from retmask.text.sampling import Sampling

ITEMS, PAIRS = "items.jsonl", "pairs.jsonl"
_MODEL = ("model", "revision", "sha256", "adapter_sha256", "head_grid", "mask")
FACTS = (*_MODEL, "chat", "clock", "thinking", "prompts_sha256")  # of a run, that hold for its pairs wherever they go
NAMES = ("prompt", "chosen", "rejected")  # the columns of TRL's preference format


class Answer(NamedTuple):
    """An answer: its text, how many tokens it took, and whether it ended by itself or at the limit."""

    text: str
    tokens: int
    ended: Literal["stop", "length"]


class Question(NamedTuple):
    """A prompt of a run: its number, itself, and how its answers are drawn."""

    number: int
    prompt: "PairPrompt"
    sampling: "Sampling"


@dataclass(frozen=True)
class PreferencePair:
    """A prompt with two answers. `answer` is the short right one of a grounded prompt, else empty.

    `prompt_tokens` is the prompt's length; `diverged` the first token at which the answers differ, None where they do
    not or it is not known. `unanswered` says why there are no answers, where the model or the server cannot be asked
    this prompt: both are empty then, and asking again would not help.
    """

    id: str
    messages: tuple[Turn, ...]
    chosen: Answer
    rejected: Answer
    arm: str = "file"
    answer: str = ""
    prompt_tokens: int = 0
    diverged: int | None = None
    unanswered: str = ""

    @property
    def answers(self) -> tuple[Answer, Answer]:
        """The chosen answer and the rejected one."""
        return self.chosen, self.rejected

    def to_json(self) -> dict[str, Any]:
        """The record that `from_json` reads: a line of items.jsonl."""
        return {name: value for name, value in vars(self).items() if value or name != "unanswered"}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "PreferencePair":
        """A pair from its record. KeyError, TypeError or ValueError for what is none, or what no file can hold."""
        check_text(json.dumps(record, ensure_ascii=False), "the pair")
        return cls(
            str(record["id"]),
            tuple((str(role), str(content)) for role, content in record["messages"]),
            _said(record["chosen"]),
            _said(record["rejected"]),
            str(record["arm"]),
            str(record["answer"]),
            int(record["prompt_tokens"]),
            None if record["diverged"] is None else int(record["diverged"]),
            str(record.get("unanswered", "")),
        )

    def row(self, chat: bool, model: str = "") -> dict[str, Any]:
        """The pair in TRL's preference format: messages for models with a chat template, else plain texts.

        The further columns (id, answer, model) are for people and for checks; TRL passes over them.
        """
        about = {"id": self.id, "model": model} | ({"answer": self.answer} if self.answer else {})
        if not chat:
            texts = (plain(self.messages).text, *(answer.text for answer in self.answers))
            return dict(zip(NAMES, texts, strict=True)) | about
        turns = (self.messages, *([("assistant", answer.text)] for answer in self.answers))
        return {name: Turns.of(each).messages for name, each in zip(NAMES, turns, strict=True)} | about


def _said(record: Sequence[Any]) -> Answer:
    text, tokens, ended = record
    if ended not in ("stop", "length"):
        raise ValueError(f"an answer ends with stop or length, not {ended!r}")
    return Answer(str(text), int(tokens), ended)


def unanswered(prompt: "PairPrompt", why: str, tokens: int = 0) -> PreferencePair:
    """What is written down for a prompt that cannot be asked; `tokens` is its length, where that is known."""
    nothing = Answer("", 0, "stop")
    return PreferencePair(
        prompt.id, prompt.messages, nothing, nothing, prompt.arm, prompt.answer, tokens, unanswered=why
    )


def read_items(folder: Path) -> list[PreferencePair]:
    """Every pair in a run's folder, also those that the gate keeps out, each once, in the order of the prompts."""
    pairs: dict[str, tuple[int, PreferencePair]] = {}
    for line in read_lines(folder / ITEMS):
        try:
            pairs.setdefault(str(line["id"]), (int(line.get("number", len(pairs))), PreferencePair.from_json(line)))
        except (KeyError, TypeError, ValueError):
            continue
    return [pair for _, pair in sorted(pairs.values(), key=lambda numbered: numbered[0])]


def write_items(folder: Path, pairs: Iterable[PreferencePair]) -> None:
    """Write items.jsonl, every pair with its number, atomically."""
    lines = (json.dumps({"number": number, **pair.to_json()}, ensure_ascii=False) for number, pair in enumerate(pairs))
    write_atomic(folder / ITEMS, "".join(line + "\n" for line in lines))


def write_pairs(folder: Path, pairs: Iterable[PreferencePair], chat: bool, model: str) -> Path:
    """Write pairs.jsonl, TRL's preference format, one pair a line, atomically."""
    path = folder / PAIRS
    rows = (json.dumps(pair.row(chat, model), ensure_ascii=False) for pair in pairs)
    write_atomic(path, "".join(row + "\n" for row in rows))
    return path
