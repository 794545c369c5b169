"""The Runs page in a real Chromium: rows are ticked, links are followed."""

from typing import Any

import pytest
from browser import App, settled

from retmask.runs.run import Run

pytestmark = pytest.mark.browser


def test_clicks_in_the_table_and_on_links(tab: Any, fresh_app: App) -> None:
    """A click on a row looks at the run, one on another compares the two, and a link moves the tick in the table."""
    scores = Run.create("detect", {"model": "smollm2-135m"}, name="a")
    pairs = Run.create("pairs", {"model": "smollm2-135m"}, name="b", parents=[scores.id])
    for run in (scores, pairs):  # pairs is above: of the same second the later name is first
        run.update(status="success")
    tab.goto(f"{fresh_app.address}runs")
    _click_row(tab, 0)
    tab.get_by_role("heading", name=pairs.id).wait_for()
    _click_row(tab, 1)
    tab.get_by_role("heading", name="2 runs beside each other").wait_for()
    assert tab.url.endswith(f"?run={pairs.id}%2C{scores.id}")
    tab.get_by_role("button", name=scores.id).first.click()  # twice while the page is drawn anew
    tab.get_by_role("heading", name=scores.id).wait_for()
    _click_row(tab, 1)  # the tick is on it: a click takes it off
    tab.get_by_text("Choose a run in the table").wait_for()


def _click_row(tab: Any, row: int) -> None:
    """Click the box at the beginning of a row of the table of two runs, once it stands still."""
    tab.wait_for_selector("[data-testid=stDataFrame] canvas", timeout=60_000)
    settled(tab, 500)
    box = tab.locator("[data-testid=stDataFrame]").first.bounding_box()
    header, height = 36, (box["height"] - 38) / 2  # rows with long words are taller
    at = box["x"] + 15, box["y"] + header + height * (row + 0.5)
    tab.mouse.move(*at)
    tab.wait_for_timeout(300)
    tab.mouse.click(*at)
