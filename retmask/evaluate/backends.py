"""What answers for an evaluation's conditions: weights loaded here, with their masks, or a server that has a model.

All are pinned: a run that goes on has those that it began with. A server is asked in chats, greedily, `AT_ONCE` items
at a time. It gives no log-probabilities, so tasks that are scored by these alone are not asked there. Nor can the
beginning of an answer be given: the message asks for it, there are `SLACK` tokens more for the answer where the window
has room for them, and where a reply begins so, what comes after is its answer, as it is of a model here.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any

from retmask.compare.conditions import Condition
from retmask.evaluate.suite import documents, task_of
from retmask.heads.grid import Grid
from retmask.heads.masks import HeadMask
from retmask.heads.rules import MASKED, UNMASKED
from retmask.items.item import Item
from retmask.items.published import is_read
from retmask.pairs.remote import AT_ONCE, LEFT
from retmask.runs.job import Work
from retmask.runs.run import Run
from retmask.text.sampling import Sampling

if TYPE_CHECKING:
    from retmask.evaluate.job import EvaluateSettings
    from retmask.model.lens import LensModel
    from retmask.pairs.server import Server

SLACK = 32  # tokens: the beginning of an answer has hardly as many
_DIGITS = 6


def load(
    work: "Work[EvaluateSettings]", names: Sequence[str], condition: Condition, context_tokens: int
) -> "LensModel":
    """The model of the conditions of these names. ValueError where the run began with other weights."""
    from retmask.model.loading import facts

    model = condition.load(work.settings.model, **work.loading, context_tokens=context_tokens)
    weights = facts(model, condition.tuned if condition.is_adapter else "")
    digest = weights["adapter_sha256"] or weights["sha256"]
    whose = names if any(condition.weights) else [UNMASKED]
    work.run.pin(**{f"weights of {name}": digest for name in whose}, dtype=weights["dtype"])
    return model


def masks_of(work: "Work[EvaluateSettings]", grid: Grid, names: Sequence[str]) -> dict[str, HeadMask]:
    """The masks of those of the conditions that have one, by name. ValueError where the run began with others."""
    rule, named = work.settings.rule, work.settings.conditions()
    masks = {name: named[name].mask(grid) for name in names if named[name].word}
    work.run.pin(**{"mask" if name == MASKED else f"mask of {name}": str(mask) for name, mask in masks.items()})
    if rule.random and MASKED in names:
        work.run.update(excluded=[*map(str, rule.excluded(grid))])
    return masks


def address_of(condition: Condition) -> str:
    """The address of a condition's server, as it is asked; empty for none. ValueError where it is not one."""
    if not condition.server:
        return ""
    from retmask.pairs.addresses import address

    return address(condition.server)


def server_of(condition: Condition) -> "Server":
    """The server of a condition. ValueError where none answers, or it does not serve the model."""
    from retmask.pairs.server import Server

    return Server.connect(condition.server, condition.served)


def pin_server(run: Run, names: Sequence[str], server: "Server") -> None:
    """Record which model on which server these conditions are. ValueError where the run began with another."""
    run.pin(**{f"server of {name}": {"url": server.url, "model": server.model} for name in names})


def is_asked(condition: Condition, item: Item) -> bool:
    """Whether a condition is asked an item: none that was read; a server none where log-probabilities alone count."""
    return not is_read(item) and (not condition.server or task_of(item).answers)


def served_lines(
    run: Run, server: "Server", names: Sequence[str], items: Sequence[Item], missing: Collection[tuple[str, str]]
) -> Iterator[list[dict[str, Any]]]:
    """The lines of a server's conditions that are `missing`, by condition and item, as answers.jsonl has them.

    ValueError where the server is lost or refuses an item, after the lines of those that were asked with it; and where
    it thinks and did not when the run began, or the other way round.
    """
    asked = [(name, item) for document in documents(items) for name in names for item in document]
    asked = [(name, item) for name, item in asked if (name, item.id) in missing]
    with ThreadPool(AT_ONCE) as pool:
        for at in range(0, len(asked), AT_ONCE):
            given = pool.map(partial(_line, server), asked[at : at + AT_ONCE], chunksize=1)
            lines = [line for line in given if isinstance(line, dict)]
            if lines:
                run.pin(**{f"thinking of {name}": LEFT if server.thinks else "off" for name in names})
            yield lines
            if lost := next((line for line in given if isinstance(line, ValueError)), None):
                raise lost


def _line(server: "Server", asked: tuple[str, Item]) -> dict[str, Any] | ValueError:
    """The line of a condition and an item; what is wrong where there is none."""
    (name, item), task = asked, task_of(asked[1])
    try:
        reply = _reply(server, item, task.answer_tokens)
    except ValueError as error:
        return error
    response = _after(item.prefix, reply).strip()
    score = round(task.score(item, response), _DIGITS)
    return {"item": item.id, "condition": name, "response": response, "score": score}


def _reply(server: "Server", item: Item, tokens: int) -> str:
    """What the server answers, in so many tokens and those of the beginning. ValueError where it refuses the item."""
    from retmask.pairs.server import Refused

    beginning = f"\n\nBegin your answer with: {item.prefix}" if item.prefix else ""
    refused: Refused | None = None
    for room in (tokens + SLACK, tokens) if item.prefix else (tokens,):
        try:
            return server.answer([("user", item.message + beginning)], room, Sampling()).text
        except Refused as error:
            refused = error
    length = f"{item.tokens:,} tokens with its answer" if item.tokens else f"{len(item.message):,} characters"
    raise ValueError(f"{refused}: {item.id} has {length}: serve it with a longer window, or leave it out")


def _after(prefix: str, reply: str) -> str:
    """What comes after the beginning of an answer, in a reply that begins so; else the reply."""
    beginning = re.match(r"\s*" + r"\s+".join(map(re.escape, prefix.split())) + r"(?!\B\w)", reply, re.IGNORECASE)
    return reply[beginning.end() :] if prefix and beginning else reply
