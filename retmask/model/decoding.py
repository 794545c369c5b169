"""Decoding: how the next token is chosen, the answers that come of it, and what a given text would have been worth."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache

from retmask.heads.masks import HeadMask
from retmask.model.cache import Trunk, stack, take
from retmask.model.lens import LensModel
from retmask.text.sampling import Sampling

LOGITS = 2**25  # logits of a given text that are held at once


class Step(NamedTuple):
    """One generated token of one row: its id and its log-probability (natural log) under the model that chose it."""

    token_id: int
    logprob: float


class Draw(NamedTuple):
    """What draws a row's tokens: how, and with which random numbers."""

    sampling: Sampling
    generator: torch.Generator

    @classmethod
    def begin(cls, sampling: Sampling) -> "Draw | None":
        """A draw from its seed on; None for greedy. ValueError where a number is out of range."""
        sampling.check()
        return cls(sampling, torch.Generator().manual_seed(sampling.seed)) if sampling.temperature else None


def choose(logits: Float[Tensor, "row vocabulary"], draws: Sequence[Draw | None]) -> list[Step]:
    """The next token of every row: the likeliest, or a drawn one. Log-probabilities are the model's own, untempered."""
    logprobs = logits.log_softmax(-1)
    ids = logits.argmax(-1)
    for row, draw in enumerate(draws):
        if draw is not None:
            ids[row] = _drawn(logits[row], *draw)
    chosen = logprobs.gather(-1, ids[:, None])[:, 0]
    return [Step(token, logprob) for token, logprob in zip(ids.tolist(), chosen.tolist(), strict=True)]


