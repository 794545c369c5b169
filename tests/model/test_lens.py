"""The two views, their masks and their cache, on tiny models of every shape."""

import contextvars
import threading

import pytest
import torch
from tiny import FAN, IDS, MASK, close, tiny_hf, tiny_model

from retmask.heads.grid import HeadId
from retmask.heads.masks import HeadMask
from retmask.model.bridge import few_rows, fold
from retmask.model.hooks import reading
from retmask.model.lens import LensModel, fork_plan


def test_views_share_every_weight_and_agree(model: LensModel) -> None:
    seen = {tensor.data_ptr() for tensor in model.bridge.parameters()}
    assert all(parameter.data_ptr() in seen for parameter in model.native.parameters())
    assert model.parity < 1e-4


@torch.no_grad()
def test_mask_is_the_same_on_both_views_and_in_the_weights(model: LensModel) -> None:
    """Scaling a head's output = scaling its columns of o_proj, the bias untouched."""
    with model.masked([MASK]):
        native, bridge = model.native(IDS).logits, model.bridge(IDS)
    unmasked = model.native(IDS).logits
    folded = tiny_hf(model.name.removeprefix("tiny-"))
    width = folded.config.get_text_config().head_dim if hasattr(folded.config, "head_dim") else 8
    for head, scale in MASK.scales.items():
        o_proj = folded.model.layers[head.layer].self_attn.o_proj
        o_proj.weight[:, head.head * width : (head.head + 1) * width] *= scale
    assert close(native, bridge)
    assert close(native, folded(IDS).logits)
    assert (native - unmasked).abs().max() > 0.01


@torch.no_grad()
def test_empty_mask_is_the_unmasked_model_bit_for_bit(model: LensModel) -> None:
    unmasked = model.native(IDS).logits
    with model.masked([HeadMask()]):
        assert torch.equal(model.native(IDS).logits, unmasked)


@torch.no_grad()
def test_each_row_has_its_own_mask(model: LensModel) -> None:
    with model.masked([HeadMask(), MASK]):
        both = model.native(IDS.repeat(2, 1)).logits
    with model.masked([MASK]):
        alone = model.native(IDS).logits
    assert close(both[0], model.native(IDS).logits[0])
    assert close(both[1], alone[0])


def test_a_mask_stays_in_the_thread_that_set_it() -> None:
    model, stop = tiny_model("llama"), threading.Event()
    with torch.no_grad():
        unmasked = model.native(IDS).logits

    def disturb() -> None:
        with torch.no_grad(), model.masked([MASK]):
            while not stop.is_set():
                model.native(IDS)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(disturb,))
    thread.start()
    try:
        with torch.no_grad():
            assert all(torch.equal(model.native(IDS).logits, unmasked) for _ in range(50))
    finally:
        stop.set()
        thread.join()


def test_mask_outside_the_grid_is_refused() -> None:
    model = tiny_model("llama")
    with (
        pytest.raises(ValueError, match="L40H2 is outside this model's 3 x 4 grid"),
        model.masked([HeadMask.of([HeadId(40, 2)])]),
    ):
        pass


@pytest.mark.parametrize("chunk", [5, 1024])
def test_rows_of_one_prompt_share_what_is_the_same(
    model: LensModel, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving a common pass at the first masked layer gives what each mask gives in a pass of its own."""
    monkeypatch.setattr("retmask.model.lens.PREFILL_CHUNK", chunk)
    prompt = IDS[0].tolist()
    assert model.forks
    forked = model.fan_out(prompt, 20, FAN)
    model.forks = False
    apart = model.fan_out(prompt, 20, FAN)
    for one, other in zip(forked.layers, apart.layers, strict=True):
        assert close(one.keys, other.keys)
        assert close(one.values, other.values)
        assert len(one.keys) == len(FAN)


def test_caches_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(
        "retmask.model.lens.free_bytes", lambda device: 10 * 2 * 3 * 2 * 16 * 100 * 4
    )  # ten rows of 100
    model.check_rows(100, 8)
    with pytest.raises(ValueError, match="9 caches of 100 tokens need"):
        model.check_rows(100, 9)


def test_fork_plan_by_hand() -> None:
    """First masked layers 0, none, 2, 1, 0 of 3: the unmasked row goes all the way, the others join from below."""
    assert fork_plan(FAN, 3) == ([1, 0, 4, 3, 2], {0: 3, 1: 4, 2: 5})
    assert fork_plan([HeadMask(), HeadMask()], 3) == ([0, 1], {2: 2})


@pytest.mark.parametrize("rows", [1, 2, 4, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_few_rows_are_multiplied_as_ever(rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    layer = torch.nn.Linear(24, 40, bias=bias)
    x = torch.randn(rows, 1, 24)
    assert torch.allclose(few_rows(layer, x), torch.nn.functional.linear(x, layer.weight, layer.bias), atol=1e-6)
    assert few_rows(layer, x[:, 0]).shape == (rows, 40)


@torch.no_grad()
def test_folded_masks_are_the_hooked_ones(model: LensModel) -> None:
    with model.masked([MASK]):
        hooked = model.native(IDS).logits
    fold(model, MASK)
    assert close(model.native(IDS).logits, hooked)
    assert close(model.bridge(IDS), hooked)


def test_masks_that_do_not_fit_the_batch_are_refused() -> None:
    model = tiny_model("llama")
    with torch.no_grad(), model.masked([MASK, MASK]), pytest.raises(AssertionError, match="2 masks for a batch of 3"):
        model.native(IDS.repeat(3, 1))


def test_reading_sees_nothing_outside_its_block() -> None:
    model = tiny_model("gemma3")
    with reading(model.bridge) as read:
        model.bridge(IDS)
    before = {layer: value.clone() for layer, value in read.items()}
    model.bridge(IDS.flip(1))
    assert sorted(read) == [0, 1, 2]
    assert all(torch.equal(read[layer], before[layer]) for layer in before)
    assert read[0].shape == (1, 4, 16)
