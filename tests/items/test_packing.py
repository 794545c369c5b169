"""Items: exact in length with any tokenizer, what is planted in its place, the items of a document alike."""

import json
from functools import cache
from itertools import takewhile
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer
from transformers import AutoTokenizer

from retmask.items.item import Document, Item, Planted, Question, Task
from retmask.items.packing import answer, pack, prompt
from retmask.model.gguf import built_in
from retmask.tasks import TASKS
from retmask.text.chat import Chat

CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[go]"
TINY = Chat(tiny_tokenizer())
each_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@cache
def chat(name: str) -> Chat:
    """A tokenizer with a template and one without, from real models, and one of a token a character with either."""
    if name.startswith("tiny"):
        return Chat(tiny_tokenizer(CHAT if name == "tiny in a template" else None))
    return Chat(AutoTokenizer.from_pretrained(built_in(name)))


def packed(task: Task, chat: Chat, tokens: int, count: int = 2, seed: int = 0) -> list[Item]:
    """The items; where the window is too small for the task, those of one that is not."""
    try:
        return list(pack(task, chat, tokens, count, seed))
    except ValueError as error:
        least = int(str(error).removesuffix(" are the least").rpartition(" ")[2])
        assert least > tokens
        return packed(task, chat, least + 50, count, seed)  # names are of different lengths


@each_task
@pytest.mark.parametrize("name", ["smollm2-135m", "gemma-3-270m", "tiny", "tiny in a template"])
@settings(deadline=None, max_examples=3, derandomize=True)
@given(tokens=st.integers(256, 8192), seed=st.integers(0, 2**31))
def test_a_prompt_has_exactly_the_length_that_is_asked_for(task: Task, name: str, tokens: int, seed: int) -> None:
    for item in packed(task, chat(name), tokens, seed=seed):
        length = len(prompt(item, chat(name)))
        assert length == item.tokens - task.answer_tokens or (not item.context and length < item.tokens)


def test_prose_without_an_exact_cut_is_changed_for_other_prose() -> None:
    """The first document of the association task with seed 1 has none, in SmolLM2's tokens."""
    assert len(packed(TASKS["association"], chat("smollm2-135m"), 1024, count=8, seed=1)) == 8


@each_task
def test_the_items_of_a_document_begin_with_the_same_tokens(task: Task) -> None:
    documents: dict[str, list[list[int]]] = {}
    for item in packed(task, chat("smollm2-135m"), 1024, 8):
        documents.setdefault(item.cluster, []).append(prompt(item, chat("smollm2-135m")))
    for first, *rest in documents.values():
        for ids in rest:
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, ids, strict=False)))
            assert same >= 0.8 * len(first)


@each_task
def test_what_is_planted_stands_where_the_item_says(task: Task) -> None:
    for item in packed(task, TINY, 3000, 3):
        document = task.plant(Random(f"{task.name} {item.tokens} 0 {item.cluster.rpartition('-')[2]}"), item.tokens)
        texts = {planted.text for planted in document.planted}
        spans = [*item.planted, *item.others]
        assert {item.context[start:end] for start, end in spans} == texts
        assert len(spans) == len(document.planted)
        assert item.question in {question.text for question in document.questions}
        assert item.id.startswith(item.cluster)


@each_task
def test_the_same_seed_gives_the_same_items_and_json_keeps_them(task: Task) -> None:
    items = packed(task, TINY, 3000, 3)
    assert packed(task, TINY, 3000, 3) == items
    assert [Item.of(json.loads(json.dumps(item.record))) for item in items] == items
    assert [item.question + item.context for item in packed(task, TINY, 3000, 3, seed=1)] != [
        item.question + item.context for item in items
    ]


def _two(rng: Random, tokens: int) -> Document:
    planted = tuple(map(Planted, ("Ada has 7.", "Bo has 8.", "Cy has 9.")))
    asked = [Question(f"What has {name}?", (gold,), (), (i,)) for i, name, gold in ((0, "Ada", "7"), (1, "Bo", "8"))]
    return Document("", planted, tuple(asked))


