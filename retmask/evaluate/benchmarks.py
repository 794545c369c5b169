"""The tasks of EleutherAI's lm-evaluation-harness (the extra `eval`) as items, and what our models' answers are worth.

Nothing of a model's own code is run, and the global random numbers stay as they are. Six tasks of RULER need no
download (`OFFLINE`): theirs fall some 12 % short of the length that is asked for.
"""

import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from importlib.metadata import version
from io import StringIO
from math import exp, log
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from lm_eval import tasks
from lm_eval.tasks import TaskManager

from retmask.evaluate.harness import HarnessLM
from retmask.files import brief, sha256_text, unknown
from retmask.items.item import EXTERNAL, Item
from retmask.text.tokenizer import Tokenizer

SUITE = f"lm-eval {version('lm_eval')}"
_PERPLEXITIES = ("word_perplexity", "byte_perplexity", "bits_per_byte")
_DIGITS = 6


class Posed(NamedTuple):
    """A document of a task, with the requests that the harness makes of it, and the item that it is here."""

    item: Item
    task: Any
    doc: Any
    requests: list[Any]


def check_tasks(names: Sequence[str]) -> None:
    """ValueError for a name that is no task, group or tag of the harness."""
    if set(names) <= set(OFFLINE):
        return
    known = TaskManager().all_tasks
    for name in names:
        if name not in known:
            raise ValueError(
                str(unknown("lm-eval's task", name, OFFLINE)) + ", or any other that `lm-eval ls tasks` has"
            )


def documents(lm: HarnessLM, names: Sequence[str], lengths: Sequence[int], items: int, seed: int) -> list[Posed]:
    """The first documents of each task, so many of each length where it has lengths; the same for the same seed.

    ValueError where a task cannot be made: its data is neither here nor to be had, or it needs code that is run.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    out: list[Posed] = []
    for name in names:
        with _quiet(), _seeded(f"{name} {seed}"), TemporaryDirectory() as folder:
            try:
                for task in _loaded(lm.tokenizer, name, lengths, items, folder):
                    out += _posed(lm, task, items, seed)
            except Exception as error:  # of whatever kind: a task may be anybody's
                raise ValueError(f"the task {name} of lm-eval cannot be made: {brief(error)}") from error
    return out


def answers(lm: HarnessLM, posed: Posed, names: Sequence[str]) -> list[dict[str, Any]]:
    """A line for each condition, as answers.jsonl has them; `names` are those of the model's masks, in order."""
    lines = []
    for lm.row, name in enumerate(names):
        for kind in dict.fromkeys(request.request_type for request in posed.requests):
            asked = [request for request in posed.requests if request.request_type == kind]
            for request, given in zip(asked, getattr(lm, kind)(asked, disable_tqdm=True), strict=True):
                request.resps = [given] * request.repeats
        posed.task._instances = posed.requests
        posed.task.apply_filters()
        filtered = next(iter(posed.requests[0].filtered_resps))  # the first is the task's main one
        metrics = posed.task.process_results(posed.doc, [r.filtered_resps[filtered] for r in posed.requests])
        score = round(_score(posed, metrics), _DIGITS)
        lines.append({"item": posed.item.id, "condition": name, "response": _response(posed.requests), "score": score})
    lm.forget()
    return lines


def _loaded(tokenizer: Tokenizer, name: str, lengths: Sequence[int], items: int, folder: str) -> list[Any]:
    if name in OFFLINE:
        made = [row for length in lengths for row in OFFLINE[name](tokenizer, length, items)]
        changes = {"custom_dataset": lambda **_: {"test": _dataset(made)}}
        manager = _ruler()
        return [manager._factory.build(manager.task_index[name], overrides=changes, registry=manager.task_index)]
    tokenizer.save_pretrained(folder)  # what asks for a tokenizer reads ours from there: no code of a repository's
    metadata = {"tokenizer": folder, "max_seq_lengths": list(lengths)}
    return list(TaskManager(metadata=metadata).load([name])["tasks"].values())


@cache
def _ruler() -> Any:
    """RULER's tasks alone: to look through all of the harness's takes a while."""
    return TaskManager(include_defaults=False, include_path=str(Path(tasks.__file__).parent / "ruler"))


def _dataset(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(rows)


def _posed(lm: HarnessLM, task: Any, items: int, seed: int) -> Iterator[Posed]:
    if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
        raise ValueError("it runs code that a model writes, or shows pictures")
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)
    numbers = _numbers(task.eval_docs, items)
    templated = lm.chat.kind == "chat"
    task.build_all_requests(
        samples=numbers,
        apply_chat_template=templated,
        fewshot_as_multiturn=templated,
        chat_template=lm.apply_chat_template if templated else None,
        tokenizer_name=lm.tokenizer_name if templated else "",
    )
    requests: dict[int, list[Any]] = defaultdict(list)
    for request in sorted(task.instances, key=lambda request: int(request.idx)):
        requests[request.doc_id].append(request)
    for place, asked in sorted(requests.items()):
        yield Posed(_item(task, numbers[place], asked), task, asked[0].doc, asked)


