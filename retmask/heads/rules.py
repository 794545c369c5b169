"""Rules for masks: how a person says which heads are meant, and which heads random controls leave out. No model."""

import math
import re
from dataclasses import dataclass

from retmask.files import expanded
from retmask.heads.grid import Grid, HeadId, share_count
from retmask.heads.masks import HeadMask, load_mask
from retmask.heads.scores import THRESHOLD, HeadScores
from retmask.heads.sets import read_scores, read_set
from retmask.runs.settings import setting

ANY_GRID = Grid(10_000, 10_000)  # for what is read before the model, and so its grid, is known
_WAYS = ("mask", "heads", "top_k", "threshold", "share", "random")
_HOW = "--mask FILE, --heads L17H3,L18H6, --random N, or --scores FILE with --top-k N, --threshold T or --share P"
_BEST = re.compile(r"top:(\d{1,6})|top:(\d{1,3}(?:\.\d{1,6})?)%|above:(\d{0,3}\.?\d{1,8})")
_LIST = re.compile(r"(?:L\d+H\d+|\d+-\d+)(?:[:,;\s].*)?", re.IGNORECASE | re.DOTALL)
_SCALED = re.compile(r"(.+):([012](?:\.\d{1,4})?)", re.DOTALL)
_WRITTEN = "write top:5%, top:14, above:0.1, L17H3,L18H6, or a saved mask's name or file"
NO_SCORES = "takes the best heads of a score file: give it with --scores (of a built-in model: --scores smollm2-135m)"
UNMASKED, MASKED, TUNED, CONTROL = "unmasked", "masked", "tuned", "random control"  # a model's conditions, by name
EXCLUDE = (
    "what random heads never are, the retrieval heads of the scores: those with this mean score (0.05) or the best "
    "share (5%); by default 0.1 where copies are counted, else 5%"
)


@dataclass(frozen=True)
class MaskRule:
    """One way to say which heads to mask, and at what scale: exactly one of the fields down to `random` is given.

    `mask` is the name or path of a saved mask, `heads` a typed list, `top_k`, `threshold` and `share` take the best
    heads of the scores, `random` draws so many heads, none of them a retrieval head of the scores where there are some:
    `exclude` says which those are, as `retrieval_heads` has it.
    """

    mask: str = setting("", "a saved mask: its name or file", names="file")
    heads: str = setting("", "these heads, each with a scale if you like: L17H3,L18H6:0.5")
    top_k: int = setting(0, "the best so many heads of --scores")
    threshold: float = setting(0.0, "the heads of --scores with at least this mean score")
    share: float = setting(0.0, "the best share of all heads of --scores, such as 0.05")
    random: int = setting(0, "so many random heads, no retrieval head of --scores")
    seed: int = setting(0, "of --random")
    scores: str = setting("", "a score file, a folder of detect, or a built-in model's name", names="folder")
    scale: float | None = setting(None, "0 masks, below 1 weakens, up to 2 emphasises; by default the mask's own, or 0")
    exclude: str = setting("", EXCLUDE)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:  # said before anything waits or loads
            raise ValueError(f"a share of {self.share} is not possible: choose one above 0 and at most 1")
        check_exclusion(self.exclude)
        if self.exclude and not self.scores:
            raise ValueError("--exclude names the best heads of a score file: give it with --scores")

    @classmethod
    def parse(cls, text: str) -> "MaskRule":
        """The rule that a text means: `top:14`, `top:5%`, `above:0.1`, `L17H3,L18H6:0.5`, or a mask's name or file.

        All but a list may end in a scale for all, as `top:5%:0.5` does. ValueError, one sentence, for any other text.
        """
        if _LIST.fullmatch(text):
            return cls(heads=str(HeadMask.parse(text, ANY_GRID)))
        scaled = None if _BEST.fullmatch(text) else _SCALED.fullmatch(text)
        which, scale = (scaled[1], float(scaled[2])) if scaled else (text, None)
        if best := _BEST.fullmatch(which):
            top_k, percent, threshold = (float(number or 0) for number in best.groups())
            if not (top_k or threshold or 0 < percent <= 100):
                raise ValueError(f"{text[:60]!r} names no head: {_WRITTEN}")
            return cls(top_k=int(top_k), share=percent / 100, threshold=threshold, scale=scale)
        if (":" in which or which.rstrip("%").replace(".", "").isdecimal()) and not expanded(which).is_file():
            raise ValueError(f"{text[:60]!r} does not say which heads: {_WRITTEN}")
        return cls(mask=which, scale=scale)

    def __str__(self) -> str:
        """The text that `parse` reads, which leaves out where the scores are; of random heads the number."""
        if self.heads:
            mask = HeadMask.parse(self.heads, ANY_GRID)
            return str(mask if self.scale is None else mask.scaled(self.scale))
        best = f"top:{self.top_k}" if self.top_k else f"top:{_plain(100 * self.share, 6)}%" if self.share else ""
        above = f"above:{_plain(self.threshold, 8)}" if self.threshold else ""
        which = self.mask or best or above or str(self.random)
        return which if self.scale is None else f"{which}:{_plain(self.scale, 4)}"

    @property
    def by_scores(self) -> bool:
        """Whether it takes the best heads of scores."""
        return bool(self.top_k or self.threshold or self.share)

    def excluded(self, grid: Grid, scores: HeadScores | None = None) -> tuple[HeadId, ...]:
        """The retrieval heads of its scores, which no random draw names; none without scores. ValueError as `build`."""
        scores = scores or self.read(grid)
        return tuple(sorted(retrieval_heads(scores, self.exclude))) if scores else ()

    @property
    def given(self) -> bool:
        """Whether it says anything about which heads."""
        return any(getattr(self, name) for name in _WAYS)

    def build(self, grid: Grid, scores: HeadScores | None = None) -> HeadMask:
        """The mask on that grid, of the scores that it names where none are given.

        ValueError, one sentence, where the rule is none, or does not fit the grid.
        """
        if min(self.top_k, self.random, self.seed, self.threshold) < 0:
            raise ValueError("--top-k, --random, --threshold and the seed cannot be negative")
        ways = [name for name in _WAYS if getattr(self, name)]
        if len(ways) != 1:
            clash = f", not with {' and '.join(map(_flag, ways))}" if ways else ""
            raise ValueError(f"say in one way which heads to mask{clash}: {_HOW}")
        built = self._build(ways[0], grid, scores)
        if not built.heads:
            raise ValueError(f"{_flag(ways[0])} names no head: choose another value")
        return built if self.scale is None else built.scaled(self.scale)

    def check(self, grid: Grid | None) -> None:
        """ValueError, as from `build`, before a model is loaded: in full where its grid is known."""
        if grid:
            self.build(grid)
        elif self.mask:
            load_mask(self.mask)
        elif self.heads:
            HeadMask.parse(self.heads, ANY_GRID)
        elif self.scores and "://" not in self.scores:  # `build` refuses an address, and none is opened here
            read_set(self.scores)

    def read(self, grid: Grid) -> HeadScores | None:
        """Its scores, None where it names none. ValueError where they do not fit the grid."""
        scores = read_scores(self.scores, grid) if self.scores else None
        if scores:
            scores.check_grid(grid, "this model")
        return scores

    def _build(self, way: str, grid: Grid, scores: HeadScores | None) -> HeadMask:
        if way == "mask":
            return load_mask(self.mask, grid)
        if way == "heads":
            return HeadMask.parse(self.heads, grid)
        scores = scores or self.read(grid)
        if way == "random":
            return HeadMask.random(grid, self.random, self.seed, excluding=self.excluded(grid, scores))
        if scores is None:
            raise ValueError(f"{_flag(way)} {NO_SCORES}")
        asked = self.top_k or (share_count(grid.size, self.share) if way == "share" else 0)
        if scores.ranking and (way == "threshold" or asked > scores.n_ranked):
            raise ValueError(
                f"{self.scores[-80:]} is a list of {scores.n_ranked} heads without scores: take no more of them, with "
                "--top-k"
            )
        if way == "top_k":
            return HeadMask.of(scores.top(self.top_k))
        return HeadMask.of(scores.above(self.threshold) if way == "threshold" else scores.top_share(self.share))


