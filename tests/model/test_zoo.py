"""Every architecture that transformers and the bridge share: right, or refused with a reason.

Right is: a mask is the same on both views and as columns of the output projection, and the positions that heads attend
to most are those of a plain loop that attends eagerly. `REFUSED` lists the others, so that a change of either library
in either direction is seen.
"""

import re
from typing import Any

import pytest
import torch
from tiny import tiny_tokenizer
from transformers import DynamicCache
from zoo import shared_types, zoo_hf

from retmask.heads.grid import HeadId
from retmask.heads.masks import HeadMask
from retmask.model.bridge import wrap
from retmask.model.decoding import answers
from retmask.model.lens import LensModel

NO_HEADS = "layer 0 has no attention heads that TransformerLens could show"
NOT_FROM_CACHE = "TransformerLens does not go on from its cache"
REFUSED = {
    **dict.fromkeys(("bamba", "granitemoehybrid", "jamba", "nemotron_h", "zamba2"), NO_HEADS),  # with Mamba layers
    **dict.fromkeys(("falcon_mamba", "mamba", "mamba2", "recurrent_gemma", "rwkv"), NO_HEADS),  # without attention
    **dict.fromkeys(("olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"), NO_HEADS),  # linear attention
    **dict.fromkeys(("lfm2", "lfm2_moe"), NO_HEADS),  # convolutions
    **dict.fromkeys(("deepseek_v4", "jetmoe"), NO_HEADS),  # projections of another kind
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "youtu"), NOT_FROM_CACHE),  # latent attention
    "glm4_moe_lite": "its layers keep more than keys and values",
    "glm_moe_dsa": "update_indexer",
    "falcon_h1": "its layers keep more than keys and values",
    "hrm_text": "TransformerLens shows 0 of its",
    "bert": "from its cache it answers otherwise than from the whole text",  # reads in both directions
    "laguna": r"the layers of this model have different numbers of heads \(4, 8\), which",
    "openai-gpt": "2 of its 2 layers keep no keys and values",
}
PROMPT = torch.randint(0, 120, (30,), generator=torch.Generator().manual_seed(1)).tolist()
MASK = HeadMask({HeadId(0, 1): 0.0, HeadId(1, 3): 0.5, HeadId(1, 0): 2.0})
_OUT = re.compile(r"(attn|attention|self_attention|attn\.attention)\.(o_proj|out_proj|c_proj|dense|Wo)$")


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-4 * float(other.abs().max()), rtol=0)


@pytest.mark.parametrize("kind", [kind for kind in shared_types() if kind not in REFUSED])
@torch.no_grad()
def test_heads_are_read_and_masked_as_they_are(kind: str) -> None:
    model = wrap(zoo_hf(kind), tiny_tokenizer(), kind)
    check_mask(model, zoo_hf(kind))
    check_attended(model, zoo_hf(kind, attn_implementation="eager"))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[kind]) as caught:
        wrap(zoo_hf(kind), tiny_tokenizer(), "acme/model")
    assert str(caught.value).startswith(f"acme/model ({kind}) cannot be read and masked head by head: ")
    assert "\n" not in str(caught.value)


def check_mask(model: LensModel, plain: Any) -> None:
    """One mask: on both views, and in the columns of a model that neither has touched."""
    ids = torch.tensor([PROMPT])
    unmasked = plain(ids).logits
    projections = [module for name, module in plain.named_modules() if _OUT.search(name)]
    assert len(projections) == model.grid.n_layers
    for head, scale in MASK.scales.items():
        weight = projections[head.layer].weight
        inputs = weight if isinstance(projections[head.layer], torch.nn.Linear) else weight.T
        width = inputs.shape[1] // model.grid.n_heads
        inputs[:, head.head * width : (head.head + 1) * width] *= scale
    masked = plain(ids).logits
    with model.masked([MASK]):
        assert close(model.native(ids).logits, masked)
        assert close(model.bridge(ids), masked)
    assert close(model.native(ids).logits, unmasked)
    assert not close(masked, unmasked)


def check_attended(model: LensModel, plain: Any) -> None:
    """The most attended positions of an answer to a prompt longer than the sliding window."""
    model.stop_ids = frozenset()
    answer = answers(model, [PROMPT], 8)[0]
    cache = DynamicCache()
    plain(torch.tensor([PROMPT[:-1]]), past_key_values=cache)
    last = PROMPT[-1]
    for step, token in enumerate(answer.token_ids):
        out = plain(torch.tensor([[last]]), past_key_values=cache, output_attentions=True)
        last = int(out.logits[0, -1].argmax())
        assert last == token
        for layer, pattern in enumerate(out.attentions):
            looked = pattern[0, :, -1].argmax(-1) + len(PROMPT) + step - pattern.shape[-1]
            assert answer.attended[step, layer].tolist() == looked.tolist()
