"""Trials: a needle task and what the model did with it, as a line of trials.jsonl; and the scores of many of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from retmask.files import read_lines, unknown
from retmask.heads.grid import Grid, HeadId
from retmask.heads.scores import HeadScores, TrialLabel

Scored = Literal["answer", "needle"]
_BEYOND = 1e12  # no token count, position or score is as large, nor nan
Pair = tuple[int, int]
Rule = Literal["set", "steps", "activation"]
By = Literal["needle", "length", "depth"]
LEVELS: dict[By, str] = {"needle": "needle", "length": "context_tokens", "depth": "depth"}  # fields of a trial


@dataclass(frozen=True)
class Trial:
    """One needle task and what the model did with it.

    `scores` holds the heads whose score is not 0, by whatever detector, `copied` every (step, position) at which a head
    copied; `needle_tokens` and `response_tokens` are the texts of the tokens, so that a reader needs no tokenizer.
    """

    needle: str
    question: str
    answer: str
    context_tokens: int
    depth: float
    needle_span: tuple[int, int]
    prompt_tokens: int
    response: str
    response_ids: tuple[int, ...]
    recall: float
    success: bool
    scores: Mapping[HeadId, float]
    scored: Scored = "answer"
    template: str = "plain"
    char_depth: float = 0.0
    copied: Mapping[HeadId, tuple[Pair, ...]] = field(default_factory=dict)
    needle_tokens: tuple[str, ...] = ()
    response_tokens: tuple[str, ...] = ()
    prompt_ids: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[str, int, float]:
        """What tells this trial from the others of a run; the same as its task's."""
        return (self.needle, self.context_tokens, self.depth)

    def dense(self, grid: Grid) -> Float[np.ndarray, "layer head"]:
        """The score of every head of the grid. ValueError for a head that is not on it."""
        grid.check(self.scores)
        out = np.zeros((grid.n_layers, grid.n_heads))
        for head, score in self.scores.items():
            out[head] = score
        return out

    def to_json(self, keep_prompt: bool = False) -> dict[str, Any]:
        """One line of trials.jsonl; `prompt_ids` only with `keep_prompt`."""
        line = {name: value for name, value in vars(self).items() if name not in ("scores", "copied", "prompt_ids")}
        line["scores"] = {head.key: round(score, 6) for head, score in self.scores.items()}
        line["copied"] = {head.key: pairs for head, pairs in self.copied.items()}
        return line | ({"prompt_ids": self.prompt_ids} if keep_prompt else {})

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "Trial":
        """The trial that `to_json` wrote. KeyError, TypeError or ValueError for anything else."""
        fields = {name: line[name] for name in cls.__dataclass_fields__ if name in line}
        for name in ("needle", "question", "answer", "response"):
            _check(line[name], str)
        for name in ("context_tokens", "depth", "prompt_tokens", "recall"):
            _check(line[name], int, float)
        start, end = line["needle_span"]
        _check(start, int)
        _check(end, int)
        if not 0 <= start < end:
            raise ValueError(f"a needle cannot stand from {start} to {end}")
        fields["needle_span"] = start, end
        fields["scores"] = {HeadId.parse(key): _check(score, int, float) for key, score in dict(line["scores"]).items()}
        copied = dict(line.get("copied", {}))
        fields["copied"] = {
            HeadId.parse(key): tuple((_check(step, int), _check(at, int)) for step, at in pairs)
            for key, pairs in copied.items()
        }
        for name in ("response_ids", "needle_tokens", "response_tokens", "prompt_ids"):
            fields[name] = tuple(line.get(name, ()))
        return cls(**fields)


def read_trials(folder: Path) -> list[Trial]:
    """The finished trials in a detection's folder, in the order in which they ended, each task once."""
    trials: dict[Any, Trial] = {}
    for line in read_lines(folder / "trials.jsonl"):
        try:
            trial = Trial.from_json(line)
        except (KeyError, TypeError, ValueError):
            continue
        trials.setdefault(trial.key, trial)
    return list(trials.values())


def collect_scores(trials: Sequence[Trial], grid: Grid, model: str, counting: str) -> HeadScores | None:
    """The scores of the successful trials; None if none was."""
    successes = [trial for trial in trials if trial.success]
    if not successes:
        return None
    labels = tuple(TrialLabel(*trial.key) for trial in successes)
    return HeadScores(model, np.stack([trial.dense(grid) for trial in successes]), counting, grid.n_kv_heads, labels)


def recounted(trials: Sequence[Trial], grid: Grid, model: str, rule: Rule) -> HeadScores | None:
    """The successful trials' copies counted by another rule; None if none succeeded, or if none holds any copy.

    `set`: the share of the needle's scored tokens that the head copied (Wu et al. 2024, arXiv 2404.15574, eq. 1).
    `steps`: the same with each step counted, as in RetMask's public code; may pass 1. `activation`: 1 if the head
    copied at all, so that the mean is Wu et al.'s activation frequency. ValueError for another rule, and for a head
    that is not on the grid.
    """
    if rule not in get_args(Rule):
        raise unknown("counting", rule, get_args(Rule))
    successes = [trial for trial in trials if trial.success]
    if not any(trial.copied for trial in successes):
        return None
    values = np.zeros((len(successes), grid.n_layers, grid.n_heads))
    for i, trial in enumerate(successes):
        grid.check(trial.copied)
        for head, pairs in trial.copied.items():
            values[(i, *head)] = _count(pairs, trial.needle_span, rule)
    return HeadScores(model, values, rule, grid.n_kv_heads, tuple(TrialLabel(*trial.key) for trial in successes))


def slices(
    trials: Sequence[Trial], grid: Grid, model: str, counting: str, by: By
) -> dict[str | int | float, HeadScores]:
    """The scores of the successful trials of each needle (its text), length (tokens) or depth (0-1), in that order.

    Needles stand in the order of the trials; what no trial succeeded at is left out. ValueError for another `by`, and
    for a head that is not on the grid.
    """
    if by not in LEVELS:
        raise ValueError(f"trials cannot be parted by {by!r}: choose {', '.join(LEVELS)}")
    level = attrgetter(LEVELS[by])
    levels = list(dict.fromkeys(map(level, trials)))
    if by != "needle":
        levels.sort()
    parts = {
        name: collect_scores([trial for trial in trials if level(trial) == name], grid, model, counting)
        for name in levels
    }
    return {name: scores for name, scores in parts.items() if scores is not None}


def _check(value: Any, *kinds: type) -> Any:
    """The value, as it is. TypeError where it is of another kind, ValueError for a number beyond all reason."""
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise TypeError(f"{str(value)[:20]!r} is not what a trial holds there")
    if isinstance(value, int | float) and not abs(value) < _BEYOND:
        raise ValueError(f"{str(value)[:20]} is no number of a trial")
    return value


def _count(pairs: Sequence[tuple[int, int]], span: tuple[int, int], rule: Rule) -> float:
    """What a head's (step, position) pairs of one trial come to."""
    if rule == "activation":
        return float(bool(pairs))
    counted = len(pairs) if rule == "steps" else len({position for _, position in pairs})
    return counted / (span[1] - span[0])
