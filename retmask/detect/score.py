"""The score of a head in a trial: how much of the needle it copied.

A head *copies* at a decode step when the position it attends to most lies in the needle and holds the token that is
generated at that step. Its score in a trial is the part of the needle that it copied: |g_h ∩ k| / |k|, k being the
needle's scored token positions (Wu et al. 2024, arXiv 2404.15574, eq. 1).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from retmask.text.needle import NeedlePrompt

GATE = 0.5  # a trial counts when its ROUGE-1 recall is above this (RetMask's code)
Counting = Literal["set", "steps"]


def copies(
    attended: Int[np.ndarray, "step layer head"],
    generated: Sequence[int],
    prompt_ids: Sequence[int],
    needle_span: tuple[int, int],
) -> Bool[np.ndarray, "step layer head"]:
    """Whether each head copied from the needle at each step.

    `attended` is the most-attended position of every head when the step's token was chosen; positions from
    `len(prompt_ids)` on are the answer itself and never count.
    """
    start, end = needle_span
    inside = (attended >= start) & (attended < end)
    token = np.asarray(prompt_ids)[np.where(inside, attended, start)]
    hit: Bool[np.ndarray, "step layer head"] = inside & (token == np.asarray(generated, dtype=int)[:, None, None])
    return hit


def retrieval_score(
    attended: Int[np.ndarray, "step layer head"],
    generated: Sequence[int],
    prompt: NeedlePrompt,
    counting: Counting = "set",
) -> Float[np.ndarray, "layer head"]:
    """The score of every head in one trial.

    With `set` (default) each needle position counts once, so scores are in [0, 1]. With `steps` it counts at every
    step that copies it, as RetMask's public code does: scores are at least 0 and may pass 1.
    """
    start, end = prompt.needle_span
    hit = copies(attended, generated, prompt.token_ids, prompt.needle_span)
    if counting == "steps":
        return np.asarray(hit.sum(axis=0) / (end - start))
    positions = np.arange(start, end)
    copied = (hit[..., None] & (attended[..., None] == positions)).any(axis=0)
    return np.asarray(copied.sum(axis=-1) / (end - start))
