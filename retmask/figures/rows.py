"""The rows of data behind figures: values in, rows of plain data out, and CSV. No figure, no model."""

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np

from retmask.families.agreement import Agreement, Agreements
from retmask.families.concentration import concentration, intervals
from retmask.families.difference import MapDifference
from retmask.heads.grid import HeadId
from retmask.heads.intervals import FEWEST, LEVEL, clusters, each, interval
from retmask.heads.scores import THRESHOLD, HeadScores
from retmask.heads.sets import ScoreSet, labels
from retmask.heads.trials import LEVELS, Trial

Row = dict[str, Any]
ALPHA = 1 - LEVEL


class Trace(Protocol):
    """What the rows need of a traced answer: its length, and which head copied at which step, from which position."""

    @property
    def n_steps(self) -> int:
        """How many tokens were generated."""

    @property
    def copied(self) -> Mapping[HeadId, Mapping[int, int]]:
        """Of each head, the steps at which it copied and the context position that it looked at."""


def head_rows(scores: HeadScores, selected: Collection[HeadId] = ()) -> list[Row]:
    """One row a head, best first: its names, rank, mean, 95 % interval, activation (0-1) and whether it is selected.

    The ends of the interval are None where there is none; `over` says what it is over, such as "3 needles".
    """
    spread = scores.interval
    return [
        {
            "rank": int(scores.rank[head]),
            "name": str(head),
            "layer": head.layer,
            "head": head.head,
            "kv_group": scores.grid.kv_group(head),
            "mean": round(float(scores.mean[head]), 6),
            "low": spread and round(float(spread.low[head]), 6),
            "high": spread and round(float(spread.high[head]), 6),
            "over": scores.clusters.words,
            "activation": round(float(scores.activation[head]), 6),
            "selected": head in selected,
        }
        for head in scores.top(scores.grid.size)
    ]


def difference_rows(moved: MapDifference) -> list[Row]:
    """One row a head of what moved between two maps: what holds first, and the largest change first.

    `change` is the mean after minus the mean before, `low` and `high` its 95 % interval, None where there is none;
    means and ranks are of the trials that both maps have, where they have any.
    """
    before, after, spread = moved.before, moved.after, moved.interval
    change = np.round(moved.change, 6)
    return [
        {
            "name": str(head),
            "layer": head.layer,
            "head": head.head,
            "change": float(change[head]),
            "low": spread and round(float(spread.low[head]), 6),
            "high": spread and round(float(spread.high[head]), 6),
            "holds": bool(moved.holds[head]),
            "before": round(float(before.mean[head]), 6),
            "before_rank": int(before.rank[head]),
            "after": round(float(after.mean[head]), 6),
            "after_rank": int(after.rank[head]),
        }
        for head in sorted(before.grid.heads(), key=lambda head: (not moved.holds[head], -abs(change[head])))
    ]


def recall_rows(trials: Iterable[Trial]) -> list[Row]:
    """One row for each length and depth that has been tried: trials, how many found their needle, mean recall (0-1)."""

    def place(trial: Trial) -> tuple[int, float]:
        return trial.context_tokens, trial.depth

    rows = []
    for (length, depth), group in groupby(sorted(trials, key=place), key=place):
        cell = list(group)
        recall = sum(trial.recall for trial in cell) / len(cell)
        found = sum(trial.success for trial in cell)
        rows.append({"length": length, "depth": depth, "trials": len(cell), "found": found, "recall": round(recall, 4)})
    return rows


def breakdown_rows(trials: Iterable[Trial], head: HeadId) -> list[Row]:
    """A head's mean score (0-1) in the successful trials of each needle, each length (tokens) and each depth (0-1)."""
    successes = [trial for trial in trials if trial.success]
    rows = []
    for by, field in LEVELS.items():
        for value in sorted({getattr(trial, field) for trial in successes}):
            scores = [trial.scores.get(head, 0.0) for trial in successes if getattr(trial, field) == value]
            rows.append({"by": by, "value": value, "trials": len(scores), "score": round(float(np.mean(scores)), 6)})
    return rows


def copy_rows(trial: Trial, head: HeadId) -> list[Row]:
    """One row for each token of the answer that the head copied: its step, and the context token it looked at."""
    start = trial.needle_span[0]
    return [
        {
            "step": step,
            "answer_token": trial.response_tokens[step],
            "position": position,
            "needle_token": trial.needle_tokens[position - start],
        }
        for step, position in trial.copied.get(head, ())
        if step < len(trial.response_tokens) and 0 <= position - start < len(trial.needle_tokens)
    ]


