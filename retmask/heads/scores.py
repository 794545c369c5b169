"""Retrieval scores of all heads: their files, ranks and intervals. No model, no torch."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from retmask.files import expanded, is_number, read_lines, read_object, shipped, write_atomic
from retmask.heads.detectors import DETECTORS, Detector
from retmask.heads.grid import Grid, HeadId, share_count
from retmask.heads.intervals import FEWEST, Clusters, Interval, alike, clusters, interval, resampled_means

TOP_SHARE = 0.05  # the share of heads whose masking breaks retrieval in the same paper
MAX_FILE_BYTES = 64 * 2**20
_HIGHEST = 1000.0  # per-step counts pass 1, by far less than this
THRESHOLD = 0.1  # Wu et al. 2024 (arXiv 2404.15574): a head with a mean score of at least 0.1 is a retrieval head
_HAIR = 1e-12  # what summing may take from a mean


class TrialLabel(NamedTuple):
    """Which trial scores are of: the needle's sentence, the length of its context (tokens), its depth (0-1)."""

    needle: str
    length: int
    depth: float


@dataclass(frozen=True, eq=False)
class HeadScores:
    """Retrieval scores of every head in every successful trial.

    `values` are at least 0, but for detectors that say otherwise; with set counting at most 1, with the public code's
    per-step counting a position copied twice counts twice. At least one trial. `counting` is a key of `DETECTORS`.
    `labels` say which trial each is, and are empty where that is not known, as of published files.
    """

    model: str
    values: Float[np.ndarray, "trial layer head"]
    counting: str = "unknown"
    n_kv_heads: int | None = None
    labels: tuple[TrialLabel, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.labels) in (0, len(self.values)), "a label a trial, or none"

    @property
    def grid(self) -> Grid:
        """The size of the head grid."""
        return Grid(self.values.shape[1], self.values.shape[2], self.n_kv_heads)

    @property
    def detector(self) -> Detector:
        """What the scores measure."""
        return DETECTORS.get(self.counting, DETECTORS["unknown"])

    @property
    def ranking(self) -> bool:
        """Whether they are a list of heads in order: 1 down for those it names, 0 for the others, and no scores."""
        return self.counting == "ranking"

    @property
    def n_trials(self) -> int:
        """How many successful trials there are."""
        return len(self.values)

    @cached_property
    def mean(self) -> Float[np.ndarray, "layer head"]:
        """The mean score over successful trials."""
        return np.asarray(self.values.mean(axis=0))

    @cached_property
    def activation(self) -> Float[np.ndarray, "layer head"]:
        """The share of trials (0-1) in which the head scored above 0: where copies count, copied at all (Wu et al.)."""
        return np.asarray((self.values > 0).mean(axis=0))

    @cached_property
    def clusters(self) -> Clusters:
        """Which trials are alike: those of a needle; where that is not known, those with the same scores."""
        if self.labels:
            return clusters([label.needle for label in self.labels], "needle")
        return alike(self.values, "different trial")

    @cached_property
    def interval(self) -> Interval | None:
        """The 95 % bootstrap interval of every head's mean, over `clusters`; None where these are fewer than 3."""
        return interval(self.values, self.clusters)

    @cached_property
    def order(self) -> Int[np.ndarray, "rank two"]:
        """All heads as (layer, head), best mean first; equal means in order of layer and head."""
        flat = np.argsort(-self.mean.ravel(), kind="stable")
        return np.stack(np.unravel_index(flat, self.mean.shape), axis=1)

    @cached_property
    def rank(self) -> Int[np.ndarray, "layer head"]:
        """Every head's place in `order`, from 1."""
        out = np.empty(self.mean.shape, dtype=int)
        out[self.order[:, 0], self.order[:, 1]] = np.arange(1, self.mean.size + 1)
        return out

    @cached_property
    def n_ranked(self) -> int:
        """Of how many heads the place is known: of all, but for a list of heads, which says nothing of the others."""
        return int((self.mean > 0).sum()) if self.ranking else self.grid.size

    def top(self, k: int) -> tuple[HeadId, ...]:
        """The `k` best heads by mean score, best first; no more than are ranked."""
        return tuple(HeadId(int(layer), int(head)) for layer, head in self.order[: min(max(0, k), self.n_ranked)])

    def top_share(self, share: float = TOP_SHARE) -> tuple[HeadId, ...]:
        """The best `share` (0-1) of all heads, best first."""
        return self.top(share_count(self.grid.size, share))

    def above(self, threshold: float = THRESHOLD) -> tuple[HeadId, ...]:
        """The heads whose mean is at least `threshold`, best first; of a list, which has no scores, all it names."""
        return self.top(self.n_ranked if self.ranking else int(reaches(self.mean, threshold).sum()))

    def stability(self, share: float = TOP_SHARE) -> float | None:
        """How surely the trials so far tell the top heads (0-1); None with fewer than 3 `clusters`.

        The mean overlap of the top `share` with the top of bootstrap draws of the clusters; 1 means that any such draw
        names the same heads.
        """
        if self.clusters.n < FEWEST:
            return None
        k = share_count(self.grid.size, share)
        top = {layer * self.grid.n_heads + head for layer, head in self.top(k)}
        drawn = resampled_means(self.values, self.clusters)
        best = np.argsort(-drawn.reshape(len(drawn), -1), axis=1, kind="stable")[:, :k]
        return float(np.isin(best, list(top)).mean())

    def check_grid(self, grid: Grid, model: str) -> None:
        """ValueError if these scores cannot belong to a model of that grid."""
        if self.values.shape[1:] != (grid.n_layers, grid.n_heads):
            raise ValueError(
                f"these scores are for {self.grid} heads and {model} has {grid}: open scores of that model"
            )

    def to_json(self) -> str:
        """The published score format: one line, `{"layer-head": [one score per successful trial]}`."""
        columns = np.round(self.values, 6).transpose(1, 2, 0)
        return json.dumps({head.key: columns[head].tolist() for head in self.grid.heads()})

    def save(self, path: Path) -> None:
        """Write the published score format, atomically."""
        write_atomic(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: Path | str) -> "HeadScores":
        """Scores from a published file, or from a file or folder that `retmask detect` wrote.

        ValueError, one sentence, for what is not such a file.
        """
        path = expanded(path)
        file = path / "scores.json" if path.is_dir() else path
        if not file.is_file():
            raise ValueError(
                f"there is no score file at {file}: give a scores.json, a folder with one, or a built-in model's name"
            )
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{file.name} is larger than 64 MiB: that is no score file")
        about = read_object(file.parent / "run.json")
        made = DETECTORS.get(str(about.get("counting"))) if file.name == "scores.json" else None
        scores = cls.from_json(file.read_bytes(), file.stem, signed=bool(made and made.signed))
        grid = about.get("head_grid")
        if file.name != "scores.json" or not isinstance(grid, dict):
            return scores
        return cls(
            printable(str(about.get("model", scores.model))),
            scores.values,
            printable(str(about.get("counting", "unknown"))),
            _kv_heads(grid, scores.grid),
            _labels(file.parent, scores.values),
        )

    @classmethod
    def from_json(cls, text: str | bytes, name: str, signed: bool = False) -> "HeadScores":
        """Scores from the text of a score file; `name` stands for the model. Below 0 only where they are `signed`.

        ValueError, one sentence, if malformed.
        """
        name = printable(name)
        try:
            raw = json.loads(text, object_pairs_hook=_no_repeats, parse_int=float)  # int() refuses 4,300 digits
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{name} is not JSON ({error}): a score file is one JSON object") from None
        except RecursionError:
            raise ValueError(f"{name} is nested too deeply to be a score file") from None
        return cls(name, _values(raw, name, signed))


