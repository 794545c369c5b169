"""What a loaded model keeps apart, what it checks of itself, and what it refuses."""

import contextvars
from collections.abc import Iterator

import pytest
import torch
from tiny import CONFIGS, from_config, tiny_hf, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from zoo import zoo_config, zoo_hf

from retmask.heads.grid import HeadId
from retmask.heads.masks import HeadMask
from retmask.model.bridge import wrap
from retmask.model.decoding import answers, decode
from retmask.model.fit import cache_bytes
from retmask.model.hooks import reading
from retmask.model.lens import LensModel
from retmask.model.parity import check_parity

IDS = torch.arange(3, 33)[None]
PROMPT = IDS[0].tolist()
MASK = HeadMask.of([HeadId(0, 1), HeadId(1, 0), HeadId(2, 3)])


def logits(model: LensModel) -> torch.Tensor:
    with torch.no_grad():
        return model.native(IDS).logits


def test_a_mask_belongs_to_its_model() -> None:
    """Of two models in one thread, and on both views; nested masks stay apart."""
    a, b = tiny_model("llama", 0), tiny_model("llama", 1)
    free = logits(a), logits(b)
    with a.masked([MASK]):
        masked = logits(a)
        assert torch.equal(logits(b), free[1])
        with torch.no_grad(), b.masked([HeadMask.of([HeadId(1, 1)])]):
            assert torch.equal(logits(a), masked)
            assert torch.allclose(b.bridge(IDS), logits(b), atol=2e-5)
            assert not torch.allclose(logits(b), free[1], atol=1e-2)
    assert not torch.allclose(masked, free[0], atol=1e-2)
    assert torch.equal(logits(a), free[0])


def test_readings_belong_to_their_model() -> None:
    a, b = tiny_model("llama"), tiny_model("gemma3")
    with torch.no_grad(), reading(a.bridge) as of_a, reading(b.bridge) as of_b:
        a.bridge(IDS[:, :5])
        b.bridge(IDS[:, :9])
    assert {value.shape[-1] for value in of_a.values()} == {5}
    assert {value.shape[-1] for value in of_b.values()} == {9}


def test_a_model_under_a_mask_masks_its_own_passes_only() -> None:
    """Also while an iterator over its answers waits, and where that is closed in another context than it began in."""
    model = tiny_model("llama")
    model.stop_ids = frozenset()
    under, free = model.under(MASK), logits(model)

    def texts() -> Iterator[int]:
        cache = under.prefill(PROMPT[:-1], 60)
        for step in decode(under, cache, [PROMPT[-1]], 20):
            yield step[0].token_id if step[0] else -1

    waiting = texts()
    begun = [contextvars.Context().run(next, waiting), next(waiting)]
    assert torch.equal(logits(model), free)
    whole = begun + [token for token, _ in zip(waiting, range(5), strict=False)]
    waiting.close()
    cache = model.fan_out(PROMPT[:-1], 60, [MASK])
    steps = decode(model, cache, [PROMPT[-1]], 7, [MASK])
    assert whole == [step[0].token_id for step in steps if step[0]]
    answer = answers(under, [PROMPT], 7)[0]
    assert list(answer.token_ids) == whole
    with model.masked([MASK]):
        assert (answers(model, [PROMPT], 7)[0].attended == answer.attended).all()


def test_a_tokenizer_without_an_end_stays_without() -> None:
    """No token is invented that ends answers, and none is added to templates or exports."""
    config = LlamaConfig(**{**CONFIGS["llama"].to_dict(), "eos_token_id": None, "bos_token_id": None})
    hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = tokenizer.pad_token = None
    before = dict(tokenizer.special_tokens_map), tokenizer.padding_side, len(tokenizer)
    assert wrap(hf, tokenizer, "endless").stop_ids == frozenset()
    assert (dict(tokenizer.special_tokens_map), tokenizer.padding_side, len(tokenizer)) == before


