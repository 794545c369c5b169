"""lm-eval asks our models: what its own model of transformers gives, ours gives, masked or not."""

from typing import Any

import pytest
import torch
from tiny import CONFIGS, tiny_hf, tiny_tokenizer

from retmask.heads.grid import HeadId
from retmask.heads.masks import HeadMask
from retmask.model.bridge import wrap
from retmask.text.chat import Chat

pytest.importorskip("lm_eval", reason="pip install -e '.[eval]'")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from retmask.evaluate.harness import HarnessLM

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
PAIRS = [
    ("The sky is", " blue"),
    ("The sky is", " green."),
    ("A longer one: the sky is ", "red"),
    ("", "Nothing before"),
]
MASKS = [HeadMask(), HeadMask.of([HeadId(0, 1), HeadId(2, 3)])]


def _requests(kind: Any, *args: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, arguments, 0, ("task", i, 1)) for i, arguments in enumerate(args)]


def _theirs(family: str, mask: HeadMask, length: int = 511) -> HFLM:
    """Their model, whose weights are zero where a masked head writes."""
    model = tiny_hf(family)
    size = model.config.head_dim if family != "olmo2" else model.config.hidden_size // 4
    with torch.no_grad():
        for head in mask.scales:
            columns = slice(head.head * size, (head.head + 1) * size)
            model.model.layers[head.layer].self_attn.o_proj.weight[:, columns] = 0
    return HFLM(model, tokenizer=tiny_tokenizer(TEMPLATE), backend="causal", max_length=length, batch_size=2)


def _ours(family: str) -> HarnessLM:
    model = wrap(tiny_hf(family), tiny_tokenizer(TEMPLATE), f"tiny-{family}")
    return HarnessLM(model, Chat(model.tokenizer), MASKS)


@pytest.mark.parametrize("family", CONFIGS)
def test_log_likelihoods_are_theirs(family: str) -> None:
    ours = _ours(family)
    for ours.row, mask in enumerate(MASKS):
        expected = _theirs(family, mask).loglikelihood(_requests("loglikelihood", *PAIRS), disable_tqdm=True)
        given = ours.loglikelihood(_requests("loglikelihood", *PAIRS), disable_tqdm=True)
        assert [greedy for _, greedy in given] == [greedy for _, greedy in expected]
        assert [worth for worth, _ in given] == pytest.approx([worth for worth, _ in expected], abs=1e-4)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_rolled_text_is_worth_what_theirs_is(family: str) -> None:
    """Also one that is longer than the model reads at once."""
    texts = [("A short text.",), ("A long text goes on and on. " * 40,)]
    ours = _ours(family)
    for ours.row, mask in enumerate(MASKS):
        requests = _requests("loglikelihood_rolling", *texts)
        expected = _theirs(family, mask).loglikelihood_rolling(requests, disable_tqdm=True)
        assert ours.loglikelihood_rolling(requests) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", CONFIGS)
def test_greedy_texts_are_theirs(family: str) -> None:
    """With and without texts that end an answer, which differ from request to request."""
    ours, prompts = _ours(family), ("The sky is", "A longer one: the sky is", "Grass is")
    for ours.row, mask in enumerate(MASKS):
        theirs = _theirs(family, mask)
        whole = {"until": [], "max_gen_toks": 12, "do_sample": False}
        [text] = theirs.generate_until(_requests("generate_until", (prompts[0], whole)), disable_tqdm=True)
        ends = [text[3:5] or "#", text[7:8] or "!"]
        hows = [whole, whole | {"until": ends}, whole | {"until": ends[1], "max_gen_toks": 5}]
        requests = _requests("generate_until", *[(prompt, how) for prompt in prompts for how in hows])
        assert ours.generate_until(requests) == theirs.generate_until(requests, disable_tqdm=True)


def test_prompts_in_the_chat_template_are_theirs() -> None:
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "The answer is"}]
    ours, theirs = _ours("llama"), _theirs("llama", MASKS[0])
    for chat, opens in ((turns[:1], True), (turns, False)):
        prompt = ours.apply_chat_template(chat, add_generation_prompt=opens)
        assert prompt == theirs.apply_chat_template(chat, add_generation_prompt=opens)
        pair = _requests("loglikelihood", (prompt, " 7."))
        assert ours.loglikelihood(pair)[0][0] == pytest.approx(theirs.loglikelihood(pair)[0][0], abs=1e-4)
