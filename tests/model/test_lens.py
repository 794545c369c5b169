"""The two views, their masks and their cache, on tiny models of every shape."""

import contextvars
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CONFIGS, tiny_folder, tiny_hf, tiny_model

import retmask
from analyses.bench import plain_answer, plain_view
from retmask.heads.grid import Grid, HeadId
from retmask.heads.masks import HeadMask
from retmask.model.bridge import few_rows, fold
from retmask.model.cache import longest_shared, new_cache, shared, stack
from retmask.model.decoding import Draw, Step, answers, choose, continuation_logits, decode, logprobs
from retmask.model.fit import Estimate, estimate
from retmask.model.hooks import reading
from retmask.model.lens import LensModel, fork_plan
from retmask.model.weights import resolve
from retmask.text.sampling import Sampling

IDS = torch.tensor([[5, 17, 99, 3, 42, 8, 64, 64, 12, 77, 23, 1, 90, 5, 33, 21]])
MASK = HeadMask({HeadId(0, 1): 0.0, HeadId(2, 3): 0.5, HeadId(1, 0): 2.0})


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> LensModel:
    return tiny_model(request.param)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=2e-5)


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


def test_answers_equal_the_plain_loop(model: LensModel) -> None:
    """Tokens and most-attended positions, in a batch, on a shared trunk, past a sliding window of 8."""
    rng = np.random.default_rng(0)
    start = rng.integers(0, 120, 20).tolist()
    prompts = [start[:k] + rng.integers(0, 120, 30 - k).tolist() for k in (20, 12, 0, 20)]
    trunk = longest_shared(prompts)
    assert len(trunk.token_ids) >= 20
    hf = plain_view(model)
    for prompt, answer in zip(prompts, answers(model, prompts, 12, trunk), strict=True):
        plain = plain_answer(hf, prompt, 12, model.stop_ids)
        assert answer.token_ids == plain.token_ids
        np.testing.assert_array_equal(answer.attended, plain.attended)


def test_rows_keep_their_masks_when_others_end() -> None:
    """Decoded together, each row says what it says alone, also after most rows have ended."""
    model, prompt = tiny_model("llama"), IDS[0].tolist()
    masks = [HeadMask(), MASK, HeadMask.of([HeadId(1, 2)]), HeadMask.of([HeadId(0, 0)], 0.3)]

    def texts(chosen: list[HeadMask]) -> list[list[int]]:
        cache = stack([model.prefill(prompt[:-1], 40)] * len(chosen), 40)
        steps = list(decode(model, cache, [prompt[-1]] * len(chosen), 20, chosen))
        return [[step[row].token_id for step in steps if step[row]] for row in range(len(chosen))]

    free = texts(masks)
    assert len({tuple(text) for text in free}) == len(masks)
    model.stop_ids = frozenset({free[0][2], free[2][3]})  # two rows end early
    together = texts(masks)
    assert min(map(len, together)) < max(map(len, together))
    assert together == [texts([mask])[0] for mask in masks]


FAN = [MASK, HeadMask(), HeadMask.of([HeadId(2, 0)]), HeadMask.of([HeadId(1, 2)], 0.3), HeadMask.of([HeadId(0, 0)])]


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


def test_sampling_says_the_same_alone_and_beside_others() -> None:
    model, prompt = tiny_model("qwen3"), IDS[0].tolist()
    model.stop_ids = frozenset()
    drawn = Sampling(0.9, 0.8, 5)

    def text(masks: list[HeadMask], row: int) -> list[int]:
        cache = model.fan_out(prompt[:-1], 40, masks)
        steps = decode(model, cache, [prompt[-1]] * len(masks), 20, masks, [drawn] * len(masks))
        return [step[row].token_id for step in steps]

    assert text([MASK], 0) == text(FAN, 0) == text([HeadMask(), MASK], 1)
    assert text([MASK], 0) != text([HeadMask()], 0)


def test_drawn_tokens_follow_their_probabilities() -> None:
    """Half, a quarter, a quarter; with top_p 0.6 the two likeliest stay, with 0.5 only the first."""
    logits = torch.tensor([0.25, 0.5, 0.25, 0.0]).log()[None]

    def shares(top_p: float, temperature: float = 1.0) -> list[float]:
        draw = Draw.begin(Sampling(temperature, top_p, 3))
        found = [choose(logits, [draw])[0].token_id for _ in range(3000)]
        return [found.count(token) / 3000 for token in range(4)]

    assert shares(1.0) == pytest.approx([0.25, 0.5, 0.25, 0], abs=0.03)
    assert shares(0.6) == pytest.approx([1 / 3, 2 / 3, 0, 0], abs=0.03)
    assert shares(0.5) == [0, 1, 0, 0]
    assert shares(1.0, 0.5) == pytest.approx([1 / 6, 2 / 3, 1 / 6, 0], abs=0.03)  # squared
    assert choose(logits, [None])[0] == Step(1, pytest.approx(np.log(0.5)))


