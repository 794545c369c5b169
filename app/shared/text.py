"""What pages say: sentences of errors, escaped texts as HTML, the words of two texts that differ."""

import re
import traceback
from collections.abc import Callable
from functools import wraps
from html import escape
from typing import Any, ParamSpec

import streamlit as st

from retmask.runs import faults

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


def where_html(words: str) -> str:
    """A line above a text."""
    return f'<div class="where">{escape(words)}</div>'


def fact_html(name: str, text: str) -> str:
    """A name and a text."""
    return f'<div class="facts">{escape(name)}: <b>{escape(text)}</b></div>'
