"""Score sets: head scores from anywhere with what is known of them, to lay beside each other. No model."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, count, pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from retmask.files import expanded, home, mapping, meant, read_object, sha256_text, shipped, stem, write_atomic
from retmask.heads.formats import Level, family, kind, model_of, read_content, short
from retmask.heads.grid import Grid, known_grid
from retmask.heads.intervals import FEWEST, alike, none_over
from retmask.heads.scores import MAX_FILE_BYTES, HeadScores, printable, scores_path
from retmask.heads.trials import Trial, read_trials
from retmask.heads.web import fetch
from retmask.runs.run import Run, run_path

STRANGERS = "Models of different names are compared here: heads of one place are one head only in one model."
_FEW = 10  # trials; over fewer, intervals say little
_ENDINGS = {"scores": ".json", "list": ".yaml", "gates": ".tsv"}


@dataclass(frozen=True, eq=False)
class ScoreSet:
    """One set of head scores and what is known of it.

    `source` is what opened it and `path` the file it was read from (None for an upload that is not kept). `level`
    says what its columns are: query heads, or the key/value heads that groups of them share. Where `grid_known` is not
    so, the grid of its scores is only the smallest that holds them. `record` is the run.json of the detection, empty
    for foreign files; `family` the model's, empty where its name tells none; `notes` are sentences about what was done
    to the file's content.
    """

    source: str
    scores: HeadScores
    family: str = ""
    level: Level = "query"
    record: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    grid_known: bool = True
    notes: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid | None:
        """The grid of its heads, of key/value heads for gates; None for a list whose model's is not known."""
        return self.scores.grid if self.grid_known else None

    @property
    def model(self) -> str:
        """The model's short name; of a fine-tuned model, the name of its base."""
        return short(_base(self.record) or self.scores.model)

    @property
    def tuned(self) -> bool:
        """Whether the model is known to be fine-tuned here."""
        return bool(_base(self.record))

    @property
    def label(self) -> str:
        """A name for legends: model, what was counted, and the start of the run (UTC). `labels` tells twins apart."""
        name = f"{self.model} tuned" if self.tuned else self.model
        came = str(self.record.get("created", ""))[5:19].replace("T", " ")
        if self._is_shipped or self.ranking:
            came = "shipped" if self._is_shipped else self._list_name
        return printable(" · ".join(filter(None, (name, self.scores.detector.name, came))))

    @property
    def n_trials(self) -> int:
        """How many successful trials there are; 1 for a list and for gates."""
        return self.scores.n_trials

    @property
    def counting(self) -> str:
        """What the scores count: set, steps, activation, attention, query, causal, gates, ranking, or unknown."""
        return self.scores.counting

    @property
    def ranking(self) -> bool:
        """Whether it is a list of heads in order, without scores."""
        return self.scores.ranking

    @property
    def has_trials(self) -> bool:
        """Whether its scores come from trials; a list and gates do not."""
        return not self.ranking and self.counting != "gates"

    @cached_property
    def distinct(self) -> int:
        """How many trials differ in their scores, of any head; all those in which no head scored count as one."""
        return alike(self.scores.values, "trial").n

    @cached_property
    def blank(self) -> int:
        """How many trials no head scored in: they look alike, and need not be copies of each other."""
        return int((~self.scores.values.any(axis=(1, 2))).sum())

    @cached_property
    def warnings(self) -> list[str]:
        """What to know before its numbers are read, a sentence each; none where nothing is special."""
        return list(self._warnings())

    def trials(self) -> list[Trial]:
        """The trials that it was made from, successful or not; empty where the file stands alone."""
        return list(self._trials)

    def on(self, grid: Grid) -> "ScoreSet":
        """Its query heads on the grid of its model: a list and gates do not say it, any other set has its own.

        A gate counts for each query head that shares its key/value head. ValueError where it does not fit.
        """
        own = self.scores.grid
        if self.level == "kv":
            return self._of_queries(grid)
        if (own.n_layers, own.n_heads) == (grid.n_layers, grid.n_heads):
            scores = self.scores if self.grid_known else replace(self.scores, n_kv_heads=grid.n_kv_heads)
            return replace(self, scores=scores, grid_known=True)
        if self.grid_known:
            raise ValueError(f"{self.label} has {own} heads and does not fit on a grid of {grid}: compare one model")
        beyond = next((head for head in self.scores.top(own.size) if not grid.has(head)), None)
        if beyond:
            raise ValueError(f"{self.label} names {beyond} and does not fit on a grid of {grid}: compare one model")
        wider = ((0, 0), (0, grid.n_layers - own.n_layers), (0, grid.n_heads - own.n_heads))
        values = np.pad(self.scores.values, wider)
        return replace(self, scores=replace(self.scores, values=values, n_kv_heads=grid.n_kv_heads), grid_known=True)

    def _of_queries(self, grid: Grid) -> "ScoreSet":
        own, kv = self.scores.grid, grid.n_kv_heads or grid.n_heads
        if (own.n_layers, own.n_heads) != (grid.n_layers, kv):
            raise ValueError(
                f"{self.label} has {own} key/value heads and the model {grid.n_layers} x {kv}: give gates of that model"
            )
        values = np.repeat(self.scores.values, grid.n_heads // kv, axis=2)
        scores = replace(self.scores, values=values, n_kv_heads=kv)
        return replace(self, scores=scores, level="query")

    @property
    def _is_shipped(self) -> bool:
        return self.path is not None and self.path.parent.parent == shipped("maps")

    @property
    def _list_name(self) -> str:
        """What a list's file is called besides its model: there are several of one."""
        stem = model_of(str(self.path or self.source))
        return (stem[len(self.model) :] if stem.lower().startswith(self.model.lower()) else stem).strip("_-. ")

    @cached_property
    def _trials(self) -> list[Trial]:
        return read_trials(self.path.parent) if self.path and self.record else []

    def _warnings(self) -> Iterator[str]:
        yield from self.notes
        if self.has_trials and self.distinct - bool(self.blank) < (self.n_trials - self.blank) / 2:
            yield (
                f"only {self.distinct} of {self.n_trials} trials differ in their scores: the others are copies and say "
                "nothing more"
            )
        if self.has_trials and self.n_trials < _FEW:
            yield f"only {self.n_trials} trial{'s' * (self.n_trials > 1)}: intervals over so few say little"
        by = self.scores.clusters
        if self.scores.labels and by.n < FEWEST:
            yield none_over(by.n, by.unit)
        if self.counting == "steps":
            yield "per-step counting: scores may pass 1, do not compare their size with set counting"
        if self.counting == "unknown" and self.scores.values.max() > 1:
            yield "some scores pass 1, so this is not set counting: do not compare their size with it"
        if self.counting == "unknown" and self.scores.values.min() < 0:
            yield (
                "some scores are below 0, so these are no shares of copied tokens (a detector whose scores may be: "
                "attention of the question, one head masked)"
            )
        if self.scores.mean.min() < 0:
            yield "heads with a mean below 0 count as 0 in the figures of concentration"
        if self.level == "kv":
            yield (
                "gates of key/value heads, each shared by a group of query heads: compared with other gates only, not "
                "with scores of query heads"
            )
        if self.ranking:
            yield from self._list_warnings()
        status = self.record.get("status")
        if self.record.get("kind") == "detect" and status != "success":
            yield f"its detection is not finished ({printable(str(status)[:20])}): these are the trials so far"

    def _list_warnings(self) -> Iterator[str]:
        listed = self.scores.top(int((self.scores.mean > 0).sum()))
        yield f"a list of {len(listed)} heads without scores: only their order means anything, and all others are equal"
        if len(listed) > 2 and all(a.layer <= b.layer for a, b in pairwise(listed)):
            yield "the list goes layer by layer, so its order may be no ranking"
        if not self.grid_known:
            yield "the model's grid is not known, so no map is drawn"


def read_scores(source: str, grid: Grid | None = None) -> HeadScores:
    """The scores of query heads that anything means that `read_set` reads, but for an address: it may be a stranger's.

    Lists and gates are laid on `grid`, that of the model they are used with; without one, on that of the published
    model that they name. ValueError, one sentence, where that is not known or does not fit; `check_grid` is the
    caller's for all others.
    """
    if "://" in source:
        raise ValueError(f"{source[:80]} is not fetched here: download it and give the file")
    return head_scores(read_set(source), grid)


def head_scores(score_set: ScoreSet, grid: Grid | None = None) -> HeadScores:
    """The scores of query heads of a set, as `read_scores` says."""
    if score_set.level == "kv":
        grid = grid or known_grid(score_set.model)
    elif not score_set.ranking or (grid is None and score_set.grid_known):
        return score_set.scores
    if grid is None:
        what = "key/value heads" if score_set.level == "kv" else "a list of heads"
        raise ValueError(
            f"{score_set.label} is {what}, and the grid of its model's heads is not known: name the model, or compare "
            "it on Families"
        )
    return score_set.on(grid).scores


def read_set(source: str) -> ScoreSet:
    """The scores that a shipped map's name, a run's id, a path of a file or folder, or an https address mean.

    What an address holds is kept under `RETMASK_HOME/opened`; the set's `path` opens it again without a network.
    ValueError, one sentence, for what is none or cannot be read.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source):
        content = fetch(source)  # which refuses what is no address
        return _read_path(source, Path(keep_set(httpx.URL(source.strip()).path, content)))
    return _read_path(source)


def read_text(content: bytes, name: str) -> ScoreSet:
    """The scores in the content of a file; `name`, its name or path, stands for the model where nothing else does.

    ValueError, one sentence, for what is no set of scores.
    """
    read = read_content(content, name)
    return ScoreSet(name, read.scores, read.kin, read.level, grid_known=read.grid_known, notes=read.notes)


def keep_set(name: str, content: bytes) -> str:
    """The path of a lasting copy of an upload, named after its model. ValueError, and no copy, if it is no set."""
    read_text(content, name)
    text = content.decode("utf-8-sig")
    named = stem(model_of(name), "unnamed", 60)
    path = home() / "opened" / sha256_text(text)[:12] / (named + _ENDINGS[kind(content, named)])
    write_atomic(path, text)
    return str(path)


def labels(sets: Sequence[ScoreSet]) -> list[str]:
    """A label for each set, no two the same: twins get the next number that no other set has."""
    names: dict[str, None] = {}
    for score_set in sets:
        numbered = (f"{score_set.label} ({n})" for n in count(2))
        names[next(name for name in chain([score_set.label], numbered) if name not in names)] = None
    return list(names)


def strangers(first: ScoreSet, second: ScoreSet) -> bool:
    """Whether two sets seem to be of different models: of two known families, or of names that differ.

    A name may be only a file's, so this is a reason to warn and none to refuse. Capitals do not count.
    """
    families = {first.family, second.family} - {""}
    return len(families) > 1 or first.model.lower() != second.model.lower()


def _located(source: str) -> Path:
    """The path that a shipped map's name, a run's id or a path means."""
    if not source.strip():
        raise ValueError("name a score set: a built-in model, a run, a file or folder, or an https address")
    path = scores_path(source)
    try:
        run = run_path(source)
    except ValueError:
        return path
    return run if run.is_dir() and path == expanded(source) else path


def _read_path(source: str, path: Path | None = None) -> ScoreSet:
    """The set in a file, or in a folder's scores.json or full_attention_heads.tsv."""
    try:
        path = path or _located(source)
        if path.is_dir():
            inside = (path / name for name in ("scores.json", "full_attention_heads.tsv"))
            path = next((file for file in inside if file.is_file()), path / "scores.json")
        if not path.is_file():
            names = [folder.name for folder in shipped("maps").iterdir()] + Run.ids("detect")
            ways = f"name a built-in model, a run, a file or an https address{meant(source, names)}"
            raise ValueError(f"there is no score set at {str(path)[-80:]}: {ways}")
        record = Run(path.parent).record if path.name == "scores.json" else {}
        if isinstance(record.get("head_grid"), dict):  # else the record is of something else
            score_set = ScoreSet(source, HeadScores.load(path), record=record)
        else:
            with path.open("rb") as file:
                score_set = read_text(file.read(MAX_FILE_BYTES + 1), str(path))
    except OSError as error:
        raise ValueError(f"{source[-80:]!r} cannot be read: {error.strerror}") from None
    return replace(score_set, source=source, path=path, family=family(score_set.model) or score_set.family)


def _base(record: Mapping[str, Any]) -> str:
    """The model that a detection's model was fine-tuned from; empty for none that is known."""
    config = mapping(record.get("config"))
    model = str(config.get("model") or "")
    if config.get("adapter") or not model:
        return model
    try:
        card = read_object(expanded(model) / "retmask.json")  # by our trainer
    except ValueError:  # of a home folder that nobody has
        return ""
    return str(card.get("base") or "")
