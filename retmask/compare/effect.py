"""What a mask does to a model: needle recall, and the perplexity of plain prose."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retmask.detect.trials import run_trials
from retmask.heads.intervals import clusters
from retmask.heads.masks import HeadMask
from retmask.text.haystack import Haystack
from retmask.text.needle import NeedlePrompt, NeedleTask

if TYPE_CHECKING:
    from retmask.model.lens import LensModel


WINDOW = 512  # tokens of prose that are read at once


def measure(
    model: "LensModel",
    mask: HeadMask,
    tasks: Sequence[NeedleTask] | Mapping[NeedleTask, NeedlePrompt],
    haystack: Haystack,
    prose: str,
    prose_tokens: int,
) -> dict[str, Any]:
    """What a mask does: mean ROUGE-1 recall (0-1), share of needles found (above 0.5), and perplexity of the prose."""
    began = time.perf_counter()
    trials = [trial for batch in run_trials(model.under(mask), tasks, haystack) for trial in batch]
    by_task = {trial.key: trial for trial in trials}
    asked = [by_task[task.key] for task in tasks if task.key in by_task]  # of equal prompts only the first is
    recalls = [trial.recall for trial in asked]
    return {
        "recall": round(float(np.mean(recalls)), 4),
        "found": round(float(np.mean([trial.success for trial in asked])), 4),
        "perplexity": round(perplexity(model, prose, prose_tokens, mask), 4),
        "trials": len(recalls),
        "recalls": recalls,
        "needles": clusters([trial.needle for trial in asked], "needle").of.tolist(),
        "heads": str(mask),
        "seconds": round(time.perf_counter() - began, 1),
    }


def perplexity(model: "LensModel", text: str, tokens: int, mask: HeadMask) -> float:
    """exp of the mean negative log-probability a token of plain text, read in windows of 512 from the start.

    The first token of each window is given. Where the tokenizer begins texts with a token of its own, so does each
    window.
    """
    from retmask.model.decoding import logprobs  # torch takes seconds to import, and readers of curves need none

    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"][:tokens]
    start = [token for token in model.tokenizer("")["input_ids"][:1] if token == model.tokenizer.bos_token_id]
    losses: list[float] = []
    for at in range(0, len(ids) - 1, WINDOW):
        window = [*start, *ids[at : at + WINDOW]]
        losses += [-value for value in logprobs(model, window[:1], window[1:], mask)]
    return float(np.exp(np.mean(losses)))
