"""A loaded model and the passes through it: prefill, a step forwards, where its heads look, with any heads masked.

It is seen twice (`bridge.py`): the native view (transformers, SDPA or FlashAttention) prefills prompts and decodes
answers and stores nothing quadratic; the bridge reads the attention patterns of a whole answer in one pass over it, on
the native view's cache. Masks work on either: the bridge's `hook_z`, natively the same tensor before `o_proj`.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from transformers import Cache

from retmask.heads.grid import Grid
from retmask.heads.masks import HeadMask
from retmask.model.cache import Trunk, new_cache, shared, stack, take
from retmask.model.fit import LEAST_CHUNK, cache_bytes, free_bytes, longest_context, scores_bytes
from retmask.model.hooks import BridgeView, NativeView, forking, most, reading, scaling
from retmask.model.weights import grid_of
from retmask.text.tokenizer import Tokenizer

PREFILL_CHUNK = 1024  # tokens prefilled at once: as fast as all at once on two cores, and it bounds the memory
_LATER_ON_GPU = 4096  # a GPU takes the first chunk whole, since it needs no mask; later ones store chunk x context
READ_CELLS = 2**28  # cells of attention patterns [row head query key] that a layer may store at once
_CPU_MOST_BYTES = 3 * 2**30  # also where a number of rows is asked for: other things want memory on such a machine
_CPU_BATCH_BYTES = 2**30  # past this, more rows cost memory and gain no speed on a CPU


@dataclass
class LensModel:
    """A loaded model: its tokenizer, the two views of its weights, and what is known about them.

    `parity` is the largest difference between the two views' logits on a short prompt, measured at load.
    """

    name: str
    revision: str | None
    sha256: str | None
    tokenizer: Tokenizer
    native: NativeView
    bridge: BridgeView
    stop_ids: frozenset[int]
    parity: float = float("nan")
    forks: bool = False  # whether rows with other masks can leave a common pass at their first masked layer
    mask: HeadMask | None = None  # what every pass is under that is given no masks of its own
    lock: Lock = field(default_factory=Lock, repr=False)  # held during one pass: sessions take turns step by step

    @cached_property
    def grid(self) -> Grid:
        """Layers x query heads, and the key/value heads they share."""
        return grid_of(self.native.config)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.native.device

    @property
    def dtype_name(self) -> str:
        """The weights' type, such as `float32`."""
        return str(self.native.dtype).removeprefix("torch.")

    @property
    def attention(self) -> str:
        """How the native view attends: `sdpa`, `flash_attention_2` or `eager`."""
        return str(self.native.config._attn_implementation)

    @property
    def max_tokens(self) -> int:
        """The longest context the model was made for, in tokens."""
        return longest_context(self.native.config)

    @cached_property
    def vocabulary(self) -> int:
        """How many token ids the model can read."""
        return int(self.native.get_input_embeddings().weight.shape[0])

    def under(self, mask: HeadMask) -> "LensModel":
        """The same model, whose passes are under that mask where they are given none."""
        return replace(self, mask=mask)

    def check_length(self, tokens: int) -> None:
        """ValueError if a context of so many tokens is longer than the model can read."""
        if tokens > self.max_tokens:
            raise ValueError(
                f"{self.name} reads {self.max_tokens:,} tokens and {tokens:,} were asked for: choose fewer"
            )

    def masked(self, masks: Sequence[HeadMask] | None) -> AbstractContextManager[None]:
        """While open, this model's passes in this thread scale heads: one mask for each batch row, or one for all.

        An empty mask is the unmasked model bit for bit; None is the model's own mask, or leaves in force what is. Not
        to be held open across a `yield`, where it would act on the consumer's passes: see `under`. ValueError if a head
        is not on the model's grid.
        """
        if masks is None:
            if self.mask is None:
                return nullcontext()
            masks = [self.mask]
        arrays = np.stack([mask.array(self.grid) for mask in masks])
        return scaling(self.bridge, torch.tensor(arrays, dtype=self.native.dtype, device=self.device))

    def check_rows(self, tokens: int, rows: int) -> None:
        """ValueError if caches of so many rows of that length do not fit into the free memory."""
        need, free = rows * self._row_bytes(tokens), free_bytes(self.device)
        if need > 0.8 * free:
            raise ValueError(
                f"{rows} caches of {tokens:,} tokens need {need / 2**30:.1f} GiB and {free / 2**30:.1f} GiB is free on "
                f"{self.device}: choose a shorter prompt or fewer columns"
            )

    def rows_that_fit(self, tokens: int, most: int = 0) -> int:
        """How many contexts of that length to work on together: a quarter of the free memory, at most 8 or 32.

        Or at most `most`, where that is given.
        """
        row = self._row_bytes(tokens)
        on_gpu = self.device.type == "cuda"
        room = free_bytes(self.device) // 4
        if most:
            return max(1, min(most, (room if on_gpu else min(room, _CPU_MOST_BYTES)) // row))
        return max(1, min(32, room // row) if on_gpu else min(8, room // row, _CPU_BATCH_BYTES // row))

    def _row_bytes(self, tokens: int) -> int:
        """What one row of that length needs: its cache and, where attention is eager, the scores of a small chunk."""
        row = cache_bytes(self.native.config, tokens, self.native.dtype)
        if self.attention == "eager":
            row += scores_bytes(self.native.config, LEAST_CHUNK, tokens, self.native.dtype)
        return row

    @torch.no_grad()
    def prefill(self, token_ids: Sequence[int], room: int, trunk: Trunk | None = None) -> Cache:
        """A cache of the tokens, with room for `room` in all; what they share with the trunk is not computed again."""
        trunk = trunk or Trunk()
        common = shared(trunk.token_ids, token_ids)
        have = trunk.cache.get_seq_length() if trunk.cache.layers else 0
        self._run(trunk.token_ids[have:common], trunk.cache)
        cache = stack([trunk.cache], room, common) if common else new_cache(room)
        self._run(token_ids[common:], cache)
        return cache

    def fan_out(self, token_ids: Sequence[int], room: int, masks: Sequence[HeadMask]) -> Cache:
        """A cache with a row for each mask, of the same tokens under that mask. As `fanning_out`, in one go."""
        steps = self.fanning_out(token_ids, room, masks)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    def fanning_out(
        self, token_ids: Sequence[int], room: int, masks: Sequence[HeadMask]
    ) -> Generator[int, None, Cache]:
        """Yields how many tokens have been read, chunk by chunk; returns a cache with a row for each mask.

        Up to the first masked layer of a row it is the same as another, and is computed once.
        """
        order, rows = fork_plan(masks, self.grid.n_layers)
        if not self.forks or len(masks) == 1:
            alone = [new_cache(room) for _ in masks]
            for number, (cache, mask) in enumerate(zip(alone, masks, strict=True)):
                for read in self._reading(token_ids, cache, [mask]):
                    yield (number * len(token_ids) + read) // len(masks)
            return alone[0] if len(alone) == 1 else stack(alone, room)
        cache = new_cache(room)
        yield from self._reading(token_ids, cache, [masks[i] for i in order], rows)
        return take(cache, [order.index(i) for i in range(len(masks))], room, give_up=True)

    def _run(self, token_ids: Sequence[int], cache: Cache, masks: Sequence[HeadMask] | None = None) -> None:
        for _ in self._reading(token_ids, cache, masks):
            pass

    def _reading(
        self,
        token_ids: Sequence[int],
        cache: Cache,
        masks: Sequence[HeadMask] | None = None,
        rows: dict[int, int] | None = None,
    ) -> Iterator[int]:
        """Append tokens to a cache, a chunk at a time; how many so far. `rows` as `forking` takes them."""
        at = 0
        while at < len(token_ids):
            size = self._chunk(len(masks or [0]), cache.get_seq_length())
            with forking(self.bridge, rows) if rows else nullcontext():
                self.forward([token_ids[at : at + size]], cache, masks)
            at = min(at + size, len(token_ids))
            yield at

    @torch.no_grad()
    def forward(
        self,
        token_ids: Sequence[Sequence[int]] | Tensor,
        cache: Cache,
        masks: Sequence[HeadMask] | None = None,
        keep: int = 1,
        begin: Sequence[int] = (),
    ) -> Float[Tensor, "row kept vocabulary"]:
        """The logits at the last `keep` tokens of a native pass over rows of token ids; the cache grows.

        `begin`: where in the cache each row begins, if not all at 0.
        """
        with self.lock, self.masked(masks):
            ids = self.ids(token_ids)
            given = self._aligned(begin, cache.get_seq_length(), ids.shape[1]) if any(begin) else {}
            out = self.native(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=keep, **given)
        return out.logits  # type: ignore[no-any-return]

    def ids(self, token_ids: Sequence[Sequence[int]] | Tensor) -> Int[Tensor, "row pos"]:
        """Rows of token ids on the model's device. ValueError for one that the model has no embedding for."""
        ids = torch.as_tensor(token_ids)
        if int(ids.max()) >= self.vocabulary:
            raise ValueError(
                f"{self.name} reads token ids below {self.vocabulary:,} and its tokenizer gives {int(ids.max()):,}: "
                "tokenizer and weights do not belong together"
            )
        return ids.to(self.device)

    def _aligned(self, begin: Sequence[int], have: int, more: int) -> dict[str, Tensor]:
        """What tells the native view that rows begin at different positions of the cache."""
        first = torch.tensor(begin, device=self.device)[:, None]
        position = torch.arange(have + more, device=self.device)[None]
        return {"attention_mask": (position >= first).long(), "position_ids": position[:, have:] - first}

    def _chunk(self, rows: int, have: int) -> int:
        """How many tokens of so many rows to prefill at once after those that the cache has."""
        if self.attention == "eager":
            token = scores_bytes(self.native.config, 1, have + PREFILL_CHUNK, self.native.dtype)
            fit = free_bytes(self.device) // 2 // (rows * token)
            return max(LEAST_CHUNK, min(PREFILL_CHUNK, fit))
        if self.device.type != "cuda":
            return PREFILL_CHUNK
        return _LATER_ON_GPU if have else self._first_on_gpu(rows)

    def _first_on_gpu(self, rows: int) -> int:
        """How many tokens of so many rows a GPU can prefill at once with half of its free memory for activations."""
        width = rows * getattr(self.native.config.get_text_config(), "intermediate_size", 2**16)
        return max(_LATER_ON_GPU, int(free_bytes(self.device) // 2 // (4 * width * self.native.dtype.itemsize)))

    @torch.no_grad()
    def read(
        self,
        token_ids: Sequence[Sequence[int]],
        cache: Cache,
        take: Callable[[Tensor], Tensor] = most,
        masks: Sequence[HeadMask] | None = None,
    ) -> Shaped[Tensor, "layer row head query ..."]:
        """What `take` makes of the attention patterns [row head query key] of a pass over rows of ids, on the CPU.

        The pass goes on from the cache, which grows, and every pattern has a key for each of its positions. Some ids
        at a time, so that no layer's pattern grows large; `take` leaves the first three axes.
        """
        ids = self.ids(token_ids)
        size = max(1, READ_CELLS // (len(ids) * self.grid.n_heads * (cache.get_seq_length() + ids.shape[1])))
        parts = []
        for part in ids.split(size, 1):
            keys = cache.get_seq_length() + part.shape[1]
            with self.lock, self.masked(masks), reading(self.bridge, take, keys) as taken:
                self.bridge(part, past_key_values=cache, use_cache=True, return_type=None, logits_to_keep=1)
            parts.append(torch.stack([taken[layer] for layer in range(self.grid.n_layers)]).cpu())
        return torch.cat(parts, 3)


def fork_plan(masks: Sequence[HeadMask], n_layers: int) -> tuple[list[int], dict[int, int]]:
    """The order in which rows with these masks leave a common pass, and how many rows there are from which layer on.

    The row whose first masked layer is the highest goes all the way; the others are copied from it, the earliest first.
    """
    first = [n_layers if mask.first_layer is None else mask.first_layer for mask in masks]
    trunk = max(range(len(masks)), key=lambda i: first[i])
    others = sorted((i for i in range(len(masks)) if i != trunk), key=lambda i: first[i])
    rows = {min(first[i], n_layers - 1): number for number, i in enumerate(others, start=2)}
    return [trunk, *others], rows
