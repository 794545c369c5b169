"""The README's pictures, made anew by `make pictures`: the app in a home of its own, in Chromium, all 1400 pixels wide.

Pairs are made, sixteen steps are trained and a suite is asked first: a quarter of an hour on two idle CPU cores.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from retmask.files import home

DOCS = Path(__file__).parent
WIDTH = 1400
MODEL = "smollm2-135m"
RETMASK = [sys.executable, "-m", "retmask.cli"]


def heads(tab: Page) -> None:
    """The map, its best heads selected."""
    tab.locator(".st-key-map .js-plotly-plot .points").first.wait_for(state="attached")
    tab.locator(".st-key-rule_select button").click()
    tab.get_by_text("14 of 270 heads selected").first.wait_for()


def compare(tab: Page) -> None:
    """A needle that is found unmasked and lost without the best heads."""
    tab.locator(".st-key-mask_best button").click()
    tab.get_by_text("14 of 270 heads masked").first.wait_for()
    tab.locator(".st-key-run button").click()
    recalls = (
        "() => [...document.querySelectorAll('.st-key-answers .facts')].filter(f => f.textContent.includes('recall'))"
    )
    tab.wait_for_function(f"{recalls}.length === 3", timeout=240_000)


def families(tab: Page) -> None:
    """The two built-in models beside each other."""
    tab.locator(".st-key-chart-set-lorenz .main-svg").first.wait_for()


def train(tab: Page) -> None:
    """Sixteen steps of DPO."""
    tab.get_by_text("Finished after 16 steps").first.wait_for()
    tab.locator(".st-key-curves .js-plotly-plot .main-svg").first.wait_for()


def evaluate(tab: Page) -> None:
    """The best heads masked, as many random ones, and what they cost."""
    tab.locator(".st-key-wide_forest .js-plotly-plot .main-svg").first.wait_for()


PICTURES: dict[str, tuple[Callable[[Page], None], int]] = {  # and how many pixels high
    "heads": (heads, 1000),
    "compare": (compare, 1330),
    "families": (families, 1480),
    "train": (train, 1000),
    "evaluate": (evaluate, 1560),
}


def prepare(folder: Path, environment: dict[str, str]) -> None:
    """The runs that the pictures show."""
    best = ["--scores", MODEL, "--share", "0.05"]
    runs = folder / ".cache" / "retmask" / "runs"
    pairs = [*best, "--generate", "grounded", "--count", "48", "--allow", "cut", "--out", str(runs / "pairs")]
    subprocess.run([*RETMASK, "pairs", MODEL, *pairs], env=environment, check=True)
    trained = ["--pairs", str(runs / "pairs"), "--batch", "4", "--out", str(runs / "train")]
    subprocess.run([*RETMASK, "train", MODEL, *trained], env=environment, check=True)
    conditions = ["--condition", "masked=top:5%", "--condition", "random=14:seed0", "--out", str(runs / "evaluation")]
    subprocess.run([*RETMASK, "evaluate", MODEL, "--scores", MODEL, *conditions], env=environment, check=True)


@contextmanager
def served(environment: dict[str, str]) -> Iterator[str]:
    """The app on a free port; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = subprocess.Popen([*RETMASK, "app", "--port", str(port)], env=environment)
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}_stcore/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.25)
        yield address
    finally:
        app.terminate()
        app.wait(10)


def take(address: str, chromium: str) -> None:
    """Take every picture, and write it with as few colours as it needs."""
    with sync_playwright() as driver:
        chrome = driver.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"])
        for name, (show, height) in PICTURES.items():
            tab = chrome.new_page(viewport={"width": WIDTH, "height": height})
            tab.set_default_timeout(120_000)
            tab.goto(address if name == "heads" else address + name)
            show(tab)
            tab.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
            tab.evaluate("document.querySelector('[data-testid=stMain]').scrollTo(0, 0)")
            tab.mouse.move(WIDTH - 1, height - 1)
            tab.wait_for_timeout(1500)
            file = DOCS / f"{name}.png"
            tab.screenshot(path=file)
            Image.open(file).convert("RGB").quantize(192, dither=Image.Dither.NONE).save(file, optimize=True)
            print(file, file.stat().st_size)
            tab.close()
        chrome.close()


def main() -> None:
    """Make all of them."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("no chromium, chromium-browser or google-chrome on the PATH")
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name) / ".cache" / "retmask"
        cache.mkdir(parents=True)
        (cache / "models").symlink_to(home() / "models")  # converted once
        environment = {key: value for key, value in os.environ.items() if key != "RETMASK_HOME"} | {"HOME": name}
        prepare(Path(name), environment)
        with served(environment) as address:
            take(address, chromium)


if __name__ == "__main__":
    main()
