"""Texts of models and files as HTML that is safe to draw: everything is escaped, only our own tags are added."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from retmask.compare.comparison import Comparison
from retmask.compare.differences import Change
from retmask.heads.grid import HeadId

AROUND = 12  # tokens of context drawn on either side of a position
MOST_HEADS = 12  # named in a line
MOST_CONTEXT = 400  # tokens of context drawn at most
ENDINGS = {"stop": "ended by itself", "length": "cut at the limit", "stopped": "stopped"}
READING, WRITING, JUDGING = "Reading the prompt…", "writing…", "Comparing…"
LONG_PROMPT = 2000  # tokens from which on a reader sees how far the reading is
STOPPED_LATE = "stopped before it was compared"
STYLE = """<style>
.said {white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.55; margin: 0;}
.said del {color: #b45309; text-decoration: line-through;}
.said ins {color: #0f766e; text-decoration: underline; text-underline-offset: 3px;}
.said mark {background: #cdebe7; color: inherit; border-radius: 3px; padding: 0;}
.said mark.now {background: #f8d3b4; box-shadow: 0 0 0 1px #d55e00;}
.facts {color: #6b7280; font-size: 0.875rem; line-height: 1.7; margin-bottom: 0.4rem;}
.facts b {color: #1f2937; font-weight: 600;}
.badge {border-radius: 0.6rem; padding: 0.1rem 0.55rem; margin-right: 0.4rem; font-weight: 600; white-space: nowrap;}
.badge.good {background: #dcf3e4; color: #166534;}
.badge.bad {background: #fdebd9; color: #9a3412;}
.badge.plain {background: #eef1f2; color: #4b5563;}
.where {color: #6b7280; font-size: 0.875rem; margin: 0.7rem 0 0.1rem;}
.gap {color: #6b7280;}
</style>"""


def said(text: str) -> str:
    """A text as it is, with its line ends."""
    return f'<div class="said">{escape(text)}</div>'


def differences(changes: Iterable[Change]) -> str:
    """Two texts in one: what was lost struck out, what was added underlined."""
    tags = {"same": "{}", "lost": "<del>{}</del>", "added": "<ins>{}</ins>"}
    return f'<div class="said">{"".join(_around(tags[kind], words) for kind, words in changes)}</div>'


def _around(tag: str, words: str) -> str:
    """Words in a tag, and after it their space: the last words of a text have none."""
    bare = words.rstrip()
    return tag.format(escape(bare)) + escape(words[len(bare) :] or " ")


def answer(now: Comparison, column: int, stopped: bool, good: float) -> str:
    """A column as far as it has come: how it stands, tokens and their rate, the text. Recall above `good` is green."""
    n = len(now.token_ids[column])
    pace = f"{n} token{'s' * (n != 1)} · {now.rate(column):.1f} tokens/s" if n else ""
    return f'<div class="facts">{_badges(now, column, stopped, good)}<br>{pace}</div>{said(now.text(column))}'


def _badges(now: Comparison, column: int, stopped: bool, good: float) -> str:
    ended = now.ended[column] or ("stopped" if stopped else "")
    standing = ENDINGS.get(ended) or (_reading(now) if now.stage == "reading" else WRITING)
    if now.stage == "judging":
        standing = STOPPED_LATE if stopped else JUDGING
    began = bool(now.token_ids[column]) or ended != "stopped"  # one that never began has not missed anything
    recall = now.recall(column) if ended and began else None
    kind = "good" if recall and recall > good else "bad"
    return (_badge(f"recall {recall:.2f}", kind) if recall is not None else "") + _badge(standing, "plain")


def _reading(now: Comparison) -> str:
    """How far the prompt has been read, where that takes long enough to be looked at."""
    total = len(now.prompt.token_ids)
    if not now.read_tokens or total < LONG_PROMPT:
        return READING
    return f"Reading the prompt: {now.read_tokens:,} of {total:,} tokens"


def _badge(words: str, kind: str) -> str:
    return f'<span class="badge {kind}">{escape(words)}</span>'


def shown(text: str, most: int = 24) -> str:
    """A token to read, with its spaces and line ends shown, cut at `most` characters; not escaped."""
    plain = text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def marked(
    pieces: Sequence[str], places: Collection[int], now: Collection[int] = (), ends: tuple[str, str] = ("", "")
) -> str:
    """A text from its tokens, some of them marked, and those in `now` more strongly."""
    parts = []
    for place, piece in enumerate(pieces):
        if place in now:
            parts.append(f'<mark class="now">{escape(piece)}</mark>')
        else:
            parts.append(f"<mark>{escape(piece)}</mark>" if place in places else escape(piece))
    return f'<div class="said">{ends[0]}{"".join(parts)}{ends[1]}</div>'


GAP = '<span class="gap"> … </span>'


def context(tokenizer: Any, ids: Sequence[int], weights: Mapping[int, int], now: Collection[int] = ()) -> str:
    """The parts of a context round the positions in `weights`, which are marked; the heaviest, where room is short."""
    spans = windows(weights, len(ids))
    out = []
    for span in spans:
        places = [place - span.start for place in weights if place in span]
        strong = [place - span.start for place in now if place in span]
        body = marked(pieces(tokenizer, ids[span.start : span.stop]), places, strong)
        out.append(body.removeprefix('<div class="said">').removesuffix("</div>"))
    first = GAP if spans and spans[0].start else ""
    last = GAP if spans and spans[-1].stop < len(ids) else ""
    return f'<div class="said">{first}{GAP.join(out)}{last}</div>'


def windows(weights: Mapping[int, int], length: int, around: int = AROUND, most: int = MOST_CONTEXT) -> list[range]:
    """Stretches of a context of that length round positions, `most` tokens in all; the heaviest positions come first.

    Stretches that touch are one.
    """
    inside: set[int] = set()
    for place in sorted(weights, key=lambda place: (-weights[place], place)):
        more = inside | set(range(max(0, place - around), min(length, place + around + 1)))
        inside = more if len(more) <= most else inside
    starts = [place for place in sorted(inside) if place - 1 not in inside]
    ends = [place + 1 for place in sorted(inside) if place + 1 not in inside]
    return [range(start, end) for start, end in zip(starts, ends, strict=True)]


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The texts of tokens that stand side by side: together they are the decoded text.

    A token that leaves a character unfinished has none; the last one gets what is left.
    """
    out, known = [], ""
    for end in range(1, len(ids) + 1):
        text: str = tokenizer.decode(ids[:end])
        whole = end == len(ids) or not text.endswith("\ufffd")
        out.append(text[len(known) :] if whole else "")
        known = text if whole else known
    return out


def source(tokenizer: Any, ids: Sequence[int], position: int, heads: Sequence[HeadId]) -> str:
    """What stands round a position in a context, and which heads copied it."""
    names = ", ".join(map(str, heads[:MOST_HEADS]))
    more = f" and {len(heads) - MOST_HEADS} more heads" if len(heads) > MOST_HEADS else ""
    return where(f"from position {position:,} by {names}{more}") + context(tokenizer, ids, {position: 1}, [position])


def where(words: str) -> str:
    """A line above a text."""
    return f'<div class="where">{escape(words)}</div>'


def fact(name: str, text: str) -> str:
    """A name and a text."""
    return f'<div class="facts">{escape(name)}: <b>{escape(text)}</b></div>'


def token_at(tokens: Sequence[str], step: int) -> str:
    """A token of an answer, or that it has ended there."""
    return f"<mark>{escape(shown(tokens[step]))}</mark>" if step < len(tokens) else "the end of"


def legend() -> str:
    """What the two kinds of changes look like."""
    return "Words that were <del>lost</del> and <ins>added</ins>:"
