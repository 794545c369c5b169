"""A set of pairs with what the gate and a person say of each: what is kept, what is shown, where one is. No widget."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from app.shared import readers
from retmask.pairs.gate import faults
from retmask.pairs.pair import ITEMS, PreferencePair, read_items
from retmask.pairs.review import REVIEW, Review, read_review

FILTERS = ["All", "Kept", "Dropped", "Edited", "Undecided"]


class Judged(NamedTuple):
    """A pair as the models made it, and the rules of the gate that find it, switched on or not."""

    pair: PreferencePair
    faults: tuple[str, ...]


def judged(folder: Path) -> tuple[Judged, ...]:
    """Every pair in a run's folder, judged by every rule: 0.2 ms a pair, so the result is worth keeping."""
    return tuple(Judged(pair, _faults(pair)) for pair in read_items(folder))


def pairs_of(folder: Path) -> tuple[Judged, ...]:
    """The pairs in a run's folder with what the gate says of each, read anew only when there are more."""
    return readers.cached(judged, folder, ITEMS)


def review_of(folder: Path) -> Review:
    """A person's decisions on the pairs in a run's folder."""
    return readers.cached(read_review, folder, REVIEW)


@lru_cache(maxsize=20_000)
def _faults(pair: PreferencePair) -> tuple[str, ...]:
    """What the rules find: as a run goes on, only its new pairs are judged."""
    return tuple(faults(pair))


@dataclass(frozen=True, eq=False)
class Reviewed:
    """All pairs of a run under a person's decisions; `allowed` are the rules that are switched off."""

    judged: Sequence[Judged]
    review: Review
    allowed: Collection[str]

    def keeps(self, i: int) -> bool:
        """Whether pair `i` is in the set, as `Review.keeps` has it."""
        verdict = self.review.verdicts.get(self.judged[i].pair.id)
        return verdict == "keep" if verdict else not self.active(i)

    def active(self, i: int) -> list[str]:
        """The rules that are switched on and find pair `i`."""
        return [name for name in self.judged[i].faults if name not in self.allowed]

    def pair(self, i: int) -> PreferencePair:
        """Pair `i`, with the person's texts where they have been edited."""
        return self.review.edited(self.judged[i].pair)

    @cached_property
    def kept(self) -> list[PreferencePair]:
        """The pairs that are in the set now."""
        return [self.pair(i) for i in range(len(self.judged)) if self.keeps(i)]

    @cached_property
    def faults(self) -> dict[str, int]:
        """How many pairs each rule finds, switched on or not."""
        return Counter(name for each in self.judged for name in each.faults)

    def decided(self, verdict: str) -> int:
        """How many pairs a person has decided on so."""
        verdicts = self.review.verdicts
        return sum(verdicts.get(each.pair.id) == verdict for each in self.judged)

    @property
    def edited(self) -> int:
        """How many pairs a person has edited."""
        return sum(each.pair.id in self.review.edits for each in self.judged)

    def shown(self, which: str = "All", search: str = "", rule: str = "") -> list[int]:
        """The pairs that pass: one of `FILTERS`, words that stand in one of their texts, a rule that finds them."""
        wanted = search.casefold().strip()
        return [i for i in range(len(self.judged)) if self._passes(i, which) and self._holds(i, wanted, rule)]

    def _passes(self, i: int, which: str) -> bool:
        name = self.judged[i].pair.id
        if which == "Edited":
            return name in self.review.edits
        if which == "Undecided":
            return name not in self.review.verdicts
        return which == "All" or self.keeps(i) == (which == "Kept")

    def _holds(self, i: int, wanted: str, rule: str) -> bool:
        if rule and rule not in self.judged[i].faults:
            return False
        if not wanted:
            return True
        pair = self.pair(i)
        texts = (pair.id, *(text for _, text in pair.messages), pair.chosen.text, pair.rejected.text)
        return any(wanted in text.casefold() for text in texts)

    @property
    def first(self) -> int:
        """Where to begin: at the first pair that nobody has decided on once there are decisions, else at the first."""
        verdicts = self.review.verdicts
        undecided = (i for i, each in enumerate(self.judged) if each.pair.id not in verdicts)
        return next(undecided, 0) if verdicts else 0


def nearest(shown: Sequence[int], at: int) -> int:
    """The place in `shown`, which is not empty, of pair `at`, or of the one after it, or of the last."""
    return min(bisect_left(shown, at), len(shown) - 1)
