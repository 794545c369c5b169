"""One prompt answered side by side: unmasked, masked, and with as many random heads masked; and what differs.

All columns decode in one batch. Then every text is given to every column's model (teacher forcing), and the heads that
copied each of its tokens from the context are read: retrieval heads are dynamic (arXiv 2602.11162).
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from retmask.heads import Grid, HeadId, HeadMask
from retmask.needle import Haystack, Needle, NeedleTask, Template, recall, templated
from retmask.retrieval import copies
from retmask.runs import versions
from retmask.sampling import Sampling, Step

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from retmask.model import LensModel

Stage = Literal["reading", "answering", "judging", "done"]
Ending = Literal["", "stop", "length"]
Change = tuple[Literal["same", "lost", "added"], str]
_GREEDY = Sampling()


class Column(NamedTuple):
    """A condition under which the prompt is answered: its name and its mask. The empty mask is «unmasked»."""

    name: str
    mask: HeadMask


@dataclass(frozen=True)
class Prompt:
    """A prompt in the tokens of one model; of a needle task also the needle and where its scored tokens stand."""

    token_ids: tuple[int, ...]
    template: Template
    needle: Needle | None = None
    needle_span: tuple[int, int] | None = None

    @classmethod
    def of_text(cls, tokenizer: Any, text: str, template: Template | None = None) -> "Prompt":
        """A text of one's own, in the chat template or plain. ValueError if it is empty or the template fails."""
        if not text.strip():
            raise ValueError("the prompt is empty: write or upload a text, or choose a needle")
        lines = text.replace("\r\n", "\n").replace("\r", "\n").strip()
        whole, _, used = templated(tokenizer, lines, template)
        return cls(tuple(tokenizer(whole, add_special_tokens=used == "plain")["input_ids"]), used)

    @classmethod
    def of_needle(cls, tokenizer: Any, task: NeedleTask, haystack: Haystack) -> "Prompt":
        """A needle task's prompt. ValueError where it cannot be rendered for this model."""
        rendered = task.render(tokenizer, haystack)
        return cls(rendered.token_ids, rendered.template, task.needle, rendered.needle_span)


class Forced(NamedTuple):
    """A given text under one model: log-probability (natural) of each token, and the divergence at that step.

    `kl` is KL(p || q) in nats of the whole next-token distributions, p being the model that wrote the text.
    """

    logprobs: tuple[float, ...]
    kl: tuple[float, ...]


@dataclass(frozen=True)
class Trace:
    """Which heads copied which generated token from where: head -> {step: position in the prompt}.

    A head copies at a step when the position it attends to most lies in the prompt and holds the token that is
    generated at that step.
    """

    n_steps: int
    grid: Grid
    copied: Mapping[HeadId, Mapping[int, int]]

    @classmethod
    def read(
        cls, attended: Int[np.ndarray, "step layer head"], generated: Sequence[int], prompt_ids: Sequence[int]
    ) -> "Trace":
        """The trace of an answer from the positions its heads attended to most."""
        hit = copies(attended, generated, prompt_ids, (0, len(prompt_ids)))
        copied: dict[HeadId, dict[int, int]] = {}
        for step, layer, head in np.argwhere(hit):
            copied.setdefault(HeadId(int(layer), int(head)), {})[int(step)] = int(attended[step, layer, head])
        return cls(len(generated), Grid(*attended.shape[1:]), dict(sorted(copied.items())))

    def heads_at(self, step: int) -> frozenset[HeadId]:
        """H_t: the heads that copied at a step."""
        return frozenset(head for head, steps in self.copied.items() if step in steps)

    def sources(self, step: int) -> dict[int, tuple[HeadId, ...]]:
        """The positions in the prompt that a step's token was copied from, most heads first, and those heads."""
        found: dict[int, list[HeadId]] = {}
        for head, steps in self.copied.items():
            if step in steps:
                found.setdefault(steps[step], []).append(head)
        return {position: tuple(heads) for position, heads in sorted(found.items(), key=lambda item: -len(item[1]))}

    def overlap(self, static: Iterable[HeadId]) -> float | None:
        """Mean Jaccard index of H_t and a fixed set of heads, over the steps at which any head copied; None for none.

        Jaccard(A, B) = |A ∩ B| / |A ∪ B| (arXiv 2602.11162 compares with the best 20 heads).
        """
        fixed = frozenset(static)
        return _mean(jaccard(now, fixed) for now in map(self.heads_at, range(self.n_steps)) if now)

    def persistence(self) -> float | None:
        """Mean Jaccard index of H_t and H_t+1, over the pairs of steps of which either has copying heads; or None."""
        heads = [self.heads_at(step) for step in range(self.n_steps)]
        return _mean(jaccard(now, after) for now, after in pairwise(heads) if now or after)

    def entropy(self) -> float | None:
        """Entropy in nats of the heads' shares of all copies; 0: one head did all. None if no head copied."""
        counts = np.array([len(steps) for steps in self.copied.values()], dtype=float)
        if not counts.size:
            return None
        shares = counts / counts.sum()
        return abs(float(-(shares * np.log(shares)).sum()))


