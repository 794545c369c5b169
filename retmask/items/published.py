"""Result files of HELMET, olmo-eval and lm-eval as items and answers: each document where a file has them, else means.

| suite | file | documents |
|---|---|---|
| HELMET | `DATASET_..._SEED.json`, `.json.score`, `-gpt4eval_o.json` | in the `.json`, but for what a judge scores |
| olmo-eval | `metrics.json` | in `predictions/` beside it |
| lm-eval | `results_DATE.json` | in `samples_TASK_DATE.jsonl` beside it (`--log_samples`) |

Scores are from 0 to 1 and better when higher: percents are divided, perplexities and bits turned into the mean
probability of a word or byte.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from retmask.files import is_number, mapping, mappings, read_lines, read_text
from retmask.items.item import EXTERNAL, Item

# What HELMET's own tables take of a dataset, by the beginning of its name: the mean of these. A judge's stand as means.
_HELMET = {
    "json_kv": ("substring_exact_match",),
    "nq": ("substring_exact_match",),
    "popqa": ("substring_exact_match",),
    "triviaqa": ("substring_exact_match",),
    "hotpotqa": ("substring_exact_match",),
    "msmarco_rerank": ("NDCG@10",),
    "trec": ("exact_match",),
    "banking77": ("exact_match",),
    "clinic150": ("exact_match",),
    "nlu": ("exact_match",),
    "infbench_choice": ("exact_match",),
    "infbench_qa": ("rougeL_f1",),
    "infbench_sum": ("gpt-4-f1",),
    "multi_lexsum": ("gpt-4-f1",),
    "narrativeqa": ("gpt-4-score",),
    "qmsum": ("rougeL_recall",),
    "ruler_qa": ("substring_exact_match",),
    "ruler": ("ruler_recall",),
    "alce_asqa": ("str_em", "citation_rec", "citation_prec"),
    "alce_qampari": ("qampari_rec_top5", "citation_rec", "citation_prec"),
}
_JUDGED = {"gpt-4-f1": 1.0, "gpt-4-score": 3.0}  # the most that a judge gives; all other means are percents
_DIGITS = 6


class Answered(NamedTuple):
    """A document of a task, or the task as a whole: what was asked and answered, and what that is worth (0-1)."""

    task: str
    tokens: int
    document: str
    score: float
    question: str = ""
    gold: str = ""
    response: str = ""


class Published(NamedTuple):
    """A result file: of which suite and model it is, and its items with the lines of answers.jsonl, but for whose."""

    suite: str
    model: str
    items: list[Item]
    lines: list[dict[str, Any]]


def is_read(item: Item) -> bool:
    """Whether an item was read from a result file, so that nobody here is asked it."""
    return "file" in item.data


def read_published(path: Path) -> Published:
    """What a result file says. ValueError, one sentence, for what is none or holds no score from 0 to 1."""
    path = path.with_name(path.name.removesuffix(".score"))  # what a `.score` is of stands in the file beside it
    data = _object(path)
    kind = next((kind for kind in _KINDS if kind.fields <= data.keys()), None)
    if kind is None:
        raise ValueError(
            f"{path} is no result file: give a .json of HELMET, metrics.json of olmo-eval, or results_*.json"
        )
    model, answered = kind.model(data), list(kind.read(data, path))
    if not model or not answered:
        raise ValueError(f"{path} does not say {'its scores' if model else 'which model it is of'}: evaluate again")
    for each in answered:
        if not 0 <= each.score <= 1:  # nor NaN
            raise ValueError(
                f"{path} has the score {each.score:g} in {each.task}, which is not from 0 to 1: leave it out"
            )
    items = [_item(each, kind.suite, path) for each in answered]
    if len({item.id for item in items}) < len(items):
        raise ValueError(f"{path} has a document twice: evaluate again")
    pairs = zip(items, answered, strict=True)
    lines = [{"item": item.id, "response": each.response, "score": round(each.score, _DIGITS)} for item, each in pairs]
    return Published(kind.suite, model, items, lines)


def _item(answered: Answered, suite: str, path: Path) -> Item:
    name = "-".join(filter(None, (answered.task, str(answered.tokens or ""), answered.document)))
    return Item(
        id=name,
        task=answered.task,
        category=EXTERNAL,
        cluster=name,
        tokens=answered.tokens,
        depth=None,
        context="",
        question=answered.question,
        gold=(answered.gold,),
        data={"suite": suite, "file": path.name},
    )


def _object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise ValueError(f"{path} is no result file: it holds no JSON object")
    return data


def _helmet_model(data: Mapping[str, Any]) -> str:
    return str(mapping(data["args"]).get("model_name_or_path") or "")


def _helmet(data: Mapping[str, Any], path: Path) -> Iterator[Answered]:
    args = mapping(data["args"])
    task, tokens = str(args.get("datasets", "")), args.get("input_max_length")
    where, tokens = f"{path}: HELMET's dataset {task[:40]!r}", tokens if isinstance(tokens, int) else 0
    names = next((names for start, names in _HELMET.items() if task.startswith(start)), None)
    if names is None:
        raise ValueError(f"{where} is unknown: leave the file out")
    lists, rows = mapping(data.get("metrics")), mappings(data.get("data"))
    if len(names) == 1 and names[0] not in _JUDGED:
        scores = lists.get(names[0])
        if not isinstance(scores, list) or len(scores) != len(rows) or not all(map(_is_score, scores)):
            raise ValueError(f"{where} has no {names[0]} for each document: evaluate again")
        for i, (score, row) in enumerate(zip(scores, rows, strict=True)):
            texts = (_text(row.get(name)) for name in ("question", "answer", "output"))
            yield Answered(task, tokens, str(i), float(score), *texts)
        return
    beside = path.with_name(path.name + ".score")
    means = mapping(data["averaged_metrics"]) | (_object(beside) if beside.exists() else {})
    if missing := next((name for name in names if not is_number(means.get(name))), None):
        raise ValueError(
            f"{where} has no {missing}, which another model judges: give the file that its judge has written"
        )
    shares = [means[name] / _JUDGED.get(name, 100.0) for name in names]
    yield Answered(task, tokens, "", sum(shares) / len(shares))


def _olmo_model(data: Mapping[str, Any]) -> str:
    config = mapping(data.get("config"))
    return str(mapping(config.get("provider")).get("model") or config.get("model") or data.get("model_name") or "")


def _olmo(data: Mapping[str, Any], path: Path) -> Iterator[Answered]:
    for entry in mappings(data["tasks"]):
        task, names = str(entry.get("task", "")), str(entry.get("primary_metric") or "").split(":", 1)
        lines = _predictions(path, task, str(entry.get("task_hash") or "")[-6:])
        scores = [score for line in lines if (score := _nested(line.get("instance_metrics"), names)) is not None]
        if scores and len(scores) == len(lines):
            for line, score in zip(lines, scores, strict=True):
                texts = (_text(line.get("label")), _text(line.get("final_output")))
                yield Answered(task, 0, str(line.get("native_id")), _share(names[0], score), "", *texts)
        elif (mean := _nested(entry.get("metrics"), names)) is not None:
            yield Answered(task, 0, "", _share(names[0], mean))
        else:
            raise ValueError(f"{path} does not say {task}'s primary metric: evaluate again")


def _predictions(path: Path, task: str, digest: str) -> list[dict[str, Any]]:
    stem = "".join("_" if letter in ":/\\ " else letter for letter in task) + f"_{digest}" * bool(digest)
    found = sorted((path.parent / "predictions").glob(f"*/{stem}-predictions.jsonl"))
    return list(read_lines(found[0])) if len(found) == 1 else []


def _nested(metrics: Any, names: Sequence[str]) -> float | None:
    """A metric's value by its scorer."""
    value = mapping(mapping(metrics).get(names[0])).get(names[-1])
    return float(value) if is_number(value) else None


