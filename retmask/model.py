"""A model seen twice: natively, to run fast, and through TransformerLens, to look inside.

Both views use one set of weights. The native one (transformers, SDPA or FlashAttention) prefills prompts and decodes
answers and stores nothing quadratic; the bridge reads the attention patterns of a whole answer in one pass over it,
on the native view's cache. Masks work on either: the bridge's `hook_z`, natively the same tensor before `o_proj`.

The only file that knows TransformerLens.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, Cache
from transformers.utils.import_utils import is_flash_attn_2_available
from transformers.utils.logging import disable_progress_bar

from retmask.cache import Trunk, cache_bytes, longest_shared, new_cache, shared, stack, take
from retmask.heads import Grid, HeadMask
from retmask.hooks import masked_by_row, reading, scaling, watch
from retmask.memory import check_fit, choose_device, choose_dtype, estimate_for, free_bytes
from retmask.weights import Source, read_config, resolve

PREFILL_CHUNK = 1024  # tokens prefilled at once: as fast as all at once on two cores, and it bounds the memory
_LATER_ON_GPU = 4096  # a GPU takes the first chunk whole, since it needs no mask; later ones store chunk x context
_CPU_BATCH_BYTES = 2**30  # past this, more rows cost memory and gain no speed on a CPU


class Step(NamedTuple):
    """One generated token of one row: its id and its log-probability (natural log) under the model that chose it."""

    token_id: int
    logprob: float


class Answer(NamedTuple):
    """A generated answer, without the stop token.

    `attended` is, for each of its tokens, the position every head attended to most when the token was chosen.
    """

    token_ids: tuple[int, ...]
    attended: Int[np.ndarray, "step layer head"]


@dataclass
class LensModel:
    """A loaded model: its tokenizer, the two views of its weights, and what is known about them.

    `parity` is the largest difference between the two views' logits on a short prompt, measured at load.
    """

    name: str
    revision: str | None
    sha256: str | None
    tokenizer: Any
    native: Any
    bridge: Any
    stop_ids: frozenset[int]
    parity: float = float("nan")

    @property
    def grid(self) -> Grid:
        """Layers x query heads, and the key/value heads they share."""
        config = self.native.config.get_text_config()
        kv = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        return Grid(config.num_hidden_layers, config.num_attention_heads, kv)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.native.device  # type: ignore[no-any-return]

    @property
    def dtype_name(self) -> str:
        """The weights' type, such as `float32`."""
        return str(self.native.dtype).removeprefix("torch.")

    @property
    def attention(self) -> str:
        """How the native view attends: `sdpa` or `flash_attention_2`."""
        return str(self.native.config._attn_implementation)

    @property
    def max_tokens(self) -> int:
        """The longest context the model was made for, in tokens."""
        return int(getattr(self.native.config.get_text_config(), "max_position_embeddings", 2**31))

    def check_length(self, tokens: int) -> None:
        """ValueError if a context of so many tokens is longer than the model can read."""
        if tokens > self.max_tokens:
            raise ValueError(
                f"{self.name} reads {self.max_tokens:,} tokens and {tokens:,} were asked for: choose fewer"
            )

    def shared_trunk(self, prompts: Sequence[Sequence[int]]) -> Trunk:
        """The longest beginning that two of the prompts share, to be prefilled once."""
        return longest_shared(prompts)

    def masked(self, masks: Sequence[HeadMask]) -> AbstractContextManager[None]:
        """While open, passes in this thread scale heads as the masks say: one mask for each batch row, or one for all.

        An empty mask is the unmasked model bit for bit. ValueError if a head is not on the model's grid.
        """
        arrays = np.stack([mask.array(self.grid) for mask in masks])
        return scaling(torch.tensor(arrays, dtype=self.native.dtype, device=self.device))

    def rows_that_fit(self, tokens: int) -> int:
        """How many contexts of that length to answer together: a quarter of the free memory, at most 8 or 32."""
        row = cache_bytes(self.native.config, tokens, self.native.dtype)
        on_gpu = self.device.type == "cuda"
        room = free_bytes(self.device) // 4
        return max(1, min(32, room // row) if on_gpu else min(8, room // row, _CPU_BATCH_BYTES // row))

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

    def _run(self, token_ids: Sequence[int], cache: Cache) -> None:
        at = 0
        while at < len(token_ids):
            size = PREFILL_CHUNK
            if self.device.type == "cuda":
                size = self._first_on_gpu() if cache.get_seq_length() == 0 else _LATER_ON_GPU
            ids = torch.tensor([token_ids[at : at + size]], device=self.device)
            self.native(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            at += size

    def _first_on_gpu(self) -> int:
        """How many tokens a GPU can prefill at once with half of its free memory for activations."""
        width = getattr(self.native.config.get_text_config(), "intermediate_size", 2**16)
        return max(_LATER_ON_GPU, int(free_bytes(self.device) // 2 // (4 * width * self.native.dtype.itemsize)))

    def decode(self, cache: Cache, last_ids: Sequence[int], max_new_tokens: int) -> Iterator[list[Step | None]]:
        """Greedy decoding from a cache of all but the prompts' last tokens: at each step every row's token.

        None for a row that has ended; the iterator ends with the last row. A stop token is not handed out. When half
        of the rows have ended the others go on in a cache of their own, and the one given stays behind; not where each
        row has a mask of its own.
        """
        rows = list(range(len(last_ids)))  # which row of the batch each row of the cache is
        room = cache.get_seq_length() + max_new_tokens + 1
        ids = torch.tensor(last_ids, device=self.device)[:, None]
        for _ in range(max_new_tokens):
            with torch.no_grad():
                logits = self.native(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
                logprobs, ids = logits[:, -1].float().log_softmax(-1).max(-1, keepdim=True)
            steps = [
                Step(token, logprob) for token, logprob in zip(ids[:, 0].tolist(), logprobs[:, 0].tolist(), strict=True)
            ]
            alive = [i for i, step in enumerate(steps) if rows[i] >= 0 and step.token_id not in self.stop_ids]
            if not alive:
                return
            said = {rows[i]: steps[i] for i in alive}
            yield [said.get(row) for row in range(len(last_ids))]
            if 2 * len(alive) <= len(rows) and not masked_by_row():
                cache, ids, rows = take(cache, alive, room), ids[alive], [rows[i] for i in alive]
            else:
                rows = [row if i in alive else -1 for i, row in enumerate(rows)]

    @torch.no_grad()
    def answer(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, trunk: Trunk | None = None) -> list[Answer]:
        """Greedy answers to prompts of one length, decoded together, with where every head looked for each token."""
        length = len(prompts[0])
        assert all(len(prompt) == length for prompt in prompts), "prompts answered together have one length"
        room = length + max_new_tokens
        rows = [self.prefill(prompt[:-1], room, trunk) for prompt in prompts]
        cache = rows[0] if len(rows) == 1 else stack(rows, room)
        del rows
        texts: list[list[int]] = [[] for _ in prompts]
        for step in self.decode(cache, [prompt[-1] for prompt in prompts], max_new_tokens):
            for text, token in zip(texts, step, strict=True):
                text += [token.token_id] if token else []
        attended = self.attended(cache, length - 1, prompts, texts)
        return [Answer(tuple(text), attended[i, : len(text)]) for i, text in enumerate(texts)]

    @torch.no_grad()
    def attended(
        self, cache: Cache, prefix: int, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]
    ) -> Int[np.ndarray, "row step layer head"]:
        """The position every head attends to most at each step of given answers, read in one pass over them.

        `cache` holds the prompts' first `prefix` tokens, and perhaps more, which is dropped. Rows with shorter answers
        are filled up; what stands there means nothing.
        """
        steps = max(map(len, texts), default=0)
        grid = self.grid
        if steps == 0:
            return np.zeros((len(texts), 0, grid.n_layers, grid.n_heads), dtype=int)
        cache.crop(prefix - cache.get_seq_length())
        rows = [[*prompt[prefix:], *text][:steps] for prompt, text in zip(prompts, texts, strict=True)]
        ids = torch.tensor([row + [0] * (steps - len(row)) for row in rows], device=self.device)
        with reading() as read:
            self.bridge(ids, past_key_values=cache, use_cache=True, return_type=None, logits_to_keep=1)
        return torch.stack([read[layer] for layer in range(grid.n_layers)]).permute(1, 3, 0, 2).cpu().numpy()


def load(
    name_or_path: str = "smollm2-135m",
    *,
    revision: str | None = None,
    adapter: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    context_tokens: int = 2048,
    trust_remote_code: bool = False,
) -> LensModel:
    """A model ready to run, read and mask.

    `name_or_path` is a built-in name, a Hub id (with `revision`), a folder with safetensors, or a .gguf file; `adapter`
    a PEFT folder that is merged into it. Device and dtype are chosen where not given: CUDA and bfloat16, else CPU and
    float32. ValueError, one sentence, where the model is not there, not readable without running its code (unless
    `trust_remote_code`), not supported by TransformerLens, or does not fit into memory at `context_tokens`.
    """
    disable_progress_bar()
    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    source = resolve(name_or_path, revision)
    config = read_config(source, trust_remote_code)
    check_fit(estimate_for(source.name, config, context_tokens, kind, place, trust_remote_code))
    hf = _load_weights(source, config, place, kind, trust_remote_code)
    if adapter:
        hf = _merge(hf, adapter)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder, revision=source.revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{source.name} has no tokenizer that can be read: {shorten(str(error), 150)}") from error
    return wrap(hf, tokenizer, source.name + (f" + {adapter}" if adapter else ""), source)


def wrap(hf: Any, tokenizer: Any, name: str, source: Source | None = None) -> LensModel:
    """The two views of a transformers model, which is taken over. ValueError if TransformerLens cannot bridge it."""
    with warnings.catch_warnings(), _quiet("transformer_lens"):
        warnings.simplefilter("ignore")
        from transformer_lens.model_bridge import TransformerBridge

        hf.eval().requires_grad_(False)
        hf.config.architectures = hf.config.architectures or [type(hf).__name__]  # none in models made from a config
        native, twins = second_view(hf)
        try:
            bridge = TransformerBridge.boot_transformers(
                source.folder if source else name,
                hf_model=hf,
                tokenizer=copy.copy(tokenizer),
                dtype=hf.dtype,
                device=str(hf.device),
            )
        except (ValueError, NotImplementedError, KeyError, AttributeError, RuntimeError) as error:
            raise ValueError(f"TransformerLens cannot look into {name}: {shorten(str(error), 200)}") from error
    # cuDNN's attention plans anew for every length, and a decode step has a new length: 24 ms a layer on an H100
    torch.backends.cuda.enable_cudnn_sdp(False)
    model = LensModel(
        name=name,
        revision=getattr(hf.config, "_commit_hash", None) or (source.revision if source else None),
        sha256=source.sha256 if source else None,
        tokenizer=tokenizer,
        native=native,
        bridge=bridge,
        stop_ids=_stop_ids(native, tokenizer),
    )
    _set_attention(model)
    watch(bridge, twins, model.grid.n_heads)
    model.parity = _parity(model)
    return model


def second_view(hf: Any) -> tuple[Any, dict[int, Any]]:
    """A copy of a module tree that shares every parameter and buffer with it, and the copies by their original's id."""
    copies: dict[int, Any] = {id(tensor): tensor for tensor in [*hf.parameters(), *hf.buffers()]}
    return copy.deepcopy(hf, copies), copies


@torch.no_grad()
def _parity(model: LensModel) -> float:
    """The largest difference of the two views' logits. ValueError if the bridge shows no attention patterns."""
    vocabulary = model.native.config.get_text_config().vocab_size
    ids = torch.arange(24, device=model.device)[None] * 37 % min(vocabulary, 5000)
    with reading() as read:
        through = model.bridge(ids)
    if len(read) < model.grid.n_layers:
        raise ValueError(
            f"TransformerLens shows attention patterns of {len(read)} of {model.grid.n_layers} layers of {model.name}: "
            "models with other kinds of layers cannot be scored"
        )
    logits = model.native(input_ids=ids).logits.float()
    difference = float((logits - through.float()).abs().max())
    if model.dtype_name == "float32" and difference > 0.01 * float(logits.abs().max()):
        raise ValueError(
            f"TransformerLens sees another {model.name} than transformers runs: their logits differ by {difference:.2g}"
        )
    return difference


def _stop_ids(native: Any, tokenizer: Any) -> frozenset[int]:
    """All tokens that end an answer, from the generation settings, the config and the tokenizer."""
    found: set[int] = set()
    for owner in (native.generation_config, native.config.get_text_config(), tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        found |= set(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return frozenset(found)


def _set_attention(model: LensModel) -> None:
    """FlashAttention-2 where it is installed, the weights are of half precision and the GPU can (Ampere or later).

    Else SDPA; and eager attention for models that have no other, such as those with soft-capped scores.
    """
    half = model.native.dtype in (torch.float16, torch.bfloat16)
    able = model.device.type == "cuda" and half and torch.cuda.get_device_capability(model.device) >= (8, 0)
    for kind in (*(["flash_attention_2"] if able and is_flash_attn_2_available() else []), "sdpa", "eager"):
        try:
            return model.native.set_attn_implementation(kind)  # type: ignore[no-any-return]
        except ValueError:
            continue


def _load_weights(source: Source, config: Any, device: torch.device, dtype: torch.dtype, trusted: bool) -> Any:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            config=config,
            revision=source.revision,
            dtype=dtype,
            device_map={"": str(device)},
            use_safetensors=True,
            trust_remote_code=trusted,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ValueError(f"the weights of {source.name} cannot be loaded: {shorten(str(error), 200)}") from error
    model, found = loaded
    missing = sorted(found["missing_keys"])
    if missing:  # transformers would go on with random numbers in their place
        raise ValueError(
            f"the weights of {source.name} are incomplete: {len(missing)} are missing, such as {missing[0]}"
        )
    return model


def _merge(hf: Any, adapter: str) -> Any:
    """The model with a PEFT adapter folded into its weights. ValueError if the folder is none, or does not fit."""
    from pathlib import Path

    from peft import PeftModel

    folder = Path(adapter).expanduser()
    if not (folder / "adapter_config.json").is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise ValueError(f"{adapter} is no adapter: adapter_config.json and adapter_model.safetensors are needed")
    try:
        return PeftModel.from_pretrained(hf, str(folder), use_safetensors=True).merge_and_unload()
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"the adapter {adapter} does not fit this model: {shorten(str(error), 200)}") from error


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """While open, that library logs errors only."""
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