@dataclass(frozen=True)
class Comparison:
    """What is known of a comparison so far. `forced[i][j]`: text i under column j's model; `traces[i]`: of text i."""

    prompt: Prompt
    columns: tuple[Column, ...]
    sampling: Sampling
    stage: Stage
    token_ids: tuple[tuple[int, ...], ...]
    tokens: tuple[tuple[str, ...], ...]
    ended: tuple[Ending, ...]
    seconds: tuple[float, ...]
    read_tokens: int = 0
    forced: tuple[tuple[Forced, ...], ...] = ()
    traces: tuple[Trace, ...] = ()
    model: Mapping[str, str | None] = field(default_factory=dict)

    def text(self, column: int) -> str:
        """A column's answer so far."""
        return "".join(self.tokens[column]).strip()

    def recall(self, column: int) -> float | None:
        """ROUGE-1 recall (0-1) of the needle's answer in a column's text; None for a prompt without a needle."""
        return recall(self.prompt.needle.answer, self.text(column)) if self.prompt.needle else None

    def rate(self, column: int) -> float:
        """Tokens a second while the column was being written; 0 before its first token."""
        return len(self.token_ids[column]) / self.seconds[column] if self.seconds[column] else 0.0

    def to_json(self) -> dict[str, Any]:
        """A finished comparison as plain data: of each column its mask, text, tokens, log-probabilities and copies."""
        return {
            "model": self.model,
            "versions": versions(),
            "prompt_tokens": len(self.prompt.token_ids),
            "template": self.prompt.template,
            "needle": self.prompt.needle.needle if self.prompt.needle else None,
            "answer": self.prompt.needle.answer if self.prompt.needle else None,
            "sampling": self.sampling._asdict(),
            "columns": [self._column(i) for i in range(len(self.columns))],
        }

    def _column(self, i: int) -> dict[str, Any]:
        under = {column.name: forced for column, forced in zip(self.columns, self.forced[i], strict=True)}
        return {
            "name": self.columns[i].name,
            "mask": str(self.columns[i].mask),
            "text": self.text(i),
            "recall": self.recall(i),
            "ended": self.ended[i],
            "token_ids": self.token_ids[i],
            "tokens": self.tokens[i],
            "logprobs": {name: forced.logprobs for name, forced in under.items()},
            "kl": {name: forced.kl for name, forced in under.items()},
            "copied": {str(head): list(steps.items()) for head, steps in self.traces[i].copied.items()},
        }


def compare(
    model: "LensModel",
    prompt: Prompt,
    columns: Sequence[Column],
    max_new_tokens: int = 64,
    sampling: Sampling = _GREEDY,
) -> Iterator[Comparison]:
    """The comparison as it grows: once before the prompt is read, at every step, and with each thing found out then.

    ValueError before anything is computed where the prompt is too long for the model or the memory, a mask does not fit
    the model, or a number is out of range. The iterator may be left at any point; nothing is held in between.
    """
    sampling.check()
    if max_new_tokens < 1:
        raise ValueError(f"{max_new_tokens} new tokens are too few: ask for at least 1")
    masks = [column.mask for column in columns]
    for mask in masks:
        mask.array(model.grid)
    room = len(prompt.token_ids) + max_new_tokens
    model.check_length(room)
    model.check_rows(room, len(masks) + 1)
    return _compare(model, prompt, columns, masks, max_new_tokens, sampling)


