"""The dose curve: what masking more and more heads does to recall, and to plain prose.

Needle recall (on needles, a haystack and depths that detection did not use) and perplexity, for the best heads of a map
and for random draws of as many others (Wu et al. 2024, arXiv 2404.15574, mask 2 to 100 heads in the same way).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from retmask.compare.conditions import Condition
from retmask.compare.effect import measure
from retmask.detect.trials import different_prompts, pin_measure
from retmask.figures import style
from retmask.figures.masking import dose_curve
from retmask.figures.rows import dose_rows, to_csv
from retmask.files import HAYSTACKS, append_line, expanded, read_lines, settled, sha256_text, shipped, write_atomic
from retmask.heads.grid import Grid
from retmask.heads.masks import HeadMask
from retmask.heads.rules import EXCLUDE, MaskRule, retrieval_heads
from retmask.heads.sets import ScoreSet, head_scores, read_set
from retmask.heads.trials import read_trials
from retmask.model.weights import check_there, folder_grid
from retmask.runs.job import Job, Pace, Progress, Start, Work
from retmask.runs.run import Run
from retmask.runs.settings import REQUIRED, check, command_line, setting, shared, whole
from retmask.text.chat import Chat
from retmask.text.haystack import Haystack, load_haystack, load_prose
from retmask.text.needle import NeedleTask, load_needles, needle_grid, needles_sha256

KS = (0, 1, 2, 4, 8, 16, 32)
DEPTHS = (0.15, 0.4, 0.65, 0.9)  # in no preset of detection
Kind = Literal["top", "random"]


class Point(NamedTuple):
    """One mask on the curve: the best `k` heads, or `k` drawn with a seed."""

    kind: Kind
    k: int
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class DoseSettings:
    """What a dose curve measures. `scores`: a score set, as `read_set` takes it, but no address.

    ValueError for what cannot be measured.
    """

    model: str = shared("model", REQUIRED)
    scores: str = setting(REQUIRED, "a score file, a folder of detect, or a built-in model's name", names="folder")
    ks: tuple[int, ...] = setting(KS, "how many heads to mask", label="masked heads", example="0,14,27", min=0)
    random_seeds: int = setting(5, "how many random draws of each size", label="random draws", min=0, max=1000)
    layer_matched: bool = setting(False, "draw from the layers of the best heads", label="same layers")
    exclude: str = setting("", EXCLUDE, label="never drawn", example="0.05 or 5%")
    trials: int = setting(
        24, "needle trials a point, on needles and depths detection did not use", min=1, max=1_000_000
    )
    context_tokens: int = shared("context_tokens", 512)
    prose_tokens: int = setting(2048, "of plain prose for the perplexity", min=2, max=2**31 - 1, expert=True)
    needles: str = shared("needles")
    haystack: str = shared("haystack", "pydoc-end")
    prose: str = setting("", "a text file; by default the last quarter of Python's manual", names="path", expert=True)
    revision: str = shared("revision")
    adapter: str = shared("adapter")
    device: str = shared("device")
    dtype: str = shared("dtype")

    def __post_init__(self) -> None:
        object.__setattr__(self, "ks", tuple(sorted({0, *map(int, self.ks)})))
        check(self)
        known = self.map.grid
        if known and self.map.level == "query":  # else the model's is known when it is loaded
            self.points(known)

    @cached_property
    def map(self) -> ScoreSet:
        """The score set whose best heads are masked."""
        if "://" in self.scores:  # a run's folder may come from anybody, and is to open no address
            raise ValueError(f"{self.scores[:80]} is not fetched here: download it and give the file")
        return read_set(self.scores)

    def points(self, grid: Grid) -> list[Point]:
        """All points in the order in which they are measured. ValueError if more heads are asked for than there are."""
        points = [Point("top", k) for k in self.ks]
        points += [Point("random", k, seed) for seed in range(self.random_seeds) for k in self.ks if k]
        for point in points:
            self.mask(point, grid)
        return points

    def mask(self, point: Point, grid: Grid) -> HeadMask:
        """A point's mask."""
        if point.k > grid.size:
            raise ValueError(f"{point.k} heads cannot be masked, the model has {grid.size}: leave that number out")
        scores = head_scores(self.map, grid)
        if point.k > scores.n_ranked:
            raise ValueError(
                f"{point.k} heads cannot be masked, the list names {scores.n_ranked}: leave that number out"
            )
        rule, drawn = MaskRule(top_k=point.k, seed=point.seed or 0), point.seed is not None
        condition = Condition(word="random" if drawn else "masked", rule=rule, matched=self.layer_matched)
        return condition.mask(grid, scores, self.exclude) if point.k else HeadMask()

    def tasks(self) -> list[NeedleTask]:
        """The needle tasks, none of whose needles and depths the detection behind the scores used.

        ValueError if its haystack is the same, or nothing is left.
        """
        file = self.map.path
        ours = file is not None and file.name == "scores.json"
        used = read_trials(file.parent) if file and ours else []
        seen, depths = {trial.needle for trial in used}, {trial.depth for trial in used}
        config = Run(file.parent).config if file and ours else {}
        if settled(str(config.get("haystack", "pydoc")), HAYSTACKS) == settled(self.haystack, HAYSTACKS):
            raise ValueError(f"detection used the haystack {self.haystack} too: choose another with --haystack")
        path = expanded(self.needles) if self.needles else shipped("needles_held_out.json")
        needles = [needle for needle in load_needles(path) if needle.needle not in seen]
        grid = needle_grid(needles, [self.context_tokens], [depth for depth in DEPTHS if depth not in depths])
        if len(grid) < self.trials:
            raise ValueError(
                f"{len(needles)} needles that detection did not use give {len(grid)} trials and {self.trials} were "
                "asked for: choose fewer, or more needles with --needles"
            )
        return grid[: self.trials]

    @property
    def command(self) -> list[str]:
        """The command line that does the same."""
        return command_line("dose", self)


