"""Every job from its page to its end in a real Chromium, with the smallest settings; and what browsers do besides."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from browser import App, hurry, settled, wait_for
from tiny import tiny_adapter, tiny_folder

from retmask.files import read_lines
from retmask.model.weights import resolve
from retmask.runs.run import Run

pytestmark = pytest.mark.browser
CHIPS = ".st-key-chips [data-tag]"
MAP = ".st-key-map .js-plotly-plot .points"
HATS = {"context": "Kim has 2 red hats. Ann has 3.", "gold": "Kim", "distractors": ["Ann"]}
RECALLS = (
    "n => [...document.querySelectorAll('.st-key-answers .facts')]"
    ".filter(facts => facts.textContent.includes('recall')).length === n"
)


def fill(tab: Any, key: str, value: object) -> None:
    """Type into the field with that key, and leave it."""
    box = tab.locator(f".st-key-{key}").locator("input, textarea").first
    box.fill(str(value))
    box.press("Tab")
    settled(tab)


def press(tab: Any, key: str) -> None:
    """Press the button with that key."""
    tab.locator(f".st-key-{key} button").first.click()


def look(tab: Any, address: str, selector: str) -> None:
    """Open an address, and wait for what is to be there."""
    tab.goto(address)
    tab.locator(selector).first.wait_for(state="attached", timeout=60_000)
    settled(tab)


def the_run(kind: str) -> Run:
    """The one run of that kind, when it has come to its end."""
    wait_for(lambda: bool(Run.all(kind)))
    (run,) = Run.all(kind)
    hurry(run)
    wait_for(lambda: run.status not in ("queued", "started"), seconds=600)  # a busy machine loads for minutes
    assert run.status == "success", run.record.get("error")
    return run


def test_a_detection(tab: Any, fresh_app: App) -> None:
    look(tab, fresh_app.address, MAP)
    press(tab, "detect_again")
    for key, value in (("detect_lengths", 256), ("detect_depths", 0.5), ("detect_n_needles", 2)):
        fill(tab, key, value)
    press(tab, "detect_start")
    run = the_run("detect")
    assert len(list(read_lines(run.path / "trials.jsonl"))) == 2
    tab.locator(MAP).first.wait_for(state="attached", timeout=60_000)
    assert f"map={run.id}" in tab.url
    tab.get_by_text("2 trials").first.wait_for(state="attached", timeout=60_000)


def test_a_dose_curve(tab: Any, fresh_app: App) -> None:
    look(tab, f"{fresh_app.address}compare", ".st-key-dose_form")
    fill(tab, "dose_ks", 1)
    for key, value in (("dose_random_seeds", 0), ("dose_trials", 1), ("dose_context_tokens", 256)):
        fill(tab, key, value)
    tab.locator(".st-key-dose_expert summary").click()
    fill(tab, "dose_prose_tokens", 64)
    press(tab, "dose_start")
    run = the_run("dose")
    assert [point["k"] for point in read_lines(run.path / "points.jsonl")] == [0, 1]
    tab.locator(".st-key-chart-dose .main-svg").first.wait_for(timeout=60_000)


def test_pairs_and_their_review_by_keys(tab: Any, fresh_app: App) -> None:
    look(tab, f"{fresh_app.address}pairs", ".st-key-pairs_mask_best")
    press(tab, "pairs_mask_best")
    settled(tab)
    fill(tab, "pairs_count", 3)
    fill(tab, "pairs_max_new_tokens", 8)
    press(tab, "pairs_start")
    run = the_run("pairs")
    assert len(list(read_lines(run.path / "items.jsonl"))) == 3
    tab.locator(".st-key-review_keep button:not([disabled])").first.wait_for(timeout=60_000)
    settled(tab)
    for key, says in (("y", "2 of 3"), ("ArrowLeft", "1 of 3"), ("ArrowRight", "2 of 3"), ("n", "3 of 3")):
        tab.keyboard.press(key)
        tab.get_by_text(says, exact=True).wait_for(timeout=20_000)
        settled(tab)
    verdicts = [line.get("verdict") for line in read_lines(run.path / "review.jsonl")]
    assert verdicts == ["keep", "drop"]


def test_an_evaluation(tab: Any, fresh_app: App) -> None:
    """Two items of one task, unmasked and with the best heads masked, from the form to the result."""
    look(tab, f"{fresh_app.address}evaluate", ".st-key-evaluate_start")
    press(tab, "evaluate_drop-1")
    settled(tab)
    suite = tab.locator(".st-key-evaluate_suite input")
    suite.fill("recall_single")
    suite.press("Enter")
    settled(tab)
    for key, value in (("evaluate_lengths", 512), ("evaluate_items", 2)):
        fill(tab, key, value)
    tab.locator(".st-key-evaluate_floors label").first.click()
    settled(tab)
    press(tab, "evaluate_start")
    run = the_run("evaluate")
    answered = Counter(line["condition"] for line in read_lines(run.path / "answers.jsonl"))
    assert answered == {"unmasked": 2, "masked=top:5%": 2}
    assert run.record["pace"] > 0
    tab.get_by_role("heading", name="Result").wait_for(timeout=60_000)
    assert f"evaluate={run.id}" in tab.url
    tab.reload()
    tab.get_by_role("heading", name="Result").wait_for(timeout=60_000)


def test_a_training_is_evaluated_from_its_page(tab: Any, fresh_app: App, tmp_path: Path) -> None:
    """Its own conditions, on items of one's own."""
    base = tiny_folder(tmp_path)
    training = Run.create("train", {"model": str(base), "revision": ""}, name="tiny")
    training.report(stage="steps", done=1, total=1)
    training.update(status="success", model=base.name, sha256=resolve(str(base)).sha256)
    tiny_adapter(training.path / "adapter")
    card = {"base": str(base), "base_sha256": training.record["sha256"], "run": training.id, "steps": 1}
    (training.path / "adapter" / "retmask.json").write_text(json.dumps(card))
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(HATS | {"question": f"Who has {n}?"}) + "\n" for n in range(4)))
    look(tab, f"{fresh_app.address}train?train={training.id}", ".st-key-measure")
    press(tab, "measure")
    start = tab.locator(".st-key-evaluate_start button:not([disabled])")
    start.wait_for(timeout=60_000)
    suite = tab.locator(".st-key-evaluate_suite input")
    suite.fill(str(items))
    suite.press("Enter")
    tab.get_by_text("4 items, 2 conditions and 2 floors").wait_for(timeout=60_000)
    settled(tab)
    start.click()
    run = the_run("evaluate")
    answered = Counter(line["condition"] for line in read_lines(run.path / "answers.jsonl"))
    assert answered["unmasked"] == answered["tuned"] == 4
    tab.get_by_text("Differences against unmasked and against the best control").wait_for(timeout=60_000)
    assert f"evaluate={run.id}" in tab.url


