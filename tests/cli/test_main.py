"""The command line as a person types it, in a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_folder

from retmask import __version__
from retmask.cli.main import run_command
from retmask.detect import job as detect
from retmask.detect.job import DETECT, DetectSettings
from retmask.families.concentration import Concentration
from retmask.heads.scores import HeadScores
from retmask.heads.trials import read_trials
from retmask.runs import faults
from retmask.runs.settings import from_preset

COMMAND = [sys.executable, "-m", "retmask.cli"]


def retmask(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=300)


Here = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Here:
    """The same in this process, which has imported everything already."""
    monkeypatch.setattr(faults, "debugging", lambda: False)

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        code = run_command([*map(str, words)])
        return subprocess.CompletedProcess(words, code, *capfd.readouterr())

    return run


@pytest.fixture
def score_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    HeadScores("tiny", np.array([[[0.0, 0.5], [0.2, 0.0]], [[0.0, 0.7], [0.0, 0.0]]])).save(path)
    return path


def test_heads_json(score_file: Path) -> None:
    found = json.loads(retmask("heads", score_file, "--top", "2", "--json").stdout)
    assert [row["head"] for row in found["heads"]] == ["L0H1", "L1H0"]
    assert found["heads"][0]["mean"] == 0.6
    assert found["heads"][1]["activation"] == 0.5
    assert set(found["heads"][0]) == {"head", "mean", "low", "high", "activation"}
    assert set(found["concentration"]) == {"threshold", *Concentration._fields}
    assert (found["concentration"]["threshold"], found["concentration"]["above"]) == (0.1, 2)


def test_heads_for_people(score_file: Path) -> None:
    done = retmask("heads", score_file, "--threshold", "0.5")
    assert "1 of 4 heads >= 0.5, best L0H1" in done.stdout
    assert "L1H0" not in done.stdout


def test_heads_by_name_and_at_random(score_file: Path, here: Here) -> None:
    named = json.loads(here("heads", score_file, "--heads", "L1H1,0-1", "--json").stdout)
    assert [row["head"] for row in named["heads"]] == ["L0H1", "L1H1"]
    drawn = json.loads(here("heads", score_file, "--random", "2", "--seed", "1", "--json").stdout)
    assert {row["head"] for row in drawn["heads"]} == {"L0H0", "L1H1"}  # the two others are above 0.1 or at it
    assert "3 random heads asked for, 2 are left" in here("heads", score_file, "--random", "3").stderr
    assert len(drawn["excluded"]) == 2
    half = json.loads(here("heads", score_file, "--random", "2", "--exclude", "25%", "--json").stdout)
    assert len(half["excluded"]) == 1
    assert "excludes no heads" in here("heads", score_file, "--random", "2", "--exclude", "x").stderr
    assert "says what --random leaves out" in here("heads", score_file, "--exclude", "5%").stderr
    assert "L5H0 is outside" in here("heads", score_file, "--heads", "L5H0").stderr
    assert "give one of them" in here("heads", score_file, "--heads", "L0H0", "--top", "3").stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["heads", "/nowhere"], "there is no score set"),
        (["heads", "/nowhere", "--top", "-1"], "there is no score set"),
        (
            ["detect", "--lengths", "a,b"],
            "--lengths 'a,b' is not a list of numbers: write them with commas, such as 512",
        ),
        (["detect", "--depths", "2"], "2 in depths is outside 0 to 1"),
        (["detect", "--lengths", "5"], "5 in lengths is outside 128 to 2,097,152"),
        (["detect", "--preset", "big"], "preset 'big' is unknown"),
        (["detect", "--counting", "x"], "counting 'x' is unknown"),
        (["detect", "--needles", "/nowhere.json"], "cannot be read"),
        (["detect", "--haystack", "/nowhere"], "there is no haystack folder"),
        (["detect", "./nowhere"], "there is no model at"),
        (["detect", "--n-needles", "50"], "holds 8 needles and 50 were asked for"),
        (["detect", "--device", "meta"], "device 'meta' cannot run a model here"),
        (["detect", "--out", "/proc/nowhere"], "/proc/nowhere"),
        (["compare"], "say what to ask in one way"),
        (["compare", "--prompt", "a", "--needle", "glacier"], "say what to ask in one way"),
        (["compare", "--needle", "nothing"], "needle 'nothing' is unknown: choose soup"),
        (["compare", "--prompt-file", "/nowhere.txt"], "/nowhere.txt"),
        (["compare", "--prompt", "a", "--template", "x"], "template 'x' is unknown"),
        (["compare", "--prompt", "a", "--heads", "L99H0"], "L99H0 is outside this model's 30 x 9 grid"),
        (["ablate", "smollm2-135m", "--out", "/tmp/never"], "say in one way which heads to mask"),
        (["dose", "smollm2-135m", "--scores", "/nowhere"], "there is no score set"),
        (["dose", "smollm2-135m", "--scores", "smollm2-135m", "--ks", "0,a"], "with commas, such as 0,14,27"),
        (["dose", "smollm2-135m", "--scores", "smollm2-135m", "--ks", "271"], "271 heads cannot be masked"),
        (["dose", "smollm2-135m", "--scores", "smollm2-135m", "--haystack", "pydoc"], "detection used the haystack"),
        (["bench", "pair", "smollm2-135m", "--share", "2"], "a share of 2"),
        (["bench", "detect", "--adapter", "x"], "No such option: --adapter"),
        (["bench", "detect", "--counting", "steps"], "No such option: --counting"),
        (["merge", "smollm2-135m", "--out", "/tmp/never"], "say which adapter is merged"),
        (["merge", "smollm2-135m", "--out", "/tmp/never", "--adapter", ""], "say which adapter is merged"),
        (["merge", "smollm2-135m", "--out", "/tmp/never", "--adapter", "/no"], "/no is no adapter"),
    ],
)
def test_wrong_input_is_one_sentence(fresh_home: Path, here: Here, words: list[str], says: str) -> None:
    check_refused(here(*words), says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["heads", "/nowhere"], "there is no score set"),
        (["compare", "--prompt", "a", "--heads", "L99H0"], "L99H0 is outside this model's 30 x 9 grid"),
    ],
)
def test_a_process_of_its_own_says_no_more(fresh_home: Path, words: list[str], says: str) -> None:
    """Nor do the libraries that it imports."""
    check_refused(retmask(*words), says)


def check_refused(done: subprocess.CompletedProcess[str], says: str) -> None:
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ask", "m", "--prompt", "a b"], "`ask` is `compare` now: retmask compare m --prompt 'a b'"),
        (["ask", "--help"], "`ask` is `compare` now: retmask compare --help"),
        (["ask"], "`ask` is `compare` now: retmask compare"),
        (["compare", "smollm2-135m", "gemma-3-270m"], "`retmask families` compares score sets"),
        (["compare", "runs/x", "--by", "depth"], "`retmask families` compares score sets"),
        (["compare", "scores.json", "--threshold", "0.2", "--csv", "x.csv"], "`retmask families` compares score sets"),
    ],
)
def test_a_command_that_has_another_name_now_says_it(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(words) == 2
    assert says in capsys.readouterr().err
    assert run_command(["compare", "--help"]) == 0


def test_command_says_what_differs() -> None:
    config = from_preset(DetectSettings, "quick", model="m", counting="steps", keep_prompts=True)
    assert config.command == ["retmask", "detect", "m", "--preset", "quick", "--counting", "steps", "--keep-prompts"]
    own = from_preset(DetectSettings, "quick", needles="n.json", n_needles=3)
    assert own.command[3:] == ["--preset", "quick", "--needles", "n.json", "--n-needles", "3"]
    custom = DetectSettings(lengths=(300,), depths=(0.5, 1))
    assert custom.command[3:] == ["--lengths", "300", "--depths", "0.5,1"]


def test_compare_dose_and_ablate_on_one_model(fresh_home: Path, tmp_path: Path, score_file: Path, here: Here) -> None:
    """What the commands print and write; the exported folder says unmasked what the mask says on the original."""
    model, out = tiny_folder(tmp_path), tmp_path / "out"
    HeadScores("tiny", np.arange(12.0).reshape(1, 3, 4) / 20).save(score_file)
    best = ["--scores", score_file, "--top-k", "2"]
    asked = json.loads(retmask("compare", model, "--prompt", "abcabc", *best, "--max-new-tokens", "9", "--json").stdout)
    assert [column["name"] for column in asked["columns"]] == ["unmasked", "masked", "random control"]
    assert asked["columns"][1]["mask"] == "L2H2,L2H3"
    done = here("ablate", model, *best, "--out", out)
    assert "2 heads masked (L2H2,L2H3), float32" in done.stdout, done.stderr
    again = here("compare", out, "--prompt", "abcabc", "--max-new-tokens", "9")
    assert again.stdout.splitlines()[1].strip() == asked["columns"][1]["text"].splitlines()[0].strip()
    sizes = ["--ks", "1", "--random-seeds", "1", "--trials", "1", "--context-tokens", "500", "--prose-tokens", "60"]
    curve = here("dose", model, "--scores", score_file, *sizes, "--out", tmp_path / "curve")
    assert "random, seed 0" in curve.stdout, curve.stderr
    assert (tmp_path / "curve" / "dose.csv").is_file()


GRID = ["--lengths", "256", "--depths", "0,0.5,1", "--n-needles", "2", "--keep-prompts"]


def test_detect_is_killed_and_continues(fresh_home: Path, tmp_path: Path, here: Here) -> None:
    """After SIGKILL the same command does what is left, counts nothing twice, and ends in the scores of all trials."""
    folder = tmp_path / "out"
    words = [*COMMAND, "detect", "smollm2-135m", *GRID, "--out", str(folder)]
    worker = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 240
    while not read_trials(folder) and worker.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    before = (folder / "trials.jsonl").read_bytes()
    done = retmask("detect", "smollm2-135m", *GRID, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "trials.jsonl").read_bytes().startswith(before)
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    assert len(lines) == len(read_trials(folder)) == 6
    assert all(line["prompt_tokens"] == len(line["prompt_ids"]) == 206 for line in lines)
    scores = HeadScores.load(folder)
    assert scores.n_trials == sum(line["success"] for line in lines)
    assert "written to" in done.stdout
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "success"
    assert {"sha256", "grid", "needles_sha256", "haystack", "template", "dtype", "versions", "seed"} <= set(record)

    again = here("detect", "smollm2-135m", *GRID, "--out", folder)  # finished: nothing to do, at once
    assert again.returncode == 0
    other = here("detect", "smollm2-135m", "--preset", "quick", "--out", folder)
    assert (other.returncode, len(read_trials(folder))) == (2, 6)
    assert "holds a run with other settings" in other.stderr


def test_no_needle_found_is_said_and_makes_no_map(fresh_home: Path, tmp_path: Path, here: Here) -> None:
    needles = tmp_path / "needles.json"
    needles.write_text(json.dumps([{"needle": "Nothing.", "question": "Who?", "answer": "zyx wvu tsr"}]))
    done = here("detect", "--needles", needles, "--lengths", "200", "--depths", "0.5", "--out", tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert "None of 1 trials found its needle" in done.stdout
    assert "200 tokens, depth 0.5" in done.stdout
    assert not (tmp_path / "out" / "scores.json").exists()
    assert "None of 1 trials found its needle" in here("heads", tmp_path / "out").stderr


def test_until_stable_stops_early_and_stays_ended(
    fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "STABLE_TRIALS", 2)
    config = DetectSettings(lengths=(200,), depths=(0.0, 0.3, 0.6, 1.0), n_needles=3, until_stable=True)
    run = DETECT.new(config, tmp_path / "out")
    done = [step.done for step in DETECT.work(run)]
    assert done[-1] < 12
    assert run.status == "success"
    assert list(DETECT.work(run)) == []
    assert len(read_trials(run.path)) == done[-1]


def test_version() -> None:
    done = retmask("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"retmask {__version__}\n", "")


def test_a_port_that_is_taken_is_one_sentence() -> None:
    """Told before Streamlit starts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = retmask("app", "--port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"retmask: port {port} is taken, maybe by this app: choose another, such as --port ")
    assert done.stderr.count("\n") == 1
