"""One prompt answered side by side: unmasked, masked, tuned, and with as many random heads masked; and what differs.

All columns of a model decode in one batch. Then every text is given to every column's model (teacher forcing), and the
heads that copied each of its tokens from the context are read: retrieval heads are dynamic (arXiv 2602.11162).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from retmask.compare.comparison import Column, Comparison, Ending, Forced, Prompt
from retmask.compare.trace import Trace
from retmask.heads.masks import HeadMask
from retmask.model.decoding import Step, attended, continuation_logits, decode, steps_at_once
from retmask.model.lens import LensModel
from retmask.text.sampling import Sampling
from retmask.text.tokenizer import Tokenizer

_GREEDY = Sampling()


def compare(
    model: LensModel, prompt: Prompt, columns: Sequence[Column], max_new_tokens: int = 64, sampling: Sampling = _GREEDY
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

    model: LensModel
    rows: list[int]
    masks: list[HeadMask]
    cache: Any = None
    steps: Iterator[list[Step | None]] = field(default_factory=lambda: iter(()))
    seconds: float = 0.0

    def read(self, token_ids: Sequence[int], room: int) -> Iterator[int]:
        """Read a prompt under every mask; how many tokens so far."""
        self.cache = yield from self.model.fanning_out(token_ids, room, self.masks)

    def next(self) -> dict[int, Step]:
        """The next token of every column that has not ended."""
        began = time.perf_counter()
        steps = next(self.steps, [])
        self.seconds += time.perf_counter() - began
        return {row: step for row, step in zip(self.rows, steps, strict=False) if step}


def _batches(model: LensModel, columns: Sequence[Column]) -> list[_Batch]:
    """The columns by the model that answers them, in order."""
    batches: dict[int, _Batch] = {}
    for row, column in enumerate(columns):
        own = column.model or model
        batch = batches.setdefault(id(own), _Batch(own, [], []))
        batch.rows.append(row)
        batch.masks.append(column.mask)
    return list(batches.values())


def _check_alike(model: LensModel, own: LensModel) -> None:
    """ValueError where a column's own model cannot be compared with the model head by head and token by token."""
    if own is model:
        return
    if own.grid[:2] != model.grid[:2]:
        raise ValueError(
            f"{own.name} has {own.grid} heads and {model.name} {model.grid}: compare with a model of the same grid"
        )
    if own.vocabulary != model.vocabulary or own.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        raise ValueError(
            f"{own.name} has another vocabulary than {model.name}: compare with a model that reads the same tokens"
        )


def _compare(
    model: LensModel,
    prompt: Prompt,
    columns: Sequence[Column],
    batches: list[_Batch],
    max_new_tokens: int,
    sampling: Sampling,
) -> Iterator[Comparison]:
    ids, n = prompt.token_ids, len(columns)
    nothing: tuple[Any, ...] = ((),) * n
    comparison = Comparison(
        prompt=prompt,
        columns=tuple(column._replace(model=None) for column in columns),
        sampling=sampling,
        stage="reading",
        token_ids=nothing,
        tokens=nothing,
        ended=tuple[Ending, ...]("" for _ in columns),
        seconds=(0.0,) * n,
        model=_facts(model),
        models=tuple(_facts(column.model or model) for column in columns),
    )
    yield comparison
    for number, batch in enumerate(batches):
        for read in batch.read(ids[:-1], len(ids) + max_new_tokens):
            comparison = replace(comparison, read_tokens=(number * (len(ids) - 1) + read) // len(batches))
            yield comparison
    comparison = replace(comparison, stage="answering")
    for batch in batches:
        k = len(batch.rows)
        batch.steps = decode(batch.model, batch.cache, [ids[-1]] * k, max_new_tokens, batch.masks, [sampling] * k)
    while steps := {row: step for batch in batches for row, step in batch.next().items()}:
        seconds = {row: batch.seconds for batch in batches for row in batch.rows}
        comparison = _grown(comparison, steps, seconds, model.tokenizer)
        yield comparison
    ended = tuple[Ending, ...]("length" if len(text) >= max_new_tokens else "stop" for text in comparison.token_ids)
    comparison = replace(comparison, stage="judging", ended=ended)
    yield comparison
    forced = []
    for own, text in enumerate(comparison.token_ids):
        forced.append(_forced(batches, ids, text, own))
        yield comparison  # a place to leave it at
    traces = _traces(batches, ids, comparison.token_ids)
    yield replace(comparison, stage="done", forced=tuple(forced), traces=traces)


def _facts(model: LensModel) -> dict[str, str | None]:
    return {"name": model.name, "revision": model.revision, "sha256": model.sha256}


def _grown(
    comparison: Comparison, steps: Mapping[int, Step], seconds: Mapping[int, float], tokenizer: Tokenizer
) -> Comparison:
    """The comparison with one more token in every column that has not ended."""
    ids, pieces, times = [*comparison.token_ids], [*comparison.tokens], [*comparison.seconds]
    ended = tuple[Ending, ...]("" if row in steps else "stop" for row in range(len(ids)))
    for row, step in steps.items():
        ids[row] = (*ids[row], step.token_id)
        pieces[row] = (*pieces[row], _piece(tokenizer, ids[row], pieces[row]))
        times[row] = seconds[row]
    return replace(comparison, token_ids=tuple(ids), tokens=tuple(pieces), ended=ended, seconds=tuple(times))


def _piece(tokenizer: Tokenizer, ids: Sequence[int], before: Sequence[str]) -> str:
    """What the last token adds to the text; nothing while it leaves a character unfinished."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return "" if text.endswith("\ufffd") else text[len("".join(before)) :]


def _forced(batches: Sequence[_Batch], prompt: Sequence[int], text: Sequence[int], own: int) -> tuple[Forced, ...]:
    """A text under every column's model; `own` is the column that wrote it."""
    rows = [row for batch in batches for row in batch.rows]
    logprobs: dict[int, list[float]] = {row: [] for row in rows}
    kl: dict[int, list[float]] = {row: [] for row in rows}
    size = min(steps_at_once(batch.model, len(batch.rows)) for batch in batches)
    given = [continuation_logits(batch.model, batch.cache, prompt, text, batch.masks, size) for batch in batches]
    for at, parts in enumerate(zip(*given, strict=True)):
        log = dict(zip(rows, (row for part in parts for row in part.log_softmax(-1)), strict=True))
        chosen = list(text[at * size : (at + 1) * size])
        for row, q in log.items():
            p = log[own].to(q.device)
            logprobs[row] += q[range(len(chosen)), chosen].tolist()
            kl[row] += (p.exp() * (p - q)).sum(-1).clamp(min=0).tolist()
    return tuple(Forced(tuple(logprobs[row]), tuple(kl[row])) for row in sorted(rows))


def _traces(batches: Sequence[_Batch], prompt: Sequence[int], texts: Sequence[Sequence[int]]) -> tuple[Trace, ...]:
    """The trace of every text under the model that wrote it."""
    traces: dict[int, Trace] = {}
    for batch in batches:
        own = [texts[row] for row in batch.rows]
        looked = attended(batch.model, batch.cache, len(prompt) - 1, [prompt] * len(own), own, batch.masks)
        for row, text, positions in zip(batch.rows, own, looked, strict=True):
            traces[row] = Trace.read(positions[: len(text)], text, prompt)
    return tuple(traces[row] for row in sorted(traces))
