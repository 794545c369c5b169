"""A trial with every field that a test does not care about."""

from typing import Any

from retmask.heads.grid import HeadId
from retmask.heads.trials import Trial


def a_trial(**changes: Any) -> Trial:
    """A trial of 512 tokens at half the depth that found its needle; `recall` goes with `success`."""
    success = changes.get("success", True)
    texts = {"needle": "a needle", "question": "?", "answer": "a", "response": "r", "response_ids": (11, 12)}
    place = {"context_tokens": 512, "depth": 0.5, "needle_span": (1, 4), "prompt_tokens": 6}
    return Trial(**(texts | place | {"success": success, "recall": float(success), "scores": {}} | changes))


def scores_of(**scores: float) -> dict[HeadId, float]:
    """Scores by heads that are written as h0_1 for L0H1."""
    return {HeadId.parse(key.replace("_", "-").lstrip("h")): value for key, value in scores.items()}
