"""The Families page in a real Chromium: sets are chosen, opened and kept over a reload, and clicks are fast."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import App, settled

from retmask.heads.scores import HeadScores

pytestmark = pytest.mark.browser
TAGS = ".st-key-sets [data-tag]"
N_SETS = 12


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Score files of a thousand heads each."""
    folder, draw = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    paths = [folder / f"model-{number}.json" for number in range(N_SETS)]
    for path in paths:
        HeadScores(path.stem, draw.gamma(0.1, 0.3, (20, 32, 32)).clip(0, 1)).save(path)
    return paths


@pytest.fixture
def page(tab: Any, app: App) -> Any:
    """The Families page, drawn."""
    look(tab, f"{app.address}families")
    return tab


def look(page: Any, address: str) -> None:
    page.goto(address)
    page.locator(TAGS).first.wait_for(timeout=60_000)
    settled(page)


def tags(page: Any) -> list[str]:
    """The sets that are chosen, as the page calls them."""
    return list(page.eval_on_selector_all(TAGS, "tags => tags.map(tag => tag.textContent)"))


def wait_for_tags(page: Any, n: int) -> None:
    page.wait_for_function(f"document.querySelectorAll('{TAGS}').length === {n}", timeout=20_000)
    settled(page)


def view(page: Any, name: str) -> float:
    """Look at a view, and wait until its figure stands; the seconds that took."""
    began = time.monotonic()
    page.get_by_role("radio", name=name, exact=True).click()
    figure = {"Concentration": "set-lorenz", "Maps": "maps", "Depth": "set-depth", "Agreement": "agreement"}[name]
    page.locator(f".st-key-chart-{figure} .js-plotly-plot .main-svg").first.wait_for(timeout=60_000)
    took = time.monotonic() - began
    settled(page)
    return took


def put(page: Any, key: str, number: str, says: str) -> float:
    """Put a number into a field, and wait until the command says it and the page rests; the seconds that took."""
    began = time.monotonic()
    page.locator(f".st-key-{key} input").fill(number)
    page.keyboard.press("Enter")
    page.wait_for_function("words => document.body.innerText.includes(words)", arg=says, timeout=60_000)
    settled(page, 0)
    took = time.monotonic() - began
    settled(page)
    return took


def test_a_set_is_added_with_the_keyboard_and_a_reload_keeps_it(page: Any, files: list[Path]) -> None:
    page.get_by_role("button", name="Add a set").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Path or https address", exact=True).fill(str(files[0]))
    page.keyboard.press("Enter")
    wait_for_tags(page, 3)
    page.reload()
    wait_for_tags(page, 3)
    assert str(files[0]) in tags(page)[2]
    page.get_by_role("button", name="Remove gemma-3-270m (shipped)").first.click()
    wait_for_tags(page, 2)
    page.reload()
    wait_for_tags(page, 2)


def test_a_bad_upload_changes_nothing_and_a_good_one_is_added(page: Any, tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.yaml", tmp_path / "Llama-tiny_list.yaml"
    bad.write_text("attn_head_set: full_heads\n")
    good.write_text('attn_head_set: "13-18,13-21,8-1"\n')
    page.get_by_role("button", name="Add a set").click()
    for file in (bad, good):
        page.locator("[data-testid=stPopoverBody] input[type=file]").set_input_files(str(file))
        page.get_by_text(file.name).first.wait_for()
        page.get_by_role("button", name="Add", exact=True).click()
        if file == bad:
            page.get_by_text("The sets you see are unchanged").wait_for(timeout=20_000)
            assert len(tags(page)) == 2
            page.get_by_role("button", name="Remove bad.yaml").first.click()
    wait_for_tags(page, 3)
    assert "Llama-tiny_list" in tags(page)[2]


def test_heads_of_a_set_are_selected_on_the_map(page: Any, app: App, files: list[Path]) -> None:
    look(page, f"{app.address}families?sets={files[0]},{files[1]}&map={files[0]}")
    view(page, "Agreement")
    page.get_by_role("button", name="A's heads").click()
    page.get_by_text("(51 selected there now)").wait_for(timeout=20_000)
    page.get_by_role("link", name="See them on Heads").click()
    page.get_by_text("51 of 1,024 heads selected").wait_for(timeout=60_000)


def test_twelve_large_sets_answer_fast_and_fit_a_narrow_window(page: Any, app: App, files: list[Path]) -> None:
    look(page, f"{app.address}families?sets={','.join(map(str, files))}")
    page.locator(".st-key-chart-set-lorenz .main-svg").first.wait_for(timeout=120_000)
    names = ["Depth", "Maps", "Agreement", "Concentration"]
    took = {name: round(view(page, name), 2) for name in names * 2}
    took["threshold"] = round(put(page, "sets_threshold", "0.3", "--threshold 0.3"), 2)
    view(page, "Agreement")
    took["k"] = round(put(page, "agree_k", "20", "--k 20"), 2)
    print("seconds from click to figure:", took)
    page.set_viewport_size({"width": 800, "height": 1000})
    for name in names:
        view(page, name)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        main = "[data-testid=stMain]"
        assert page.evaluate(f"(one => one.scrollWidth <= one.clientWidth)(document.querySelector('{main}'))")
