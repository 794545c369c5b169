"""What guards the pages: sentences in the place of tracebacks, and settings that hold wherever the app is started."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from streamlit import config
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from retmask.files import shipped
from retmask.runs import faults, processes
from retmask.runs.run import Run

ROOT = Path(__file__).parent.parent
MAIN = ROOT / "app" / "main.py"


@pytest.fixture(autouse=True)
def _alone(fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without runs, the app's folder on the path, and sentences as a person sees them."""
    monkeypatch.syspath_prepend(MAIN.parent)
    monkeypatch.setattr(faults, "debugging", lambda: False)


@pytest.fixture
def options() -> Iterator[None]:
    """What a test sets of Streamlit's options is put back."""
    before = {name: config.get_option(name) for name in ("server.address", "server.allowedHosts", "server.enableCORS")}
    yield
    for name, value in before.items():
        config._set_option(name, value, "the test")


def draws(kind: str) -> None:
    import streamlit as st

    from app.shared.text import guarded

    def draw() -> None:
        st.header("above")
        if kind == "stop":
            st.stop()
        if kind == "expected":
            raise ValueError("there is no file x: name another")
        raise KeyError("a *strange* [thing](x)")

    if kind == "fragment":
        st.fragment(guarded(draw))()
    else:
        guarded(draw)()
    st.caption("below")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("expected", "there is no file x: name another."),
        ("unexpected", "something unexpected happened: KeyError: 'a *strange* [thing](x)'; the traceback is in the"),
        ("fragment", "something unexpected happened: KeyError"),
    ],
)
def test_an_exception_is_a_sentence_on_the_page(kind: str, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    at = AppTest.from_function(draws, args=(kind,)).run()
    assert not at.exception
    assert says in at.error[0].value.replace("\\", "")
    assert (at.header[0].value, at.caption[0].value) == ("above", "below")
    assert "Traceback" in capfd.readouterr().err


def opens() -> None:
    from streamlit.navigation.page import StreamlitPage

    from app.heads import detection

    detection.form(StreamlitPage(lambda: None, title="x"))


def asks() -> None:
    from app.shared import session

    if not session.value("has_asked"):
        session.put("has_asked", True)
        session.ask(session.Question("Really?", "It is gone then.", "Delete", lambda: {}["a name"]))
    session.draw_question()


def test_an_exception_in_a_dialog_is_a_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a name")

    monkeypatch.setattr("app.heads.detection.show_memory", broken)
    at = AppTest.from_function(opens).run()
    assert not at.exception
    assert "something unexpected happened: KeyError" in at.error[0].value.replace("\\", "")


def test_an_exception_after_a_question_is_a_sentence_too() -> None:
    at = AppTest.from_function(asks).run()
    assert [line.value for line in at.markdown] == ["It is gone then."]
    at.button(key="confirm_yes").click().run()
    assert not at.exception
    assert "something unexpected happened: KeyError" in at.error[0].value.replace("\\", "")


def test_a_run_that_cannot_be_resumed_says_why(fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the record of a run holds, of which nobody knows who wrote it."""
    run = Run.create("detect", {"model": "smollm2-135m"})
    run.update(status="cancelled")
    at = AppTest.from_file(str(MAIN), default_timeout=60)
    at.query_params["map"] = run.id
    at.run()

    def broken(*_: object) -> None:
        raise KeyError("a name")

    monkeypatch.setattr("app.shared.jobs.spawn", broken)
    at.button(key="detect_resume").click().run()
    assert not at.exception
    assert any("something unexpected happened: KeyError" in error.value.replace("\\", "") for error in at.error)


def test_streamlits_own_signals_pass() -> None:
    at = AppTest.from_function(draws, args=("stop",)).run()
    assert not at.exception
    assert not at.error
    assert not at.caption


@pytest.mark.parametrize(
    ("address", "hosts", "public", "says"),
    [
        ("127.0.0.1", ["localhost"], "", ""),
        ("localhost", ["localhost"], "", ""),
        ("::1", ["localhost"], "", ""),
        ("0.0.0.0", ["localhost"], "", "it listens on 0.0.0.0 and knows no passwords"),
        (None, ["localhost"], "", "it listens on every address"),
        ("example.org", ["localhost"], "0", "it listens on example.org"),
        ("0.0.0.0", ["localhost"], "1", ""),
        ("127.0.0.1", [], "", "any web page could reach it"),
        ("0.0.0.0", [], "1", "any web page could reach it"),
        ("127.0.0.1", ["localhost", "*"], "", "any web page could reach it (server.allowedHosts holds a wildcard)"),
        ("127.0.0.1", [" *.org"], "", "any web page could reach it"),
    ],
)
def test_an_open_server_is_refused(
    address: str | None, hosts: list[str], public: str, says: str, options: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config._set_option("server.address", address, "the test")
    config._set_option("server.allowedHosts", hosts, "the test")
    monkeypatch.setenv("RETMASK_PUBLIC", public)
    at = AppTest.from_file(str(MAIN), default_timeout=60).run()
    assert not at.exception
    said = " ".join(error.value for error in at.error).replace("\\", "")
    assert said.startswith("the app is not served, because") == bool(says)
    assert says in said
    assert bool(at.header) != bool(says)


@pytest.mark.parametrize("public", ["", "1"])
def test_a_server_that_takes_every_origin_is_refused(
    public: str, options: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config._set_option("server.address", "127.0.0.1", "the test")
    config._set_option("server.allowedHosts", ["localhost"], "the test")
    config._set_option("server.enableCORS", False, "the test")
    monkeypatch.setenv("RETMASK_PUBLIC", public)
    at = AppTest.from_file(str(MAIN), default_timeout=60).run()
    assert "any web page could drive it (server.enableCORS is false)" in at.error[0].value.replace("\\", "")
    assert not at.header


@pytest.mark.parametrize("page", ["heads", "compare", "pairs", "train", "families", "runs"])
@pytest.mark.parametrize(
    "query",
    [
        {"heads": "garbage", "head": "L99H99", "kv": "x", "c": "../x"},
        dict.fromkeys(("map", "run", "pairs", "train", "sets", "tuned", "c"), "x" * 300),
        {"pairs": "x" * 300},
        {"heads": "L99H99,L1H1:x", "map": "nope", "sets": "%%%,nope", "tuned": "a b"},
        {"map": "damaged", "run": "damaged", "pairs": "damaged", "train": "damaged", "gate": "nope"},
    ],
)
def test_no_address_breaks_a_page(
    page: str, query: dict[str, str], fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of a run whose record holds anything: its `command` is no list."""
    monkeypatch.setattr(faults, "debugging", lambda: True)
    damaged = fresh_home / "runs" / "damaged"
    damaged.mkdir(parents=True)
    shutil.copy(shipped("maps", "smollm2-135m") / "scores.json", damaged)
    record = {"kind": "detect", "status": "success", "command": "no list", "config": {"model": "smollm2-135m"}}
    (damaged / "run.json").write_text(json.dumps(record))
    for name in ("progress.jsonl", "trials.jsonl", "items.jsonl", "log.txt"):
        (damaged / name).write_bytes(bytes(range(256)) + b"\n" + b"[" * 100_000)
    at = AppTest.from_file(str(MAIN), default_timeout=120)
    at._page_hash = calc_hash(page)
    for name, value in query.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception
    assert at.header
    assert not any("unexpected" in error.value for error in at.error)
    if page == "train" and "train" not in query:  # else the form is folded away
        assert [button for button in at.button if button.key == "train_start"], "the form is whole"


def upgraded(port: int, host: str, origin: str = "") -> int:
    """The status with which the app answers a page, of that host name or another origin, that wants to talk to it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Host": host, "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    headers |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Origin": origin or f"http://{host}"}
    connection.request("GET", "/_stcore/stream", headers=headers)
    return connection.getresponse().status


STREAMLIT, RETMASK = ["streamlit", "run", str(MAIN)], ["retmask.cli", "app"]


@pytest.mark.parametrize(("module", "port_flag"), [(STREAMLIT, "--server.port"), (RETMASK, "--port")])
def test_the_settings_hold_wherever_it_is_started(module: list[str], port_flag: str, tmp_path: Path) -> None:
    """It listens on this machine alone and answers to no other name, whatever that folder's own settings say."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "config.toml").write_text(
        '[server]\naddress = "0.0.0.0"\nallowedHosts = ["*"]\nenableCORS = false\nenableXsrfProtection = false\n'
    )
    command = [sys.executable, "-m", *module, port_flag, str(port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMLIT_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    with (tmp_path / "log.txt").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while not (
            listening := [one for one in psutil.Process(server.pid).net_connections() if one.status == "LISTEN"]
        ):
            assert time.monotonic() < until
            time.sleep(0.2)
        assert {one.laddr.ip for one in listening} == {"127.0.0.1"}
        assert upgraded(port, f"127.0.0.1:{port}") == 101
        assert upgraded(port, "evil.example.org") == 403
        assert upgraded(port, f"127.0.0.1:{port}", "http://evil.example.org") == 403
    finally:
        server.terminate()
        server.wait(10)


SERVED = """
import sys
from importlib.util import find_spec
from pathlib import Path
from streamlit.testing.v1 import AppTest
from streamlit.web import bootstrap

main = Path(sys.argv[1])
bootstrap._fix_sys_path(str(main))  # as the server does: the script's folder stands first
at = AppTest.from_file(str(main), default_timeout=60).run()
assert at.header and not at.exception, at
before = list(sys.path)
assert at.run().header and sys.path == before, sys.path
assert Path(sys.modules["app"].__file__).parent == main.parent, sys.modules["app"].__file__
names = {path.stem for path in main.parent.rglob("*") if path.stem.isidentifier() and not path.stem.startswith("__")}
print("seen:", len(names), *sorted(name for name in names if find_spec(name)))
"""


def test_the_app_is_a_package_and_no_module_of_it_has_a_bare_name(tmp_path: Path) -> None:
    """In the interpreter that serves it, also where another package of the name `app` comes first on the path."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise RuntimeError('this is another app')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", SERVED, str(MAIN)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    _, n_names, *bare = done.stdout.splitlines()[-1].split()
    assert int(n_names) > 20
    assert bare == []


def test_a_worker_is_ours_whatever_lies_where_the_app_was_started(
    fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "retmask").mkdir()
    (tmp_path / "retmask" / "__init__.py").write_text("raise RuntimeError('this is another retmask')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    run = Run.create("nothing", {})
    worker = psutil.Process(processes.start(run.path))
    worker.wait(60)
    assert run.status == "error"
    assert "is a run of kind 'nothing'" in run.log_tail(5)