def _compare(
    model: "LensModel",
    prompt: Prompt,
    columns: Sequence[Column],
    masks: list[HeadMask],
    max_new_tokens: int,
    sampling: Sampling,
) -> Iterator[Comparison]:
    ids, n = prompt.token_ids, len(columns)
    none: tuple[Any, ...] = ((),) * n
    unfinished = tuple[Ending, ...]("" for _ in columns)
    now = Comparison(prompt, tuple(columns), sampling, "reading", none, none, unfinished, (0.0,) * n)
    now = replace(now, model={"name": model.name, "revision": model.revision, "sha256": model.sha256})
    yield now
    cache = None
    reading = model.fanning_out(ids[:-1], len(ids) + max_new_tokens, masks)
    while cache is None:
        try:
            now = replace(now, read_tokens=next(reading))
        except StopIteration as end:
            cache = end.value
        else:
            yield now
    now = replace(now, stage="answering")
    steps, spent = model.decode(cache, [ids[-1]] * n, max_new_tokens, masks, [sampling] * n), 0.0
    while True:
        began = time.perf_counter()
        step = next(steps, None)
        spent += time.perf_counter() - began
        if step is None:
            break
        now = _grown(model.tokenizer, now, step, spent)
        yield now
    ended = tuple(map(partial(_ending, max_new_tokens), now.token_ids))
    now = replace(now, stage="judging", ended=ended)
    yield now
    forced = []
    for i, text in enumerate(now.token_ids):
        logits = model.continuation_logits(cache, ids, text, masks)
        forced.append(tuple(_forced(logits, text, i, n)))
        yield now  # a place to leave it at
    attended = model.attended(cache, len(ids) - 1, [ids] * n, now.token_ids, masks)
    traces = [Trace.read(attended[i, : len(text)], text, ids) for i, text in enumerate(now.token_ids)]
    yield replace(now, stage="done", forced=tuple(forced), traces=tuple(traces))


def _ending(max_new_tokens: int, text: Sequence[int]) -> Ending:
    return "length" if len(text) >= max_new_tokens else "stop"


def _grown(tokenizer: Any, now: Comparison, step: Sequence[Step | None], seconds: float) -> Comparison:
    """The comparison with one more token in every column that has not ended."""
    ids = tuple((*text, one.token_id) if one else text for text, one in zip(now.token_ids, step, strict=True))
    tokens = tuple(
        (*known, _piece(tokenizer, text, known)) if one else known
        for text, known, one in zip(ids, now.tokens, step, strict=True)
    )
    ended = tuple[Ending, ...]("" if one else "stop" for one in step)
    times = tuple(seconds if one else before for before, one in zip(now.seconds, step, strict=True))
    return replace(now, token_ids=ids, tokens=tokens, ended=ended, seconds=times)


def _piece(tokenizer: Any, ids: Sequence[int], known: Sequence[str]) -> str:
    """What the last token adds to the text; nothing while it leaves a character unfinished."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return "" if text.endswith("\ufffd") else text[len("".join(known)) :]


def _forced(
    logits: "Iterable[Float[Tensor, 'row step vocabulary']]", text: Sequence[int], own: int, n: int
) -> Iterator[Forced]:
    """A text under every column's model, from the logits of all rows; `own` is the row that wrote it."""
    logprobs: list[list[float]] = [[] for _ in range(n)]
    kl: list[list[float]] = [[] for _ in range(n)]
    at = 0
    for part in logits:
        log = part.log_softmax(-1)
        p = log[own]
        chosen = list(text[at : at + part.shape[1]])
        of_tokens = log[:, range(len(chosen)), chosen].tolist()
        for row in range(n):
            logprobs[row] += of_tokens[row]
            kl[row] += (p.exp() * (p - log[row])).sum(-1).clamp(min=0).tolist()
        at += part.shape[1]
    for row in range(n):
        yield Forced(tuple(logprobs[row]), tuple(kl[row]))


def first_divergence(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first step at which two answers differ, also by one of them ending there; None if they are the same."""
    for step, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return step
    return None if len(one) == len(other) else min(len(one), len(other))


def changes(before: str, after: str) -> list[Change]:
    """The words of two texts in one row: those in both, those lost from `before`, those added in `after`."""
    old, new = (re.findall(r"\S+\s*", text) for text in (before, after))
    out: list[Change] = []
    matcher = SequenceMatcher(None, [word.strip() for word in old], [word.strip() for word in new], autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            out.append(("same", "".join(new[c:d])))
            continue
        out += [("lost", "".join(old[a:b]))] if b > a else []
        out += [("added", "".join(new[c:d]))] if d > c else []
    return out


def jaccard(one: frozenset[HeadId], other: frozenset[HeadId]) -> float:
    """|A ∩ B| / |A ∪ B|; 1 for two empty sets."""
    return len(one & other) / len(one | other) if one | other else 1.0


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
