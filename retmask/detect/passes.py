"""What one trial's prompt and answer say of each head, beyond where it looked most: the passes behind the detectors."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from retmask.heads.detectors import DetectorName, attention_mass, query_focus
from retmask.heads.grid import HeadId
from retmask.heads.masks import HeadMask
from retmask.model.cache import RoomyLayer, Trunk, new_cache
from retmask.model.decoding import LOGITS
from retmask.model.hooks import forking
from retmask.model.lens import LensModel

if TYPE_CHECKING:
    from transformers import Cache

    from retmask.text.needle import NeedlePrompt


def head_scores(
    model: LensModel,
    detector: DetectorName,
    prompt: "NeedlePrompt",
    answer: Sequence[int],
    empty: Sequence[int],
    trunk: Trunk,
) -> Float[np.ndarray, "layer head"]:
    """The score of every head in one trial; `empty` is the prompt with the question "N/A", for the detector `query`.

    An empty answer gives zeros.
    """
    ids, at = prompt.token_ids, prompt.query_at
    if not answer:
        return np.zeros((model.grid.n_layers, model.grid.n_heads))
    cache = model.prefill(ids[:at], max(len(ids), len(empty)) + len(answer), trunk)
    if detector == "causal":
        return losses(model, cache, ids[at:], answer)
    if detector == "query":
        assert empty[:at] == ids[:at], "both questions follow the same context"
        asked = attention_on(model, cache, ids[at:], prompt.whole_span)
        cache.crop(at - cache.get_seq_length())
        return query_focus(asked, attention_on(model, cache, empty[at:], prompt.whole_span))
    read = attention_on(model, cache, [*ids[at:], *answer][:-1], prompt.needle_span)
    return attention_mass(read[:, :, len(ids) - at - 1 :])


@torch.no_grad()
def attention_on(
    model: LensModel, cache: "Cache", token_ids: Sequence[int], span: tuple[int, int]
) -> Float[np.ndarray, "layer head query token"]:
    """How much attention each of these tokens, read after what the cache holds, pays to the positions of a span.

    `span` is [start, end) in the cache, which grows by the tokens.
    """
    start, end = span
    return model.read([token_ids], cache, lambda pattern: pattern[..., start:end].float())[:, 0].numpy()


@torch.no_grad()
def losses(
    model: LensModel, cache: "Cache", question: Sequence[int], answer: Sequence[int]
) -> Float[np.ndarray, "layer head"]:
    """What the answer's mean log-probability (nats a token) loses with each head alone masked after the cache.

    The heads of a layer are the rows of one pass, or of several where memory is short; they part from a common row at
    that layer. ValueError where not even two rows fit.
    """
    n_layers, n_heads = model.grid.n_layers, model.grid.n_heads
    ids = [*question, *answer][:-1]
    room = cache.get_seq_length() + len(ids)
    model.check_rows(room, 2)
    size = max(1, min(LOGITS // (len(answer) * model.vocabulary), model.rows_that_fit(room, n_heads + 1)) - 1)
    out: Float[np.ndarray, "layer head"] = np.zeros((n_layers, n_heads))
    for layer in range(n_layers):
        for first in range(0, n_heads, size):
            heads = [HeadId(layer, head) for head in range(first, min(n_heads, first + size))]
            # the unmasked row is read in the same pass: in bfloat16 a batch of another size rounds otherwise
            logprob = _mean_logprob(model, cache, ids, answer, [HeadMask(), *(HeadMask.of([head]) for head in heads)])
            out[layer, first : first + len(heads)] = logprob[0] - logprob[1:]
    return out


def _mean_logprob(
    model: LensModel, cache: "Cache", token_ids: Sequence[int], answer: Sequence[int], masks: Sequence[HeadMask]
) -> Float[np.ndarray, " mask"]:
    """The answer's mean log-probability with each mask; all begin at one layer, but for the first, which is empty."""
    fork = (masks[-1].first_layer or 0) if model.forks else 0
    rows = _rows(cache, len(masks), fork, cache.get_seq_length() + len(token_ids))
    with forking(model.bridge, {fork: len(masks)}) if fork else nullcontext():
        logits = model.forward([token_ids] * (1 if fork else len(masks)), rows, masks, keep=len(answer))
    chosen = torch.tensor(list(answer), device=model.device)[None, :, None].expand(len(masks), -1, -1)
    logprob = logits.float().log_softmax(-1).gather(-1, chosen)[..., 0].mean(1)
    return np.asarray(logprob.double().cpu().numpy())


def _rows(cache: "Cache", n: int, fork: int, room: int) -> "Cache":
    """A cache of the same positions with `n` equal rows from the layer `fork` on, and one row below it."""
    out = new_cache(room)
    layers: list[Any] = list(cache.layers)
    for number, layer in enumerate(layers):
        copied = RoomyLayer(room)
        copied.fill([(layer.keys, layer.values)] * (n if number >= fork else 1), room)
        out.layers.append(copied)
    return out
