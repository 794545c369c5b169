"""The results of an evaluation by hand: every figure of an answer goes where it belongs."""

from math import exp, log
from typing import Any

import pytest

from retmask.compare.conditions import Condition, named, parse
from retmask.evaluate.results import at_lengths, markdown, results_of
from retmask.items.item import Item

NAMED = named([Condition(), *parse("masked=L0H1")])
MASKED = list(NAMED)[1]


def an_item(number: int, task: str = "codes", category: str = "recall", tokens: int = 512) -> Item:
    name = f"{task}-{tokens}-{number}"
    texts = {"context": "The code is 7.", "question": "Which code?", "gold": ("7",), "distractors": ("1", "2", "3")}
    of = {"task": task, "category": category, "cluster": name, "tokens": tokens, "depth": None}
    return Item(id=name, **of, **texts)  # type: ignore[arg-type]


def an_answer(item: Item, condition: str, score: float, logprob: float = -1.0, rank: int = 1) -> dict[str, Any]:
    figures = {"score": score, "logprob": logprob, "rank": rank, "of": 4}
    return {"item": item.id, "condition": condition, "response": "7", **figures}


def test_every_figure_stands_in_its_own_table() -> None:
    """Base is right and ranks gold first, masked is wrong and ranks it third of four; the floor is in neither."""
    items = [an_item(i, tokens=tokens) for tokens in (512, 1024) for i in range(3)]
    lines = [an_answer(item, "unmasked", 1, -0.5, 1) for item in items]
    lines += [an_answer(item, MASKED, float(item.tokens == 512), -2.5, 3) for item in items]
    lines += [an_answer(item, "no context", 0.25) for item in items[:3]]
    results = results_of(items, lines, NAMED, {}, 200)

    def means(table: str) -> dict[str, float]:
        return {row["condition"]: row["mean"] for row in results[table] if row["level"] == "task"}

    assert means("means") == {"unmasked": 1, MASKED: 0.5}
    assert means("ranks") == {"unmasked": 1, MASKED: pytest.approx(1 / 3, abs=1e-6)}
    assert means("logprobs") == {"unmasked": -0.5, MASKED: -2.5}
    assert means("floors")["no context"] == 0.25
    by_length = [row for row in results["by_length"] if row["level"] == "overall"]
    assert {(row["tokens"], row["condition"]): (row["mean"], row["items"]) for row in by_length} == {
        (512, "unmasked"): (1, 3),
        (1024, "unmasked"): (1, 3),
        (512, MASKED): (1, 3),
        (1024, MASKED): (0, 3),
    }
    assert results["perplexity"] == []
    means, lengths = markdown(results).split("\n\n")
    assert means.startswith("| condition | overall | recall |\n")
    assert lengths.splitlines()[0] == "| condition | 512 tokens | 1,024 tokens |"
    assert lengths.splitlines()[3] == f"| {MASKED} | 1.00 (1.00 to 1.00) | 0.00 (0.00 to 0.00) |"
    assert results_of(items[:3], lines, NAMED, {}, 200)["by_length"] == [], "there is but one"


def test_perplexity_is_of_the_mean_log_probability_and_not_the_mean_of_scores() -> None:
    """Of 2, 8 and 4 it is 4; where each is doubled the ratio is 2, whatever is drawn."""
    items = [an_item(i, "guard_perplexity", "guard") for i in range(3)]
    worth = [log(2), log(8), log(4)]
    lines = [an_answer(item, "unmasked", exp(-each), -each) for item, each in zip(items, worth, strict=True)]
    lines += [an_answer(item, MASKED, exp(-each) / 2, -each - log(2)) for item, each in zip(items, worth, strict=True)]
    results = results_of(items, lines, NAMED, {}, 200)
    base, masked = results["perplexity"]
    assert (base["condition"], base["perplexity"], base["ratio"]) == ("unmasked", pytest.approx(4, abs=1e-4), None)
    assert base["low"] < 4 < base["high"]
    assert [masked[name] for name in ("ratio", "ratio_low", "ratio_high")] == pytest.approx([2, 2, 2], abs=1e-4)
    assert (masked["perplexity"], masked["items"]) == (pytest.approx(8, abs=1e-4), 3)
    assert markdown(results).split("\n\n")[1].splitlines()[0] == "| condition | perplexity | ratio to unmasked |"
    assert markdown(results).splitlines()[-1].startswith(f"| {MASKED} | 8.00 (")


def test_by_length_holds_the_same_tasks_at_every_length() -> None:
    """`single` is asked at one length, external items have none: neither makes a length differ, or a length of 0."""
    items = [an_item(i, tokens=tokens) for tokens in (512, 1024) for i in range(3)]
    items += [an_item(i, "single", tokens=512) for i in range(3)]
    items += [an_item(i, "hops", "hops", tokens) for tokens in (512, 1024) for i in range(3)]
    items += [an_item(i, "helmet", "external", 0) for i in range(3)]
    lines = [an_answer(item, "unmasked", float(item.task not in ("single", "helmet"))) for item in items]
    results = results_of(items, lines, NAMED, {}, 200)
    assert {(row["name"], row["tokens"]) for row in results["by_length"]} == {
        (name, tokens) for name in ("codes", "recall", "hops", "overall") for tokens in (512, 1024)
    }
    assert {row["mean"] for row in results["by_length"]} == {1}
    assert [(row["level"], row["name"]) for row in at_lengths(results, "hops")] == [
        ("category", "512 tokens"),
        ("category", "1,024 tokens"),
    ], "of a task and a category of one name, one"
    short = [item for item in items if item.tokens != 1024]
    assert results_of(short, lines, NAMED, {}, 200)["by_length"] == [], "0 tokens are no length"


def test_a_floor_of_fewer_tasks_has_no_mean_beside_conditions() -> None:
    """It has no answers to rerank_scored: no mean in rerank, nor overall; the guard is not part of overall."""
    items = [an_item(i, task, category) for task, category in TASKS_OF.items() for i in range(3)]
    lines = [an_answer(item, name, 1) for item in items for name in ("unmasked", "no context")]

    def floors(without: tuple[str, ...]) -> set[str]:
        asked = [item for item in items if item.task not in without]
        of = [line for line in lines if line["item"].partition("-")[0] not in without]
        rows = results_of(asked, of, NAMED, {}, 200)["floors"]
        assert {"overall", "rerank"} <= {row["name"] for row in rows if row["condition"] == "no context"}
        return {row["name"] for row in rows if row["condition"] == "majority answer"}

    assert floors(()) == {"codes", "recall", "texts", "facts"}
    assert floors(("rerank_scored",)) >= {"rerank", "overall"}
    assert "guard" not in floors(("rerank_scored",))


TASKS_OF = {
    "codes": "recall",
    "texts": "rerank",
    "rerank_scored": "rerank",
    "facts": "guard",
    "guard_perplexity": "guard",
}
