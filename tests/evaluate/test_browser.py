"""The browser over items in a real Chromium: keys step, and a long context is opened at what is planted."""

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


def test_keys_step_and_what_is_planted_is_seen(tab: Any, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETMASK_HOME", str(app.folder))
    run = run_of(items(4, 2_000), masking_hurts)
    tab.goto(f"{app.address}evaluate?evaluate={run.id}&item=codes-512-1-0")
    wait_for_item(tab, "codes-512-1-0")
    assert tab.locator(MARK).inner_text() == "The code of Ada 1 is <71>."
    tab.keyboard.press("ArrowRight")
    wait_for_item(tab, "codes-512-2-0")
    tab.keyboard.press("ArrowRight")
    wait_for_item(tab, "codes-512-3-0")
    tab.keyboard.press("ArrowLeft")
    wait_for_item(tab, "codes-512-2-0")
    for _ in range(4):  # quicker than the page may be drawn: each press counts
        tab.keyboard.press("ArrowRight")
        tab.wait_for_timeout(400)
    wait_for_item(tab, "codes-1024-2-0")
    assert tab.locator(".item img").count() == 0, "what an item holds is text"
    tab.set_viewport_size({"width": 800, "height": 1000})
    settled(tab)
    main = "document.querySelector('[data-testid=stMain]')"
    assert tab.evaluate(f"{main}.scrollWidth <= {main}.clientWidth")
