"""Hops: a question that names the first of two or three facts, each of which leads to the next; variables to track."""

from random import Random
from string import ascii_uppercase

from retmask.items.item import Document, Item, Planted, Question, Task
from retmask.items.metrics import picked
from retmask.items.world import chain, joined, relation

_BEFORE = "Some facts are hidden in the text below. Answer the question by putting them together.\n\n"
_TWO = ("home flag", "home mayor", "home quarry", "berth cargo", "berth harbour", "harbour flag", "harbour quarry")
_THREE = ("berth harbour flag", "berth harbour quarry", "captain home flag", "captain home quarry")
# RULER's words (arXiv 2404.06654), its slip of the pen too
MEMORIZE = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
FIND = "Question: Find all variables that are assigned the value {query} in the text above."
FOUND = (
    "Answer: According to the chain(s) of variable assignment in the text above, {num_v} variables are assgined the "
    "value {query}, they are: "
)


def two(rng: Random, tokens: int) -> Document:
    """Four chains of two facts each."""
    return _chains(rng, rng.choice(_TWO))


def three(rng: Random, tokens: int) -> Document:
    """Four chains of three facts each."""
    return _chains(rng, rng.choice(_THREE))


def _chains(rng: Random, steps: str) -> Document:
    """Four chains of facts, two of whose ends are asked for; the other ends are the distractors."""
    chains = chain(rng, [relation(step) for step in steps.split()], 4)
    ends = [facts[-1].value for facts in chains]
    hops = len(chains[0])
    questions = (
        Question(
            asked.question,
            (asked.value,),
            (*ends[:n], *ends[n + 1 :]),
            tuple(range(n * hops, (n + 1) * hops)),
            prefix=f"Answer: {asked.stem}",
        )
        for n, asked in enumerate(map(joined, chains[:2]))
    )
    return Document(_BEFORE, tuple(Planted(fact.sentence) for facts in chains for fact in facts), tuple(questions))


def variables(rng: Random, tokens: int) -> Document:
    """Three chains of three variables each, the first of which is given a number and each other the one before it.

    Two are asked for.
    """
    names = ["".join(rng.sample(ascii_uppercase, 5)) for _ in range(9)]
    values = [str(value) for value in rng.sample(range(10_000, 100_000), 3)]
    given = [f"VAR {names[i - 1]}" if i % 3 else values[i // 3] for i in range(9)]
    depths = [depth for _ in values for depth in sorted(rng.random() for _ in range(3))]
    hidden = (f"VAR {name} = {value}." for name, value in zip(names, given, strict=True))
    questions = (
        Question(
            FIND.format(query=value),
            tuple(names[3 * n : 3 * n + 3]),
            (*names[: 3 * n], *names[3 * n + 3 :]),
            tuple(range(3 * n, 3 * n + 3)),
            prefix=FOUND.format(num_v=3, query=value).strip(),
        )
        for n, value in enumerate(values[:2])
    )
    return Document(MEMORIZE, tuple(map(Planted, hidden, depths)), tuple(questions))


def score(item: Item, response: str) -> float:
    """The share of what is asked for that the response names, times its share in the ends, or variables, it names."""
    return picked(response, item.gold, item.distractors)


TASKS = (
    Task("hops_two", "hops", 24, two, score),
    Task("hops_three", "hops", 24, three, score),
    Task("hops_variables", "hops", 30, variables, score),
)