def printable(name: str) -> str:
    """A foreign name with "�" for each character that does not print: a terminal obeys some of them."""
    return "".join(character if character.isprintable() else "�" for character in name)


def spearman(first: Float[np.ndarray, "layer head"], second: Float[np.ndarray, "layer head"]) -> float | None:
    """Spearman's rank correlation of two maps (-1 to 1), equal values sharing their mean rank; None if one is flat."""
    from scipy import stats  # here, since it takes a second

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(stats.spearmanr(first, second, axis=None).statistic)


def reaches(means: Float[np.ndarray, "*any"], threshold: float) -> Bool[np.ndarray, "*any"]:
    """Whether each mean is at least the threshold, as in exact arithmetic: the mean of 0.3, 0 and 0 reaches 0.1."""
    return np.asarray(means >= threshold - _HAIR)


def scores_path(name: str) -> Path:
    """Where scores lie: a file or folder, or the map that comes with a built-in model, by its name."""
    path = expanded(name)
    map_folder = shipped("maps", path.name)
    return map_folder if not path.exists() and path.parent == Path() and path.name and map_folder.is_dir() else path


def _kv_heads(record: Mapping[str, Any], grid: Grid) -> int | None:
    """The number of key/value heads that a record tells, None where it can be none."""
    n = record.get("n_kv_heads")
    return n if type(n) is int and 0 < n <= grid.n_heads else None


