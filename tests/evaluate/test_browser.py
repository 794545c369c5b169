"""The browser over items in a real Chromium: keys step, and a long context is opened at what is planted."""

from contextlib import suppress
from typing import Any

import pytest
from browser import App, settled
from evaluations import items, masking_hurts, run_of

pytestmark = pytest.mark.browser
MARK = ".item .context mark.now"
SEEN = """() => {
  const box = document.querySelector('.item .context').getBoundingClientRect();
  const mark = document.querySelector('.item .context mark.now').getBoundingClientRect();
  return box.top <= mark.top && mark.bottom <= box.bottom;
}"""


def wait_for_item(tab: Any, name: str) -> None:
    tab.locator(".item .where", has_text=name).wait_for(timeout=60_000)
    settled(tab)
    assert f"item={name}" in tab.url
    tab.wait_for_function(SEEN, timeout=10_000)


def press(tab: Any, key: str, name: str) -> None:
    """Press an arrow key, again as a person would where the page has not taken it in, and see the item of that name."""
    from playwright.sync_api import TimeoutError as NotInTime

    for _ in range(3):
        tab.keyboard.press(key)
        with suppress(NotInTime):
            tab.locator(".item .where", has_text=name).wait_for(timeout=20_000)
            break
    wait_for_item(tab, name)


def test_keys_step_and_what_is_planted_is_seen(tab: Any, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETMASK_HOME", str(app.folder))
    run = run_of(items(4, 2_000), masking_hurts)
    tab.goto(f"{app.address}evaluate?evaluate={run.id}&item=codes-512-1-0")
    wait_for_item(tab, "codes-512-1-0")
    assert tab.locator(MARK).inner_text() == "The code of Ada 1 is <71>."
    press(tab, "ArrowRight", "codes-512-2-0")
    press(tab, "ArrowRight", "codes-512-3-0")
    press(tab, "ArrowLeft", "codes-512-2-0")
    assert tab.locator(".item img").count() == 0, "what an item holds is text"
    tab.set_viewport_size({"width": 800, "height": 1000})
    settled(tab)
    main = "document.querySelector('[data-testid=stMain]')"
    assert tab.evaluate(f"{main}.scrollWidth <= {main}.clientWidth")
