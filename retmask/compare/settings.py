"""What a comparison is told: what is asked, and under which conditions."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from retmask.compare.comparison import Prompt
from retmask.compare.conditions import HELP, Condition, named, of_rule, parse
from retmask.detect.job import DEFAULT_MODEL
from retmask.files import check_text, read_text
from retmask.heads.rules import CONTROL, TUNED, MaskRule
from retmask.runs.settings import check, command_line, setting, shared
from retmask.text.haystack import load_haystack
from retmask.text.needle import NeedleTask, known_needle
from retmask.text.sampling import Sampling
from retmask.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What is asked, in one of three ways, and under which conditions. ValueError for what cannot be."""

    model: str = shared("model", DEFAULT_MODEL)
    prompt: str = setting("", "your own text")
    prompt_file: str = setting("", "a .txt file with your own text")
    answer: str = setting("", "the right answer to your own text: recall is shown")
    needle: str = setting("", "a needle that comes with the project, by name, hidden in a haystack")
    tokens: int = setting(512, "of the needle's context: prompt and room for the answer")
    depth: float = setting(0.5, "of the needle, 0 = beginning, 1 = end")
    haystack: str = setting("pydoc-end", "pydoc, pydoc-end, essays, or a folder with .txt files")
    template: str = setting("", "by default chat where the model has a template", choices=("", "chat", "plain"))
    rule: MaskRule = setting(MaskRule(), "which heads are masked", flags={"seed": "control-seed"})
    control: bool = setting(True, "also mask as many random heads, drawn by --control-seed")
    layer_matched: bool = setting(False, "draw the control from the same layers")
    max_new_tokens: int = setting(64, "the longest answer, in tokens")
    temperature: float = setting(0.0, "0: the likeliest token; above: drawn")
    top_p: float = setting(1.0, "draw from the likeliest tokens that reach this together")
    seed: int = setting(0, "of the drawn tokens: the same seed says the same again")
    tuned: str = setting("", "also answer with this fine-tuned model: the folder of an adapter or of a model")
    condition: tuple[str, ...] = setting((), HELP, repeated=True)
    revision: str = shared("revision")
    adapter: str = shared("adapter")
    device: str = shared("device")
    dtype: str = shared("dtype")

    def __post_init__(self) -> None:
        check(self)
        if bool(self.prompt) + bool(self.prompt_file) + bool(self.needle) != 1:
            raise ValueError("say what to ask in one way: --prompt TEXT, --prompt-file FILE, or --needle NAME")
        if self.answer and self.needle:
            raise ValueError("a needle has its answer: leave --answer out")
        scores = self.rule.scores and not self.condition
        if not self.rule.given and (scores or self.layer_matched or self.rule.scale is not None):
            ways = "--top-k, --threshold, --share, --heads, --mask or --random"
            raise ValueError(f"which heads to mask is not said: add {ways}")

        self.conditions()

    def conditions(self) -> list[Condition]:
        """What answers, in order: as it is, masked, tuned, the random control, and what is written as a condition.

        ValueError for what is no condition.
        """
        rule = self.rule
        tuned = [Condition(TUNED, tuned=self.tuned)] if self.tuned else []
        drawn = [Condition(CONTROL, "random", rule, self.layer_matched)] if rule.given and self.control else []
        written = [made for text in self.condition for made in parse(text, rule.scores, rule.exclude)]
        return [*named([Condition(), *of_rule(rule), *tuned, *drawn, *written]).values()]

    @property
    def command(self) -> list[str]:
        """The command line that does the same."""
        return command_line("compare", self)

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen. ValueError where a number is out of range."""
        return Sampling(self.temperature, self.top_p, self.seed).check()

    @cached_property
    def asked(self) -> str | NeedleTask:
        """One's own text, or the needle task. ValueError where there is none, and where its haystack is missing."""
        template: Any = self.template or None
        if self.needle:
            load_haystack(self.haystack)
            return NeedleTask(known_needle(self.needle), self.tokens, self.depth, template=template)
        text = read_text(self.prompt_file) if self.prompt_file else check_text(self.prompt, "the prompt")
        if not text.strip():
            raise ValueError("the prompt is empty: give a text, or choose a needle")
        check_text(self.answer, "the answer")
        return text

    @property
    def context_tokens(self) -> int:
        """About how long prompt and answer are."""
        return len(self.asked) // 4 + self.max_new_tokens if isinstance(self.asked, str) else self.tokens

    def encode(self, tokenizer: Tokenizer) -> Prompt:
        """The prompt in a model's tokens. ValueError where there can be none."""
        template: Any = self.template or None
        if isinstance(self.asked, str):
            return Prompt.of_text(tokenizer, self.asked, template, self.answer)
        return Prompt.of_needle(tokenizer, self.asked, load_haystack(self.haystack))
