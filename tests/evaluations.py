"""Runs of an evaluation made by hand, for tests of pages that read them."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from retmask.evaluate.job import EvaluateSettings
from retmask.evaluate.results import results_of
from retmask.files import write_json
from retmask.items.item import Item
from retmask.runs.run import Run

EVIL = "<img src=x onerror=alert(1)>"
CONDITIONS = ("masked=top:2", "random=2:seed0")
TASKS = {"codes": "recall", "towns": "rag"}


def items(documents: int = 4, words: int = 60) -> list[Item]:
    """Of both tasks so many items at each of two lengths; the code stands at another depth in each."""
    return [
        _item(task, tokens, i, documents, words) for task in TASKS for tokens in (512, 1024) for i in range(documents)
    ]


def _item(task: str, tokens: int, i: int, documents: int, words: int) -> Item:
    depth = (i + 0.5) / documents
    before, planted = "so it goes & on " * int(words * depth), f"The code of Ada {i} is <7{i}>."
    other = "The code of Bob is 5."
    context = f"{before}{planted} and on, {EVIL} {other} {'so it goes on ' * int(words * (1 - depth))}"
    spans = [(context.index(text), context.index(text) + len(text)) for text in (planted, other)]
    name = f"{task}-{tokens}-{i}"
    return Item(
        id=f"{name}-0",
        task=task,
        category=TASKS[task],  # type: ignore[arg-type]
        cluster=name,
        tokens=tokens,
        depth=depth,
        context=context,
        question=f"What is the code of Ada {i}?",
        gold=(f"<7{i}>",),
        distractors=("5", "6", "8"),
        prefix="It is",
        planted=(spans[0],),
        others=(spans[1],),
    )


def run_of(
    asked: list[Item],
    finds: Callable[[str, int], bool],
    conditions: tuple[str, ...] = CONDITIONS,
    name: str = "evaluate-tiny",
    share: float = 1.0,
) -> Run:
    """A run in RETMASK_HOME; `finds(condition, place of the item)` says who answers rightly, the rest does not know.

    With a share below 1 only so many items are answered, and there are no results.
    """
    from retmask.files import home

    settings = EvaluateSettings(model="smollm2-135m", condition=conditions, suite="quick")
    config: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    run = Run.create("evaluate", config, home() / "runs" / name)
    (run.path / "items.jsonl").write_text("".join(json.dumps(item.record) + "\n" for item in asked))
    named, lines = settings.conditions(), []
    for place, item in enumerate(asked[: int(share * len(asked))]):
        for condition in [*named, "no context"]:
            right = condition != "no context" and finds(condition, place)
            response = f"{item.gold[0]} indeed" if right else f"I do not know {EVIL}"
            figures = {"score": float(right), "logprob": -0.5 if right else -3.5, "rank": 1 if right else 3, "of": 4}
            lines.append({"item": item.id, "condition": condition, "response": response, **figures})
    (run.path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if share == 1:
        write_json(run.path / "results.json", results_of(asked, lines, named, run.record))
    run.update(status="success" if share == 1 else "cancelled")
    return run


def masking_hurts(condition: str, place: int) -> bool:
    """The masked model finds nothing, the others all but one in eight."""
    return not condition.startswith("masked") and place % 8 != 0
