"""Recall: values that stand verbatim in the context, in the shapes of RULER (arXiv 2404.06654) and of JSON."""

from random import Random
from uuid import UUID

from retmask.items.item import Document, Item, Planted, Question, Task
from retmask.items.metrics import picked, string_match_all

_COLOURS = "ivory ochre azure beige magenta mauve khaki lilac sepia tawny taupe charcoal"
_PLACES = "sawmill aqueduct vineyard depot hangar arsenal belfry distillery turret cloister foundry silo"
_BEFORE = "The text below hides the locker codes of some places. Remember them: you are asked for them afterwards.\n\n"
_OBJECT = "Below is a JSON object. Remember its values: you are asked for them afterwards.\n\n{\n"


def keys(rng: Random, count: int) -> list[str]:
    """That many places, no two the same."""
    pairs = [f"{colour} {place}" for colour in _COLOURS.split() for place in _PLACES.split()]
    return rng.sample(pairs, count)


def numbers(rng: Random, count: int) -> list[str]:
    """That many numbers of seven digits, no two the same."""
    return list(map(str, rng.sample(range(1_000_000, 10_000_000), count)))


def uuids(rng: Random, count: int) -> list[str]:
    """That many random UUIDs."""
    return [str(UUID(int=rng.getrandbits(128), version=4)) for _ in range(count)]


def single(rng: Random, tokens: int) -> Document:
    """One number in the text."""
    return _asked_one_by_one(keys(rng, 1), numbers(rng, 5), 1)


def multikey(rng: Random, tokens: int) -> Document:
    """Four numbers of four places, two of which are asked for."""
    return _asked_one_by_one(keys(rng, 4), numbers(rng, 4), 2)


def multikey_uuid(rng: Random, tokens: int) -> Document:
    """The same with UUIDs."""
    return _asked_one_by_one(keys(rng, 4), uuids(rng, 4), 2)


def multivalue(rng: Random, tokens: int) -> Document:
    """Three numbers of the same place, and three of another."""
    (asked, beside), values = keys(rng, 2), numbers(rng, 6)
    sentences = [_sentence(key, value) for key, value in zip([asked] * 3 + [beside] * 3, values, strict=True)]
    question, prefix = f"What are all the locker codes of the {asked}?", f"The locker codes of the {asked} are"
    asks = Question(question, tuple(values[:3]), tuple(values[3:]), (0, 1, 2), prefix)
    return Document(_BEFORE, tuple(map(Planted, sentences)), (asks,))


def multiquery(rng: Random, tokens: int) -> Document:
    """Six numbers of six places, three of which are asked for at once."""
    names, values = keys(rng, 6), numbers(rng, 6)
    places = "the {}, the {} and the {}".format(*names)
    question, prefix = f"What are the locker codes of {places}?", f"The locker codes of {places} are"
    asks = Question(question, tuple(values[:3]), tuple(values[3:]), (0, 1, 2), prefix)
    return Document(_BEFORE, tuple(map(Planted, map(_sentence, names, values))), (asks,))


def json_value(rng: Random, tokens: int) -> Document:
    """The value of a key in a JSON object of UUIDs, as many pairs as fit."""
    names, values = uuids(rng, 4), uuids(rng, 4)
    pairs = [f'"{uuids(rng, 1)[0]}": "{uuids(rng, 1)[0]}"' for _ in range(tokens // 16)]  # 76 characters each
    hidden = [Planted(f'"{name}": "{value}"') for name, value in zip(names, values, strict=True)]
    asked = ('What is the value of "{}" in the JSON object?', 'The value of "{}" is')
    questions = _one_by_one(names[:2], values, *asked)
    return Document(_OBJECT, tuple(hidden), questions, tuple(pairs), ",\n", ('"note": "', '"\n}'))


def score(item: Item, response: str) -> float:
    """The share of the right answers that stand in the response: RULER's measure, for items of one's own."""
    return string_match_all(response, item.gold)


def named(item: Item, response: str) -> float:
    """The share of the right values that the response names, times their share in the values that it names."""
    return picked(response, item.gold, item.distractors)


def _asked_one_by_one(names: list[str], values: list[str], asked: int) -> Document:
    """A sentence for every name, and a question for each of the first; what values are left are in no sentence."""
    wording = ("What is the locker code of the {}?", "The locker code of the {} is")
    questions = _one_by_one(names[:asked], values, *wording)
    return Document(_BEFORE, tuple(map(Planted, map(_sentence, names, values))), questions)


def _one_by_one(names: list[str], values: list[str], text: str, prefix: str) -> tuple[Question, ...]:
    """A question for each name: its value is right, all others are wrong."""
    return tuple(
        Question(text.format(name), (values[i],), _without(values, i), (i,), prefix.format(name))
        for i, name in enumerate(names)
    )


def _sentence(name: str, value: str) -> str:
    return f"A locker code of the {name} is {value}."


def _without(values: list[str], i: int) -> tuple[str, ...]:
    return tuple(values[:i] + values[i + 1 :])


TASKS = (
    Task("recall_single", "recall", 16, single, named),
    Task("recall_multikey", "recall", 16, multikey, named),
    Task("recall_multikey_uuid", "recall", 48, multikey_uuid, named),
    Task("recall_multivalue", "recall", 48, multivalue, named),
    Task("recall_multiquery", "recall", 48, multiquery, named),
    Task("recall_json", "recall", 48, json_value, named),
)
