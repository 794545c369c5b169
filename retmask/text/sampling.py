"""How the next token of an answer is chosen, here or by a server: greedily, or drawn with a seed. No torch."""

from typing import NamedTuple


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
