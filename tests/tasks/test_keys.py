"""Every key follows from the context by a few lines of code, and not without what is planted; nothing is worth 0."""

import re
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from tiny import tiny_tokenizer

from retmask.items.item import Item
from retmask.items.packing import pack
from retmask.items.world import Relation, associations, relations, topics
from retmask.tasks import TASKS
from retmask.text.chat import Chat
from retmask.text.recall import contains

NUMBERS = "zero one two three four five six seven"
SHORT = "a an the and to of in on at with has had been be is was for by from as who his her can last no not"  # words


@cache
def items(task: str) -> list[Item]:
    """Some items, of 6,000 characters each."""
    return list(pack(TASKS[task], Chat(tiny_tokenizer()), 6000, 6))


def pattern(template: str, **known: str) -> str:
    """A regular expression for what a template makes; its unknown slots are groups."""
    parts = re.split(r"\{(\w*)\}", template)
    slots = [re.escape(known[name]) if name in known else "(.+?)" for name in parts[1::2]]
    return "".join(a + b for a, b in zip(map(re.escape, parts[::2]), [*slots, ""], strict=True))


def value(context: str, relation: Relation, subject: str) -> str:
    """What the context says that the relation holds of; the subject may be a phrase, which is looked up before."""
    for inner in relations():
        if match := re.fullmatch(pattern(inner.phrase), subject):
            subject = value(context, inner, match[1])
    says = re.search(pattern(relation.sentence, subject=subject), context)
    return says[1] if says else "unknown"


def fact(context: str, question: str) -> list[str]:
    matches = ((each, re.fullmatch(pattern(each.question), question)) for each in relations())
    return [value(context, each, match[1]) for each, match in matches if match]


def passage(context: str, question: str) -> list[str]:
    """The value, with the number of the passage that says it."""
    lines = [(re.search(r" (\[\d+\])\.", line), line) for line in context.split("\n")]
    said = [(fact(line.replace(f" {number[1]}", ""), question), number[1]) for number, line in lines if number]
    return [f"{value} {number}" for (value, *_), number in said if value != "unknown"]


def best_first(context: str, question: str) -> list[str]:
    port, cargo = re.findall(r"home port is (\w+) and whose cargo is (\w+)", question)[0]
    lines = [(re.search(r"\(passage (\d+)\)", line), line) for line in context.split("\n")]
    grades = {number[1]: contains(line, port) + contains(line, cargo) for number, line in lines if number}
    return [number for number in sorted(grades, key=lambda number: -grades[number]) if grades[number]][:3]


def tracked(context: str, question: str) -> list[str]:
    values = re.findall(r"\d{5}", question)
    for name, given in re.findall(r"VAR (\w+) = ([\w ]+)\.", context):
        values += [f"VAR {name}"] if given in values else []
    return [name.removeprefix("VAR ") for name in values[1:]]


def label(context: str, question: str) -> list[str]:
    shots = re.findall(r"^(\w+): (\w+)$", context, re.MULTILINE)
    topic = next(listed for listed in topics().values() if any(contains(question, word) for word in listed))
    return [label for text, label in shots if any(contains(text, word) for word in topic)][:1]


def holders(context: str, question: str) -> list[str]:
    people = re.findall(r"In \d{4} the office of .+? went to (\w+ \w+)\.", context)
    if "how many" in question:
        return [NUMBERS.split()[len(people)]]
    return people[-1:] if "last" in question else people[:1]


def summary(context: str, question: str) -> list[str]:
    name = re.findall(r"says about (.+?)\.", question)[0]
    return [value(context, each, name) for each in relations("person")]


def association(context: str, question: str) -> list[str]:
    needles = dict(associations())[question.partition(" Choose")[0]]
    return [match[1] for needle in needles for match in re.finditer(rf"(\w+ \w+){pattern(needle)[5:]}", context)]


SOLVERS: dict[str, Callable[[str, str], list[str]]] = {
    "rag": fact,
    "hops_two": fact,
    "hops_three": fact,
    "hops_variables": tracked,
    "cite": passage,
    "rerank_text": best_first,
    "rerank_scored": best_first,
    "icl": label,
    "qa": holders,
    "summary": summary,
    "association": association,
}
WRITTEN = [name for name in SOLVERS if TASKS[name].answers]


def solved(item: Item, context: str) -> str:
    """What follows from a context, as a response."""
    return ", ".join(SOLVERS[item.task](context, item.question))


