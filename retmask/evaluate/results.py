"""The results of an evaluation, from its items and answers: what a page draws and a paper prints. No torch."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import exp
from typing import Any

from retmask.compare.conditions import Condition, Role
from retmask.evaluate.statistics import DRAWS, WATCHED, Difference, Mean, Score, means_of, tables
from retmask.evaluate.suite import task_of
from retmask.files import mapping
from retmask.heads.intervals import span
from retmask.heads.masks import HeadMask
from retmask.heads.rules import ANY_GRID, MASKED, UNMASKED
from retmask.items.floors import candidate_score, majority_answer
from retmask.items.item import CATEGORIES, EXTERNAL, Item
from retmask.pairs.remote import LEFT

NO_CONTEXT, SHUFFLED, MAJORITY, DRAWN = "no context", "shuffled context", "majority answer", "one of the candidates"
FLOORS = (NO_CONTEXT, SHUFFLED, MAJORITY, DRAWN)
PROSE = "guard_perplexity"  # the task that predicts prose
_DIGITS = 6


def results_of(
    items: Sequence[Item],
    answers: Iterable[Mapping[str, Any]],
    named: Mapping[str, Condition],
    record: Mapping[str, Any],
    draws: int = DRAWS,
) -> dict[str, Any]:
    """What is known of an evaluation so far: its conditions, and of every task, category and overall the tables.

    `means`, `differences` and `verdicts` are those of `retmask.evaluate.statistics` over scores. `ranks` are the same
    means of the share of distractors (0-1, 0.5 by chance) that the gold answer is likelier than, `floors` those of what
    needs no context, `logprobs` the mean log-probability of the gold answer. `by_length` are the means of scores at
    each window, where there is more than one, of the tasks that are asked at all of them, and `perplexity` that of the
    guard's prose, which as a score is but a small part of it. `external` names the suites of tasks that are not ours,
    `not_served` the tasks that no server is asked, where one is. Fewer `draws` are quicker and make intervals less
    sure.
    """
    lines = list(answers)
    roles: dict[str, Role] = {name: condition.role for name, condition in named.items()}
    scores = list(_scores(items, lines, "score"))
    figures = {f"{name}s": means_of(_scores(items, lines, name), roles, draws) for name in ("rank", "logprob")}
    return {
        "conditions": [_facts(name, condition, record) for name, condition in named.items()],
        **tables(scores, roles, draws).record,
        **{name: [row._asdict() for row in rows] for name, rows in figures.items()},
        "floors": [row._asdict() for row in _floor_means(_floors(items, lines), scores, draws)],
        "by_length": _by_length(items, scores, roles, draws),
        "perplexity": _perplexity(_scores(items, lines, "logprob"), roles, draws),
        "external": {item.task: item.data.get("suite", "") for item in items if item.category == EXTERNAL},
        **({"not_served": _not_served(items)} if any(condition.server for condition in named.values()) else {}),
    }


def _not_served(items: Iterable[Item]) -> list[str]:
    """The tasks that are scored by log-probabilities alone, which a server does not give."""
    return sorted({item.task for item in items if not task_of(item).answers})


def markdown(results: Mapping[str, Any]) -> str:
    """The means of conditions by category as a Markdown table, with their 95 % intervals.

    Below it, where there are such, the means at each length, and the perplexity of prose, as tables of their own, and
    what is to be said of servers.
    """
    tasks = results.get("external", {})
    names = ("overall", *CATEGORIES, EXTERNAL, *tasks)
    tables = [[row for name in names for row in results["means"] if row["name"] == name and shown(row, tasks)]]
    tables += [at_lengths(results, "overall"), perplexities(results)]
    conditions = [facts["condition"] for facts in results["conditions"]]
    says = not_served(results)
    return "\n".join([*(_markdown(conditions, rows) for rows in tables if rows), *([f"{says}.\n"] if says else [])])


def at_lengths(results: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The means of a task, a category or overall at each length, which is their `name`; none where there is but one.

    Of a task and a category of one name those of the category, which come last.
    """
    rows = [row for row in results.get("by_length", ()) if row.get("name") == name]
    return [row | {"name": f"{row['tokens']:,} tokens"} for row in rows if row["level"] == rows[-1]["level"]]


