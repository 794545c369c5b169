"""Preference pairs as the tokens that a model is trained on: what was sampled. No model.

The pre-flight and the trainer both make them here, so that what is promised is what is done.
"""

import random
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import compress
from typing import Any, NamedTuple

from retmask.files import mapping
from retmask.pairs.files import doubts
from retmask.runs.run import Run
from retmask.text.chat import Chat
from retmask.train.checkpoints import CHECKPOINTS
from retmask.train.settings import TrainSettings


class TokenPair(NamedTuple):
    """The token ids of a prompt and of its two answers, each with what ends it, and the id of the pair."""

    id: str
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def columns(self) -> dict[str, list[int]]:
        """The same as TRL's trainer reads it."""
        return {"prompt_ids": self.prompt, "chosen_ids": self.chosen, "rejected_ids": self.rejected}

    @property
    def lengths(self) -> tuple[int, int]:
        """The lengths of the prompt with either answer."""
        return len(self.prompt) + len(self.chosen), len(self.prompt) + len(self.rejected)

    def teaches(self, max_length: int) -> bool:
        """Whether the answers differ before `max_length` tokens, prompt included, where they are cut."""
        room = max(0, max_length - len(self.prompt))
        return self.chosen[:room] != self.rejected[:room]


class Prepared(NamedTuple):
    """Pairs as they are trained on and held out; the ids of those that teach nothing; what speaks against the set.

    `longest` in tokens, of all pairs; `cut`: the share (0-1) of the pairs used that max length cuts; `tokens`: how many
    a pass over the pairs to train on reads.
    """

    train: list[TokenPair]
    held_out: list[TokenPair]
    left_out: tuple[str, ...]
    doubts: tuple[str, ...]
    longest: int
    cut: float
    tokens: int


def moment(record: Mapping[str, Any]) -> datetime:
    """What a chat template's clock shows in a training: the time at which its pairs were made, else when it began."""
    for text in (mapping(record.get("made_with")).get("clock"), record.get("created")):
        with suppress(TypeError, ValueError):
            return datetime.fromisoformat(text)  # type: ignore[arg-type]
    return datetime.now()


def padding(tokenizer: Any, vocabulary: int) -> int:
    """A token to fill rows up with: the attention mask covers it, so any that the model knows."""
    token = tokenizer.pad_token_id
    return token if isinstance(token, int) and 0 <= token < vocabulary else 0


def prepared(
    rows: Sequence[Mapping[str, Any]], tokenizer: Any, vocabulary: int, settings: TrainSettings, when: datetime
) -> Prepared:
    """The rows of a pairs file, in TRL's format, as tokens; those that teach nothing are left out before the split.

    `when` is the moment that a chat template's clock shows; `vocabulary` how many tokens the model knows. ValueError,
    one sentence, where the template refuses a prompt or there is none for conversations, a plain answer could not end,
    or a token is not of the model's.
    """
    texts = isinstance(rows[0]["prompt"], str)
    chat = Chat(tokenizer, when, "plain" if texts else None)
    if chat.kind == "plain" and not texts:
        raise ValueError(
            "the pairs are conversations and this model has no chat template: give pairs as texts, or a model with one"
        )
    if chat.kind == "plain" and tokenizer.eos_token_id is None:
        raise ValueError(
            "the tokenizer has no end token, so that a model could not learn where an answer ends: name its eos_token "
            "in tokenizer_config.json"
        )
    pairs = [_pair(row, number, chat) for number, row in enumerate(rows, 1)]
    _check_vocabulary(pairs, vocabulary)
    teaches = [pair.teaches(settings.max_length) for pair in pairs]
    both = list(zip(rows, pairs, strict=True))
    train, held_out = split(list(compress(both, teaches)), settings.eval_share, settings.seed)
    left = [two for two, used in zip(both, teaches, strict=True) if not used]
    used = [pair for _, pair in (*train, *held_out)]
    return Prepared(
        train=[pair for _, pair in train],
        held_out=[pair for _, pair in held_out],
        left_out=tuple(pair.id for _, pair in left),
        doubts=(*doubts([row for row, _ in (*train, *left)], [row for row, _ in held_out]), *_endless(chat, rows[0])),
        longest=max(max(pair.lengths) for pair in pairs),
        cut=sum(max(pair.lengths) > settings.max_length for pair in used) / max(1, len(used)),
        tokens=sum(min(settings.max_length, length) for _, pair in train for length in pair.lengths),
    )


def _pair(row: Mapping[str, Any], number: int, chat: Chat) -> TokenPair:
    """A row as tokens. ValueError as `prepared`."""
    name = str(row.get("id") or f"number {number}")
    messages = [("user", row["prompt"])] if isinstance(row["prompt"], str) else row["prompt"]
    answers = [_answer(row[side], name) for side in ("chosen", "rejected")]
    (prompt, chosen), (_, rejected) = (chat.pair(messages, answer, f"pair {name}") for answer in answers)
    return TokenPair(name, prompt, chosen, rejected)


def _answer(answer: str | Sequence[Mapping[str, str]], name: str) -> str:
    """The text of an answer, which may stand in a message. ValueError where it is more than one turn."""
    if isinstance(answer, str):
        return answer
    if len(answer) > 1:
        raise ValueError(f"pair {name}: an answer is to be one message with a text: put earlier turns into the prompt")
    return answer[0]["content"]


def _endless(chat: Chat, row: Mapping[str, Any]) -> list[str]:
    """What is to be said where nothing tells a model that its answer is over; plain text always has the end token."""
    if chat.kind == "plain" or chat.ends(row["prompt"]):
        return []
    return [
        "the chat template writes no end token after an answer: a model does not learn from these pairs where to stop"
    ]


def _check_vocabulary(pairs: Sequence[TokenPair], vocabulary: int) -> None:
    most = max(max(*pair.prompt, *pair.chosen, *pair.rejected) for pair in pairs)
    if most >= vocabulary:
        raise ValueError(
            f"the tokenizer makes token {most} and the model knows {vocabulary:,} tokens, from 0: they do not belong "
            "together"
        )


def split(rows: Sequence[Any], share: float, seed: int) -> tuple[list[Any], list[Any]]:
    """The rows to train on and those held out, drawn with the seed; at least one to train on."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    held = set(order[: min(round(share * len(rows)), len(rows) - 1)])
    return [row for i, row in enumerate(rows) if i not in held], [rows[i] for i in sorted(held)]


def dataset(run: Run, pairs: Sequence[TokenPair], name: str) -> Any:
    """The pairs as a dataset; for several processes from one file, so that they share what one of them prepares."""
    from accelerate import PartialState
    from datasets import Dataset, load_from_disk

    made = Dataset.from_list([pair.columns for pair in pairs])
    state = PartialState()
    if state.num_processes == 1:
        return made
    folder = str(run.path / CHECKPOINTS / f"{name}.data")
    if state.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
        made.save_to_disk(folder)
    state.wait_for_everyone()
    return load_from_disk(folder)
