"""What several test files share."""

import gc
import os
import shutil
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import shapes  # noqa: F401  (before retmask: it says which of its functions are checked)
from browser import QUIET, App

from retmask.files import home
from retmask.runs import faults
from retmask.runs.run import Run

if TYPE_CHECKING:
    from retmask.model.lens import LensModel

# the files that take longest, in this order; `--no-loadscope-reorder` leaves it so
LONGEST = """
test_method heads/test_browser test_journeys train/test_browser cli/test_broken train/test_outcome cli/test_main
compare/test_page evaluate/test_answers families/test_browser train/test_page heads/test_page train/test_job
runs/test_run
"""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin, so that at the end no worker has one of them before it and the other nothing."""
    longest, tests = LONGEST.split(), Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        name = item.path.relative_to(tests).with_suffix("").as_posix()
        return longest.index(name) if name in longest else len(longest)

    items.sort(key=rank)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nothing that is imported here goes again: to look through it for garbage took a third of the time, and later a
    part of a second whenever a model was let go."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip browser tests where there is no browser."""
    if item.get_closest_marker("browser") and CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the PATH")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With RETMASK_REQUIRE_BROWSER=1 a browser test that is skipped, for whatever reason, has failed."""
    report = yield
    required = os.environ.get("RETMASK_REQUIRE_BROWSER") == "1" and item.get_closest_marker("browser")
    if required and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"RETMASK_REQUIRE_BROWSER=1 and {reason}"
    return report


@pytest.fixture
def score_file(tmp_path: Path) -> str:
    """A file with the scores of a tiny model."""
    from tiny import SCORES

    SCORES.save(tmp_path / "scores.json")
    return str(tmp_path / "scores.json")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the browser, for tests marked `browser`."""
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the PATH")
    return CHROMIUM


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A running app of its own, with no runs in it, for the tests of a file."""
    folder = tmp_path_factory.mktemp("home")
    (home() / "models").mkdir(parents=True, exist_ok=True)
    (folder / "models").symlink_to(home() / "models")  # converted once
    app = App(folder)
    yield app
    app.end()


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """A Chromium, for the tests of a file."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chrome = driver.chromium.launch(executable_path=chromium, args=QUIET)
        yield chrome
        chrome.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """An empty tab of it, 1400 pixels wide, in a context of its own."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    yield context.new_page()
    context.close()


@pytest.fixture(scope="session")
def smollm() -> "LensModel":
    """The default model, loaded once a process."""
    import retmask

    return retmask.load("smollm2-135m")


@pytest.fixture(scope="session")
def gemma() -> "LensModel":
    """The other built-in model, with sliding-window layers."""
    import retmask

    return retmask.load("gemma-3-270m")


@pytest.fixture(autouse=True)
def _no_fault_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages raise what they would show as a sentence: so that a test that looks for exceptions finds it."""
    monkeypatch.setattr(faults, "debugging", lambda: True)


@pytest.fixture
def fresh_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty RETMASK_HOME that shares only the converted models, so that no test sees another's runs."""
    models = home() / "models"
    models.mkdir(parents=True, exist_ok=True)
    fresh = tmp_path / "home"
    fresh.mkdir()
    (fresh / "models").symlink_to(models)
    monkeypatch.setenv("RETMASK_HOME", str(fresh))
    return fresh


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that a page starts from now on; none of them works."""
    started: list[Run] = []

    def spawn(run: Run) -> None:
        run.update(spawned=time.time())
        started.append(run)

    monkeypatch.setattr("app.shared.jobs.spawn", spawn)
    return started


@pytest.fixture
def fresh_app(fresh_home: Path) -> Iterator[App]:
    """A running app whose runs are those of the test."""
    app = App(fresh_home)
    yield app
    app.end()
