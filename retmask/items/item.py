"""The values of an evaluation: what a task hides and asks (`Document`), and one question to one context (`Item`).

A task is a module of `retmask/tasks` with three parts, and a line in its `__init__`:

    def plant(rng: Random, tokens: int) -> Document:    # all that is random comes from `rng`
        return Document("Read the text.\\n\\n", (Planted("The code of Ada is 7."),), (
            Question("What is the code of Ada?", gold=("7",), distractors=("4", "9", "2"), planted=(0,)),
        ))

    def score(item: Item, response: str) -> float:      # 0 to 1
        return float(item.gold[0] in response)

    TASKS = (Task("codes", "recall", 16, plant, score),)

`retmask.items.packing` fills the document with prose, or with units that the task brings, to the length that is asked
for, puts what is planted at its depths and makes an item of every question. `tokens` is the window: prompt and answer.
A task that fills with units makes as many as that can hold in any tokenizer (a token has hardly more than 6 characters
of prose, or 2 of a UUID); it can take all gold, and should name three distractors or more, which the text holds too
where it can (`Item.beside`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any, Literal, NamedTuple, get_args

from retmask.files import is_number

Span = tuple[int, int]
_Ours = Literal["recall", "rag", "hops", "cite", "rerank", "icl", "qa", "summary", "association", "guard"]
Category = _Ours | Literal["external"]
CATEGORIES: tuple[Category, ...] = get_args(_Ours)
EXTERNAL: Category = "external"  # what other suites ask, such as lm-eval and HELMET: not part of overall


class Planted(NamedTuple):
    """A sentence, or a unit, to hide at a depth of the filler (0-1); None leaves the depth to the packing.

    The first one that a question needs is then spread evenly over an evaluation's items, and all else drawn.
    """

    text: str
    depth: float | None = None


@dataclass(frozen=True)
class Question:
    """What is asked after a context, whose answer begins with `prefix`.

    `gold` holds the right answers: the first is what log-probability and rank are of. `distractors` are wrong ones of
    the same kind, `planted` the numbers of what is needed to answer, `data` what the score needs besides (JSON).
    """

    text: str
    gold: tuple[str, ...]
    distractors: tuple[str, ...] = ()
    planted: tuple[int, ...] = ()
    prefix: str = "Answer:"
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Document:
    """What a task hides in one context, with its questions: they share the context, up to its last few words.

    `filler`: None fills with prose; units are taken in order, as many as fit, each followed by `joint`, and so is what
    is planted among them; () fills with nothing, so that the length is what it is. The rest of the length, less than a
    unit, is prose between the two texts of `tail`.
    """

    before: str
    planted: tuple[Planted, ...]
    questions: tuple[Question, ...]
    filler: tuple[str, ...] | None = None
    joint: str = " "
    tail: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Item:
    """One question to one context, as text. `cluster` names the document, which other questions may share.

    `tokens` is the window, prompt and answer. `depth` (0-1) is where the first planted text that is needed stands;
    `planted` are [start, end) in characters of `context` of what is needed, `others` of what else is planted. `plain`:
    asked without the chat template.
    """

    id: str
    task: str
    category: Category
    cluster: str
    tokens: int
    depth: float | None
    context: str
    question: str
    gold: tuple[str, ...]
    distractors: tuple[str, ...] = ()
    prefix: str = ""
    planted: tuple[Span, ...] = ()
    others: tuple[Span, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    plain: bool = False

    @property
    def message(self) -> str:
        """What the user writes: the context, an empty line and the question."""
        return f"{self.context}\n\n{self.question}" if self.context else self.question

    @property
    def beside(self) -> tuple[str, ...]:
        """The distractors that stand in the context, as the right answer does."""
        return tuple(wrong for wrong in self.distractors if wrong in self.context)

    @property
    def record(self) -> dict[str, Any]:
        """The item as JSON holds it."""
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Item":
        """The item of a record. ValueError where the record is none."""
        if wrong := next((name for name in record if name in _READS and not _READS[name](record[name])), None):
            raise ValueError(f"this is no item of an evaluation: {wrong} cannot be {str(record[wrong])[:40]!r}")
        spans = {name: tuple(map(tuple, record.get(name, ()))) for name in ("planted", "others")}
        texts = {name: tuple(record.get(name, ())) for name in ("gold", "distractors")}
        try:
            return cls(**{**record, **spans, **texts})
        except TypeError as error:
            raise ValueError(f"this is no item of an evaluation: {error}") from None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_text, value))


def _are_spans(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_span, value))


def _is_span(value: Any) -> bool:
    are_places = isinstance(value, list | tuple) and len(value) == 2 and all(type(place) is int for place in value)
    return are_places and 0 <= value[0] <= value[1]


_READS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("id", "task", "cluster", "context", "question", "prefix"), _is_text),
    **dict.fromkeys(("gold", "distractors"), _are_texts),
    **dict.fromkeys(("planted", "others"), _are_spans),
    "category": (*CATEGORIES, EXTERNAL).__contains__,
    "tokens": lambda value: type(value) is int,
    "depth": lambda value: value is None or is_number(value),
    "data": lambda value: isinstance(value, Mapping),
    "plain": lambda value: isinstance(value, bool),
}


@dataclass(frozen=True)
class Task:
    """One kind of question: what is hidden and asked, room for the answer in tokens, and what an answer is worth.

    `plant` makes a document from a generator and the window in tokens; `score` gives 0 to 1. `ranked`, where a task has
    one, scores the log-probabilities (mean of a token) of the gold answer and then the distractors. `answers` is False
    where nothing is written and `ranked` alone counts; `plain` asks without the chat template.
    """

    name: str
    category: Category
    answer_tokens: int
    plant: Callable[[Random, int], Document]
    score: Callable[[Item, str], float]
    ranked: Callable[[Item, Sequence[float]], float] | None = None
    answers: bool = True
    plain: bool = False
