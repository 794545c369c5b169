"""What answers: a model with something done to it. How that is written, what it is called, and the mask it means.

    [label: ]part[+part...]

| part | means |
|---|---|
| `unmasked` | nothing is done |
| `masked=HEADS` | these heads are masked |
| `scaled=HEADS` | they are scaled, as a file or a list says, or all alike: `scaled=top:5%:0.5` |
| `random=14:seed3` | 14 heads drawn with seed 3, no retrieval head of the scores |
| `random=HEADS:seed3` | as many heads as those, none of them; `:matched` at the end: from the same layers |
| `tuned=DIR` | on top of an adapter, or a fine-tuned model |
| `model=DIR` | on top of another checkpoint |
| `server=URL` | the model on a server, which can neither mask nor tune; `retmask evaluate` asks one |
| `server=URL+served=NAME` | the one that it serves by that name, where it serves several |

HEADS are `top:5%` or `top:14` (the best of the scores), `above:0.1` (those that score as much), `L17H3,L18H6:0.5`, or a
saved mask's name or file. `seed0-9` makes ten conditions.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from retmask.compare.comparison import Column
from retmask.files import expanded, is_number, mapping, read_object, settled
from retmask.heads.grid import Grid
from retmask.heads.masks import HeadMask
from retmask.heads.rules import ANY_GRID, MASKED, NO_SCORES, TUNED, UNMASKED, MaskRule, control
from retmask.heads.scores import HeadScores
from retmask.model.weights import check_there

if TYPE_CHECKING:
    from retmask.model.lens import LensModel

Word = Literal["", "masked", "scaled", "random"]
Role = Literal["base", "control", "treatment"]
PARTS = "unmasked, masked=HEADS, scaled=HEADS, random=14:seed3, tuned=DIR, model=DIR or server=URL"
HELP = "[label: ]part[+part], once for each; a part is " + PARTS
_MASKS: tuple[Word, ...] = ("masked", "scaled", "random")
_WHOSE = ("model", "tuned", "server", "served")  # the fields that say whose weights answer
_WORDS = (*_MASKS, *_WHOSE)
_ADDRESS = re.compile(r"https?://[^\s/@?#]+(/[^\s@?#]*)?")  # no user, password, query: it is written down
_SECRET = re.compile(r"(://|server\s*=).*[@?#]", re.IGNORECASE | re.DOTALL)  # a user, a password or a key, maybe
_PLUS = re.compile(rf"\s*\+\s*(?=(?:{'|'.join(_WORDS)})\s*=|{UNMASKED}\s*(?:\+|$))")
_DRAWN = re.compile(r"(.*?)(?::seed(\d{1,9})(?:-(\d{1,9}))?)?(:matched)?", re.DOTALL)
_MOST_DRAWS = 1000
_NO_RULE = MaskRule()
_CONTROL = re.compile(r"(random )?control\b", re.IGNORECASE)
_LONGEST = 60  # characters of a label
_RESULTS = ("adapter", "model")  # what a training calls its result: its run's folder says more


@dataclass(frozen=True)
class Condition:
    """A model with something done to it: nothing, or the heads of a rule masked, scaled, or as many others drawn.

    It is the model that is asked, the one in the folder `model`, or that on a `server`, which may have a name there
    (`served`); `tuned` holds an adapter for it, or is a fine-tuned model itself. The word "random" means as many
    others as the rule's heads, drawn with its seed; with `matched` from the same layers.
    """

    label: str = ""
    word: Word = ""
    rule: MaskRule = _NO_RULE
    matched: bool = False
    tuned: str = ""
    model: str = ""
    server: str = ""
    served: str = ""

    def __str__(self) -> str:
        """The text that `parse` makes the same condition of."""
        return (f"{self.label}: " if self.label else "") + "+".join(self._parts())

    @property
    def name(self) -> str:
        """What it is called: its label, or its parts with the last names of folders only."""
        if self.label:
            return self.label
        short = replace(self, tuned=_last(self.tuned), model=_last(self.model), server=urlsplit(self.server).netloc)
        rule = replace(self.rule, mask=Path(self.rule.mask).stem)
        return "+".join(replace(short, rule=rule)._parts())

    @property
    def role(self) -> Role:
        """What others are measured against: the model as it is (base), and what only looks like a treatment (control).

        A control has random heads masked, is tuned on pairs that were made with random heads, or is labelled as one.
        """
        if self._shown == "random" or _CONTROL.match(self.label) or self._trained_on_random:
            return "control"
        return "treatment" if self.word or any(self.weights) else "base"

    @property
    def weights(self) -> tuple[str, ...]:
        """Whose weights answer: conditions with the same need loading once."""
        return self.model, self.tuned, self.server, self.served

    @property
    def is_adapter(self) -> bool:
        """Whether what is tuned is an adapter, and no whole model."""
        return bool(self.tuned) and (expanded(self.tuned) / "adapter_config.json").is_file()

    def check(self, grid: Grid | None, base: str = "", revision: str = "") -> None:
        """ValueError where its heads are not in a model of that grid, or its folder holds no adapter and no model.

        Where `base`, the model that is asked, is named, also for an adapter of another. And for any server: who asks
        servers too calls this for the other conditions alone.
        """
        if self.server:
            how = "give the model's folder, or ask it with `retmask evaluate`"
            raise ValueError(f"{self.server} is on a server, where heads cannot be masked: {how}")
        if self.tuned and not self.is_adapter and not _is_model(self.tuned):
            raise ValueError(
                f"{self.tuned} is no adapter and no model: give the folder that `retmask train` has written"
            )
        if self.model and not _is_model(self.model):
            raise ValueError(f"{self.model} is no model: give a folder with its config.json")
        if self.is_adapter and (self.model or base):
            check_there(self.model or base, self.tuned, "" if self.model else revision)
        if not self.word:
            return
        if self.rule.by_scores and not self.rule.scores:
            raise ValueError(f"{self._parts()[-1]} {NO_SCORES}")
        self.rule.check(grid)
        if grid:
            self.mask(grid)

    def mask(self, grid: Grid, scores: HeadScores | None = None, exclude: str = "") -> HeadMask:
        """The mask on that grid; empty where nothing is masked.

        `scores` and which of their heads random draws leave out are those of the rule where they are not given.
        ValueError, one sentence, where there is no such mask.
        """
        if not self.word:
            return HeadMask()
        mask = self.rule.build(grid, scores)
        if self.word != "random":
            return mask
        scores = scores or self.rule.read(grid)
        return control(mask, grid, self.rule.seed, scores, self.matched, exclude or self.rule.exclude)

    def column(
        self, grid: Grid, scores: HeadScores | None = None, exclude: str = "", model: "LensModel | None" = None
    ) -> Column:
        """A comparison's column; `model` is loaded with its weights, None for the model that is asked."""
        return Column(self.name, self.mask(grid, scores, exclude), model)

    def load(self, base: str, *, adapter: str | None = None, revision: str | None = None, **how: Any) -> "LensModel":
        """The model that answers, with nothing masked yet; `base` is asked where no other is named.

        `adapter` and `revision` are those of `base`, the rest is as `retmask.load` takes it. ValueError as there.
        """
        from retmask.model.loading import load, load_tuned

        revision = None if self.model else revision
        if self.tuned:
            return load_tuned(self.model or base, self.tuned, revision=revision, **how)
        return load(self.model or base, revision=revision, adapter=None if self.model else adapter, **how)

    def whole(self) -> "Condition":
        """The same with names of what lies on this machine as whole paths: what a run is to keep."""
        mask = self.rule.mask
        rule = replace(self.rule, mask=settled(mask)) if mask and expanded(mask).is_file() else self.rule
        return replace(self, rule=rule, tuned=settled(self.tuned), model=settled(self.model))

    def record(self, mask: HeadMask | None = None, weights: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What a result says of it: name, text, role, and what made it: its heads and, once loaded, its weights.

        `weights` are as `retmask.model.loading.facts` has them.
        """
        made = {"mask": str(mask)} if mask else {}
        return {"condition": self.name, "text": str(self), "role": self.role} | made | dict(weights or {})

    def _parts(self) -> list[str]:
        parts = [f"{word}={value}" for word in _WHOSE if (value := getattr(self, word))]
        if self.word:
            drawn = f":seed{self.rule.seed}" + ":matched" * self.matched if self._shown == "random" else ""
            parts.append(f"{self._shown}={self.rule}{drawn}")
        return parts or [UNMASKED]

    @property
    def _shown(self) -> str:
        return "random" if self.rule.random else self.word

    @property
    def _trained_on_random(self) -> bool:
        card = read_object(expanded(self.tuned) / "retmask.json") if self.tuned else {}
        drawn = mapping(card.get("made_with")).get("random")
        return is_number(drawn) and drawn > 0


def parse(text: str, scores: str = "", exclude: str = "") -> list[Condition]:
    """The conditions that a text means: one, or as many as it has draws.

    `scores` are those whose best heads are meant, and whose retrieval heads no random draw has; `exclude` says which
    these are. ValueError, one sentence with what is wrong and how it is written.
    """
    label, body = _labelled(text)
    parts: dict[str, str] = {}
    for part in _PLUS.split(body):
        word, equals, value = (piece.strip() for piece in part.partition("="))
        if word not in (_WORDS if equals else (UNMASKED,)):
            raise ValueError(f"{_quoted(part)} is no part of a condition: write {PARTS}")
        if word in parts:
            raise ValueError(f"{_quoted(text)} says {word} twice: write a condition for each")
        if equals and not value:
            raise ValueError(f"there is nothing after {word}= in {_quoted(text)}: write {PARTS}")
        parts[word] = value
    _check_together(text, parts)
    whose: dict[str, Any] = {word: parts[word] for word in _WHOSE if word in parts}
    plain = Condition(label, **whose)
    way: Word = next((each for each in _MASKS if each in parts), "")
    if not way:
        return [plain]
    rules, matched = _drawn(parts[way]) if way == "random" else ([_rule(way, parts[way])], False)
    many = bool(label) and len(rules) > 1
    return [
        replace(
            plain,
            label=f"{label} seed{rule.seed}" if many else label,
            word="masked" if rule.random else way,
            rule=replace(rule, scores=scores, exclude=exclude),
            matched=matched,
        )
        for rule in rules
    ]


def named(conditions: Iterable[Condition]) -> dict[str, Condition]:
    """The conditions by name, in order; the same twice is one. ValueError where two others have one name."""
    out: dict[str, Condition] = {}
    for condition in conditions:
        if out.setdefault(condition.name, condition) != condition:
            how = "give each its own name, as in name=folder or 'name: masked=top:5%'"
            raise ValueError(f"there are two conditions named {condition.name}: {how}")
    return out


def of_rule(rule: MaskRule, label: str = MASKED) -> list[Condition]:
    """The model with the heads of a rule masked; none where the rule says nothing."""
    scaled = rule.scale is not None or ":" in rule.heads
    return [Condition(label, "scaled" if scaled else "masked", rule)] if rule.given else []


def of_masks(texts: Sequence[str]) -> list[Condition]:
    """Further masks, as name=L17H3,L18H6. ValueError for one without a name of its own."""
    out: list[Condition] = []
    for text in texts:
        name, _, heads = (part.strip() for part in text.partition("="))
        if not name or not HeadMask.parse(heads, ANY_GRID):
            raise ValueError(f"{text[:60]!r} names no mask: write name=L17H3,L18H6")
        if name in (UNMASKED, *(mask.label for mask in out)) or re.fullmatch(rf"{MASKED}|{TUNED}( \d+)?", name):
            raise ValueError(f"{name} is what another condition is called: give the mask a name of its own")
        out += of_rule(MaskRule(heads=heads), name)
    return out


def of_folders(texts: Sequence[str]) -> list[Condition]:
    """Fine-tuned models, each a folder, perhaps with a name before: name=folder."""
    out: list[Condition] = []
    for place, text in enumerate(texts, start=1):
        name, equals, folder = text.partition("=")
        if not equals or "/" in name:  # the "=" of a folder that is called lr=0.02
            name, folder = TUNED if place == 1 else f"{TUNED} {place}", text
        out.append(Condition(name, tuned=folder))
    return out


def _labelled(text: str) -> tuple[str, str]:
    """A condition's label, empty for none, and its parts: a label ends at the last colon before the first "="."""
    head, equals, tail = text.strip().partition("=")
    label, colon, word = (part.strip() for part in head.rpartition(":"))
    if (colon and not label) or not label.isprintable() or len(label) > _LONGEST:
        raise ValueError(f"the label of {_quoted(text)} is empty, too long or no single line: write a short one")
    if label == UNMASKED and word + equals != UNMASKED:
        raise ValueError(f"{_quoted(text)} calls unmasked what is not: choose another label")
    return label, word + equals + tail


def _check_together(text: str, parts: Mapping[str, str]) -> None:
    """ValueError for parts that cannot be one condition."""
    shown, server = _quoted(text), parts.get("server")
    if server and not _ADDRESS.fullmatch(server):
        raise ValueError(f"{_quoted(f'server={server}')} is no server's address: write server=http://HOST:PORT/v1")
    if UNMASKED in parts and len(parts) > 1:
        raise ValueError(f"{shown} is unmasked and something else: leave unmasked out")
    if sum(word in parts for word in _MASKS) > 1:
        raise ValueError(f"{shown} says in two ways which heads are masked: write a condition for each")
    if not server and "served" in parts:
        raise ValueError(f"{shown} names a model of no server: write server=http://HOST:PORT/v1+served=NAME")
    if server and parts.keys() - {"server", "served"}:
        how = "serve what `retmask ablate` or `retmask merge` writes, and give its address alone"
        raise ValueError(f"{shown} asks a server, which can neither mask heads nor take an adapter: {how}")


def _quoted(text: str) -> str:
    """A condition's text as an error shows it: cut, and hidden where it may hold a password."""
    return "this" if _SECRET.search(text) else repr(text.strip()[:60])


def _rule(word: Word, value: str) -> MaskRule:
    """The rule of masked or scaled heads."""
    part, rule = f"{word}={value}"[:60], MaskRule.parse(value)
    scaled = rule.scale is not None or ":" in rule.heads
    if word == "masked" and scaled:
        raise ValueError(f"{part!r} gives a scale, and masked heads have none: write scaled={value[:50]}")
    if word == "scaled" and not scaled and not rule.mask:
        raise ValueError(f"{part!r} does not say the scale: write {part}:0.5")
    return rule


def _drawn(value: str) -> tuple[list[MaskRule], bool]:
    """The rules of random heads, one for each seed, and whether they are drawn from the same layers."""
    part, match = f"random={value}"[:60], _DRAWN.fullmatch(value)
    which, first, last, matched = match.groups() if match else (value, None, None, None)
    if matched and which.isdecimal():
        raise ValueError(f"{part!r} does not say whose layers to match: write random=top:{which}:seed3:matched")
    rule = MaskRule(random=int(which[:9])) if which.isdecimal() else MaskRule.parse(which)
    seeds = range(int(first or 0), int(last or first or 0) + 1)
    if not rule.given or not 0 < len(seeds) <= _MOST_DRAWS:
        raise ValueError(
            f"{part!r} draws no heads: write random=14:seed3, or seed0-9 for ten draws ({_MOST_DRAWS:,} at most)"
        )
    return [replace(rule, seed=seed) for seed in seeds], bool(matched)


def _is_model(folder: str) -> bool:
    return (expanded(folder) / "config.json").is_file()


def _last(folder: str) -> str:
    """The last name of a folder; of what a training has made the name of its run."""
    path = Path(folder)
    return path.parent.name if path.name in _RESULTS and path.parent.name else path.name