def windowed(dtype: torch.dtype) -> LensModel:
    """A model with a window longer than the text that is read at load."""
    config = Gemma3TextConfig(**{**CONFIGS["gemma3"].to_dict(), "sliding_window": 40})
    return wrap(from_config(config).to(dtype), tiny_tokenizer(), "windowed")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_view_that_looks_past_the_window_is_found(dtype: torch.dtype) -> None:
    model = windowed(dtype)
    assert check_parity(model) == model.parity
    model.bridge.original_model.config.sliding_window = 400
    with pytest.raises(ValueError, match=r"another model than transformers runs.*after 64 tokens"):
        check_parity(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_view_that_attends_otherwise_is_found(dtype: torch.dtype) -> None:
    model = wrap(tiny_hf("llama").to(dtype), tiny_tokenizer(), "turned")
    for block in model.bridge.blocks:
        block.attn.config.rotary_adjacent_pairs = True  # pairs of neighbours are turned instead of halves
    with pytest.raises(ValueError, match=r"another model than transformers runs.*after 24 tokens"):
        check_parity(model)


def test_rotary_embeddings_in_float32_are_cast_back() -> None:
    assert wrap(zoo_hf("olmo2").to(torch.bfloat16), tiny_tokenizer(), "olmo2").parity < 0.5


@torch.no_grad()
def test_a_pattern_has_a_key_for_each_position_of_the_cache() -> None:
    model = tiny_model("gemma3")
    cache = model.prefill(PROMPT[:-4], 40)
    with pytest.raises(AssertionError, match="30 of 31 keys in layer 0"), reading(model.bridge, keys=31):
        model.bridge(IDS[:, -4:], past_key_values=cache, use_cache=True)


def test_token_ids_beyond_the_vocabulary_are_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="reads token ids below 128 and its tokenizer gives 128"):
        answers(model, [[*PROMPT, 128]], 4)
    with pytest.raises(ValueError, match="tokenizer and weights do not belong together"):
        model.prefill([500, *PROMPT], 60)


def eager_only() -> str:
    """A type of model that has no other attention; which they are changes with the version of transformers."""
    kinds = ("gemma2", "vaultgemma", "gptj", "gpt_neo", "bloom")
    return next(kind for kind in kinds if not MODEL_FOR_CAUSAL_LM_MAPPING[type(zoo_config(kind))]._supports_sdpa)


def test_eager_attention_reads_in_chunks_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scores grow with chunk x context for every head: 4 heads x 1,124 keys x 12 bytes a query."""
    kind = eager_only()
    model = wrap(zoo_hf(kind), tiny_tokenizer(), kind)
    assert model.attention == "eager"
    with torch.no_grad():
        assert torch.equal(model.native(IDS).logits, zoo_hf(kind)(IDS).logits)
    monkeypatch.setattr("retmask.model.lens.free_bytes", lambda device: 2 * 4 * 1124 * 12 * 200)
    assert model._chunk(1, 100) == 200
    assert model._chunk(2, 100) == 100
    assert model._chunk(8, 100) == 64
    row = cache_bytes(model.native.config, 1000, torch.float32) + 64 * 4 * 1000 * 12
    monkeypatch.setattr("retmask.model.lens.free_bytes", lambda device: 5 * row)
    model.check_rows(1000, 4)
    with pytest.raises(ValueError, match="5 caches of 1,000 tokens need"):
        model.check_rows(1000, 5)


def test_masks_of_a_cache_with_shared_layers_are_refused() -> None:
    """Gemma 4's last layers may attend to the keys of earlier ones: they keep none of their own."""
    kinds = ["sliding_attention", "full_attention"] * 2
    config = zoo_config("gemma4_text", num_hidden_layers=4, layer_types=kinds, num_kv_shared_layers=2)
    hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with pytest.raises(ValueError, match="2 of its 4 layers keep no keys and values"):
        wrap(hf, tiny_tokenizer(), "gemma4")
