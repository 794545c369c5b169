"""One prompt answered side by side: unmasked, masked, tuned, and with as many random heads masked; and what differs.

All columns of a model decode in one batch. Then every text is given to every column's model (teacher forcing), and the
heads that copied each of its tokens from the context are read: retrieval heads are dynamic (arXiv 2602.11162).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from retmask.compare.comparison import Column, Comparison, Ending, Forced, Prompt
from retmask.compare.trace import Trace
from retmask.heads.masks import HeadMask
from retmask.text.sampling import Sampling
from retmask.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from retmask.model.decoding import Step
    from retmask.model.lens import LensModel

_GREEDY = Sampling()


def compare(
    model: "LensModel",
    prompt: Prompt,
    columns: Sequence[Column],
    max_new_tokens: int = 64,
    sampling: Sampling = _GREEDY,
) -> Iterator[Comparison]:
    """The comparison as it grows: once before the prompt is read, at every step, and with each thing found out then.

    ValueError before anything is computed where the prompt is too long for a model or the memory, a mask does not fit
    the model, a column's own model has another grid or another vocabulary, or a number is out of range. The iterator
    may be left at any point; nothing is held in between.
    """
    sampling.check()
    if max_new_tokens < 1:
        raise ValueError(f"{max_new_tokens} new tokens are too few: ask for at least 1")
    batches = _batches(model, columns)
    room = len(prompt.token_ids) + max_new_tokens
    for batch in batches:
        _check_alike(model, batch.model)
        for mask in batch.masks:
            mask.array(batch.model.grid)
        batch.model.check_length(room)
        # as if all caches lay in one memory, with a spare row for each model
        batch.model.check_rows(room, len(columns) + len(batches))
    return _compare(model, prompt, columns, batches, max_new_tokens, sampling)


@dataclass(eq=False)
class _Batch:
    """The columns that one model answers, all at once: which they are, and how far it is with them."""

    model: "LensModel"
    rows: list[int]
    masks: list[HeadMask]
    cache: Any = None
    steps: "Iterator[list[Step | None]]" = field(default_factory=lambda: iter(()))
    seconds: float = 0.0

    def read(self, token_ids: Sequence[int], room: int) -> Iterator[int]:
        """Read a prompt under every mask; how many tokens so far."""
        self.cache = yield from self.model.fanning_out(token_ids, room, self.masks)

    def next(self) -> "dict[int, Step]":
        """The next token of every column that has not ended."""
        began = time.perf_counter()
        step = next(self.steps, [])
        self.seconds += time.perf_counter() - began
        return {row: one for row, one in zip(self.rows, step, strict=False) if one}


def _batches(model: "LensModel", columns: Sequence[Column]) -> list[_Batch]:
    """The columns by the model that answers them, in order."""
    found: dict[int, _Batch] = {}
    for row, column in enumerate(columns):
        own = column.model or model
        batch = found.setdefault(id(own), _Batch(own, [], []))
        batch.rows.append(row)
        batch.masks.append(column.mask)
    return list(found.values())


def _check_alike(model: "LensModel", other: "LensModel") -> None:
    """ValueError where the other model cannot be compared with it head by head and token by token."""
    if model is other:
        return
    if other.grid[:2] != model.grid[:2]:
        raise ValueError(
            f"{other.name} has {other.grid} heads and {model.name} {model.grid}: compare with a model of the same grid"
        )
    vocabularies = [one.tokenizer.get_vocab() for one in (model, other)]
    if vocabularies[0] != vocabularies[1] or model.vocabulary != other.vocabulary:
        raise ValueError(
            f"{other.name} has another vocabulary than {model.name}: compare with a model that reads the same tokens"
        )


def _compare(
    model: "LensModel",
    prompt: Prompt,
    columns: Sequence[Column],
    batches: list[_Batch],
    max_new_tokens: int,
    sampling: Sampling,
) -> Iterator[Comparison]:
    from retmask.model.decoding import decode  # torch takes seconds to import, and a page that compares opens without

    ids, n = prompt.token_ids, len(columns)
    none: tuple[Any, ...] = ((),) * n
    unfinished = tuple[Ending, ...]("" for _ in columns)
    bare = tuple(column._replace(model=None) for column in columns)
    now = Comparison(prompt, bare, sampling, "reading", none, none, unfinished, (0.0,) * n)
    now = replace(now, model=_facts(model), models=tuple(_facts(column.model or model) for column in columns))
    yield now
    for number, batch in enumerate(batches):
        for read in batch.read(ids[:-1], len(ids) + max_new_tokens):
            now = replace(now, read_tokens=(number * (len(ids) - 1) + read) // len(batches))
            yield now
    now = replace(now, stage="answering")
    for batch in batches:
        k = len(batch.rows)
        batch.steps = decode(batch.model, batch.cache, [ids[-1]] * k, max_new_tokens, batch.masks, [sampling] * k)
    while said := {row: step for batch in batches for row, step in batch.next().items()}:
        seconds = {row: batch.seconds for batch in batches for row in batch.rows}
        now = _grown(model.tokenizer, now, said, seconds)
        yield now
    ended = tuple(map(partial(_ending, max_new_tokens), now.token_ids))
    now = replace(now, stage="judging", ended=ended)
    yield now
    forced = []
    for own, text in enumerate(now.token_ids):
        forced.append(_forced(batches, ids, text, own))
        yield now  # a place to leave it at
    yield replace(now, stage="done", forced=tuple(forced), traces=_traces(batches, ids, now.token_ids))


def _facts(model: "LensModel") -> dict[str, str | None]:
    return {"name": model.name, "revision": model.revision, "sha256": model.sha256}


def _ending(max_new_tokens: int, text: Sequence[int]) -> Ending:
    return "length" if len(text) >= max_new_tokens else "stop"


def _grown(
    tokenizer: Tokenizer, now: Comparison, said: "Mapping[int, Step]", seconds: Mapping[int, float]
) -> Comparison:
    """The comparison with one more token in every column that has not ended."""
    ids = tuple((*text, said[i].token_id) if i in said else text for i, text in enumerate(now.token_ids))
    tokens = tuple(
        (*known, _piece(tokenizer, text, known)) if i in said else known
        for i, (text, known) in enumerate(zip(ids, now.tokens, strict=True))
    )
    ended = tuple[Ending, ...]("" if i in said else "stop" for i in range(len(ids)))
    times = tuple(seconds[i] if i in said else before for i, before in enumerate(now.seconds))
    return replace(now, token_ids=ids, tokens=tokens, ended=ended, seconds=times)


def _piece(tokenizer: Tokenizer, ids: Sequence[int], known: Sequence[str]) -> str:
    """What the last token adds to the text; nothing while it leaves a character unfinished."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return "" if text.endswith("\ufffd") else text[len("".join(known)) :]


