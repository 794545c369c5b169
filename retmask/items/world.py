"""The invented world: people, towns and ships that exist nowhere else, and what can be true of them.

No name and no sentence of it stands in what detection or pair generation asks (retmask/data/facts.json, needles).
"""

import json
import random
from functools import lru_cache
from itertools import cycle, islice
from typing import Any, NamedTuple

from retmask.files import shipped


class Relation(NamedTuple):
    """A kind of fact. `phrase` names the value without saying it: "the town where Ada Lorn lives"."""

    subject: str  # a kind of name
    value: str  # a kind of name, or of value
    sentence: str
    question: str
    phrase: str


class Fact(NamedTuple):
    """That a relation holds between a subject and a value."""

    relation: Relation
    subject: str
    value: str

    @property
    def sentence(self) -> str:
        """The fact in one sentence."""
        return _sentence(self.relation.sentence.format(subject=self.subject, value=self.value))

    @property
    def stem(self) -> str:
        """The sentence up to the value, which ends it."""
        return self.sentence.partition(f" {self.value}.")[0]

    @property
    def question(self) -> str:
        """What the value is asked with."""
        return self.relation.question.format(subject=self.subject)


def relation(name: str) -> Relation:
    """The relation of that name. KeyError for an unknown one."""
    return Relation(*_world()["relations"][name])


def relations(subject: str = "") -> list[Relation]:
    """The relations of one kind of subject, or all, in the order of the data."""
    return [Relation(*row) for row in _world()["relations"].values() if subject in ("", row[0])]


def associations() -> list[tuple[str, list[str]]]:
    """Questions that begin with Who, each with sentences about `{person}` that answer it with no content word of it."""
    return [(question, needles) for question, *needles in _world()["associations"]]


def topics() -> dict[str, list[str]]:
    """Topics, each with words that belong to it alone."""
    return {topic: listed.split() for topic, listed in _world()["topics"].items()}


def names(rng: random.Random, kind: str, count: int) -> list[str]:
    """That many values of a kind, no two the same: people, towns and ships up to 576, of others what the list has.

    No two of the first 24 share a part of their names. ValueError where there are not so many.
    """
    if kind in _world()["values"]:
        return rng.sample(_world()["values"][kind].split(), count)
    first, form, last = _world()["names"][kind]
    heads, tails = (rng.sample(parts, len(parts)) for parts in (first.split(), last.split()))
    n = len(heads)
    if count > n * n:
        raise ValueError(f"the world has {n * n} names for a {kind}, and {count} were asked for: choose fewer")
    return [form.format(heads[i % n], tails[(i + i // n) % n]) for i in range(count)]


def _all(rng: random.Random, kind: str) -> list[str]:
    return names(rng, kind, 576 if kind in _world()["names"] else len(_world()["values"][kind].split()))


def facts(rng: random.Random, relation: Relation, count: int) -> list[Fact]:
    """That many facts of a relation: no subject and no value is in it twice."""
    subjects, values = (names(rng, kind, count) for kind in (relation.subject, relation.value))
    return [Fact(relation, subject, value) for subject, value in zip(subjects, values, strict=True)]


def entries(rng: random.Random, kinds: list[Relation], count: int) -> list[list[Fact]]:
    """For that many subjects one fact of each of the relations; a value may stand in several.

    A name comes again after 576.
    """
    subjects, *pools = (_all(rng, kind) for kind in (kinds[0].subject, *(each.value for each in kinds)))
    return [
        [Fact(each, subject, rng.choice(pool)) for each, pool in zip(kinds, pools, strict=True)]
        for subject in islice(cycle(subjects), count)
    ]


def numbered(rng: random.Random, texts: list[str], mark: str = "[{}]") -> list[tuple[str, str]]:
    """Passages with random numbers of one length, 3 digits or more: the number, and the text that ends in it."""
    low = 10 ** max(2, len(str(2 * len(texts))) - 1)
    numbers = map(str, rng.sample(range(low, 10 * low), len(texts)))
    return [(n, f"{text.removesuffix('.')} {mark.format(n)}.") for n, text in zip(numbers, texts, strict=True)]


def chain(rng: random.Random, steps: list[Relation], count: int) -> list[list[Fact]]:
    """That many chains of facts in which the value of each is the subject of the next; none shares a name."""
    kinds = [names(rng, kind, count) for kind in (steps[0].subject, *(step.value for step in steps))]
    return [
        [Fact(step, subject, value) for step, subject, value in zip(steps, row, row[1:], strict=False)]
        for row in zip(*kinds, strict=True)
    ]


def joined(facts: list[Fact]) -> Fact:
    """What a chain of facts comes to: its last value, of what only the first subject names."""
    phrase = facts[0].subject
    for fact in facts[:-1]:
        phrase = fact.relation.phrase.format(subject=phrase)
    return facts[-1]._replace(subject=phrase)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


@lru_cache(maxsize=1)
def _world() -> dict[str, Any]:
    """The words and templates that come with the package."""
    value: dict[str, Any] = json.loads(shipped("world.json").read_text(encoding="utf-8"))
    return value
