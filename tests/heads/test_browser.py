"""The app in a real Chromium: what is clicked reaches the selection and the answers, and a reload keeps it."""

import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import unquote

import pytest
from browser import App, settled

from retmask.runs.run import Run

pytestmark = pytest.mark.browser
CHIPS = ".st-key-chips .react-aria-ComboBox [data-tag]"
PLACE = """([layer, head]) => {
  const plot = [...document.querySelectorAll('.st-key-map .js-plotly-plot')].pop();
  const box = plot.getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout;
  return [box.left + xaxis._offset + xaxis.l2p(head), box.top + yaxis._offset + yaxis.l2p(layer)];
}"""
DOT = """() => {
  const plot = [...document.querySelectorAll('.st-key-trace .js-plotly-plot')].pop();
  plot.scrollIntoView({block: 'center'});
  const box = plot.getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout, dots = plot.data[0];
  const [step, layer, head] = dots.customdata[dots.x.length - 1];
  const place = [xaxis._offset + xaxis.l2p(dots.x.at(-1)), yaxis._offset + yaxis.l2p(dots.y.at(-1))];
  return [box.left + place[0], box.top + place[1], step + 1, `L${layer}H${head}`];
}"""


@contextmanager
def a_run_going(app: App) -> Iterator[None]:
    """A detection that is in progress for as long as this lasts: it says something new every second."""
    run = Run.create("detect", {"model": "smollm2-135m"}, app.folder / "runs" / "detect-going")
    over = Event()

    def report() -> None:
        for done in count(1):
            run.report(stage="trials", done=done, total=1000, found=done, eta=60.0)
            if over.wait(1):
                return

    with (run.path / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run.update(status="started")
        reporter = Thread(target=report)
        reporter.start()
        try:
            yield
        finally:
            over.set()
            reporter.join()
            run.update(status="cancelled")


@pytest.fixture(scope="module")
def shared_tab(browser: Any) -> Iterator[Any]:
    """One tab for these tests: to open the page in another takes longer than most of them."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def page(shared_tab: Any, app: App) -> Any:
    """The Heads page, drawn, where nothing is selected and a click selects a head."""
    shared_tab.set_viewport_size({"width": 1400, "height": 1000})
    is_there = shared_tab.locator(".st-key-map").count() and not shared_tab.get_by_role("dialog").count()
    if not is_there:
        shared_tab.goto(app.address)
        drawn(shared_tab)
    elif chips(shared_tab):
        shared_tab.get_by_role("button", name="Clear", exact=True).click()
        wait_for(shared_tab, [])
    shared_tab.get_by_role("radio", name="Click").click()
    drawn(shared_tab)
    return shared_tab


def drawn(page: Any) -> None:
    page.wait_for_selector(".st-key-map .js-plotly-plot .points", state="attached", timeout=60_000)
    settled(page, 500)


def chips(page: Any) -> list[str]:
    return list(page.eval_on_selector_all(CHIPS, "tags => tags.map(tag => tag.textContent)"))


def place(page: Any, layer: int, head: int) -> tuple[float, float]:
    x, y = page.evaluate(PLACE, [layer, head])
    return x, y


def click(page: Any, layer: int, head: int, expected: list[str]) -> float:
    """Click a head and wait for the chips; the seconds that took. The pointer rests first: Plotly wants a hover."""
    x, y = place(page, layer, head)
    page.mouse.move(x - 3, y)
    page.wait_for_timeout(300)
    page.mouse.move(x, y)
    page.wait_for_timeout(150)
    began = time.monotonic()
    page.mouse.click(x, y)
    wait_for(page, expected)
    took = time.monotonic() - began
    drawn(page)
    return took


def wait_for(page: Any, expected: list[str]) -> None:
    same = f"names => [...document.querySelectorAll('{CHIPS}')].map(tag => tag.textContent).join() === names"
    page.wait_for_function(same, arg=",".join(expected), timeout=20_000)


def test_clicks_turn_heads_on_and_off_and_a_reload_keeps_them(page: Any) -> None:
    times = [
        click(page, 18, 6, ["L18H6"]),
        click(page, 25, 0, ["L18H6", "L25H0"]),
        click(page, 18, 6, ["L25H0"]),
        click(page, 18, 6, ["L18H6", "L25H0"]),
    ]
    print("seconds from click to chip:", [round(value, 2) for value in times])
    page.reload()
    drawn(page)
    assert chips(page) == ["L18H6", "L25H0"]


def test_shift_click_adds(page: Any) -> None:
    click(page, 20, 1, ["L20H1"])
    page.keyboard.down("Shift")
    click(page, 21, 2, ["L20H1", "L21H2"])
    page.keyboard.up("Shift")


@pytest.mark.parametrize("way", ["Box", "Lasso"])
def test_box_and_lasso_add_what_they_hold(page: Any, way: str) -> None:
    click(page, 29, 8, ["L29H8"])
    page.get_by_role("radio", name=way).click()
    drawn(page)
    (left, low), (right, high) = place(page, 22, 3), place(page, 23, 5)
    corners = [(left - 9, low + 6), (right + 9, low + 6), (right + 9, high - 6), (left - 9, high - 6)]
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in corners[1:3] if way == "Box" else [*corners[1:], corners[0]]:
        page.mouse.move(*corner, steps=8)
    page.mouse.up()
    wait_for(page, ["L22H3", "L22H4", "L22H5", "L23H3", "L23H4", "L23H5", "L29H8"])


def box(page: Any, low: tuple[int, int], high: tuple[int, int]) -> None:
    """Drag a box round the heads from one corner to the other."""
    (left, bottom), (right, top) = place(page, *low), place(page, *high)
    page.mouse.move(left - 9, bottom + 6)
    page.mouse.down()
    page.mouse.move((left + right) / 2, (bottom + top) / 2, steps=4)
    page.mouse.move(right + 9, top - 6, steps=4)
    page.mouse.up()


def test_what_is_selected_stays_selected_while_a_run_is_in_progress(page: Any, app: App) -> None:
    page.get_by_role("radio", name="Box").click()
    drawn(page)
    with a_run_going(app):
        page.get_by_text("Detecting").wait_for(timeout=20_000)
        expected: list[str] = []
        for layer in (2, 11, 20):
            box(page, (layer, 2), (layer + 1, 3))
            expected += [f"L{one}H{head}" for one in (layer, layer + 1) for head in (2, 3)]
            wait_for(page, expected)
            page.wait_for_timeout(2500)  # a look at the runs that was asked for before must not take it back
            assert chips(page) == expected
            assert ",".join(expected) in unquote(page.url)
        page.get_by_role("button", name="Undo").click()
        wait_for(page, expected[:-4])
        page.wait_for_timeout(2500)
        assert chips(page) == expected[:-4]
        page.reload()
        wait_for(page, expected[:-4])


def test_undo_and_chips_answer_too(page: Any) -> None:
    click(page, 18, 6, ["L18H6"])
    click(page, 19, 6, ["L18H6", "L19H6"])
    page.get_by_role("button", name="Remove L18H6").first.click()
    wait_for(page, ["L19H6"])
    page.get_by_role("button", name="Undo").click()
    wait_for(page, ["L18H6", "L19H6"])


def test_a_narrow_window_puts_the_selection_under_the_map(page: Any) -> None:
    page.set_viewport_size({"width": 800, "height": 1000})
    page.wait_for_timeout(800)
    map_box = page.locator(".st-key-map").first.bounding_box()
    chip_box = page.locator(".st-key-chips").first.bounding_box()
    assert chip_box["y"] > map_box["y"] + map_box["height"]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_model_that_is_typed_is_the_one_that_is_detected(page: Any) -> None:
    """AppTest can choose no value that is not among the options."""
    page.locator(".st-key-detect_again button").click()
    page.get_by_role("combobox", name="Model").fill("/nowhere/model")
    page.keyboard.press("Enter")
    page.get_by_text("retmask detect /nowhere/model --preset quick").wait_for(timeout=20_000)
    page.locator(".st-key-detect_start button").click()
    page.get_by_text("There is no model at /nowhere/model").wait_for(timeout=20_000)


def test_the_masked_heads_lose_the_needle_and_a_dot_says_where_it_was_copied_from(tab: Any, app: App) -> None:
    page = tab
    page.goto(app.address)
    drawn(page)
    page.locator(".st-key-rule_select button").click()  # the rule that is set: the top 5 %
    page.wait_for_function(f"document.querySelectorAll('{CHIPS}').length === 14", timeout=20_000)
    drawn(page)
    known = chips(page)
    assert "L20H5" in known
    click(page, 20, 5, [name for name in known if name != "L20H5"])  # one of them by hand: off, and on again
    click(page, 20, 5, known)
    page.get_by_role("link", name="Compare").first.click()
    page.get_by_text("14 of 270 heads masked (5.2 %)").wait_for(timeout=20_000)
    for key, value in (("ask_tokens", "300"), ("ask_new_tokens", "40")):
        page.locator(f".st-key-{key} input").fill(value)
        settled(page)
    page.keyboard.press("Control+Enter")
    answers = page.locator(".st-key-answers .facts")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.st-key-answers .facts')].filter("
        "one => one.textContent.includes('recall')).length === 3",
        timeout=240_000,
    )
    assert ["good" in one.inner_html() for one in answers.all()] == [True, False, True]
    page.get_by_role("radio", name="Trace").click()
    page.wait_for_selector(".st-key-trace .js-plotly-plot .points", state="attached", timeout=20_000)
    page.wait_for_timeout(500)
    page.evaluate(DOT)
    page.wait_for_timeout(500)
    x, y, token, head = page.evaluate(DOT)
    page.mouse.move(x - 3, y)
    page.wait_for_timeout(300)
    page.mouse.move(x, y)
    page.wait_for_timeout(150)
    page.mouse.click(x, y)
    page.locator(f".st-key-closely input[value^='{token}. ']").wait_for(timeout=20_000)
    page.locator(f".st-key-closely input[value^='{head}, ']").wait_for(timeout=20_000)
    assert page.locator(".st-key-closely mark.now").count() > 1, "the dot's token, where it is from and where it went"
    _export(page)


def _export(page: Any) -> None:
    """The checkpoint is written to the folder that is named."""
    folder = Path(page.get_by_label("Folder", exact=True).input_value())
    page.get_by_role("button", name="Export checkpoint").click()
    page.get_by_text("It is written").wait_for(timeout=120_000)
    assert {"model.safetensors", "mask.json"} <= {file.name for file in folder.iterdir()}
    assert len(json.loads((folder / "mask.json").read_text())["mask"]["scales"]) == 14
    shutil.rmtree(folder)  # a quarter of a gigabyte