@pytest.mark.parametrize("wrong", [Sampling(-1), Sampling(9), Sampling(1, 0), Sampling(1, 1.1), Sampling(1, 1, -1)])
def test_impossible_sampling_is_refused(wrong: Sampling) -> None:
    with pytest.raises(ValueError, match=r"outside|not possible"):
        wrong.check()


def test_eight_sessions_at_once_say_what_each_says_alone() -> None:
    """With other masks each, one of them left halfway: nothing of one is seen in another, and no lock is kept."""
    model, prompt = tiny_model("gemma3"), IDS[0].tolist()
    model.stop_ids = frozenset()
    masks = [HeadMask.random(model.grid, k, k) for k in range(8)]

    def session(mask: HeadMask, steps: int = 30) -> list[int]:
        cache = model.fan_out(prompt[:-1], 60, [mask, HeadMask()])
        decoding = decode(model, cache, [prompt[-1]] * 2, 30, [mask, HeadMask()])
        return [step[0].token_id for step, _ in zip(decoding, range(steps), strict=False)]

    alone = [session(mask) for mask in masks]
    assert len(set(map(tuple, alone))) >= 6
    with ThreadPoolExecutor(9) as pool:
        left = pool.submit(session, masks[3], 7)
        together = list(pool.map(session, masks))
    assert together == alone
    assert left.result() == alone[3][:7]
    assert not model.lock.locked()


def test_sessions_in_one_thread_keep_apart() -> None:
    """Two iterators advanced in turn, as two pages of one server may be."""
    model, prompt = tiny_model("llama"), IDS[0].tolist()
    model.stop_ids = frozenset()

    def session(mask: HeadMask) -> Iterator[int]:
        cache = model.fan_out(prompt[:-1], 40, [mask])
        return (step[0].token_id for step in decode(model, cache, [prompt[-1]], 20, [mask]))

    alone = [list(session(mask)) for mask in FAN[:3]]
    turns = list(zip(*map(session, FAN[:3]), strict=True))
    assert [list(texts) for texts in zip(*turns, strict=True)] == alone


