"""A question before what cannot be taken back, in a dialog over the page."""

from collections.abc import Callable
from typing import NamedTuple

import streamlit as st

from app.shared import session
from app.shared.text import guarded

_ASKED = "question"  # in the session: what is asked now


class Question(NamedTuple):
    """What is asked, in Markdown, and what is done where the answer is yes.

    `text` is shown as it is: what a stranger wrote is no link. Where something is lost, the button is red.
    """

    title: str
    asks: str
    yes: str
    do: Callable[[], None]
    text: str = ""
    is_loss: bool = True


def ask(question: Question) -> None:
    """Ask at the next drawing of the page."""
    session.put(_ASKED, question)


def draw() -> None:
    """The dialog, for as long as nobody has answered."""
    question: Question | None = session.value(_ASKED)
    if question:
        st.dialog(question.title, on_dismiss=_leave)(guarded(_dialog))(question)


def _dialog(question: Question) -> None:
    if question.text:
        st.code(question.text, language=None, wrap_lines=True)
    st.markdown(question.asks)
    with st.container(horizontal=True, key="danger_confirm" if question.is_loss else "confirm"):  # see main.py
        yes = st.button(question.yes, type="primary", key="confirm_yes")
        no = st.button("Cancel", key="confirm_no")
    if yes or no:
        _leave()
        if yes:
            question.do()
        st.rerun()


def _leave() -> None:
    session.put(_ASKED, None)