def _numbers(docs: Any, items: int) -> list[int]:
    """Which documents are asked: the first, of each length where they have lengths."""
    if "max_length" not in getattr(docs, "column_names", ()):
        return list(range(min(items, len(docs))))
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, length in enumerate(docs["max_length"]):
        by_length[length].append(number)
    return [number for numbers in by_length.values() for number in numbers[:items]]


def _item(task: Any, number: int, requests: Sequence[Any]) -> Item:
    doc, name = requests[0].doc, str(task.task_name)
    target = task.doc_to_target(doc)
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        target = task.doc_to_choice(doc)[target]
    gold = tuple(map(str, target)) if isinstance(target, list) else (str(target),)
    return Item(
        id=f"{name}-{number}",
        task=name,
        category=EXTERNAL,
        cluster=f"{name}-{number}",
        tokens=int(doc.get("max_length", 0)) if isinstance(doc, Mapping) else 0,
        depth=None,
        context="",
        question=str(requests[0].args[0]),
        gold=gold,
        data={"suite": SUITE},
    )


def _score(posed: Posed, metrics: Mapping[str, Any]) -> float:
    """A document's value of the task's main metric, the first that is better when higher; 1 / perplexity."""
    better = posed.task.higher_is_better()
    for name in (str(posed.item.tokens), *better):
        value = metrics.get(name)
        if isinstance(value, Real) and better.get(name, True):
            return float(value)
        if name in _PERPLEXITIES and isinstance(value, tuple):
            return exp(value[0] / value[1] / (log(2) if name == "bits_per_byte" else 1))
    raise ValueError(f"the task {posed.item.task} of lm-eval says nothing about a single document: leave it out")


def _response(requests: Sequence[Any]) -> str:
    """What was answered: a text, or the likeliest of the choices."""
    if isinstance(requests[0].resps[0], str):
        return str(requests[0].resps[0])
    if not isinstance(requests[0].resps[0], tuple):
        return ""
    return str(max(requests, key=lambda request: request.resps[0][0]).args[1])


@contextmanager
def _quiet() -> Iterator[None]:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


@contextmanager
def _seeded(text: str) -> Iterator[None]:
    """While open, the global random numbers are those of a text; afterwards they are as before."""
    before = random.getstate(), np.random.get_state()
    random.seed(text)
    np.random.seed(int(sha256_text(text)[:8], 16))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def _needles(haystack: str, keys: str, values: str) -> Callable[[Tokenizer, int, int], list[dict[str, Any]]]:
    def rows(tokenizer: Tokenizer, length: int, items: int) -> list[dict[str, Any]]:
        from lm_eval.tasks.ruler.niah_utils import TEMPLATE
        from lm_eval.tasks.ruler.prepare_niah import generate_samples, get_haystack

        shape = {"type_haystack": haystack, "type_needle_k": keys, "type_needle_v": values}
        return list(
            generate_samples(
                get_haystack(type_haystack=haystack),
                max_seq_length=length,
                template=TEMPLATE,
                num_samples=items,
                TOKENIZER=tokenizer,
                **shape,
            )
        )

    return rows


def _variables(tokenizer: Tokenizer, length: int, items: int) -> list[dict[str, Any]]:
    from lm_eval.tasks.ruler.vt_utils import sys_vartrack_w_noise_random as rows

    shot = rows(tokenizer=tokenizer, num_samples=1, max_seq_length=500, incremental=5)[0]
    return list(rows(tokenizer=tokenizer, num_samples=items, max_seq_length=length, icl_example=shot))


def _common_words(tokenizer: Tokenizer, length: int, items: int) -> list[dict[str, Any]]:
    from lm_eval.tasks.ruler import cwe_utils

    cwe_utils.RNG.seed(random.random())  # it has random numbers of its own
    return list(cwe_utils.sys_word_pair_random(num_samples=items, max_seq_length=length, tokenizer=tokenizer))


def _frequent_words(tokenizer: Tokenizer, length: int, items: int) -> list[dict[str, Any]]:
    from lm_eval.tasks.ruler.fwe_utils import sys_kwext

    return list(sys_kwext(tokenizer=tokenizer, max_seq_length=length, num_samples=items))


OFFLINE: Mapping[str, Callable[[Tokenizer, int, int], list[dict[str, Any]]]] = {
    "niah_single_1": _needles("repeat", "words", "numbers"),
    "niah_multikey_2": _needles("needle", "words", "numbers"),
    "niah_multikey_3": _needles("needle", "uuids", "uuids"),
    "ruler_vt": _variables,
    "ruler_cwe": _common_words,
    "ruler_fwe": _frequent_words,
}
