"""Preference pairs: one prompt, the unmasked model's answer (chosen) and the masked model's (rejected). No model.

Which pairs are worth training on (the gate), what is to be known of a set, its folder, and a person's review of it.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

from retmask.files import append_line, check_text, read_lines, sha256, write_atomic
from retmask.runs.run import Run, now
from retmask.text.recall import contains, pieces

ITEMS, PAIRS, REVIEW = "items.jsonl", "pairs.jsonl", "review.jsonl"
CARRIED = (
    "model",
    "revision",
    "sha256",
    "adapter_sha256",
    "chat",
    "mask",
    "head_grid",
    "prompts_sha256",
    "clock",
    "thinking",
)
LONGER = 5.0  # an answer that many times as long as the other teaches length
_LOOPS = 4  # a phrase said so often in a row is a loop
Message = tuple[str, str]
Verdict = Literal["keep", "drop"]


class Said(NamedTuple):
    """An answer: its text, how many tokens it took, and whether it ended by itself or at the limit."""

    text: str
    tokens: int
    ended: Literal["stop", "length"]


@dataclass(frozen=True)
class PreferencePair:
    """A prompt with two answers. `answer` is the short right one of a grounded prompt, else empty.

    `prompt_tokens` is the prompt's length; `diverged` the first token at which the answers differ, None where they do
    not or it is not known. `unanswered` says why there are no answers, where the model or the server cannot be asked
    this prompt: both are empty then, and asking again would not help.
    """

    id: str
    messages: tuple[Message, ...]
    chosen: Said
    rejected: Said
    arm: str = "file"
    answer: str = ""
    prompt_tokens: int = 0
    diverged: int | None = None
    unanswered: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record that `from_json` reads: a line of items.jsonl."""
        return {
            "id": self.id,
            "arm": self.arm,
            "messages": [list(message) for message in self.messages],
            "answer": self.answer,
            "chosen": list(self.chosen),
            "rejected": list(self.rejected),
            "prompt_tokens": self.prompt_tokens,
            "diverged": self.diverged,
            **({"unanswered": self.unanswered} if self.unanswered else {}),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "PreferencePair":
        """A pair from its record. KeyError, TypeError or ValueError for what is none, or what no file can hold."""
        check_text(json.dumps(record, ensure_ascii=False), "the pair")
        return cls(
            str(record["id"]),
            tuple((str(role), str(content)) for role, content in record["messages"]),
            _said(record["chosen"]),
            _said(record["rejected"]),
            str(record["arm"]),
            str(record["answer"]),
            int(record["prompt_tokens"]),
            None if record["diverged"] is None else int(record["diverged"]),
            str(record.get("unanswered", "")),
        )

    def row(self, chat: bool, model: str = "") -> dict[str, Any]:
        """The pair in TRL's preference format: messages for models with a chat template, else plain texts.

        The further columns (id, answer, model) are for people and for checks; TRL passes over them.
        """
        about = {"id": self.id, "model": model} | ({"answer": self.answer} if self.answer else {})
        if not chat:
            prompt = plain_prompt(self.messages)
            return {"prompt": prompt, "chosen": self.chosen.text, "rejected": self.rejected.text, **about}
        said = [[{"role": "assistant", "content": one.text}] for one in (self.chosen, self.rejected)]
        prompts = [{"role": role, "content": content} for role, content in self.messages]
        return {"prompt": prompts, "chosen": said[0], "rejected": said[1], **about}


def _said(record: Sequence[Any]) -> Said:
    text, tokens, ended = record
    if ended not in ("stop", "length"):
        raise ValueError(f"an answer ends with stop or length, not {ended!r}")
    return Said(str(text), int(tokens), ended)


def plain_prompt(messages: Sequence[Message]) -> str:
    """The messages as one text, for a model without a chat template."""
    return "\n\n".join(content for _, content in messages)


class Rule(NamedTuple):
    """A rule of the gate: what is wrong with a pair that it finds, in a few words, and how it finds it."""

    says: str
    finds: Callable[[PreferencePair], bool]


def _identical(pair: PreferencePair) -> bool:
    return pair.chosen.text.split() == pair.rejected.text.split()


def _empty(pair: PreferencePair) -> bool:
    return not pair.chosen.text.strip() or not pair.rejected.text.strip()


def _cut(pair: PreferencePair) -> bool:
    return "length" in (pair.chosen.ended, pair.rejected.ended)


def _repeats(pair: PreferencePair) -> bool:
    return loops(pair.chosen.text) or loops(pair.rejected.text)


def _uneven(pair: PreferencePair) -> bool:
    short, long = sorted((len(pair.chosen.text), len(pair.rejected.text)))
    return long > LONGER * short


def _wrong(pair: PreferencePair) -> bool:
    return bool(pair.answer) and not contains(pair.chosen.text, pair.answer)


def _right(pair: PreferencePair) -> bool:
    return bool(pair.answer) and contains(pair.rejected.text, pair.answer)


RULES = {
    "identical": Rule("both answers are the same", _identical),
    "empty": Rule("an answer is empty", _empty),
    "cut": Rule("an answer is cut at the length limit", _cut),
    "repetition": Rule("an answer goes round in a loop", _repeats),
    "ratio": Rule(f"one answer is more than {LONGER:g} times as long as the other", _uneven),
    "chosen-wrong": Rule("the chosen answer does not hold the fact that was asked for", _wrong),
    "rejected-right": Rule("the rejected answer holds the fact that was asked for", _right),
}


def loops(text: str) -> bool:
    """Whether a phrase of one to twelve words is said four times in a row."""
    words = [piece.strip() for piece in pieces(text.casefold())]
    for size in range(1, 13):
        same = 0
        for i in range(len(words) - size):
            same = same + 1 if words[i] == words[i + size] else 0
            if same >= size * (_LOOPS - 1):
                return True
    return False


def faults(pair: PreferencePair, allowed: Iterable[str] = ()) -> list[str]:
    """The names of the rules that speak against a pair; those in `allowed` are switched off."""
    off = set(allowed)
    return [name for name, rule in RULES.items() if name not in off and rule.finds(pair)]


def check_rules(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once. ValueError for one that is no rule of the gate."""
    found = tuple(dict.fromkeys(names))
    for name in found:
        if name not in RULES:
            raise ValueError(f"{name!r} is no rule of the gate: choose from {', '.join(RULES)}")
    return found


@dataclass(frozen=True)
class Statistics:
    """What is to be known of a set of pairs. Lengths in tokens; `longer`: share of pairs whose chosen answer is longer.

    `diverged` is the median of the first token at which the answers differ; `bias` the mean of chosen minus rejected
    length; `cut_pairs` and `cut_tokens` the shares of pairs and of answers' tokens that a `max_length` would cut.
    """

    pairs: int
    prompt: float
    chosen: float
    rejected: float
    bias: float
    longer: float
    diverged: float | None
    longest: int
    cut_pairs: float
    cut_tokens: float


def statistics(pairs: Sequence[PreferencePair], max_length: int = 1024) -> Statistics | None:
    """What is to be known of these pairs; None if there are none."""
    n = len(pairs)
    if not n:
        return None
    wholes = [(pair.prompt_tokens + one.tokens, one.tokens) for pair in pairs for one in (pair.chosen, pair.rejected)]
    cut = [min(max(0, whole - max_length), said) for whole, said in wholes]
    first = [pair.diverged for pair in pairs if pair.diverged is not None]
    return Statistics(
        pairs=n,
        prompt=sum(pair.prompt_tokens for pair in pairs) / n,
        chosen=sum(pair.chosen.tokens for pair in pairs) / n,
        rejected=sum(pair.rejected.tokens for pair in pairs) / n,
        bias=sum(pair.chosen.tokens - pair.rejected.tokens for pair in pairs) / n,
        longer=sum(pair.chosen.tokens > pair.rejected.tokens for pair in pairs) / n,
        diverged=median(first) if first else None,
        longest=max(whole for whole, _ in wholes),
        cut_pairs=sum(map(any, zip(cut[::2], cut[1::2], strict=True))) / n,
        cut_tokens=sum(cut) / max(1, sum(said for _, said in wholes)),
    )


def gate_counts(pairs: Iterable[PreferencePair]) -> dict[str, int]:
    """How many pairs each rule of the gate speaks against, whether it is switched off or not."""
    counts = dict.fromkeys(RULES, 0)
    for pair in pairs:
        for name in faults(pair):
            counts[name] += 1
    return counts


def read_items(folder: Path) -> list[PreferencePair]:
    """Every pair in a run's folder, also those that the gate keeps out, each once, in the order of the prompts."""
    found: dict[str, tuple[int, PreferencePair]] = {}
    for line in read_lines(folder / ITEMS):
        try:
            found.setdefault(str(line["id"]), (int(line.get("number", len(found))), PreferencePair.from_json(line)))
        except (KeyError, TypeError, ValueError):
            continue
    return [pair for _, pair in sorted(found.values(), key=lambda one: one[0])]


def write_pairs(folder: Path, pairs: Iterable[PreferencePair], chat: bool, model: str) -> Path:
    """Write pairs.jsonl, TRL's preference format, one pair a line, atomically."""
    path = folder / PAIRS
    rows = (json.dumps(pair.row(chat, model), ensure_ascii=False) for pair in pairs)
    write_atomic(path, "".join(row + "\n" for row in rows))
    return path


@dataclass(frozen=True)
class Review:
    """A person's decisions on the pairs of a run: kept or dropped by id, and edited answers by id.

    What is not decided is kept as the gate says. Every decision is a line of review.jsonl, so that nothing is lost.
    """

    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    edits: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def keeps(self, pair: PreferencePair, allowed: Iterable[str]) -> bool:
        """Whether a pair is in the set: by the person's word, else by the gate's."""
        verdict = self.verdicts.get(pair.id)
        return verdict == "keep" if verdict else not faults(pair, allowed)

    def edited(self, pair: PreferencePair) -> PreferencePair:
        """The pair with the person's texts in place of the models'."""
        texts = self.edits.get(pair.id)
        if texts is None:
            return pair
        chosen, rejected = (
            one._replace(text=text) for one, text in zip((pair.chosen, pair.rejected), texts, strict=True)
        )
        return replace(pair, chosen=chosen, rejected=rejected)


def decide(folder: Path, pair_id: str, **decision: Any) -> None:
    """Write a decision down: `verdict` keep, drop or None (undecided), or `edit` (chosen, rejected) or None.

    ValueError for a text that no file can hold.
    """
    for text in decision.get("edit") or ():
        check_text(str(text), "the edited text")
    append_line(folder / REVIEW, {"id": pair_id, **decision})


def read_review(folder: Path) -> Review:
    """The decisions in a run's folder, the last word on each pair."""
    verdicts: dict[str, Verdict] = {}
    edits: dict[str, tuple[str, str]] = {}
    for line in read_lines(folder / REVIEW):
        name = str(line.get("id"))
        if "verdict" in line:
            verdicts.pop(name, None)
            if line["verdict"] in ("keep", "drop"):
                verdicts[name] = line["verdict"]
        if "edit" in line:
            edits.pop(name, None)
            if isinstance(line["edit"], list) and len(line["edit"]) == 2:
                edits[name] = (str(line["edit"][0]), str(line["edit"][1]))
    return Review(verdicts, edits)


def new_version(run: Run, allowed: Sequence[str]) -> Run:
    """The reviewed pairs of a run as a run of their own, with the first as its parent. ValueError if none is left."""
    record, items, review = run.record, read_items(run.path), read_review(run.path)
    kept = [review.edited(pair) for pair in items if review.keeps(pair, allowed)]
    kept = [pair for pair in kept if not _empty(pair)]
    if not kept:
        raise ValueError("no pair is left: keep at least one")
    everything = [name for name in RULES if name != "empty"]  # what a person has kept, no gate takes out again
    config = {**record.get("config", {}), "allow": everything}
    new = Run.create("pairs", config, name="reviewed", parents=[run.path])
    lines = [json.dumps({"number": number, **pair.to_json()}) for number, pair in enumerate(kept)]
    write_atomic(new.path / ITEMS, "".join(line + "\n" for line in lines))
    write_pairs(new.path, kept, bool(record.get("chat")), str(record.get("model", "")))
    decided = {verdict: sum(one == verdict for one in review.verdicts.values()) for verdict in ("keep", "drop")}
    new.update(
        **{name: record[name] for name in CARRIED if name in record},
        status="success",
        ended=now(),
        done=len(items),
        kept=len(kept),
        pairs_sha256=sha256(new.path / PAIRS),
        review={"of": run.id, **decided, "edited": len(review.edits)},
    )
    return new
