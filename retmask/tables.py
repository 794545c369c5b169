"""The rows of data behind figures: values in, rows of plain data out, and CSV. No figure, no model."""

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from retmask.heads import HeadId
from retmask.scores import HeadScores

if TYPE_CHECKING:
    from retmask.retrieval import Trial

Row = dict[str, Any]


class Trace(Protocol):
    """What the rows need of a traced answer: its length, and which head copied at which step, from which position."""

    @property
    def n_steps(self) -> int:
        """How many tokens were generated."""

    @property
    def copied(self) -> Mapping[HeadId, Mapping[int, int]]:
        """Of each head, the steps at which it copied and the context position that it looked at."""


def head_rows(scores: HeadScores, selected: Collection[HeadId] = ()) -> list[Row]:
    """One row a head, best first: its names, rank, mean, 95 % interval, activation (0-1) and whether it is selected."""
    low, high = scores.interval
    return [
        {
            "rank": int(scores.rank[head]),
            "name": str(head),
            "layer": head.layer,
            "head": head.head,
            "kv_group": scores.grid.kv_group(head),
            "mean": round(float(scores.mean[head]), 6),
            "low": round(float(low[head]), 6),
            "high": round(float(high[head]), 6),
            "activation": round(float(scores.activation[head]), 6),
            "selected": head in selected,
        }
        for head in scores.top(scores.grid.size)
    ]


def moved_rows(before: HeadScores, after: HeadScores) -> list[Row]:
    """One row a head of two maps on one grid, what moved most first: both means with 95 % intervals, both ranks.

    `change` is the mean after minus the mean before.
    """
    lows, highs = zip(before.interval, after.interval, strict=True)
    change = np.round(after.mean - before.mean, 6)
    return [
        {
            "name": str(head),
            "layer": head.layer,
            "head": head.head,
            "change": float(change[head]),
            "before": round(float(before.mean[head]), 6),
            "before_low": round(float(lows[0][head]), 6),
            "before_high": round(float(highs[0][head]), 6),
            "before_rank": int(before.rank[head]),
            "after": round(float(after.mean[head]), 6),
            "after_low": round(float(lows[1][head]), 6),
            "after_high": round(float(highs[1][head]), 6),
            "after_rank": int(after.rank[head]),
        }
        for head in sorted(before.grid.heads(), key=lambda head: -abs(change[head]))
    ]


def recall_rows(trials: Iterable["Trial"]) -> list[Row]:
    """One row for each length and depth that has been tried: trials, how many found their needle, mean recall (0-1)."""

    def place(trial: "Trial") -> tuple[int, float]:
        return trial.context_tokens, trial.depth

    rows = []
    for (length, depth), group in groupby(sorted(trials, key=place), key=place):
        cell = list(group)
        recall = sum(trial.recall for trial in cell) / len(cell)
        found = sum(trial.success for trial in cell)
        rows.append({"length": length, "depth": depth, "trials": len(cell), "found": found, "recall": round(recall, 4)})
    return rows


def breakdown_rows(trials: Iterable["Trial"], head: HeadId) -> list[Row]:
    """A head's mean score (0-1) in the successful trials of each needle, each length (tokens) and each depth (0-1)."""
    found = [trial for trial in trials if trial.success]
    rows = []
    for by, field in (("needle", "needle"), ("length", "context_tokens"), ("depth", "depth")):
        for value in sorted({getattr(trial, field) for trial in found}):
            scores = [trial.scores.get(head, 0.0) for trial in found if getattr(trial, field) == value]
            rows.append({"by": by, "value": value, "trials": len(scores), "score": round(float(np.mean(scores)), 6)})
    return rows


def copy_rows(trial: "Trial", head: HeadId) -> list[Row]:
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

    A point has the recall (0-1) of each of its trials in `recalls`; `low` and `high` are the 95 % percentile-bootstrap
    interval of their mean, over trials.
    """
    rows = []
    for point in sorted(points, key=lambda point: (point["k"], point["kind"], point["seed"] or 0)):
        low, high = mean_interval(point["recalls"] or [point["recall"]])
        row = {name: point[name] for name in ("kind", "k", "seed", "recall")}
        row |= {"low": round(min(low, point["recall"]), 6), "high": round(max(high, point["recall"]), 6)}
        rows.append(row | {name: point[name] for name in ("found", "perplexity", "trials", "heads")})
    return rows


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile-bootstrap interval of the mean of one or more values: 2,000 draws, always the same."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.quantile(draws.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


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


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV with a line of names; empty for no rows."""
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue()
