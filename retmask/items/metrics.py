"""What an answer is worth, 0 to 1: by what it holds, by what it cites, by how it ranks. An empty answer is worth 0."""

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from math import inf, isnan, log2
from statistics import fmean
from typing import NamedTuple

from retmask.text.recall import contains, words

_CITED = re.compile(r"\[(\d+)\]")


class Agreement(NamedTuple):
    """The share of what is wanted that is there, and of what is there that is wanted."""

    recall: float
    precision: float

    @property
    def f1(self) -> float:
        """Their harmonic mean; 0 where both are."""
        total = self.recall + self.precision
        return 2 * self.recall * self.precision / total if total else 0.0


def string_match_all(response: str, gold: Sequence[str]) -> float:
    """The share of the gold answers that stand in the response, case aside; RULER's measure (arXiv 2404.06654)."""
    return sum(answer.lower() in response.lower() for answer in gold) / len(gold)


def named(response: str, answers: Collection[str]) -> list[str]:
    """Those of the answers that a response has as whole words, case and a leading article aside."""
    return [answer for answer in answers if contains(response, answer)]


def picked(response: str, gold: Collection[str], distractors: Collection[str]) -> float:
    """The share of gold that a response names, times the share of gold in what it names: to name all is no answer.

    Its first line counts; where there are several gold answers, its first paragraph, for they may be listed.
    """
    part = _first(response.split("\n\n")) if len(gold) > 1 else first_line(response)
    right, wrong = len(named(part, gold)), len(named(part, distractors))
    return right / len(gold) * right / max(1, right + wrong)


def first_answer(response: str, gold: str) -> float:
    """Whether a response begins with the gold answer, as whole words, case and punctuation aside: label accuracy."""
    wanted = words(gold)
    return float(words(response)[: len(wanted)] == wanted)


def sets(given: Collection[str], gold: Collection[str]) -> Agreement:
    """Recall and precision by set membership; 0 and 0 for nothing given."""
    hits = len(set(given) & set(gold))
    return Agreement(hits / len(set(gold)), hits / max(1, len(set(given))))


def cited(response: str) -> list[str]:
    """The numbers that a response cites as [n], each once, in order."""
    return list(dict.fromkeys(_CITED.findall(response)))


def ndcg(ranking: Sequence[str], grades: Mapping[str, float], k: int = 10) -> float:
    """NDCG@k of a ranking, best first: gains are the grades, discounts 1 / log2(rank + 1) (Järvelin and Kekäläinen).

    What is ranked twice counts once; what has no grade takes a place and gains nothing. A ranking of all is worth what
    `sklearn.metrics.ndcg_score` says.
    """
    return _of_best([grades.get(name, 0) for name in dict.fromkeys(ranking)], grades, k)


def ndcg_by(worth: Mapping[str, float], grades: Mapping[str, float], k: int = 10) -> float:
    """NDCG@k of a ranking by worth, the mean over all orders of what is tied; what is not a number comes last.

    That is what `sklearn.metrics.ndcg_score` says.
    """
    last = {name: -inf if isnan(value) else value for name, value in worth.items()}
    gains: list[float] = []
    for _, tied in groupby(sorted(last, key=last.__getitem__, reverse=True), last.__getitem__):
        group = [grades.get(name, 0) for name in tied]
        gains += [fmean(group)] * len(group)
    return _of_best(gains, grades, k)


def _of_best(gains: Sequence[float], grades: Mapping[str, float], k: int) -> float:
    best = _gain(sorted(grades.values(), reverse=True)[:k])
    return _gain(gains[:k]) / best if best else 0.0


def _gain(grades: Sequence[float]) -> float:
    return sum(grade / log2(place + 1) for place, grade in enumerate(grades, start=1))


def length_penalty(response: str, most: int) -> float:
    """1 for a response of up to `most` words, then `most` / its words: what is twice too long is worth half."""
    return min(1.0, most / max(1, len(words(response))))


def first_line(response: str) -> str:
    """The first line of a response that has a word."""
    return _first(response.split("\n"))


def _first(parts: Sequence[str]) -> str:
    return next((part for part in parts if words(part)), "")
