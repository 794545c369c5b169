"""A browser over single items: the context with what is planted in it, the question, every condition's answer."""

from collections.abc import Callable

from streamlit.navigation.page import StreamlitPage

from retmask.runs.run import Run


def show(run: Run, compare_page: StreamlitPage | None = None, ask: Callable[..., None] | None = None) -> None:
    """Draw the items of an evaluation, one at a time; `ask` puts one into the form of `compare_page`."""
