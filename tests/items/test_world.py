"""The invented world: what it tells apart, and that nothing of it stands in what is detected or trained with."""

import json
import random
import re

import pytest

from retmask.files import shipped
from retmask.items.world import chain, facts, joined, names, relation, relations
from retmask.text.recall import contains, words

WORLD = json.loads(shipped("world.json").read_text(encoding="utf-8"))
KINDS = [*WORLD["names"], *WORLD["values"]]
RNG = random.Random(1)
THEIRS = "\n".join(shipped(name).read_text() for name in ("facts.json", "needles.json", "needles_held_out.json"))


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_a_kind_are_told_apart(kind: str) -> None:
    """None stands in another, and a longer list begins with the same ones."""
    values = names(random.Random(5), kind, 24)
    assert len(set(values)) == 24
    assert not [(a, b) for a in values for b in values if a != b and contains(b, a)]


@pytest.mark.parametrize("kind", WORLD["names"])
def test_names_are_many(kind: str) -> None:
    assert len(set(names(RNG, kind, 576))) == 576
    parts = [part for name in names(RNG, kind, 24) for part in name.removeprefix("the ").split()]
    assert len(set(parts)) == len(parts)
    with pytest.raises(ValueError, match=f"has 576 names for a {kind}, and 577 were asked for"):
        names(RNG, kind, 577)


def test_a_chain_leads_from_its_first_subject_to_its_last_value() -> None:
    steps = [relation("berth"), relation("harbour"), relation("flag")]
    first, *others = chain(random.Random(2), steps, 4)
    assert [fact.value for fact in first[:-1]] == [fact.subject for fact in first[1:]]
    start = first[0].subject
    assert joined(first).value == first[-1].value
    assert joined(first).stem.endswith(f"on the flag of the home port of the ship on which {start} serves is the")
    assert joined(first).question == f"Which bird is on the flag of the home port of the ship on which {start} serves?"
    assert not [fact for row in others for fact in row if {fact.subject, fact.value} & {f.value for f in first}]


def test_a_fact_has_its_value_in_the_sentence_alone() -> None:
    for kind in WORLD["names"]:
        for each in relations(kind):
            fact, other = facts(RNG, each, 2)
            assert [contains(fact.sentence, part) for part in fact[1:]] == [True, True]
            assert [contains(fact.question, part) for part in fact[1:]] == [True, False]
            assert len({fact.subject, fact.value, other.subject, other.value}) == 4
            assert re.fullmatch(r"[A-Z].*[^ ]\. [A-Z].*[^ ]\?", f"{fact.sentence} {fact.question}")


def test_the_world_is_apart_from_detection_and_pairs() -> None:
    """No part of a person's name, no town and no ship stands there; no value is one of theirs, no template the same."""
    theirs = set(words(THEIRS))
    parts = " ".join(WORLD["names"]["person"]).replace("{}", "").split()
    towns = names(RNG, "town", 576)
    assert not theirs & {word.lower() for word in (*parts, *towns)}
    assert not [ship for ship in names(RNG, "ship", 576) if contains(THEIRS, ship)]
    lists = json.loads(shipped("facts.json").read_text(encoding="utf-8"))
    values = {value.lower() for entries in lists["words"].values() for value in entries}
    assert not values & set(" ".join(WORLD["values"].values()).split())
    openings = {fact["question"].format_map(_Slots()) for fact in lists["facts"]}
    assert not openings & {row[3].replace("{subject}", "_") for row in WORLD["relations"].values()}


class _Slots(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "_"


def test_the_same_seed_gives_the_same_world_everywhere() -> None:
    assert names(random.Random("recall 1024 0 0"), "person", 3) == ["Jonah Hawke", "Bram Fenwick", "Agnes Kemble"]
