"""Means of conditions and their paired differences, by hand."""

import numpy as np

from retmask.evaluate.needles import difference, summary


def answer(condition: str, needle: str, recall: float, depth: float = 0.5) -> dict[str, object]:
    return {"condition": condition, "needle": needle, "context_tokens": 512, "depth": depth, "recall": recall}


def test_a_summary_by_hand() -> None:
    lines = [answer("unmasked", n, r) for n, r in (("a", 0.0), ("b", 0.5), ("c", 1.0), ("d", 0.5))]
    lines += [answer("tuned", n, r) for n, r in (("a", 1.0), ("b", 0.75), ("c", 1.0), ("d", 0.25))]
    lines += [answer("tuned", "e", 1.0)]  # not answered by both: left out
    found = summary(lines, ["unmasked", "tuned"])
    assert [(row["condition"], row["trials"], row["recall"], row["found"]) for row in found["conditions"]] == [
        ("unmasked", 4, 0.5, 0.25),
        ("tuned", 4, 0.75, 0.75),
    ]
    (gap,) = found["differences"]
    assert (gap["condition"], gap["against"], gap["mean"], gap["better"], gap["worse"]) == (
        "tuned",
        "unmasked",
        0.25,
        2,
        1,
    )
    assert gap["low"] <= gap["mean"] <= gap["high"]
    assert (gap["needles"], found["conditions"][0]["needles"]) == (4, 4)


def test_the_interval_of_a_condition_is_over_needles() -> None:
    """Ten prompts each of three needles, of which the model knows one: anything from none to all may be known."""
    lines = [answer("unmasked", n, float(n == "a"), depth / 10) for n in "abc" for depth in range(10)]
    (row,) = summary(lines, ["unmasked"])["conditions"]
    assert (row["recall"], row["low"], row["high"], row["needles"]) == (0.3333, 0.0, 1.0, 3)
    (few,) = summary([line for line in lines if line["needle"] != "c"], ["unmasked"])["conditions"]
    assert (few["low"], few["high"], few["needles"]) == (None, None, 2)


def test_prompts_of_one_needle_count_together() -> None:
    """Ten prompts that all move alike are one observation: the interval over needles must say so."""
    values, others = np.array([1.0] * 10 + [0.5] * 10 + [0.0] * 10), np.zeros(30)
    gap = difference("t", "u", values, others, ["a"] * 10 + ["b"] * 10 + ["c"] * 10)
    assert gap.mean == 0.5
    assert (gap.needle_low, gap.needle_high, gap.needles) == (0.0, 1.0, 3)
    assert 0.2 < gap.low < gap.high < 0.8  # type: ignore[operator]
    two = difference("t", "u", values[:20], others[:20], ["a"] * 10 + ["b"] * 10)
    assert (two.needle_low, two.needle_high, two.needles) == (None, None, 2), "of two needles none is to be had"


def test_equal_conditions_differ_by_nothing() -> None:
    gap = difference("t", "u", np.array([0.2, 0.7, 0.1]), np.array([0.2, 0.7, 0.1]), ["a", "b", "c"])
    assert gap[2:] == (0, 0, 0, 0, 0, 0, 0, 3)
