"""A prompt and its two answers as HTML that is safe to draw: the answer's place and the differences marked."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal

from app.shared.text import ENDINGS, GAP, MOST_DRAWN, badge, fact_html, in_each, where_html
from retmask.pairs.gate import RULES
from retmask.pairs.pair import PreferencePair
from retmask.text.recall import contains
from retmask.text.template import Turn

LONG = 700  # characters of a prompt that is folded
_BEGIN, _ROUND, _END = 140, 170, 200  # characters of a folded prompt: its beginning, round the answer, its end
STYLE = """<style>
.answers {display: flex; flex-wrap: wrap; gap: 1rem;}
.answers section {flex: 1 1 22rem; min-width: 0; border: 1px solid #dfe3e6; border-radius: 0.5rem;
  padding: 0.7rem 1rem 0.9rem;}
.answers .said, .prompt .said {max-height: 26rem; overflow-y: auto;}
.answers h4 {font-size: 1rem; font-weight: 600; margin: 0 0 0.15rem; padding: 0;}
.answers mark.lost {background: #cdebe7;}
.answers mark.added {background: #fbdcc4;}
.prompt {border-left: 3px solid #dfe3e6; padding-left: 0.9rem; margin: 0.3rem 0 0.9rem;}
.prompt mark {background: #fdf0b5;}
.prompt summary {cursor: pointer; list-style: none;}
.prompt summary::-webkit-details-marker {display: none;}
.prompt details[open] .folded, .prompt details .unfold {display: none;}
.prompt details[open] .unfold {display: inline;}
.prompt .fold {color: #0f766e; font-size: 0.875rem; font-weight: 600;}
.verdict {line-height: 2;}
</style>"""


def prompt(messages: Sequence[Turn], answer: str = "", tokens: int = 0) -> str:
    """The turns of a prompt with the place of its answer marked; a long one is folded, and the place shown even so."""
    place = _place(messages, answer)
    length = f"{tokens:,} tokens" if tokens else f"{sum(len(text) for _, text in messages):,} characters"
    parts = [_turn(messages, i, place) for i in range(len(messages))]
    whole = "".join(parts)
    if sum(len(text) for _, text in messages) > LONG:
        fold = '<span class="fold"><span class="folded">show all</span><span class="unfold">fold</span></span>'
        head = f'<span class="where">prompt, {length} · </span>{fold}'
        excerpt = f'<div class="said folded" dir="auto">{_excerpt(messages, place)}</div>'
        body = f"<details><summary>{head}{excerpt}</summary>{whole}</details>"
    else:
        body = where_html(f"prompt, {length}") + whole
    fact = fact_html("Right answer", answer) if answer else ""
    return f'<div class="prompt">{body}{fact}</div>'


def _place(messages: Sequence[Turn], answer: str) -> tuple[int, range] | None:
    """Where the answer stands: the turn, and the characters in it. The last turn that has it counts."""
    for i in reversed(range(len(messages))):
        match = re.search(re.escape(answer), messages[i][1], re.IGNORECASE) if answer.strip() else None
        if match:
            return i, range(*match.span())
    return None


def _turn(messages: Sequence[Turn], i: int, place: tuple[int, range] | None) -> str:
    """A turn, with its role where there are several."""
    role, text = messages[i]
    named = where_html(role) if len(messages) > 1 or role != "user" else ""
    spot = place[1] if place and place[0] == i else range(0)
    cut = (
        f'<span class="gap"> … and {len(text) - MOST_DRAWN:,} more characters</span>' if len(text) > MOST_DRAWN else ""
    )
    return f'{named}<div class="said" dir="auto">{_marked(text, range(min(len(text), MOST_DRAWN)), spot)}{cut}</div>'


def _excerpt(messages: Sequence[Turn], place: tuple[int, range] | None) -> str:
    """The parts of a long prompt to know it by: its beginning, the surroundings of the answer, its end."""
    at, spot = place or (len(messages) - 1, range(0))
    text = messages[at][1]
    wanted = [range(_BEGIN), range(len(text) - _END, len(text))]
    wanted += [range(spot.start - _ROUND, spot.stop + _ROUND)] if len(spot) else []
    spans = [
        _whole(text, joined)
        for joined in _joined(range(max(0, span.start), min(len(text), span.stop)) for span in wanted)
    ]
    return re.sub(r"\n{2,}", "\n", GAP.join(_marked(text, span, spot) for span in spans if len(span)))


def _whole(text: str, span: range) -> range:
    """The span without the words that it cuts, unless nothing is left then."""
    begin = re.compile(r"\s" if span.start else "").search(text, span.start)
    end = span.stop if span.stop == len(text) else max(text.rfind(" ", 0, span.stop), text.rfind("\n", 0, span.stop))
    whole = range(begin.start() if begin else span.start, end)
    return whole if len(whole) else span


def _joined(spans: Iterable[range]) -> list[range]:
    """The spans in order, those that touch as one."""
    out: list[range] = []
    for span in sorted(spans, key=lambda span: span.start):
        if out and span.start <= out[-1].stop:
            out[-1] = range(out[-1].start, max(out[-1].stop, span.stop))
        else:
            out.append(span)
    return out


def _marked(text: str, span: range, spot: range) -> str:
    """The characters of a span, those in `spot` marked."""
    begin, end = (min(max(at, span.start), span.stop) for at in (spot.start, spot.stop))
    inner = f"<mark>{escape(text[begin:end])}</mark>" if end > begin else ""
    return escape(text[span.start : begin]) + inner + escape(text[end if inner else begin : span.stop])


def standing(pair: PreferencePair, verdict: str | None, kept: bool, faults: Sequence[str]) -> str:
    """In a line: whether a pair is kept, by whom, which rules find it, and which pair it is."""
    by = " by you" if verdict else "" if kept else " by the gate"
    parts = [badge(f"{'kept' if kept else 'dropped'}{by}", "good" if kept else "bad")]
    parts += [badge(RULES[name].says, "plain") for name in faults]
    parts += [badge(pair.unanswered, "bad")] if pair.unanswered else []
    return (
        f'<div class="verdict">{" ".join(parts)} <span class="gap">{escape(pair.arm)} · {escape(pair.id)}</span></div>'
    )


def answers(pair: PreferencePair, edited: bool) -> str:
    """Chosen and rejected beside each other; what one has and the other has not is marked in it."""
    chosen, rejected = in_each(pair.chosen.text, pair.rejected.text)
    texts = _answer(pair, "chosen", chosen, edited), _answer(pair, "rejected", rejected, edited)
    return f'<div class="answers">{"".join(texts)}</div>'


def _answer(pair: PreferencePair, name: Literal["chosen", "rejected"], text: str, edited: bool) -> str:
    shown, model = (pair.chosen, "unmasked") if name == "chosen" else (pair.rejected, "masked")
    n = f"{shown.tokens:,} token{'s' * (shown.tokens != 1)}" if shown.tokens else "length not known"
    facts = [badge("edited", "plain")] if edited else []
    facts += [badge(ENDINGS[shown.ended], "bad" if shown.ended == "length" else "plain")]
    if pair.answer:
        has = contains(shown.text, pair.answer)
        facts += [badge("has the fact" if has else "lacks the fact", "good" if has == (name == "chosen") else "bad")]
    body = text or '<span class="gap">an empty text</span>'
    of_model = f'<span class="gap"> {model}, {n}</span>'
    return (
        f'<section><h4>{name}{of_model}</h4><div class="facts">{" ".join(facts)}</div>'
        f'<div class="said" dir="auto">{body}</div></section>'
    )
