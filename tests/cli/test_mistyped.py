"""A name that is not there: which may be meant, in one sentence and at once, also where no network is."""

import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from retmask.cli.main import run_command
from retmask.files import home, meant, unknown, write_json
from retmask.heads.grid import Grid
from retmask.heads.masks import HeadMask, mask_path, mask_record
from retmask.runs import faults
from retmask.runs.run import Run


class Hub(BaseHTTPRequestHandler):
    """A Hub that has no model, or one whose line breaks at every request (`status` 0); it counts what it is asked."""

    status: int
    asked: list[str]

    def do_HEAD(self) -> None:
        self.asked.append(self.path)
        if self.status:
            self.send_response(self.status)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(params=[0, 404], ids=["no network", "no such model"])
def hub(request: pytest.FixtureRequest) -> Iterator[tuple[str, type[Hub]]]:
    """The address of a Hub, and what it was asked."""
    handler = type("OneHub", (Hub,), {"status": request.param, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()


@pytest.mark.parametrize("words", [["detect"], ["train", "--pairs", "pairs.jsonl"]])
def test_a_mistyped_model_is_one_sentence_and_the_hub_is_asked_once(
    words: list[str], hub: tuple[str, type[Hub]], fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No retries and no words of the Hub's client; no run is left behind."""
    address, handler = hub
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    command = [sys.executable, "-m", "retmask.cli", words[0], "smolm2-135m", *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    says = "on the Hub, and no file or folder" if handler.status else "on this machine, and the Hub cannot be reached"
    assert done.returncode == 2
    assert done.stderr.startswith(f"retmask: there is no model smolm2-135m {says}")
    assert done.stderr.endswith("(did you mean smollm2-135m?)\n")
    assert done.stderr.count("\n") == 1
    assert handler.asked == ["/smolm2-135m/resolve/main/config.json"]
    assert not (home() / "runs").exists()


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["detect", "--preset", "quik"], "quick"),
        (["detect", "--detector", "quer"], "query"),
        (["detect", "--haystack", "pydc"], "pydoc"),
        (["detect", "--dtype", "bfloat61"], "bfloat16"),
        (["detect", "./model/tiny-llma"], "model/tiny-llama"),
        (["compare", "--needle", "glacer"], "glacier"),
        (["compare", "--prompt", "a", "--mask", "bets14"], "best14"),
        (["pairs", "--generate", "grounde", "--count", "3", "--heads", "L1H1"], "grounded"),
        (["pairs", "--generate", "chat", "--allow", "cutt", "--heads", "L1H1"], "cut"),
        (["train", "--pairs", "pairs-tinny"], "pairs-tiny"),
        (["heads", "gema-3-270m"], "gemma-3-270m"),
        (["heads", "detect-tinny"], "detect-tiny-1"),
        (["families", "smollm2-135m", "--by", "dept"], "depth"),
        (["runs", "show", "detect-tinny"], "detect-tiny-1"),
        (["runs", "list", "--kind", "detct"], "detect"),
        (["runs", "list", "--status", "strated"], "started"),
        (["rusn"], "runs"),
        (["runs", "shw"], "show"),
    ],
)
def test_a_mistyped_name_says_which_may_be_meant(
    words: list[str],
    near: str,
    fresh_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(faults, "debugging", lambda: False)
    write_json(tmp_path / "model" / "tiny-llama" / "config.json", {})
    Run.create("detect", {"model": "tiny"}, home() / "runs" / "detect-tiny-1")
    Run.create("pairs", {"model": "tiny"}, home() / "runs" / "pairs-tiny")
    write_json(mask_path("best14"), mask_record(HeadMask.parse("L0H1", Grid(30, 9)), Grid(30, 9)))
    if words[0] in ("compare", "pairs", "train"):
        words = [words[0], "smollm2-135m", *words[1:]]
    capsys.readouterr()
    assert run_command(words) == 2
    says = capsys.readouterr().err
    assert says.count("\n") == 1
    assert f"(did you mean {near}?)" in says
    assert {run.id for run in Run.all()} == {"detect-tiny-1", "pairs-tiny"}, "no run is left behind"


def test_what_is_meant() -> None:
    names = ("copy", "attention", "query", "causal")
    assert meant("Querry", names) == " (did you mean query?)"
    assert meant("atten", names) == " (did you mean attention?)", "the beginning of a name is near"
    assert meant("magic", names) == meant("", names) == meant("copy", ()) == ""
    assert str(unknown("detector", "cpoy", names)) == (
        "detector 'cpoy' is unknown: choose copy, attention, query, causal (did you mean copy?)"
    )
