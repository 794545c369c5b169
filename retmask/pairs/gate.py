"""The gate: which pairs are worth training on, by rules that can be switched off, and what is to be known of a set."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from retmask.files import unknown
from retmask.pairs.pair import PreferencePair
from retmask.text.recall import contains, pieces

LONGER = 5.0  # an answer that many times as long as the other teaches length
_LOOPS = 4  # a phrase said so often in a row is a loop


class Rule(NamedTuple):
    """A rule of the gate: what is wrong with a pair that it finds, in a few words, what to do, and how it finds it."""

    says: str
    remedy: str
    finds: Callable[[PreferencePair], bool]


def empty(pair: PreferencePair) -> bool:
    """Whether one of the answers says nothing."""
    return not all(answer.text.strip() for answer in pair.answers)


def _uneven(pair: PreferencePair) -> bool:
    short, long = sorted(len(answer.text) for answer in pair.answers)
    return long > LONGER * short


_MORE = "mask more heads, or others"
RULES = {
    "identical": Rule(
        "both answers are the same", _MORE, lambda pair: pair.chosen.text.split() == pair.rejected.text.split()
    ),
    "empty": Rule("an answer is empty", "look at the prompts and the chat template, or mask fewer heads", empty),
    "cut": Rule(
        "an answer is cut at the length limit",
        "give a larger --max-new-tokens",
        lambda pair: any(answer.ended == "length" for answer in pair.answers),
    ),
    "repetition": Rule(
        "an answer goes round in a loop",
        "mask fewer heads, or give a higher --temperature",
        lambda pair: any(loops(answer.text) for answer in pair.answers),
    ),
    "ratio": Rule(f"one answer is more than {LONGER:g} times as long as the other", "mask fewer heads", _uneven),
    "chosen-wrong": Rule(
        "the chosen answer does not hold the fact that was asked for",
        "take a model that finds it, or other prompts",
        lambda pair: bool(pair.answer) and not contains(pair.chosen.text, pair.answer),
    ),
    "rejected-right": Rule(
        "the rejected answer holds the fact that was asked for",
        _MORE,
        lambda pair: contains(pair.rejected.text, pair.answer),
    ),
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


def none_kept(pairs: Sequence[PreferencePair], allowed: Iterable[str] = ()) -> str:
    """Where not one of these pairs is kept: which rule speaks against most of them, and what to do; else empty."""
    against = [faults(pair, allowed) for pair in pairs]
    if not all(against) or not pairs:
        return ""
    name, n = Counter(name for names in against for name in names).most_common(1)[0]
    share = f"all {n:,}" if n == len(pairs) else f"{n:,} of {len(pairs):,}"
    rule = RULES[name]
    return f"no pair is kept: in {share} {rule.says} ({name}); {rule.remedy}, or keep such pairs with --allow {name}"


def check_rules(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once. ValueError for one that is no rule of the gate."""
    rules = tuple(dict.fromkeys(names))
    for name in rules:
        if name not in RULES:
            raise unknown("gate rule", name, RULES)
    return rules


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
    answers = [(pair, answer.tokens) for pair in pairs for answer in pair.answers]
    wholes = [pair.prompt_tokens + tokens for pair, tokens in answers]
    cut = [min(max(0, whole - max_length), tokens) for whole, (_, tokens) in zip(wholes, answers, strict=True)]
    first = [pair.diverged for pair in pairs if pair.diverged is not None]
    return Statistics(
        pairs=n,
        prompt=sum(pair.prompt_tokens for pair in pairs) / n,
        chosen=sum(pair.chosen.tokens for pair in pairs) / n,
        rejected=sum(pair.rejected.tokens for pair in pairs) / n,
        bias=sum(pair.chosen.tokens - pair.rejected.tokens for pair in pairs) / n,
        longer=sum(pair.chosen.tokens > pair.rejected.tokens for pair in pairs) / n,
        diverged=median(first) if first else None,
        longest=max(wholes),
        cut_pairs=sum(map(any, zip(cut[::2], cut[1::2], strict=True))) / n,
        cut_tokens=sum(cut) / max(1, sum(tokens for _, tokens in answers)),
    )


def gate_counts(pairs: Iterable[PreferencePair]) -> dict[str, int]:
    """How many pairs each rule of the gate speaks against, whether it is switched off or not."""
    counts = dict.fromkeys(RULES, 0)
    for pair in pairs:
        for name in faults(pair):
            counts[name] += 1
    return counts