def test_back_leads_to_the_page_before_and_a_second_tab_has_a_selection_of_its_own(tab: Any, fresh_app: App) -> None:
    look(tab, f"{fresh_app.address}?heads=L18H6", MAP)
    tab.get_by_role("link", name="Runs").click()
    tab.get_by_role("heading", name="Runs", exact=True).wait_for(timeout=60_000)
    settled(tab)
    tab.go_back()
    tab.locator(MAP).first.wait_for(state="attached", timeout=60_000)
    assert tab.locator(CHIPS).all_inner_texts() == ["L18H6"]
    second = tab.context.new_page()
    look(second, tab.url, MAP)
    assert second.locator(CHIPS).all_inner_texts() == ["L18H6"]
    second.get_by_role("button", name="Remove L18H6").first.click()
    second.wait_for_function(f"!document.querySelector('{CHIPS}')", timeout=20_000)
    settled(tab)
    assert tab.locator(CHIPS).all_inner_texts() == ["L18H6"]
    tab.reload()
    tab.locator(CHIPS).first.wait_for(timeout=60_000)


def test_compare_is_left_in_the_middle_of_an_answer(tab: Any, fresh_app: App) -> None:
    look(tab, f"{fresh_app.address}compare?heads=L18H6,L20H5", ".st-key-run")
    fill(tab, "ask_tokens", 300)
    fill(tab, "ask_new_tokens", 400)
    press(tab, "run")
    tab.locator(".st-key-answers .facts").first.wait_for(timeout=120_000)
    tab.get_by_role("link", name="Heads").first.click()
    tab.locator(MAP).first.wait_for(state="attached", timeout=60_000)
    assert tab.locator(CHIPS).all_inner_texts() == ["L18H6", "L20H5"]
    tab.get_by_role("link", name="Compare").first.click()
    tab.locator(".st-key-answers .facts").first.wait_for(timeout=60_000)  # what was said is still there
    press(tab, "stop")
    settled(tab)
    fill(tab, "ask_new_tokens", 8)
    press(tab, "run")
    tab.wait_for_function(RECALLS, arg=3, timeout=120_000)