def retrieval_heads(scores: HeadScores, rule: str = "") -> tuple[HeadId, ...]:
    """The heads that a map calls retrieval heads, best first.

    `rule` is the least mean score ("0.05") or the share of the best heads ("5%", "0%" for none). Without one, those
    with at least 0.1 (Wu et al. 2024) where the scores count copies, all that a list names, and the best 5 % of scores
    in other units or where none reaches that. ValueError for a rule that is neither.
    """
    check_exclusion(rule)
    if rule.endswith("%"):
        share = float(rule[:-1]) / 100
        return scores.top_share(share) if share else ()
    if rule:
        return scores.above(float(rule))
    named = scores.detector.copies or scores.ranking
    return (scores.above(THRESHOLD) if named else ()) or scores.top_share()


def check_exclusion(rule: str) -> None:
    """ValueError for what is neither empty nor a score nor a share, as `retrieval_heads` takes it."""
    try:
        number = float(rule.removesuffix("%")) if rule else 0.0
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf or (rule.endswith("%") and number > 100):
        raise ValueError(f"{rule[:40]!r} excludes no heads: write the least mean score, 0.05, or a share, 5%")


def control(
    mask: HeadMask, grid: Grid, seed: int, scores: HeadScores | None = None, matched: bool = False, exclude: str = ""
) -> HeadMask:
    """As many random heads as a mask has, at its scales: none of its own, no retrieval head (`exclude` says which).

    With `matched`, as many of each layer as it has there. ValueError where not enough heads are left.
    """
    excluded = set(retrieval_heads(scores, exclude)) if scores else set()
    heads = mask.heads
    try:
        drawn = HeadMask.random(grid, len(heads), seed, excluded | set(heads), heads if matched else ())
    except ValueError as error:
        ways = ["mask fewer heads", *(["count fewer as retrieval heads (--exclude)"] if excluded else [])]
        raise ValueError(f"{error}: {', '.join([*ways, *(['draw from all layers'] if matched else [])])}") from None
    return HeadMask(dict(zip(drawn.heads, (mask.scales[head] for head in heads), strict=True)))


def _plain(number: float, digits: int) -> str:
    return f"{number:.{digits}f}".rstrip("0").rstrip(".")


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")
