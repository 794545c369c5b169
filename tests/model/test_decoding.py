"""Decoding: answers, drawn tokens, sessions beside each other, and what a given text would have been worth."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny import FAN, IDS, MASK, close, tiny_model

from analyses.bench import plain_answer, plain_view
from retmask.heads.grid import HeadId
from retmask.heads.masks import HeadMask
from retmask.model.cache import longest_shared, stack
from retmask.model.decoding import Draw, Step, answers, choose, continuation_logits, decode, logprobs
from retmask.model.lens import LensModel
from retmask.text.sampling import Sampling


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
