"""The second half of the loop in a real Chromium: a training that outlives browser and server, and what it made."""

from pathlib import Path
from typing import Any

import pytest
from browser import App, hurry, settled, wait_for

from retmask.files import append_line
from retmask.model.weights import resolve
from retmask.pairs.pair import ITEMS, Answer, PreferencePair, write_pairs
from retmask.runs.run import Run
from retmask.train.results import last_step, result, steps

pytestmark = pytest.mark.browser


@pytest.fixture
def pairs(fresh_home: Path) -> Run:
    """A run with short pairs of the default model, so that a step takes a second or two."""
    run = Run.create("pairs", {"model": "smollm2-135m", "allow": []}, name="short")
    made = [
        PreferencePair(
            f"short-{i}",
            (("user", f"What is {i} and 1?"),),
            Answer(f"It is {i + 1}.", 5, "stop"),
            Answer("I see.", 3, "stop"),
        )
        for i in range(12)
    ]
    for number, pair in enumerate(made):
        append_line(run.path / ITEMS, {"number": number, **pair.to_json()})
    write_pairs(run.path, made, True, "smollm2-135m")
    run.update(status="success", model="smollm2-135m", sha256=resolve("smollm2-135m").sha256, chat=True, kept=len(made))
    return run


def fill(tab: Any, name: str, value: object) -> None:
    box = tab.get_by_label(name, exact=True).first
    box.fill(str(value))
    box.press("Tab")
    settled(tab, 0)


def points(tab: Any) -> int:
    """How many steps the curves show."""
    return int(
        tab.evaluate(
            "() => Math.max(0, ...[...document.querySelectorAll('.st-key-curves .js-plotly-plot')]"
            ".flatMap(plot => plot.data.map(line => line.x.length)))"
        )
    )


def test_a_training_outlives_browser_and_server_and_is_compared(tab: Any, fresh_app: App, pairs: Run) -> None:
    app = fresh_app
    tab.goto(f"{app.address}train")
    tab.locator(".st-key-train_start").wait_for(timeout=60_000)
    fill(tab, "Batch", 2)
    fill(tab, "Max steps", 14)
    tab.get_by_text("--max-steps 14").first.wait_for(timeout=60_000)  # all of the page is of these settings then
    settled(tab)
    tab.get_by_role("button", name="Start", exact=True).click()
    wait_for(lambda: bool(Run.all("train")))
    (run,) = Run.all("train")
    hurry(run)
    wait_for(lambda: points(tab) >= 2)

    tab.reload()
    wait_for(lambda: points(tab) >= 2)
    app.kill()
    at = last_step(run)
    app.start()
    tab.goto(f"{app.address}runs")
    tab.get_by_text(run.id).first.wait_for(state="attached", timeout=60_000)
    tab.goto(f"{app.address}train")
    stop = tab.locator(".st-key-train_stop button").first
    stop.wait_for(timeout=60_000)
    wait_for(lambda: last_step(run) > at)
    stop.click()
    wait_for(lambda: run.status == "cancelled")
    stopped = run.record["stopped_at"]
    assert at < stopped < 14
    assert result(run) == run.path / "adapter"

    tab.get_by_role("button", name=f"Resume from step {stopped}").click()
    wait_for(lambda: run.is_active)
    hurry(run)
    wait_for(lambda: run.status == "success")
    assert [line["done"] for line in steps(run)] == list(range(1, 15))
    tab.get_by_text("Finished after 14 steps").wait_for(timeout=60_000)

    tab.get_by_role("button", name="Load as tuned").click()
    tab.get_by_role("button", name="It is loaded as tuned").wait_for(timeout=60_000)
    tab.get_by_role("link", name="Compare").first.click()
    tab.get_by_role("button", name="Mask the top 5 %").click()
    settled(tab, 0)
    for key, value in (("ask_tokens", "300"), ("ask_new_tokens", "40")):
        tab.locator(f".st-key-{key} input").fill(value)
        settled(tab)
    tab.keyboard.press("Control+Enter")
    tab.wait_for_function(
        "() => [...document.querySelectorAll('.st-key-answers .facts')].filter("
        "one => one.textContent.includes('recall')).length === 4",
        timeout=240_000,
    )
    names = tab.locator(".st-key-answers strong").all_inner_texts()
    assert names == ["unmasked", "masked", "tuned", "random control"]
