"""The engine gives each mask and question what a plain loop gives it alone."""

import numpy as np
import pytest
import torch
from tiny import CONFIGS, FAN, tiny_model

from retmask.evaluate import engine
from retmask.evaluate.engine import Asked, Given, ask
from retmask.heads.masks import HeadMask
from retmask.model.lens import LensModel


def _questions() -> list[Asked]:
    rng = np.random.default_rng(1)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(rng.integers(0, 120, n).tolist())

    context = ids(20)
    return [
        Asked(context + ids(6), (ids(3), ids(1), ids(5)), 8),
        Asked(context + ids(6), (ids(2), ids(2)), 5),
        Asked(context[:12] + ids(14), (ids(4),), 8),
    ]


def _alone(model: LensModel, question: Asked, mask: HeadMask) -> Given:
    """What one question is given under one mask: a pass over everything for each token, without a cache."""

    def logits(ids: tuple[int, ...]) -> torch.Tensor:
        with torch.no_grad(), model.masked([mask]):
            return model.native(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)

    text: tuple[int, ...] = ()
    while len(text) < question.new_tokens:
        token = int(logits(question.prompt + text)[-1].argmax())
        if token in model.stop_ids:
            break
        text += (token,)
    worth = []
    for candidate in question.candidates:
        rows = logits(question.prompt + candidate)[len(question.prompt) - 1 : -1]
        worth.append(float(rows[range(len(candidate)), candidate].sum()))
    return Given(text, tuple(worth))


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("rows", [1, 4, 24])
def test_a_plain_loop_gives_the_same(family: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also split into batches of few rows, with answers of several lengths and numbers of candidates."""
    monkeypatch.setattr(engine, "ROWS", rows)
    model, questions = tiny_model(family), _questions()
    given = ask(model, questions, FAN)
    assert len(given) == len(FAN)
    for mask, row in zip(FAN, given, strict=True):
        for question, answer in zip(questions, row, strict=True):
            alone = _alone(model, question, mask)
            assert answer.token_ids == alone.token_ids
            assert answer.logprobs == pytest.approx(alone.logprobs, abs=1e-3)


def test_a_text_is_read_from_its_first_token_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Perplexity: nothing is answered, nothing is shared; a long text is read some steps at a time."""
    monkeypatch.setattr("retmask.model.decoding.LOGITS", 5 * 128 * len(FAN))
    model = tiny_model("llama")
    text = tuple(np.random.default_rng(2).integers(0, 120, 23).tolist())
    question = Asked(text[:1], (text[1:],), 0)
    for mask, [answer] in zip(FAN, ask(model, [question], FAN), strict=True):
        assert answer.token_ids == ()
        assert answer.logprobs == pytest.approx(_alone(model, question, mask).logprobs, abs=1e-3)


def test_a_prompt_beyond_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="reads 512 tokens and 520 were asked for"):
        ask(tiny_model("llama"), [Asked(tuple([1] * 510), ((1,),), 10)], [HeadMask()])
