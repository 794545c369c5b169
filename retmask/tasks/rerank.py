"""Re-rank: passages to put in order by how many of two conditions they meet; NDCG@10 with the grades 2, 1 and 0."""

import re
from collections.abc import Sequence
from random import Random

from retmask.items.item import Document, Item, Planted, Question, Task
from retmask.items.metrics import ndcg, ndcg_by
from retmask.items.world import entries, numbered, relation

_BEFORE = "Each passage below ends in its number.\n\n"
_ASKED = (
    "Which passage is about a ship whose home port is {} and whose cargo is {}? Rank the passages by how well they "
    "match, the best first: passage, passage, passage."
)


def plant(rng: Random, tokens: int) -> Document:
    """Passages about ships with a home port and a cargo: one meets both conditions, two meet one, the others none."""
    first, *others = entries(rng, [relation("harbour"), relation("cargo")], 20 + tokens // 12)
    port, cargo = (fact.value for fact in first)
    others = [ship for ship in others if ship[0].value != port and ship[1].value != cargo]
    others[0][0], others[1][1] = others[0][0]._replace(value=port), others[1][1]._replace(value=cargo)
    ships, grades = [first, *others], [2, 1, 1]
    passages = numbered(rng, [" ".join(fact.sentence for fact in ship) for ship in ships], "(passage {})")
    numbers = [number for number, _ in passages]
    asked = Question(
        _ASKED.format(port, cargo),
        (numbers[0],),
        tuple(numbers[1 : max(6, min(20, tokens // 64))]),
        (0, 1, 2),
        prefix=f"Ranking: The home port is {port}. The cargo is {cargo} (passage",
        data={"grades": dict(zip(numbers, grades, strict=False))},
    )
    texts = [text for _, text in passages]
    tail = (f"{texts.pop()} ", "")
    return Document(_BEFORE, tuple(map(Planted, texts[:3])), (asked,), tuple(texts[3:]), "\n", tail)


def score(item: Item, response: str) -> float:
    """NDCG@10 of the numbers in the order in which the response names them."""
    return ndcg(re.findall(r"\d+", response), item.data["grades"])


def ranked(item: Item, logprobs: Sequence[float]) -> float:
    """NDCG@10 of the passages in the order of their log-probability, the mean over all orders of those alike."""
    return ndcg_by(dict(zip((*item.gold, *item.distractors), logprobs, strict=True)), item.data["grades"])


TASKS = (
    Task("rerank_text", "rerank", 64, plant, score),
    Task("rerank_scored", "rerank", 8, plant, score, ranked, answers=False),
)
