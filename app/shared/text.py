"""What pages say and draw: sentences, texts as HTML, what differs in two texts, figures with their downloads."""

import json
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from html import escape
from typing import Any, ParamSpec

import plotly.graph_objects as go
import streamlit as st

from retmask.compare.comparison import Change, changes
from retmask.families.difference import MapDifference
from retmask.figures import style
from retmask.figures.rows import Row, to_csv
from retmask.heads.intervals import none_over, over
from retmask.runs import faults
from retmask.text.recall import pieces

P = ParamSpec("P")
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


def sentence(error: Exception | str) -> str:
    """What an error says, as a sentence that Markdown shows as it is, whatever a file or a person put into it."""
    text = str(error).rstrip(".") + "."
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~$:])", r"\\\1", text)


def says(error: Exception) -> str:
    """What the page says of an exception."""
    if faults.is_expected(error):
        return faults.sentence(error)
    return f"something unexpected happened: {faults.sentence(error)}; the traceback is in the app's log"


def guarded(draw: Callable[P, None]) -> Callable[P, None]:
    """The same drawing, with a sentence in the place of an exception that nobody has foreseen.

    The traceback goes to the app's log; with RETMASK_DEBUG=1 it is shown on the page.
    """

    @wraps(draw)
    def shown(*args: P.args, **named: P.kwargs) -> None:
        try:
            draw(*args, **named)
        except Exception as error:  # Streamlit's own signals (rerun, stop) are none
            if faults.debugging():
                raise
            traceback.print_exception(error)
            st.error(sentence(says(error)))

    return shown


def plain(text: Any) -> str:
    """Text that stays one piece of code in Markdown: a line break would end it."""
    return " ".join(str(text).split()).replace("`", "'")[:80]


def text_html(text: str) -> str:
    """A text as it is, with its line ends."""
    return f'<div class="said">{escape(text)}</div>'


def token_text(text: str, most: int = 24) -> str:
    """A token to read, with its spaces and line ends shown, cut at `most` characters; not escaped."""
    plain = text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def badge(text: str, kind: str) -> str:
    """A word or two on a ground of its own: good, bad or plain."""
    return f'<span class="badge {kind}">{escape(text)}</span>'


def where_html(text: str) -> str:
    """A line above a text."""
    return f'<div class="where">{escape(text)}</div>'


def fact_html(name: str, text: str) -> str:
    """A name and a text."""
    return f'<div class="facts">{escape(name)}: <b>{escape(text)}</b></div>'


ENDINGS = {"stop": "ended by itself", "length": "cut at the limit", "stopped": "stopped"}  # of answers
GAP = '<span class="gap"> … </span>'
MOST_DRAWN = 20_000  # characters of a text that are drawn at all
_MOST_MATCHES = 200_000  # pairs of equal words in two texts: beyond, looking for differences takes too long
_TAGS = {"same": "{}", "lost": "<del>{}</del>", "added": "<ins>{}</ins>"}
_MARKS = {"same": "{}", "lost": '<mark class="lost">{}</mark>', "added": '<mark class="added">{}</mark>'}


def in_one(before: str, after: str) -> str:
    """Two texts in one: what was lost struck out, what was added underlined."""
    parts = [(kind, text if text != text.rstrip() else f"{text} ") for kind, text in changes(before, after)]
    return f'<div class="said">{_html(parts, _TAGS)}</div>'


def in_each(first: str, second: str) -> tuple[str, str]:
    """Each of two texts, up to `MOST_DRAWN` characters, what the other has not marked: lost, added in the second.

    Texts that hold too many of the same words are not compared: nothing is marked.
    """
    lost, added = sides(first, second)
    return _cut(lost), _cut(added)


def sides(first: str, second: str) -> tuple[list[Change], list[Change]]:
    """Each of two texts in parts: "same" in both, "lost" only in the first, "added" only in the second."""
    counts = [Counter(piece.strip() for piece in pieces(text)) for text in (first, second)]
    if sum(n * counts[1][word] for word, n in counts[0].items()) > _MOST_MATCHES:
        return [("same", first)], [("same", second)]
    changed = changes(first, second)
    return _of(first, changed, "lost"), _of(second, changed, "added")


