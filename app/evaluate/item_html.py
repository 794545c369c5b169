"""An item as HTML that is safe to draw: its context with what is planted marked, its question, and the answers."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from app.evaluate.evaluation import FOUND
from app.shared.text import GAP, badge, fact_html, text_html, where_html
from retmask.evaluate.results import FLOORS
from retmask.evaluate.suite import task_of
from retmask.figures.style import percent
from retmask.items.item import Item, Span

MOST, AROUND = 150_000, 3_000  # characters of a context that are drawn whole; else so many round what is planted
STYLE = """<style>
.item .context {max-height: 21rem; overflow-y: auto; border: 1px solid #dfe3e6; border-radius: 0.5rem;
  padding: 0.7rem 1rem; position: relative;}
.item .context mark {background: #e8f4f2;}
.item .context mark.now {background: #f8d3b4; box-shadow: 0 0 0 1px #d55e00;}
.item .asked {border-left: 3px solid #0f766e; padding-left: 0.9rem; margin: 0.8rem 0;}
.item .answers {display: flex; flex-wrap: wrap; gap: 0.8rem; margin-top: 0.8rem;}
.item .answers section {flex: 1 1 17rem; min-width: 0; border: 1px solid #dfe3e6; border-radius: 0.5rem;
  padding: 0.6rem 0.9rem 0.8rem;}
.item .answers section.floor {color: #6b7280; background: #fafbfb;}
.item .answers h4 {font-size: 0.95rem; font-weight: 600; margin: 0 0 0.2rem; padding: 0; overflow-wrap: anywhere;}
.item .answers .facts {line-height: 2;}
.item .answers .said {max-height: 14rem; overflow-y: auto;}
</style>"""
# The context is opened at what is planted first; the number makes it another script for every item.
OPENED = """<script>setTimeout(() => {{
  const box = document.querySelector('.item .context'), mark = box?.querySelector('mark.now, mark');
  if (mark) box.scrollTop = Math.max(0, mark.offsetTop - box.clientHeight / 3);
}}, 60); // {number}</script>"""


def item_html(item: Item, lines: Mapping[str, Mapping[str, Any] | None]) -> str:
    """An item and the lines of its answers by condition, in order."""
    context = f'<div class="context said" dir="auto">{context_html(item)}</div>' if item.context else ""
    gold = ", ".join(item.gold) or "none: what counts is the log-probability of the text"
    asked = text_html(item.question) + fact_html("Right answer", gold)
    asked += fact_html("Wrong answers in the context", ", ".join(item.beside)) if item.beside else ""
    asked += fact_html("Every answer begins with", item.prefix) if item.prefix else ""
    answers = "".join(_answer(item, name, line) for name, line in lines.items())
    above = where_html(_about(item))
    return (
        f'<div class="item">{above}{context}<div class="asked">{asked}</div><div class="answers">{answers}</div></div>'
    )


def _about(item: Item) -> str:
    parts = [item.category, item.task, f"{item.tokens:,} tokens" if item.tokens else ""]
    parts += [f"depth {percent(round(item.depth, 3))}" if item.depth is not None else "", item.id]
    return " · ".join(filter(None, parts))


def context_html(item: Item) -> str:
    """The context: what the question needs is marked strongly, what else is planted faintly, a long one is cut."""
    marks = _apart(item)
    parts, at = [], 0
    for begin, end in _drawn(len(item.context), [span for span, _ in marks]):
        parts += [GAP if begin > at else "", *_pieces(item.context, begin, end, marks)]
        at = end
    return "".join(parts) + (GAP if at < len(item.context) else "")


def _apart(item: Item) -> list[tuple[Span, bool]]:
    """The planted spans in order, whether each is needed; without those that begin inside another or lie outside."""
    named = [(span, True) for span in item.planted] + [(span, False) for span in item.others]
    out: list[tuple[Span, bool]] = []
    for (begin, end), needed in sorted(named, key=lambda each: (each[0][0], not each[1])):
        if (out[-1][0][1] if out else 0) <= begin < end <= len(item.context):
            out.append(((begin, end), needed))
    return out


def _drawn(length: int, spans: Sequence[Span]) -> list[Span]:
    """What is drawn of a context: all of it, or what is round the spans and its beginning."""
    if length <= MOST:
        return [(0, length)]
    out: list[Span] = [(0, AROUND)]
    for begin, end in spans:
        begin, end = max(0, begin - AROUND), min(length, end + AROUND)
        if begin <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((begin, end))
    return out


def _pieces(text: str, begin: int, end: int, marks: Sequence[tuple[Span, bool]]) -> Iterator[str]:
    """The text from `begin` to `end`, which cuts through no mark."""
    at = begin
    for (start, stop), needed in marks:
        if begin <= start and stop <= end:
            kind = ' class="now"' if needed else ""
            yield f"{escape(text[at:start])}<mark{kind}>{escape(text[start:stop])}</mark>"
            at = stop
    yield escape(text[at:end])


def _answer(item: Item, condition: str, line: Mapping[str, Any] | None) -> str:
    """A condition's answer; None before it has answered."""
    kind = ' class="floor"' if condition in FLOORS else ""
    head = f"<section{kind}><h4>{escape(condition)}</h4>"
    if line is None:
        return f'{head}<div class="facts">not answered yet</div></section>'
    body = text_html(line["response"]) if line["response"] else f'<span class="gap">{_nothing(item)}</span>'
    return f'{head}<div class="facts">{_badges(line)}</div>{body}</section>'


def _nothing(item: Item) -> str:
    return "an empty answer" if task_of(item).answers else "nothing is written: the log-probability counts"


def _badges(line: Mapping[str, Any]) -> str:
    score = float(line["score"])
    sign, kind = ("✓", "good") if score >= 1 else ("~", "plain") if score >= FOUND else ("✗", "bad")
    parts = [badge(f"{sign} score {score:.2f}", kind)]
    parts += [badge(f"rank {line['rank']:.0f} of {line['of']:.0f}", "plain")] if line.get("of", 0) > 1 else []
    parts += [badge(f"log-probability {line['logprob']:.2f}", "plain")] if "logprob" in line else []
    return " ".join(parts)