def _drawn(logits: Float[Tensor, " vocabulary"], sampling: Sampling, generator: torch.Generator) -> int:
    """A token by inversion: one uniform number a step, so that rows with one seed differ only where their models do."""
    probabilities = (logits.cpu().double() / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, places = probabilities.sort(descending=True)
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p  # the likeliest tokens that together reach top_p stay
        probabilities[places[beyond]] = 0
    cumulated = probabilities.cumsum(-1)
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    return int(torch.searchsorted(cumulated, uniform * cumulated[-1], right=True).clamp(max=len(logits) - 1))


class Answer(NamedTuple):
    """A generated answer, without the stop token.

    `attended` is, for each of its tokens, the position every head attended to most when the token was chosen.
    """

    token_ids: tuple[int, ...]
    attended: Int[np.ndarray, "step layer head"]


def decode(
    model: LensModel,
    cache: Cache,
    last_ids: Sequence[int],
    max_new_tokens: int,
    masks: Sequence[HeadMask] | None = None,
    sampling: Sequence[Sampling] | None = None,
    begin: Sequence[int] = (),
) -> Iterator[list[Step | None]]:
    """Decoding from a cache of all but the prompts' last tokens: at each step every row's token.

    A mask and a sampling for each row, where they are given; else the mask that is in force, and greedy. `begin`
    says where in the cache each row begins, where prompts of different lengths are answered together. None for
    a row that has ended; the iterator ends with the last row. A stop token is not handed out. When half of the rows
    have ended the others go on in a cache of their own, and the one given stays behind. Nothing is held between
    steps, so the iterator may be left at any of them.
    """
    rows = list(range(len(last_ids)))  # which row of the batch each row of the cache is, -1 once it has ended
    room = cache.get_seq_length() + max_new_tokens + 1
    draws = [*map(Draw.begin, sampling)] if sampling else [None] * len(rows)
    ids = [[last] for last in last_ids]
    for _ in range(max_new_tokens):
        logits = model.forward(ids, cache, masks, begin=begin)[:, -1].float()
        steps = choose(logits, [None if row < 0 else draws[row] for row in rows])
        ids = [[step.token_id] for step in steps]
        alive = [i for i, step in enumerate(steps) if rows[i] >= 0 and step.token_id not in model.stop_ids]
        if not alive:
            return
        taken = {rows[i]: steps[i] for i in alive}
        yield [taken.get(row) for row in range(len(last_ids))]
        if 2 * len(alive) <= len(rows):
            cache, ids, rows = take(cache, alive, room), [ids[i] for i in alive], [rows[i] for i in alive]
            masks = masks and [masks[i] for i in alive]
            begin = begin and [begin[i] for i in alive]
        else:
            rows = [row if i in alive else -1 for i, row in enumerate(rows)]


def continuation_logits(
    model: LensModel, cache: Cache, prompt: Sequence[int], text: Sequence[int], masks: Sequence[HeadMask], size: int = 0
) -> Iterator[Float[Tensor, "row step vocabulary"]]:
    """The logits with which every mask would have gone on at each token of one given text, `size` steps at a time.

    `cache` has a row for each mask and holds at least all of the prompt but its last token; it is cut back to that.
    """
    if cache.layers:
        cache.crop(len(prompt) - 1 - cache.get_seq_length())
    ids = [prompt[-1], *text[:-1]] if text else []
    size = size or steps_at_once(model, len(masks))
    for at in range(0, len(ids), size):
        part = ids[at : at + size]
        yield model.forward([part] * len(masks), cache, masks, keep=len(part)).float()


def steps_at_once(model: LensModel, rows: int) -> int:
    """Of how many tokens of a given text the logits of so many rows are held together."""
    return max(1, LOGITS // (rows * model.vocabulary))


def logprobs(model: LensModel, prompt: Sequence[int], text: Sequence[int], mask: HeadMask) -> list[float]:
    """The log-probability (natural) of each token of a text that follows a prompt, under a mask."""
    cache = model.fan_out(prompt[:-1], len(prompt) + len(text), [mask])
    out: list[float] = []
    for logits in continuation_logits(model, cache, prompt, text, [mask]):
        chosen = text[len(out) : len(out) + logits.shape[1]]
        out += logits[0].log_softmax(-1)[range(len(chosen)), chosen].tolist()
    return out


def answers(
    model: LensModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, trunk: Trunk | None = None
) -> list[Answer]:
    """Greedy answers to prompts of one length, decoded together, with where every head looked for each token."""
    length = len(prompts[0])
    assert all(len(prompt) == length for prompt in prompts), "prompts answered together have one length"
    room = length + max_new_tokens
    rows = [model.prefill(prompt[:-1], room, trunk) for prompt in prompts]
    cache = rows[0] if len(rows) == 1 else stack(rows, room)
    del rows
    texts: list[list[int]] = [[] for _ in prompts]
    for step in decode(model, cache, [prompt[-1] for prompt in prompts], max_new_tokens):
        for text, token in zip(texts, step, strict=True):
            text += [token.token_id] if token else []
    looked = attended(model, cache, length - 1, prompts, texts)
    return [Answer(tuple(text), looked[i, : len(text)]) for i, text in enumerate(texts)]


def attended(
    model: LensModel,
    cache: Cache,
    prefix: int,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    masks: Sequence[HeadMask] | None = None,
) -> Int[np.ndarray, "row step layer head"]:
    """The position every head attends to most at each step of given answers, read in one pass over them.

    `cache` holds the prompts' first `prefix` tokens, and perhaps more, which is dropped. Rows with shorter answers
    are filled up; what stands there means nothing. A mask for each row, or None for what is in force.
    """
    steps = max(map(len, texts), default=0)
    if steps == 0:
        return np.zeros((len(texts), 0, *model.grid[:2]), dtype=int)
    cache.crop(prefix - cache.get_seq_length())
    rows = [[*prompt[prefix:], *text][:steps] for prompt, text in zip(prompts, texts, strict=True)]
    filled = [row + [0] * (steps - len(row)) for row in rows]
    return model.read(filled, cache, masks=masks).permute(1, 3, 0, 2).numpy()