def _lm_eval_model(data: Mapping[str, Any]) -> str:
    arguments = mapping(data["config"]).get("model_args")
    if isinstance(arguments, str):
        arguments = dict(part.split("=", 1) for part in arguments.split(",") if "=" in part)
    arguments = mapping(arguments)
    return str(arguments.get("pretrained") or arguments.get("model") or data.get("model_name") or "")


def _lm_eval(data: Mapping[str, Any], path: Path) -> Iterator[Answered]:
    groups = mapping(data.get("group_subtasks"))
    for task, means in mapping(data["results"]).items():
        if groups.get(task):  # its tasks stand for themselves
            continue
        better = mapping(mapping(data.get("higher_is_better")).get(task))
        date = path.stem.removeprefix("results_")
        lines = list(read_lines(path.with_name(f"samples_{task}_{date}.jsonl")))
        lines = [line for line in lines if line.get("filter") == lines[0].get("filter")]
        name = next((name for name in _names(better) if lines and all(_is_score(line.get(name)) for line in lines)), "")
        if name:
            for line in lines:
                texts = (_text(line.get("target")), _text(next(iter(line.get("filtered_resps") or [""]))))
                yield Answered(task, 0, str(line.get("doc_id")), _share(name, float(line[name])), "", *texts)
            continue
        yield Answered(task, 0, "", _mean(mapping(means), better, f"{path}: {task}"))


def _names(better: Mapping[str, Any]) -> list[str]:
    """The metrics, the main one first, but for those that are better when lower and no perplexities."""
    return [name for name, higher in better.items() if higher or _lower(name)]


def _mean(means: Mapping[str, Any], better: Mapping[str, Any], where: str) -> float:
    for name in _names(better):
        for key, value in means.items():
            if key.split(",")[0] == name and is_number(value) and value != -1:  # -1: RULER at a length not asked
                return _share(name, value)
    raise ValueError(f"{where} has no metric that is better when higher: leave the file out")


def _lower(name: str) -> bool:
    return any(part in name.lower() for part in ("perplexity", "ppl", "bits_per_byte", "bpb"))


def _share(name: str, value: float) -> float:
    """A score; of a perplexity or of bits the mean probability (0-1) of a word or byte."""
    if not _lower(name) or not isfinite(value):
        return value
    bits = "bpb" in name.lower() or "bits" in name.lower()
    return 2.0**-value if bits else 1 / max(value, 1.0)


def _is_score(value: Any) -> bool:
    return isinstance(value, bool) or is_number(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


class _Kind(NamedTuple):
    """A suite's result files: what they hold, whose they are, and how they are read."""

    suite: str
    fields: frozenset[str]
    model: Callable[[Mapping[str, Any]], str]
    read: Callable[[Mapping[str, Any], Path], Iterator[Answered]]


_KINDS = (
    _Kind("HELMET", frozenset({"args", "averaged_metrics"}), _helmet_model, _helmet),
    _Kind("olmo-eval", frozenset({"tasks", "experiment_id"}), _olmo_model, _olmo),
    _Kind("lm-eval", frozenset({"results", "configs", "config"}), _lm_eval_model, _lm_eval),
)
