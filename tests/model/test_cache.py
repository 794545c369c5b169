"""The cache against transformers' own, and what prompts share."""

import torch
from tiny import IDS, close, tiny_model

from retmask.model.cache import longest_shared, new_cache, shared, stack


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