def _forced(batches: Sequence[_Batch], prompt: Sequence[int], text: Sequence[int], own: int) -> tuple[Forced, ...]:
    """A text under every column's model; `own` is the column that wrote it."""
    from retmask.model.decoding import continuation_logits

    rows = [row for batch in batches for row in batch.rows]
    logprobs: dict[int, list[float]] = {row: [] for row in rows}
    kl: dict[int, list[float]] = {row: [] for row in rows}
    given = [continuation_logits(batch.model, batch.cache, prompt, text, batch.masks) for batch in batches]
    at = 0
    for parts in _in_step(given):
        log = dict(zip(rows, (row for part in parts for row in part.log_softmax(-1)), strict=True))
        chosen = list(text[at : at + len(log[own])])
        for row, q in log.items():
            p = log[own].to(q.device)
            logprobs[row] += q[range(len(chosen)), chosen].tolist()
            kl[row] += (p.exp() * (p - q)).sum(-1).clamp(min=0).tolist()
        at += len(chosen)
    return tuple(Forced(tuple(logprobs[row]), tuple(kl[row])) for row in sorted(rows))


def _in_step(given: "Sequence[Iterator[Float[Tensor, 'row step vocabulary']]]") -> "Iterator[list[Tensor]]":
    """The pieces of several streams cut so that they go through the steps together, whatever each one's size."""
    pieces = [next(stream, None) for stream in given]
    while ready := [piece for piece in pieces if piece is not None]:
        n = min(piece.shape[1] for piece in ready)
        yield [piece[:, :n] for piece in ready]
        pieces = [
            piece[:, n:] if piece.shape[1] > n else next(stream, None)
            for piece, stream in zip(ready, given, strict=True)
        ]


def _traces(batches: Sequence[_Batch], prompt: Sequence[int], texts: Sequence[Sequence[int]]) -> tuple[Trace, ...]:
    """The trace of every text under the model that wrote it."""
    from retmask.model.decoding import attended

    found: dict[int, Trace] = {}
    for batch in batches:
        own = [texts[row] for row in batch.rows]
        looked = attended(batch.model, batch.cache, len(prompt) - 1, [prompt] * len(own), own, batch.masks)
        for row, text, positions in zip(batch.rows, own, looked, strict=True):
            found[row] = Trace.read(positions[: len(text)], text, prompt)
    return tuple(found[row] for row in sorted(found))