def without(item: Item) -> Iterator[str]:
    """The context without one of the texts that are needed; without a label all of whose shots are."""
    if item.category == "icl":
        yield re.sub(rf"^\w+: {item.gold[0]}$", "", item.context, flags=re.MULTILINE)
    for start, end in (
        item.planted[:1] if item.category == "qa" else item.planted
    ):  # who had the office between is not asked
        yield item.context[:start] + item.context[end:]


@pytest.mark.parametrize("name", WRITTEN)
def test_the_key_follows_from_the_context(name: str) -> None:
    for item in items(name):
        assert TASKS[name].score(item, solved(item, item.context)) == 1.0


@pytest.mark.parametrize("name", WRITTEN)
def test_it_follows_from_no_context_that_lacks_what_is_planted(name: str) -> None:
    for item in items(name):
        contexts = [*without(item)]
        assert contexts
        for context in contexts:
            assert TASKS[name].score(item, solved(item, context)) < 1.0


@pytest.mark.parametrize("name", WRITTEN)
def test_nothing_is_worth_nothing_and_what_is_wrong_less_than_right(name: str) -> None:
    for item in items(name):
        score = TASKS[name].score
        assert score(item, "") == score(item, " \n") == 0.0
        assert max(score(item, wrong) for wrong in item.distractors) < score(item, solved(item, item.context))


@pytest.mark.parametrize("name", [*WRITTEN, *(name for name in TASKS if name.startswith("recall"))])
def test_to_name_all_candidates_is_not_to_answer(name: str) -> None:
    scores = [TASKS[name].score(item, ", ".join(sorted({*item.gold, *item.distractors}))) for item in items(name)]
    assert sum(scores) / len(scores) <= 0.5


def test_what_is_asked_in_icl_has_no_label_in_the_context() -> None:
    for item in items("icl"):
        assert item.prefix not in item.context
        assert item.context.count(f": {item.gold[0]}\n") > 3


def test_ranks_are_among_the_same_kind_first() -> None:
    for item in items("summary"):
        assert all(f" lives in {value}." in item.context for value in (item.gold[0], *item.distractors[:3]))
    counts = [item for item in items("qa") if "how many" in item.question]
    assert counts
    for item in counts:
        places = [NUMBERS.split().index(word) for word in (*item.gold, *item.distractors[:2])]
        assert {abs(place - places[0]) for place in places[1:]} == {1}


@pytest.mark.parametrize("name", SOLVERS)
def test_distractors_stand_in_the_context(name: str) -> None:
    for item in items(name):
        assert len(set(item.distractors) - set(item.gold)) >= 3
        if "how many" not in item.question:
            assert [wrong for wrong in item.distractors if wrong not in item.context] == []


def test_a_ranking_by_log_probability_is_worth_its_order() -> None:
    for item in items("rerank_scored"):
        ranked = TASKS["rerank_scored"].ranked
        assert ranked is not None
        worth = [-float(place) for place in range(1 + len(item.distractors))]
        assert ranked(item, worth) == 1.0
        assert ranked(item, worth[::-1]) < 0.5
        assert ranked(item, [-1.0] * len(worth)) == ranked(item, [float("nan")] * len(worth)) < 0.5


def test_an_association_shares_no_content_word_with_its_question() -> None:
    """Nor does a needle answer another question by its words."""
    for question, needles in associations():
        asked = {word[:4] for word in re.findall(r"\w+", question.lower()) if word not in SHORT.split()}
        for needle in needles:
            assert not asked & {word[:4] for word in re.findall(r"\w+", needle.lower()) if word not in SHORT.split()}


def test_a_summary_that_runs_on_is_worth_less() -> None:
    item = items("summary")[0]
    score, right = TASKS["summary"].score, solved(item, item.context)
    assert score(item, f"{right} {'so ' * 120}") < 0.6
    assert score(item, ", ".join(item.gold[:2])) == pytest.approx(2 * 0.4 * 1 / 1.4)
    assert score(item, ", ".join([*item.gold[:2], *item.distractors[:2]])) < 0.5


def test_a_citation_counts_as_much_as_the_answer() -> None:
    item = items("cite")[0]
    score, number = TASKS["cite"].score, item.data["passages"][0]
    assert score(item, item.gold[0]) == pytest.approx(1 / 3)
    assert score(item, f"Nobody [{number}]") == pytest.approx(2 / 3)
    assert score(item, f"{item.gold[0]} [{number}][99]") == pytest.approx((1 + 1 + 0.5) / 3)
