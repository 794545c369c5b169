"""The ways to score a head: what each measures, where it comes from, and its arithmetic. No model, no torch.

All are measured on the same needle prompts, and a trial counts where the model found its needle.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

DetectorName = Literal["copy", "attention", "query", "causal"]
NULL_QUESTION = "N/A"  # what QRHead asks to see where a head looks whatever the question


class Detector(NamedTuple):
    """A way to score a head: its name, what it measures in a line and in full, and where it comes from.

    A score of a `signed` one may be below 0; `active` says what a head with a score above 0 did in a trial.
    """

    name: str
    says: str
    definition: str
    source: str
    signed: bool = False
    active: str = "was above 0"

    @property
    def copies(self) -> bool:
        """Whether a score counts copied tokens or trials, so that the papers' threshold of 0.1 means something."""
        return self.active == "copied"


DETECTORS = {
    "set": Detector(
        "copying",
        "copied needle tokens, each once",
        "The share (0-1) of the needle's scored tokens that the head copied: at some step of the answer it attended "
        "most to the token, and that token was generated.",
        "Wu et al. 2024, arXiv 2404.15574, eq. 1",
        active="copied",
    ),
    "steps": Detector(
        "copying, per step",
        "copied needle tokens, counted at every step",
        "As copied tokens, but a token that is copied at two steps counts twice, so that a score may pass 1.",
        "the public code of RetMask, arXiv 2601.11020",
        active="copied",
    ),
    "activation": Detector(
        "copying at all",
        "whether the head copied at all",
        "1 in a trial in which the head copied any scored token of the needle, else 0; the mean is the share of trials "
        "in which the head was active.",
        'Wu et al. 2024, arXiv 2404.15574, "activation frequency"',
        active="copied",
    ),
    "attention": Detector(
        "attention",
        "attention mass on the needle",
        "How much (0-1) of the head's attention lies on the needle's scored tokens, on average over the steps of the "
        "answer, whatever is generated.",
        "the semantic retrieval heads (SRH) of CompressKV, arXiv 2508.02401",
    ),
    "query": Detector(
        "query",
        "attention of the question on the needle, less that of N/A",
        "How much attention the tokens after the context pay to the needle's sentence, on average over them, less the "
        'same with the question "N/A". Needle tokens whose difference is more than two standard deviations below the '
        "mean are left out. Below 0 where the empty question looks there more.",
        "QRHead, arXiv 2506.09944",
        signed=True,
    ),
    "causal": Detector(
        "causal",
        "what the answer loses without the head",
        "The fall in the mean log-probability (nats a token) of the model's own answer when this head alone is masked "
        "while the question and the answer are read; the context before them is read unmasked. Below 0 where the "
        "answer is likelier without the head.",
        "one head at a time of the mask of RetMask, arXiv 2601.11020",
        signed=True,
    ),
    "gates": Detector(
        "DuoAttention gates",
        "learned gates",
        "A gate (0-1) a key/value head, trained to be 1 where full attention is needed.",
        "DuoAttention, arXiv 2410.10819",
    ),
    "ranking": Detector(
        "QRHead list",
        "a list of heads in order",
        "Only the order of the listed heads is known; nothing is known of the others.",
        "the lists of QRHead, arXiv 2506.09944",
    ),
    "unknown": Detector(
        "score file",
        "how it was counted is not recorded",
        "The file does not say how its scores were counted. The published files of RetMask count at every step.",
        "the file itself",
        active="copied",
    ),
}


def attention_mass(on_needle: Float[np.ndarray, "layer head step token"]) -> Float[np.ndarray, "layer head"]:
    """The detector `attention` in one trial, from the attention of each answer step on the scored tokens."""
    return np.asarray(on_needle.sum(-1).mean(-1))


def query_focus(
    asked: Float[np.ndarray, "layer head query token"], empty: Float[np.ndarray, "layer head null token"]
) -> Float[np.ndarray, "layer head"]:
    """The detector `query` in one trial, from the attention on the needle's tokens with the question and with N/A."""
    gap = asked.mean(2) - empty.mean(2)
    spread = gap.std(-1, ddof=1, keepdims=True) if gap.shape[-1] > 1 else np.inf  # as in QRHead's code
    floor = gap.mean(-1, keepdims=True) - 2 * spread
    return np.asarray(np.where(gap < floor, 0.0, gap).sum(-1))