def _check(settings: DoseSettings, *_: Any) -> Start[DoseSettings]:
    settings = whole(settings)
    check_there(settings.model, settings.adapter, settings.revision)
    if grid := folder_grid(settings.model):
        head_scores(settings.map, grid).check_grid(grid, settings.model)
        settings.points(grid)
    _texts(settings)
    return Start(settings)


def _texts(settings: DoseSettings) -> tuple[list[NeedleTask], Haystack, str]:
    return settings.tasks(), load_haystack(settings.haystack), load_prose(settings.prose)


def read_points(folder: Path) -> list[dict[str, Any]]:
    """The measured points in a curve's folder, each once, in the order in which they were finished."""
    points = {_key(line): line for line in read_lines(folder / "points.jsonl") if {"kind", "k", "recalls"} <= set(line)}
    return list(points.values())


def _points(work: Work[DoseSettings]) -> Iterator[Progress]:
    """Every point is in points.jsonl before the next begins; dose.csv follows, and at the end the figure."""
    run, settings = work.run, work.settings
    tasks, haystack, prose = _texts(settings)
    from retmask.model.loading import facts, load

    points = read_points(run.path)
    run.report(stage="loading", done=len(points))
    model = load(settings.model, context_tokens=settings.context_tokens, **work.loading)
    scores = head_scores(settings.map, model.grid)
    scores.check_grid(model.grid, model.name)
    pin_measure(run, tasks, bool(points))
    run.pin(
        **facts(model, settings.adapter),
        scores_sha256=sha256_text(settings.map.scores.to_json()),
        needles_sha256=needles_sha256(task.needle for task in tasks),
        haystack=haystack.facts,
        prose_sha256=sha256_text(prose),
    )
    run.update(excluded=list(map(str, sorted(retrieval_heads(scores, settings.exclude)))))
    chat = Chat.resumed(model.tokenizer, run.record)
    asked = different_prompts(chat, tasks, haystack)
    run.update(**chat.facts, same_prompts=len(tasks) - len(asked))
    wanted = settings.points(model.grid)
    done = {_key(point) for point in points}
    left = [point for point in wanted if _key(point._asdict()) not in done]
    pace = Pace()
    for number, point in enumerate(left, start=1):
        measured = measure(model, settings.mask(point, model.grid), asked, haystack, prose, settings.prose_tokens)
        points.append({**point._asdict(), **measured})
        append_line(run.path / "points.jsonl", points[-1])
        _table(run.path, points)
        yield Progress(len(points), len(wanted), pace.left(1, len(left) - number))
    draw(run.path, points)


DOSE = Job("dose", DoseSettings, _check, _points, "points", lambda work: _texts(work.settings))


def draw(folder: Path, points: Sequence[Mapping[str, Any]]) -> Path:
    """Write the table, and the figure: dose.png where a browser can draw it, else dose.html."""
    _table(folder, points)
    figure = dose_curve(points)
    try:
        path = folder / "dose.png"
        path.write_bytes(style.image(figure, "png"))
    except (ValueError, RuntimeError, OSError):  # no browser, or one that does not start
        path = folder / "dose.html"
        write_atomic(path, figure.to_html())
    return path


def _table(folder: Path, points: Sequence[Mapping[str, Any]]) -> None:
    write_atomic(folder / "dose.csv", to_csv(dose_rows(points)))


def _key(point: Mapping[str, Any]) -> tuple[Any, ...]:
    return point["kind"], point["k"], point.get("seed")