def dose_rows(points: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row a point of the masking curve, by number of masked heads, kind and seed.

    A point has the recall (0-1) of each of its trials in `recalls`, and the number of each trial's needle in `needles`;
    one measured before these were kept has none. `low` and `high` are the 95 % interval of the mean over what `over`
    says, needles or trials, None where these are fewer than 3.
    """
    rows = []
    for point in sorted(points, key=lambda point: (point["k"], point["kind"], point["seed"] or 0)):
        recalls = point["recalls"] or [point["recall"]]
        needles, n = point.get("needles"), len(recalls)
        by = clusters(needles, "needle") if isinstance(needles, list) and len(needles) == n else each(n, "trial")
        spread = interval(np.array(recalls, dtype=float), by)
        row = {name: point[name] for name in ("kind", "k", "seed", "recall")}
        low = spread and round(min(float(spread.low), point["recall"]), 6)
        high = spread and round(max(float(spread.high), point["recall"]), 6)
        rest = {name: point[name] for name in ("found", "perplexity", "trials", "heads")}
        rows.append(row | {"low": low, "high": high, "over": by.words} | rest)
    return rows


def trace_rows(trace: Trace, tokens: Sequence[str]) -> list[Row]:
    """One row a copy, in order of step and head: what was generated, the head, the context position it came from."""
    copies = sorted((step, head, at) for head, steps in trace.copied.items() for step, at in steps.items())
    return [
        {
            "step": step,
            "token": tokens[step],
            "head": str(head),
            "layer": head.layer,
            "head_index": head.head,
            "position": at,
        }
        for step, head, at in copies
    ]


def logprob_rows(
    own: Sequence[float],
    others: Mapping[str, Sequence[float]],
    tokens: Sequence[str],
    kl: Mapping[str, Sequence[float]],
) -> list[Row]:
    """One row a token: its log-probability under its own model and the others, and their divergences, all in nats."""
    return [
        {"step": step, "token": token, "own": own[step]}
        | {name: values[step] for name, values in others.items()}
        | {f"kl {name}": values[step] for name, values in kl.items()}
        for step, token in enumerate(tokens)
    ]


def forest_rows(results: Mapping[str, Any]) -> list[Row]:
    """One row a difference of an evaluation by category and overall, which comes first.

    `to` is "base", or "control" for the control that a treatment is least sure to differ from. `holds`: the corrected
    p-value is below 0.05, to a control with the verdict. `low` and `high` are None where there is no interval.
    """
    verdicts = {(row["name"], row["condition"]): row for row in results["verdicts"]}
    roles = {row["condition"]: row["role"] for row in results["conditions"]}
    base = next((name for name, role in roles.items() if role == "base"), next(iter(roles), ""))
    rows = []
    for row in sorted(results["differences"], key=lambda row: row["level"] != "overall"):
        verdict = verdicts.get((row["name"], row["condition"]))
        is_base = row["against"] == base
        if row["level"] != "task" and (is_base or (verdict and verdict["control"] == row["against"])):
            says = verdict["says"] if verdict else ""
            p = row["adjusted"] if is_base else verdict and verdict["p_control"]
            holds = p is not None and p <= ALPHA and (is_base or says in ("gain", "loss"))
            figures = {name: row[name] for name in ("mean", "low", "high", "smallest", "better", "worse", "items")}
            who = {name: row[name] for name in ("name", "condition", "against")}
            rows.append(
                who | {"to": "base" if is_base else "control", "holds": holds, "p": p, "verdict": says} | figures
            )
    return rows


def depth_rows(scores: Iterable[tuple[int, float, float]], bins: int = 5) -> list[Row]:
    """One row a length (tokens) and stretch of depth that is asked: items and their mean score (0-1).

    `scores` are length, depth (0-1) and score of each item. `depth` is where the stretch begins, `to` where it ends.
    """
    cells: dict[tuple[int, int], list[float]] = {}
    for length, depth, score in scores:
        cells.setdefault((length, min(int(depth * bins), bins - 1)), []).append(score)
    return [
        {
            "length": length,
            "depth": place / bins,
            "to": (place + 1) / bins,
            "items": len(cell),
            "score": round(sum(cell) / len(cell), 4),
        }
        for (length, place), cell in sorted(cells.items())
    ]


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV with a line of names; empty for no rows."""
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue()


def set_rows(sets: Sequence[ScoreSet], threshold: float = THRESHOLD) -> list[Row]:
    """One row a set: what it is, and its figures of concentration, each with `_low` and `_high` (95 % intervals).

    `over` says what the intervals are over, and is empty where there are none: needles, with all their trials; of a
    file that does not say its needles, trials, copies of one drawn together.

    `grid` is empty where it is not known. `trials` and `distinct` are None for what has no trials, figures for a list
    of heads without scores, and ends of intervals where they are over fewer than 3.
    """
    return [
        {
            "label": label,
            "model": score_set.model,
            "family": score_set.family,
            "grid": str(score_set.grid or ""),
            "level": score_set.level,
            "counting": score_set.counting,
            "trials": score_set.n_trials if score_set.has_trials else None,
            "distinct": score_set.distinct if score_set.has_trials else None,
            "over": by.words if score_set.has_trials and (by := score_set.scores.clusters).n >= FEWEST else "",
            "best": str(score_set.scores.top(1)[0]),
            **_figures(score_set, threshold),
        }
        for label, score_set in zip(labels(sets), sets, strict=True)
    ]


def _figures(score_set: ScoreSet, threshold: float) -> Row:
    scores = score_set.scores
    figures: Row = concentration(scores.mean, threshold)._asdict()
    row: Row = {"n_heads": figures.pop("n_heads") if score_set.grid_known else None}
    figures.pop("n_heads", None)
    if score_set.ranking:
        figures = dict.fromkeys(figures)
    spread = {} if score_set.ranking else intervals(scores.values, scores.clusters, threshold)
    for name, value in figures.items():
        low, high = spread.get(name) or (None, None)
        row |= {name: _round(value), f"{name}_low": _round(low), f"{name}_high": _round(high)}
    return row


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def pair_rows(names: Sequence[str], agreements: Agreements) -> list[Row]:
    """One row a pair: its agreement, or `why` there is none."""
    blank: Row = dict.fromkeys(Agreement._fields)
    return [
        {"one": names[i], "other": names[j]}
        | (result._asdict() | {"why": ""} if isinstance(result, Agreement) else blank | {"why": result})
        for (i, j), result in agreements.items()
    ]
