"""The one kit for driving a page without a browser: open it at an address, use its widgets, read what it says."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

MAIN = Path(__file__).parent.parent / "app" / "main.py"
# every AppTest looks through all installed packages for components, which takes longer than most pages
manifest_scanner.scan_component_manifests = cache(manifest_scanner.scan_component_manifests)


def opened(page: str = "heads", session: Mapping[str, Any] | None = None, **query: str) -> AppTest:
    """A page at an address, with these values in its session, drawn."""
    at = AppTest.from_file(str(MAIN), default_timeout=300)
    if page != "heads":
        at._page_hash = calc_hash(page)  # `switch_page` knows pages in files only
    for name, value in query.items():
        at.query_params[name] = value
    for name, value in (session or {}).items():
        at.session_state[name] = value
    return drawn(at.run(), page)


def drawn(at: AppTest, page: str = "") -> AppTest:
    """The page, if it was drawn whole: that page, where one is named."""
    assert not at.exception
    assert at.header, "the page drew nothing"
    if page not in ("", "heads"):  # the header of Heads is the map's
        assert at.header[0].value == page.capitalize()
    return at


def press(at: AppTest, key: str) -> AppTest:
    """The page after its button with that key, or that label, was pressed."""
    buttons = [button for button in at.button if key in (button.key, button.label)]
    assert buttons, f"there is no button {key}: {sorted(keys(at))}"
    return drawn(buttons[0].click().run())


def keys(at: AppTest) -> set[str]:
    """The keys of the buttons."""
    return {button.key for button in at.button if button.key}


def query(at: AppTest, name: str) -> str:
    """A value in the page's address, empty for none."""
    value = at.query_params.get(name, "")
    return value if isinstance(value, str) else value[0]


def words(at: AppTest) -> str:
    """All that the page says, without the marks that escape it."""
    kinds = (at.caption, at.markdown, at.subheader, at.info, at.success, at.warning, at.error)
    return " ".join(element.value for kind in kinds for element in kind).replace("\\", "")


def errors(at: AppTest) -> str:
    """What it says is wrong, without the marks that escape it."""
    return " ".join(error.value for error in at.error).replace("\\", "")


def codes(at: AppTest) -> list[str]:
    """The commands and other code that it shows."""
    return [code.value for code in at.code]
