"""Re-rank: passages to put in order by how many of two conditions they meet; NDCG@10 with the grades 2, 1 and 0."""

from collections.abc import Sequence
from random import Random

from retmask.items.item import Document, Item, Planted, Question, Task
from retmask.items.metrics import cited, ndcg
from retmask.items.world import entries, numbered, relation

_BEFORE = "Each passage below ends in its number.\n\n"
_ASKED = (
    "Which passage is about a ship whose home port is {} and whose cargo is {}? Rank the passages by how well they "
    "match, the best first: [number] > [number] > [number]"
)


def plant(rng: Random, tokens: int) -> Document:
    """Passages about ships with a home port and a cargo: one meets both conditions, two meet one, the others none."""
    ships = entries(rng, [relation("harbour"), relation("cargo")], 20 + tokens // 12)
    port, cargo = (fact.value for fact in ships[0])
    grades = [2, 1, 1]
    ships[1][0], ships[2][1] = ships[1][0]._replace(value=port), ships[2][1]._replace(value=cargo)
    others = [ship for ship in ships[3:] if ship[0].value != port and ship[1].value != cargo]
    ships = [*ships[:1], *(ship for ship in ships[1:3]), *others]
    passages = numbered(rng, [" ".join(fact.sentence for fact in ship) for ship in ships])
    numbers = [f"[{number}]" for number, _ in passages]
    asked = Question(
        _ASKED.format(port, cargo),
        (numbers[0],),
        tuple(numbers[1 : max(6, min(20, tokens // 64))]),
        (0, 1, 2),
        prefix=f"Ranking of the passages by home port {port} and cargo {cargo}:",
        data={"grades": dict(zip((number for number, _ in passages), grades, strict=False))},
    )
    texts = [text for _, text in passages]
    tail = (f"{texts.pop()} ", "")
    return Document(_BEFORE, tuple(map(Planted, texts[:3])), (asked,), tuple(texts[3:]), "\n", tail)


def score(item: Item, response: str) -> float:
    """NDCG@10 of the numbers in the order in which the response names them."""
    return ndcg(cited(response), item.data["grades"])


def ranked(item: Item, logprobs: Sequence[float]) -> float:
    """NDCG@10 of the passages in the order of their log-probability."""
    numbers = [cited(name)[0] for name in (*item.gold, *item.distractors)]
    order = sorted(range(len(numbers)), key=lambda i: -logprobs[i])
    return ndcg([numbers[i] for i in order], item.data["grades"])


TASKS = (
    Task("rerank_text", "rerank", 64, plant, score),
    Task("rerank_scored", "rerank", 8, plant, score, ranked, answers=False),
)