def test_depths_are_spread_evenly() -> None:
    """Eight items in documents of two, each at the sentence end nearest to (i + 0.5) / 8."""
    depths = sorted(item.depth or 0 for item in pack(Task("two", "recall", 8, _two, _never), TINY, 20_000, 8))
    assert [round(8 * depth - 0.5) for depth in depths] == list(range(8))


def _never(item: Item, response: str) -> float:
    return 0.0


def test_units_are_taken_whole_and_in_order() -> None:
    def plant(rng: Random, tokens: int) -> Document:
        units = tuple(f"<{n}>" for n in range(tokens))
        return Document(
            "Units: ", (Planted("<x>", 0.5),), (Question("Which?", ("x",), (), (0,)),), units, ", ", ("(", ")")
        )

    (item,) = pack(Task("units", "recall", 8, plant, _never), TINY, 700, 1)
    names = item.context.removeprefix("Units: ").partition(", (")[0].split(", ")
    assert [name for name in names if name != "<x>"] == [f"<{n}>" for n in range(len(names) - 1)]
    assert abs(names.index("<x>") / len(names) - 0.5) < 0.05
    assert item.context.endswith(")")
    assert item.context[slice(*item.planted[0])] == "<x>"


def test_what_cannot_be_filled_is_refused() -> None:
    def plant(rng: Random, tokens: int) -> Document:
        return Document("", (), (Question("Which?", ("x",)),), ("one unit",))

    with pytest.raises(ValueError, match="the task units brings too little to fill 700 tokens"):
        list(pack(Task("units", "recall", 8, plant, _never), TINY, 700, 1))
    with pytest.raises(ValueError, match=r"40 tokens are too few for the task two: \d+ are the least"):
        list(pack(Task("two", "recall", 8, _two, _never), TINY, 40, 1))


@pytest.mark.parametrize("name", ["smollm2-135m", "gemma-3-270m"])
def test_an_answer_goes_on_where_the_prompt_ends(name: str) -> None:
    for task in TASKS.values():
        (item,) = packed(task, chat(name), 1024, 1)
        ids = prompt(item, chat(name)) + answer(item, chat(name), item.gold[0])
        text = chat(name).tokenizer.decode(ids)
        assert text.endswith(f"{item.prefix} {item.gold[0]}" if item.prefix else item.gold[0])


def test_what_a_record_lacks_is_said() -> None:
    with pytest.raises(ValueError, match="this is no item of an evaluation"):
        Item.of({"id": "7", "colour": "red"})
    values: dict[str, Any] = next(pack(TASKS["recall_single"], TINY, 1024, 1)).record
    assert Item.of(values).gold == tuple(values["gold"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("gold", "distractors") for value in (None, "text", [3], [None], {"a": 1})),
        *(
            (name, value)
            for name in ("planted", "others")
            for value in (None, [3], [[1]], [["a", "b"]], [[5, 2]], "ab")
        ),
        *((name, value) for name in ("id", "task", "cluster", "context", "question", "prefix") for value in (None, 3)),
        ("category", "colours"),
        ("category", []),
        ("tokens", "many"),
        ("depth", "deep"),
        ("depth", float("nan")),
        ("data", None),
        ("plain", 1),
    ],
)
def test_a_record_that_is_broken_is_refused(name: str, value: Any) -> None:
    record = next(pack(TASKS["recall_single"], TINY, 1024, 1)).record
    with pytest.raises(ValueError, match=f"this is no item of an evaluation: {name} cannot be"):
        Item.of(record | {name: value})


def test_an_item_says_which_distractors_its_context_holds() -> None:
    single = next(pack(TASKS["recall_single"], TINY, 1024, 1))
    assert single.distractors
    assert single.beside == ()
    several = next(pack(TASKS["recall_multikey"], TINY, 1024, 1))
    assert several.beside == several.distractors