def _of(text: str, changed: Sequence[Change], own: str) -> list[Change]:
    """The parts of one of the texts that were compared, with the white space that it has itself."""
    own_pieces = pieces(text)
    parts: list[Change] = [("same", text[: len(text) - len(text.lstrip())])] if text != text.lstrip() else []
    at = 0
    for kind, part in changed:
        if kind in ("same", own):
            n = len(pieces(part))
            parts.append((kind, "".join(own_pieces[at : at + n])))
            at += n
    return parts


def _cut(parts: Sequence[Change]) -> str:
    left, shown = MOST_DRAWN, []
    for kind, text in parts:
        shown.append((kind, text[:left]))
        left = max(0, left - len(text))
    more = sum(len(text) for _, text in parts) - MOST_DRAWN
    return _html(shown, _MARKS) + (f'<span class="gap"> … and {more:,} more characters</span>' if more > 0 else "")


def _html(parts: Iterable[tuple[str, str]], tags: dict[str, str]) -> str:
    """The parts in their tags, the space after the words of each outside of them."""
    pairs = ((tags[kind], text, text.rstrip()) for kind, text in parts if text)
    return "".join(tag.format(escape(bare)) + escape(text[len(bare) :]) for tag, text, bare in pairs)


CHART_CONFIG = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "autoScale2d", "resetScale2d"],
    "doubleClick": False,
    "doubleClickDelay": 1,  # two quick clicks are two clicks
}


def draw_figure(figure: go.Figure, name: str, rows: Callable[[], list[Row]], **chart: Any) -> None:
    """Draw a figure and, under it, its downloads; `name` makes file names and keys, `chart` goes to the chart."""
    name = file_name(name)
    config = CHART_CONFIG | {"toImageButtonOptions": {"filename": name, "scale": 2}}
    st.plotly_chart(figure, theme=None, config=config, **({"key": f"chart-{name}"} | chart))
    downloads(figure, name, rows)


def file_name(name: str) -> str:
    """A name without what a file name should not have."""
    return re.sub(r"[^\w.-]+", "-", name)


def downloads(figure: go.Figure | None, name: str, rows: Callable[[], list[Row]]) -> None:
    """A small menu: the figure as PNG and SVG, its data as CSV and JSON. Files are made when they are asked for."""
    with st.popover("Download", icon=":material/download:", type="tertiary", key=f"menu-{name}"):
        if figure is not None:
            images(figure, name)
        download_button("CSV", lambda: to_csv(rows()).encode(), f"{name}.csv", "text/csv")
        download_button(
            "JSON",
            lambda: json.dumps(rows(), indent=1, ensure_ascii=False).encode(),
            f"{name}.json",
            "application/json",
        )


def images(figure: go.Figure, name: str) -> None:
    """The buttons that download a figure as PNG and as SVG, or what they need."""
    if not style.browser():
        st.caption("A PNG or SVG file needs Chrome or Chromium on this machine. The camera on the figure does not.")
        return
    download_button("PNG", lambda: style.image(figure, "png"), f"{name}.png", "image/png")
    download_button("SVG", lambda: style.image(figure, "svg"), f"{name}.svg", "image/svg+xml")


def download_button(text: str, make: Callable[[], bytes], file: str, mime: str) -> None:
    """A download that is made when it is clicked, and that leaves the page as it is."""
    st.download_button(text, make, file, mime, key=f"download-{file}", on_click="ignore", type="tertiary")


OUTLINED = 10  # heads of a map of differences


def trials_of(moved: MapDifference) -> str:
    """Which trials a difference is of, over what its intervals are, and what is outlined."""
    if "gates" in (moved.before.counting, moved.after.counting):
        return "Gates are of no trials: there is no interval, and nothing is outlined."
    if not moved.pairs:
        means = f"the mean of {over(moved.after.n_trials, 'trial')} less that of {moved.before.n_trials}"
        return f":orange[No trial is known to be in both, so {means} is shown, without an interval or outlines.]"
    by = moved.before.clusters
    of = f"Of the {over(moved.pairs, 'trial')} (needle, length, depth) that both have"
    if moved.interval is None:
        return f"{of}; {none_over(by.n, by.unit)}, so nothing is outlined."
    chance = "1 in 20" if by.n > 5 else f"1 in {2 ** (by.n - 1)}"  # all of so few needles on one side of 0
    n = int(moved.holds.sum())
    return (
        f"{of}. Outlined: the {min(n, OUTLINED)} largest of {over(n, 'change')} whose 95 % interval over {by.words} "
        f"leaves out 0; of heads that only waver, about {chance} would too."
    )
