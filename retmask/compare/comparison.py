"""A comparison: its prompt, the columns that answer it, what is known of their answers, where two differ. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from retmask.compare.trace import Trace
from retmask.heads.masks import HeadMask
from retmask.runs.record import versions
from retmask.text.chat import Chat, Template
from retmask.text.haystack import Haystack
from retmask.text.needle import Needle, NeedleTask
from retmask.text.recall import pieces, recall
from retmask.text.sampling import Sampling
from retmask.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from retmask.model.lens import LensModel


Stage = Literal["reading", "answering", "judging", "done"]


Ending = Literal["", "stop", "length"]


class Column(NamedTuple):
    """A condition under which the prompt is answered: its name, its mask, and its model where it has one of its own.

    The empty mask is "unmasked"; without a model it is the one that is asked.
    """

    name: str
    mask: HeadMask
    model: "LensModel | None" = None


@dataclass(frozen=True)
class Prompt:
    """A prompt in the tokens of one model; of a needle task also the needle and where its scored tokens stand.

    `answer` is the right answer where one is known, empty for none.
    """

    token_ids: tuple[int, ...]
    template: Template
    needle: Needle | None = None
    needle_span: tuple[int, int] | None = None
    answer: str = ""

    @classmethod
    def of_text(cls, tokenizer: Tokenizer, text: str, template: Template | None = None, answer: str = "") -> "Prompt":
        """A text of one's own, in the chat template or plain. ValueError if it is empty or the template fails."""
        if not text.strip():
            raise ValueError("the prompt is empty: write or upload a text, or choose a needle")
        lines = text.replace("\r\n", "\n").replace("\r", "\n").strip()
        chat = Chat.of(tokenizer, template)
        return cls(tuple(chat.prompt([("user", lines)])), chat.kind, answer=answer)

    @classmethod
    def of_needle(cls, tokenizer: Tokenizer, task: NeedleTask, haystack: Haystack) -> "Prompt":
        """A needle task's prompt. ValueError where it cannot be rendered for this model."""
        rendered = task.render(tokenizer, haystack)
        return cls(rendered.token_ids, rendered.template, task.needle, rendered.needle_span, task.needle.answer)


class Forced(NamedTuple):
    """A given text under one model: log-probability (natural) of each token, and the divergence at that step.

    `kl` is KL(p || q) in nats of the whole next-token distributions, p being the model that wrote the text.
    """

    logprobs: tuple[float, ...]
    kl: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """What is known of a comparison so far. `forced[i][j]`: text i under column j's model; `traces[i]`: of text i.

    `model` and `models` say which weights were asked, in all and in each column; the columns hold no model any more, so
    that keeping a comparison keeps none in memory.
    """

    prompt: Prompt
    columns: tuple[Column, ...]
    sampling: Sampling
    stage: Stage
    token_ids: tuple[tuple[int, ...], ...]
    tokens: tuple[tuple[str, ...], ...]
    ended: tuple[Ending, ...]
    seconds: tuple[float, ...]
    read_tokens: int = 0
    forced: tuple[tuple[Forced, ...], ...] = ()
    traces: tuple[Trace, ...] = ()
    model: Mapping[str, str | None] = field(default_factory=dict)
    models: tuple[Mapping[str, str | None], ...] = ()

    def text(self, column: int) -> str:
        """A column's answer so far."""
        return "".join(self.tokens[column]).strip()

    def recall(self, column: int) -> float | None:
        """ROUGE-1 recall (0-1) of the right answer in a column's text; None where none is known."""
        return recall(self.prompt.answer, self.text(column)) if self.prompt.answer else None

    def rate(self, column: int) -> float:
        """Tokens a second while the column was being written; 0 before its first token."""
        return len(self.token_ids[column]) / self.seconds[column] if self.seconds[column] else 0.0

    def to_json(self) -> dict[str, Any]:
        """A finished comparison as plain data: of each column its mask, text, tokens, log-probabilities and copies."""
        return {
            "model": self.model,
            "versions": versions(),
            "prompt_tokens": len(self.prompt.token_ids),
            "template": self.prompt.template,
            "needle": self.prompt.needle.needle if self.prompt.needle else None,
            "answer": self.prompt.answer or None,
            "sampling": self.sampling._asdict(),
            "columns": [self._column(i) for i in range(len(self.columns))],
        }

    def _column(self, i: int) -> dict[str, Any]:
        under = {column.name: forced for column, forced in zip(self.columns, self.forced[i], strict=True)}
        return {
            "name": self.columns[i].name,
            "model": self.models[i],
            "mask": str(self.columns[i].mask),
            "text": self.text(i),
            "recall": self.recall(i),
            "ended": self.ended[i],
            "token_ids": self.token_ids[i],
            "tokens": self.tokens[i],
            "logprobs": {name: forced.logprobs for name, forced in under.items()},
            "kl": {name: forced.kl for name, forced in under.items()},
            "copied": {str(head): list(steps.items()) for head, steps in self.traces[i].copied.items()},
        }


Change = tuple[Literal["same", "lost", "added"], str]


def first_divergence(left: Sequence[int], right: Sequence[int]) -> int | None:
    """The first step at which two answers differ, also by one of them ending there; None if they are the same."""
    for step, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return step
    return None if len(left) == len(right) else min(len(left), len(right))


def changes(before: str, after: str) -> list[Change]:
    """The words of two texts in one row: those in both, those lost from `before`, those added in `after`."""
    old, new = pieces(before), pieces(after)
    out: list[Change] = []
    matcher = SequenceMatcher(None, [word.strip() for word in old], [word.strip() for word in new], autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            out.append(("same", "".join(new[c:d])))
            continue
        out += [("lost", "".join(old[a:b]))] if b > a else []
        out += [("added", "".join(new[c:d]))] if d > c else []
    return out
