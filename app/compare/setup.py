"""What is asked on the Compare page: settings, the columns and the prompt they mean, the same command.

No widget, no model.
"""

import json
import shlex
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from app.shared.models import ModelRef
from retmask.compare.comparison import Column, Prompt
from retmask.compare.conditions import Condition, of_rule
from retmask.compare.settings import CompareSettings
from retmask.files import home, inside, is_number, mapping, read_object, sha256_text, shipped, write_atomic, write_json
from retmask.heads.masks import HeadMask
from retmask.heads.rules import CONTROL, TUNED, MaskRule
from retmask.heads.scores import HeadScores
from retmask.text.haystack import load_haystack
from retmask.text.needle import NeedleTask, known_needle, load_needles
from retmask.text.sampling import Sampling

HELD_OUT = shipped("needles_held_out.json")
LIMITS: dict[str, tuple[float, float]] = {
    "tokens": (100, 10**6),
    "depth": (0, 1),
    "new_tokens": (1, 512),
    "temperature": (0, 5),
    "top_p": (0.01, 1),
    "seed": (0, 10**9),
    "control_seed": (0, 10**9),
}
_ID = 12  # characters of an id
CHOICES = {"kind": ("needle", "text"), "template": ("chat", "plain")}


@dataclass(frozen=True)
class Setup:
    """The settings of a comparison, without the mask and without the map's model.

    `tokens` is the whole window of a needle task, `depth` 0-1; `answer` is the right one to one's own `text`;
    `template` "chat" means plain for a model that has no chat template; `tuned` is the training
    whose model answers too, empty for none; `model` is a folder or Hub id, for maps that do not say whose they are.
    """

    kind: str = "needle"
    needle: str = "fair"
    tokens: int = 512
    depth: float = 0.5
    haystack: str = "pydoc-end"
    text: str = ""
    answer: str = ""
    template: str = "chat"
    new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    unmasked: bool = True
    masked: bool = True
    tuned: str = ""
    control: bool = True
    control_seed: int = 0
    matched: bool = False
    model: str = ""
    exclude: str = ""

    @classmethod
    def from_json(cls, record: Any) -> "Setup":
        """The settings in a record; the default of every field that is missing or cannot be."""
        values = {field.name: mapping(record).get(field.name) for field in fields(cls)}
        possible = {name: type(getattr(cls, name))(value) for name, value in values.items() if _possible(name, value)}
        return cls(**possible)

    def to_json(self) -> dict[str, Any]:
        """The record that `from_json` reads."""
        return asdict(self)

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen; the seed and top_p count only above temperature 0."""
        return Sampling(self.temperature, self.top_p, self.seed) if self.temperature else Sampling()

    def columns(self, mask: HeadMask, scores: HeadScores) -> tuple[Column, ...]:
        """The columns to answer in; that of the tuned model without the model, which is not loaded yet.

        Without a selected head there is nothing to mask, and "masked" and its control are left out. ValueError where no
        column is left, or too few heads for the control.
        """
        heads = MaskRule(heads=str(mask), seed=self.control_seed)
        named = [Condition()] if self.unmasked else []
        named += of_rule(heads) if self.masked else []
        named += [Condition(TUNED, tuned=self.tuned)] if self.tuned else []
        named += [Condition(CONTROL, "random", heads, self.matched)] if self.control and len(mask) else []
        if not named:
            wanted = "select heads to mask" if self.masked or self.control else "switch on a column"
            raise ValueError(f"there is nothing to run: {wanted}")
        try:
            return tuple(condition.column(scores.grid, scores, self.exclude.strip()) for condition in named)
        except ValueError as error:
            raise ValueError(f"{error}; or switch the random control off") from None

    def prompt(self, tokenizer: Any) -> Prompt:
        """The prompt in the tokens of a model. ValueError, one sentence, where there can be none."""
        template: Literal["plain"] | None = "plain" if self.template == "plain" else None
        if self.kind == "text":
            return Prompt.of_text(tokenizer, self.text, template, self.answer.strip())
        task = NeedleTask(known_needle(self.needle), self.tokens, self.depth, template=template)
        return Prompt.of_needle(tokenizer, task, load_haystack(self.haystack))

    def command(self, model: ModelRef, mask: HeadMask, scores: str, file: Path | None, tuned: str = "") -> str:
        """The command line that does the same.

        `scores` is the map, `file` holds one's own text, `tuned` is the folder of the tuned model, if it is to answer.
        """
        asked: dict[str, Any] = {"needle": self.needle, "tokens": self.tokens, "depth": self.depth}
        asked |= {"haystack": self.haystack}
        if self.kind == "text":
            asked = {"prompt_file": str(file), "answer": self.answer.strip()}
        if self.temperature:
            asked |= {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}
        drawn = self.control and len(mask) > 0
        settings = CompareSettings(
            **model.settings,
            **asked,
            template="plain" if self.template == "plain" else "",
            rule=self._rule(mask, scores if drawn else ""),
            control=drawn or not len(mask),
            layer_matched=drawn and self.matched,
            max_new_tokens=self.new_tokens,
            tuned=tuned,
        )
        return shlex.join(settings.command)

    def _rule(self, mask: HeadMask, scores: str) -> MaskRule:
        """The mask as a rule: one scale for all is a setting, others stand behind their heads.

        With the scores of the map its control draws no retrieval head.
        """
        scales = set(mask.scales.values())
        scale = scales.pop() if len(scales) == 1 else 0.0
        heads = str(mask.scaled(0)) if scale else str(mask)
        rule = MaskRule(heads=heads, scale=scale or None)
        return replace(rule, scores=scores, seed=self.control_seed, exclude=self.exclude.strip()) if scores else rule

    def __str__(self) -> str:
        """The prompt and the way of decoding, in a few words."""
        if self.kind == "text":
            asked = "own text"
        else:
            asked = f"needle {self.needle} at {100 * self.depth:.0f} % of {self.tokens:,} tokens of {self.haystack}"
        drawn = f"temperature {self.temperature:g}, top_p {self.top_p:g}, seed {self.seed}"
        return f"{asked} · {drawn if self.temperature else 'greedy'}"


def needles() -> dict[str, str]:
    """The names of the needles that can be hidden, with what is to be known of each: first those no map was made of."""
    held_out = {needle.name: f"{needle.name} (not used by the map)" for needle in load_needles(HELD_OUT)}
    return held_out | {needle.name: needle.name for needle in load_needles()}


def read_setup(name: str) -> Setup:
    """The settings that were kept under an id, or the defaults if there are none that can be read."""
    try:
        record = read_object(_path(name, ".json"))
        if text := record.get("text_id"):
            record["text"] = _path(str(text), ".txt").read_text(encoding="utf-8")
        return Setup.from_json(record)
    except (OSError, ValueError):
        return Setup()


def keep_setup(setup: Setup) -> str:
    """Keep settings in `RETMASK_HOME/compare`; their id, made from what they say.

    So no settings ever take the place of others: whoever changes those that a link names gets another id.
    """
    record = setup.to_json()
    if setup.text:
        record |= {"text": "", "text_id": keep_text(setup.text).stem}
    name = sha256_text(json.dumps(record, sort_keys=True))[:_ID]
    path = _path(name, ".json")
    if not path.is_file():
        write_json(path, record)
    return name


def keep_text(text: str) -> Path:
    """The file that holds a text for the command line, named by what it holds: another text gets another file."""
    text = lines(text)
    path = _path(sha256_text(text)[:_ID], ".txt")
    if not path.is_file():
        write_atomic(path, text)
    return path


def lines(text: str) -> str:
    """The text with each line end as one \\n, which is how a text file is read."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _path(name: str, ending: str) -> Path:
    return inside(home() / "compare", name, "id", ending)


def _possible(name: str, value: Any) -> bool:
    """Whether a field can have that value: what a widget cannot show must not come out of a file."""
    default = getattr(Setup, name)
    fits = is_number(value) if isinstance(default, float) else type(value) is type(default)
    if name == "needle":
        return fits and value in needles()
    if name in LIMITS:
        return fits and LIMITS[name][0] <= value <= LIMITS[name][1]
    return fits and value in CHOICES.get(name, (value,))