@torch.no_grad()
def test_given_texts_have_the_logits_of_a_plain_pass(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retmask.model.decoding.LOGITS", 3 * 2 * 128)  # three steps at a time
    prompt, text = IDS[0, :9].tolist(), IDS[0, 9:].tolist()
    cache = model.fan_out(prompt[:-1], 20, [HeadMask(), MASK])
    parts = list(continuation_logits(model, cache, prompt, text, [HeadMask(), MASK]))
    assert [part.shape[1] for part in parts] == [3, 3, 1]
    with model.masked([MASK]):
        masked = model.native(IDS).logits[0, 8:-1]
    assert close(torch.cat(parts, 1)[1], masked)
    assert close(torch.cat(parts, 1)[0], model.native(IDS).logits[0, 8:-1])
    own = masked.log_softmax(-1).gather(-1, IDS[0, 9:, None])[:, 0]
    assert logprobs(model, prompt, text, MASK) == pytest.approx(own.tolist(), abs=1e-4)


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


def test_answer_ends_at_a_stop_token_and_may_be_empty() -> None:
    model = tiny_model("llama")
    prompt = IDS[0].tolist()
    free = answers(model, [prompt], 6)[0].token_ids
    assert len(free) == 6
    model.stop_ids = frozenset({free[3]})
    assert answers(model, [prompt], 6)[0].token_ids == free[: free.index(free[3])]
    model.stop_ids = frozenset({free[0]})
    empty = answers(model, [prompt, prompt[::-1]], 6)[0]
    assert empty.token_ids == ()
    assert empty.attended.shape == (0, 3, 4)


def test_reading_sees_nothing_outside_its_block() -> None:
    model = tiny_model("gemma3")
    with reading(model.bridge) as read:
        model.bridge(IDS)
    before = {layer: value.clone() for layer, value in read.items()}
    model.bridge(IDS.flip(1))
    assert sorted(read) == [0, 1, 2]
    assert all(torch.equal(read[layer], before[layer]) for layer in before)
    assert read[0].shape == (1, 4, 16)


def test_cache_grows_crops_and_stacks_like_a_plain_one() -> None:
    model = tiny_model("qwen3")
    ids = IDS[0].tolist()
    small = new_cache(4)  # must grow three times
    with torch.no_grad():
        whole = model.native(IDS).logits
        for token in ids:
            last = model.native(torch.tensor([[token]]), past_key_values=small).logits
        assert close(last[:, -1], whole[:, -1])
        rows = stack([small, small], 40, 10)
        assert rows.get_seq_length() == 10
        again = model.native(IDS[:, 10:].repeat(2, 1), past_key_values=rows).logits
    assert close(again[1, -1], whole[0, -1])
    rows.crop(-6)
    assert rows.get_seq_length() == 10


def test_shared_beginnings() -> None:
    assert shared((1, 2, 3), (1, 2, 4)) == 2
    assert shared((1, 2), (1, 2, 4)) == 2
    assert shared((), (1,)) == 0
    assert longest_shared([(1, 2, 3, 9), (7, 8), (1, 2, 3, 4)]).token_ids == (1, 2, 3)
    assert longest_shared([(1, 2)]).token_ids == ()


def test_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="pickle that could run code"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config\.json"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "there is no model without a name"),
        ("./nowhere", "there is no model at"),
        ("no.gguf", "there is no file"),
    ],
)
def test_names_that_are_nothing(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        resolve(name)


def test_model_code_does_not_run_unasked(tmp_path: Path) -> None:
    tiny_hf("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="--trust-remote-code"):
        retmask.load(str(tmp_path))
    assert not (tmp_path / "ran").exists()


EVIL = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({ran!r}).touch()
class Config(LlamaConfig):
    model_type = "evil"
class Model(LlamaForCausalLM):
    config_class = Config
"""


@pytest.mark.parametrize("model_type", ["evil", "t5", "llama"])
def test_remote_code_is_asked_for_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str) -> None:
    """Whatever the folder names, its code does not run, and nobody is asked whether it may."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = tiny_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": model_type,
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    if model_type == "t5":
        del config["auto_map"]["AutoConfig"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(EVIL.format(ran=str(tmp_path / "ran")))
    if model_type == "llama":  # transformers knows how to run it without the folder's code
        retmask.load(str(folder), device="cpu", context_tokens=128)
    else:
        with pytest.raises(ValueError, match="allow it with --trust-remote-code"):
            retmask.load(str(folder), device="cpu", context_tokens=128)
    assert not (tmp_path / "ran").exists()


def test_trusted_code_passes_the_estimate(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(EVIL.format(ran=str(tmp_path / "ran")))
    model = retmask.load(str(folder), device="cpu", context_tokens=128, trust_remote_code=True)
    assert (tmp_path / "ran").exists()
    with torch.no_grad():
        assert close(model.native(IDS).logits, tiny_hf("llama")(IDS).logits)


@pytest.mark.parametrize("damage", ["empty", "garbage", "layers", "shapes", "no tokenizer", "no causal model"])
def test_broken_folders_get_one_sentence(tmp_path: Path, damage: str) -> None:
    folder = tiny_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    if damage in ("empty", "garbage"):
        (folder / "model.safetensors").write_bytes(b"" if damage == "empty" else b"x" * 500)
    elif damage == "no tokenizer":
        for file in folder.glob("tokenizer*"):
            file.unlink()
    else:
        change = {
            "layers": {"num_hidden_layers": 5, "layer_types": None},
            "shapes": {"intermediate_size": 64},
            "no causal model": {"model_type": "t5"},
        }[damage]
        (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match="model") as caught:
        retmask.load(str(folder), device="cpu", context_tokens=128)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_local_folder_and_adapter(tmp_path: Path) -> None:
    """A merged adapter gives the logits of the PEFT model."""
    from peft import LoraConfig, get_peft_model

    folder = tiny_folder(tmp_path)
    torch.manual_seed(1)
    tuned = get_peft_model(tiny_hf("llama"), LoraConfig(target_modules=["q_proj", "o_proj"], init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "adapter")
    model = retmask.load(str(folder), adapter=str(tmp_path / "adapter"), device="cpu", context_tokens=128)
    with torch.no_grad():
        assert close(model.native(IDS).logits, tuned(IDS).logits)
    assert model.grid == Grid(3, 4, 2)
    with pytest.raises(ValueError, match="is no adapter"):
        retmask.load(str(folder), adapter=str(folder), device="cpu", context_tokens=128)


def test_estimate_is_the_weights_and_the_cache(tmp_path: Path) -> None:
    found = estimate(str(tiny_folder(tmp_path)), 100, "float32", "cpu")
    assert found.weights_bytes == 4 * sum(p.numel() for p in tiny_hf("llama").parameters())
    assert found.cache_bytes == 2 * 3 * 2 * 16 * 100 * 4  # keys and values, layers, KV heads, d_head, tokens, bytes
    assert found.fits


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    wanted = Estimate("m", 1000, weights_bytes=6_000, cache_bytes=5_000, free_bytes=12_000, dtype="f", place="here")
    with pytest.raises(ValueError, match="choose at most 384 tokens"):  # (12000 / 1.2 - 6000) / (2 * 5) = 400
        wanted.check()
    with pytest.raises(ValueError, match="a smaller model"):
        wanted._replace(weights_bytes=60_000).check()


def test_wrong_device_and_dtype() -> None:
    with pytest.raises(ValueError, match="device 'gpu' is unknown"):
        retmask.load(device="gpu")
    with pytest.raises(ValueError, match="dtype 'int8' is unknown"):
        retmask.load(dtype="int8")
