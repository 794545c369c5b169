"""How the next token is chosen: greedily, or drawn with a seed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor


class Step(NamedTuple):
    """One generated token of one row: its id and its log-probability (natural log) under the model that chose it."""

    token_id: int
    logprob: float


class Sampling(NamedTuple):
    """How the next token is chosen: the likeliest at temperature 0, else drawn from the most likely `top_p` (0-1].

    Each row draws with a generator of its own from the seed: alone or beside others it says the same.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def check(self) -> "Sampling":
        """Itself; ValueError where a number is out of range."""
        if not 0 <= self.temperature <= 5:
            raise ValueError(f"temperature {self.temperature:g} is outside 0 to 5: 0 takes the likeliest token")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p:g} is outside 0 to 1: 1 draws from all tokens")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed} is not possible: choose 0 or more")
        return self


def generator(sampling: Sampling) -> "tuple[Sampling, torch.Generator] | None":
    """What draws a row's tokens; None for greedy."""
    sampling.check()
    import torch  # here, so that a page that names a sampling opens without it

    return (sampling, torch.Generator().manual_seed(sampling.seed)) if sampling.temperature else None


def choose(
    logits: "Float[Tensor, 'row vocabulary']", draws: "Sequence[tuple[Sampling, torch.Generator] | None]"
) -> list[Step]:
    """The next token of every row: the likeliest, or a drawn one. Log-probabilities are the model's own, untempered."""
    logprobs = logits.log_softmax(-1)
    ids = logits.argmax(-1)
    for row, draw in enumerate(draws):
        if draw is not None:
            ids[row] = _drawn(logits[row], *draw)
    chosen = logprobs.gather(-1, ids[:, None])[:, 0]
    return [Step(token, logprob) for token, logprob in zip(ids.tolist(), chosen.tolist(), strict=True)]


def _drawn(logits: "Float[Tensor, 'vocabulary']", sampling: Sampling, generator: "torch.Generator") -> int:
    """A token by inversion: one uniform number a step, so that rows with one seed differ only where their models do."""
    import torch

    probabilities = (logits.cpu().double() / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, places = probabilities.sort(descending=True)
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p  # the likeliest tokens that together reach top_p stay
        probabilities[places[beyond]] = 0
    cumulated = probabilities.cumsum(-1)
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    return int(torch.searchsorted(cumulated, uniform * cumulated[-1], right=True).clamp(max=len(logits) - 1))