def _labels(folder: Path, values: Float[np.ndarray, "trial layer head"]) -> tuple[TrialLabel, ...]:
    """Which trials a detection's scores are of: the successful ones in its trials.jsonl, in their order.

    None where these are not the trials of the scores, as after a crash or in a damaged folder.
    """
    lines: dict[TrialLabel, Any] = {}
    for line in read_lines(folder / "trials.jsonl"):
        needle, length, depth = (line.get(name) for name in ("needle", "context_tokens", "depth"))
        if isinstance(needle, str) and isinstance(length, int) and is_number(depth):
            lines.setdefault(TrialLabel(needle, length, depth), line)
    successes = [(label, line.get("scores")) for label, line in lines.items() if line.get("success") is True]
    if len(successes) < len(values) or not all(map(_same_scores, values, (scores for _, scores in successes))):
        return ()
    return tuple(label for label, _ in successes[: len(values)])


def _same_scores(row: Float[np.ndarray, "layer head"], recorded: Any) -> bool:
    """Whether a trial's line tells the scores in a row of the score file, both rounded to six digits."""
    if not isinstance(recorded, dict):
        return False
    own = {f"{layer}-{head}": float(row[layer, head]) for layer, head in np.argwhere(row)}
    try:
        return all(abs(own.get(key, 0.0) - recorded.get(key, 0.0)) < 2e-6 for key in {*own, *recorded})
    except TypeError:
        return False


def _no_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} stands twice: each head may stand once")
    return out


def _values(raw: Any, name: str, signed: bool) -> Float[np.ndarray, "trial layer head"]:
    """Check what a score file holds and lay it on the grid."""
    if not isinstance(raw, dict) or not raw:
        raise ValueError(f'{name} holds no scores: a score file is one JSON object {{"layer-head": [scores]}}')
    columns: dict[HeadId, list[float]] = {}
    for key, column in raw.items():
        if not re.fullmatch(r"\d{1,4}-\d{1,4}", key) or HeadId.parse(key).key != key:
            raise ValueError(f'{name}: key {key[:40]!r} is not a head: keys are "layer-head", such as "15-30"')
        columns[HeadId.parse(key)] = _column(column, key, name, signed)
    lengths = {len(column) for column in columns.values()}
    if lengths == {0}:
        raise ValueError(f"{name} holds no successful trial: every list is empty")
    if len(lengths) > 1:
        raise ValueError(f"{name} is ragged: lists of {min(lengths)} and of {max(lengths)} scores stand side by side")
    grid = Grid(max(head.layer for head in columns) + 1, max(head.head for head in columns) + 1)
    if grid.size != len(columns):
        missing = next(head for head in grid.heads() if head not in columns) if grid.size < 10**6 else "most heads"
        raise ValueError(f"{name} has {len(columns)} heads of a {grid} grid: {missing} is missing")
    stacked = np.array([columns[head] for head in grid.heads()])
    return stacked.T.reshape(-1, grid.n_layers, grid.n_heads)


def _column(column: Any, key: str, name: str, signed: bool) -> list[float]:
    if not isinstance(column, list):
        raise ValueError(f"{name}: {key} is not a list: each head has a list with one score per trial")
    for value in column:
        if not is_number(value) or abs(value) > _HIGHEST:
            raise ValueError(f"{name}: {key} holds {str(value)[:20]}, which is not a finite number up to {_HIGHEST:g}")
        if value < 0 and not signed:
            raise ValueError(
                f"{name}: {key} holds {value}: scores cannot be negative, unless the run.json beside their scores.json "
                "names a detector whose scores can"
            )
    return [float(value) for value in column]