def perplexities(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The perplexity of prose under each condition, and its ratio to base's, as rows like those of means."""
    figures = {"perplexity": ("perplexity", "low", "high"), "ratio to unmasked": ("ratio", "ratio_low", "ratio_high")}
    return [
        {"level": "task", "name": name, "condition": row["condition"]}
        | dict(zip(("mean", "low", "high"), (row[key] for key in keys), strict=True))
        | {"items": row["items"], "clusters": row["clusters"]}
        for row in results.get("perplexity", ())
        for name, keys in figures.items()
        if row[keys[0]] is not None
    ]


def _markdown(conditions: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A condition a line, a name a column, in the order of the rows."""
    cells = {(row["condition"], row["name"]): row for row in rows}
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = [["condition", *names], ["---", *["---:"] * len(names)]]
    lines += [[condition, *(_cell(cells.get((condition, name))) for name in names)] for condition in conditions]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def shown(row: Mapping[str, Any], external: Mapping[str, str]) -> bool:
    """Whether a row belongs in a table by category: the tasks of other suites stand there one by one as well."""
    return bool(row["level"] != "task" or row["name"] in external)


def not_served(results: Mapping[str, Any]) -> str:
    """What is to be said of conditions on servers, in a sentence without its full stop; empty where there are none."""
    if "not_served" not in results:
        return ""
    says = "A server cannot be given the beginning of an answer, so a gap to a model here may come of that"
    if tasks := ", ".join(results["not_served"]):
        says += f"; it gives no log-probabilities: it was not asked {tasks}, so it has no mean in their categories"
    servers = {facts["condition"]: mapping(facts.get("server")) for facts in results["conditions"]}
    if thinking := ", ".join(name for name, server in servers.items() if server.get("thinking") == LEFT):
        says += f"; {thinking} may think first, which takes of the few tokens of an answer and may leave none for it"
    return says


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    interval = "" if row["low"] is None else f" ({span(row['low'], row['high'])})"
    return f"{row['mean']:.2f}{interval}"


def _facts(name: str, condition: Condition, record: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a condition: its heads and weights, or its server's address and model, as the run has pinned them."""
    if condition.server:
        server = mapping(record.get(f"server of {name}"))
        return condition.record() | {"server": {**server, "thinking": record.get(f"thinking of {name}")}}
    weights = record.get(f"weights of {name if any(condition.weights) else UNMASKED}")
    mask = record.get("mask" if name == MASKED else f"mask of {name}")
    return condition.record(HeadMask.parse(str(mask), ANY_GRID) if mask else None, {"weights_sha256": weights})


def _by_length(
    items: Sequence[Item], scores: Iterable[Score], conditions: Iterable[str], draws: int
) -> list[dict[str, Any]]:
    """The means at each window (tokens), the shortest first; none where there is but one, or items have none.

    A task that is not asked at every window would make a difference of windows out of one of tasks: it is left out.
    Other suites have windows of their own.
    """
    tokens = {item.id: item.tokens for item in items if item.tokens}
    of_task, of_suite = defaultdict[str, set[int]](set), defaultdict[bool, set[int]](set)
    for item in items:
        if item.tokens:
            of_task[item.task].add(item.tokens)
            of_suite[item.category == EXTERNAL].add(item.tokens)
    windows = defaultdict[int, list[Score]](list)
    for score in scores:
        every = of_suite[score.category == EXTERNAL]
        if score.item in tokens and len(every) > 1 and of_task[score.task] == every:
            windows[tokens[score.item]].append(score)
    return [
        {"tokens": window} | row._asdict()
        for window in sorted(windows)
        for row in means_of(windows[window], conditions, draws)
    ]


def _perplexity(logprobs: Iterable[Score], roles: Mapping[str, Role], draws: int) -> list[dict[str, Any]]:
    """The perplexity of the guard's prose, and its ratio to base's (`ratio`), with their 95 % intervals."""
    rows = tables([score for score in logprobs if score.task == PROSE], roles, draws)
    of_task = [row for row in rows.differences if row.level == "task"]
    ratios = {row.condition: row for row in reversed(of_task)}  # that to base comes first
    return [
        {"condition": row.condition}
        | _inverted(row, "perplexity", "low", "high")
        | _inverted(ratios.get(row.condition), "ratio", "ratio_low", "ratio_high")
        | {"items": row.items, "clusters": row.clusters}
        for row in rows.means
        if row.level == "task"
    ]


def _inverted(row: Mean | Difference | None, name: str, low: str, high: str) -> dict[str, float | None]:
    """What a mean log-probability says as perplexity, under these names, and so its interval: the ends change sides."""
    figures = {name: row and row.mean, low: row and row.high, high: row and row.low}
    return {key: None if figure is None else round(exp(min(-figure, 700)), _DIGITS) for key, figure in figures.items()}


def _scores(items: Sequence[Item], lines: Iterable[Mapping[str, Any]], figure: str) -> Iterator[Score]:
    """One figure of every answer; as its rank the share (0-1) of distractors that gold is likelier than."""
    by_id = {item.id: item for item in items}
    for line in lines:
        item = by_id.get(line["item"])
        if item and figure in line and line["condition"] not in FLOORS and (figure != "rank" or line["of"] > 1):
            value = (line["of"] - line["rank"]) / (line["of"] - 1) if figure == "rank" else line[figure]
            yield _score(item, line["condition"], value)


def _floors(items: Sequence[Item], lines: Iterable[Mapping[str, Any]]) -> dict[str, list[Score]]:
    """The scores without a context, with one in disorder, of one answer to all items of a task, of blind draws."""
    by_id = {item.id: item for item in items}
    out: dict[str, list[Score]] = {name: [] for name in FLOORS}
    for line in lines:
        if line["condition"] in FLOORS and line["item"] in by_id:
            out[line["condition"]].append(_score(by_id[line["item"]], line["condition"], line["score"]))
    for task in dict.fromkeys(item.task for item in items):
        of_task = [item for item in items if item.task == task]
        if task_of(of_task[0]).answers and of_task[0].context:
            most = majority_answer(of_task)
            score = task_of(of_task[0]).score
            out[MAJORITY] += [_score(item, MAJORITY, score(item, most)) for item in of_task]
            drawn = ((item, candidate_score(item, score)) for item in of_task)
            out[DRAWN] += [_score(item, DRAWN, value) for item, value in drawn if value is not None]
    return {name: scores for name, scores in out.items() if scores}


def _floor_means(floors: Mapping[str, Sequence[Score]], scores: Sequence[Score], draws: int) -> Iterator[Mean]:
    """The means of the floors; none of a category, nor overall, where a floor lacks tasks that conditions have."""
    asked = {(score.category, score.task) for score in scores}
    for name, of_floor in floors.items():
        lacking = {category for category, _ in asked - {(score.category, score.task) for score in of_floor}}
        for row in means_of(of_floor, [name], draws):
            without = {"task": set(), "category": lacking & {row.name}, "overall": lacking.difference(WATCHED)}
            if not without[row.level]:
                yield row


def _score(item: Item, condition: str, value: float) -> Score:
    return Score(item.task, item.category, item.id, item.cluster, condition, value)
