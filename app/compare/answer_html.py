"""Answers and where they were copied from, as HTML that is safe to draw."""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

from app.shared.text import ENDINGS, GAP, badge, text_html, token_text, where_html
from retmask.compare.comparison import Comparison
from retmask.heads.grid import HeadId

AROUND = 12  # tokens of context drawn on either side of a position
MOST_HEADS = 12  # named in a line
MOST_CONTEXT = 400  # tokens of context drawn at most
LONG_PROMPT = 2000  # tokens from which on a reader sees how far the reading is
STOPPED_LATE = "stopped before it was compared"
READING, WRITING, JUDGING = "Reading the prompt…", "writing…", "Comparing…"


def answer_html(comparison: Comparison, column: int, stopped: bool, good: float) -> str:
    """A column as far as it has come: how it stands, tokens and their rate, the text. Recall above `good` is green."""
    n = len(comparison.token_ids[column])
    pace = f"{n} token{'s' * (n != 1)} · {comparison.rate(column):.1f} tokens/s" if n else ""
    badges = _badges(comparison, column, stopped, good)
    return f'<div class="facts">{badges}<br>{pace}</div>{text_html(comparison.text(column))}'


def _badges(comparison: Comparison, column: int, stopped: bool, good: float) -> str:
    ended = comparison.ended[column] or ("stopped" if stopped else "")
    standing = ENDINGS.get(ended) or (_reading(comparison) if comparison.stage == "reading" else WRITING)
    if comparison.stage == "judging":
        standing = STOPPED_LATE if stopped else JUDGING
    began = bool(comparison.token_ids[column]) or ended != "stopped"  # one that never began has not missed anything
    recall = comparison.recall(column) if ended and began else None
    kind = "good" if recall and recall > good else "bad"
    return (badge(f"recall {recall:.2f}", kind) if recall is not None else "") + badge(standing, "plain")


def _reading(comparison: Comparison) -> str:
    """How far the prompt has been read, where that takes long enough to be looked at."""
    total = len(comparison.prompt.token_ids)
    if not comparison.read_tokens or total < LONG_PROMPT:
        return READING
    return f"Reading the prompt: {comparison.read_tokens:,} of {total:,} tokens"


def marked_html(
    pieces: Sequence[str], places: Collection[int], strong: Collection[int] = (), ends: tuple[str, str] = ("", "")
) -> str:
    """A text from its tokens, some of them marked, and those in `strong` more strongly."""
    parts = []
    for place, piece in enumerate(pieces):
        if place in strong:
            parts.append(f'<mark class="now">{escape(piece)}</mark>')
        else:
            parts.append(f"<mark>{escape(piece)}</mark>" if place in places else escape(piece))
    return f'<div class="said">{ends[0]}{"".join(parts)}{ends[1]}</div>'


def context_html(tokenizer: Any, ids: Sequence[int], weights: Mapping[int, int], strong: Collection[int] = ()) -> str:
    """The parts of a context round the positions in `weights`, which are marked; the heaviest, where room is short."""
    spans = windows(weights, len(ids))
    out = []
    for span in spans:
        places = [place - span.start for place in weights if place in span]
        bold = [place - span.start for place in strong if place in span]
        body = marked_html(pieces(tokenizer, ids[span.start : span.stop]), places, bold)
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
    out, text_before = [], ""
    for end in range(1, len(ids) + 1):
        text: str = tokenizer.decode(ids[:end])
        whole = end == len(ids) or not text.endswith("\ufffd")
        out.append(text[len(text_before) :] if whole else "")
        text_before = text if whole else text_before
    return out


def source_html(tokenizer: Any, ids: Sequence[int], position: int, heads: Sequence[HeadId]) -> str:
    """What stands round a position in a context, and which heads copied it."""
    names = ", ".join(map(str, heads[:MOST_HEADS]))
    more = f" and {len(heads) - MOST_HEADS} more heads" if len(heads) > MOST_HEADS else ""
    return where_html(f"from position {position:,} by {names}{more}") + context_html(
        tokenizer, ids, {position: 1}, [position]
    )


def token_html(tokens: Sequence[str], step: int) -> str:
    """A token of an answer, or that it has ended there."""
    return f"<mark>{escape(token_text(tokens[step]))}</mark>" if step < len(tokens) else "the end of"
