"""Every command with every broken thing wherever a person can put one: one sentence, and nothing is written.

The commands and their options are those of the command line itself: a new one is tried without being named here.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from tiny import tiny_adapter, tiny_folder

from retmask.cli.main import app, run_command
from retmask.files import shipped
from retmask.runs import faults

CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "binary": bytes(range(256)),
    "utf16": '{"0-0": [1.0]}\n'.encode("utf-16"),
    "list": b"[1]\n",
    "nested": b"[" * 100_000,
    "nested object": b'{"a":' * 100_000,
    "huge number": b'{"0-0": [' + b"9" * 5000 + b"]}\n",
    "surrogate": b'{"prompt": "\\ud800", "needle": "\\ud800", "chosen": "a", "rejected": "b"}\n',
    "nul": b"a\0b\n",
}
ENDINGS = (".json", ".jsonl", ".txt")
STRANGE = (
    "no-such-thing",
    "x" * 5000,
    "/",
    "a\0b",
    "a\udcffb",
    "~no-such-user/x",
    "gone/at/all.json",
    "L9H9=",
    ",",
    " ",
)
NUMBERS = ("x", "", "1e400", "9" * 400, "nan", "-1", "-inf")
KINDS = {"int": ("x", "", "1.5", "9" * 400, "-1"), "float": NUMBERS}

FOLDERS = ("model", "adapter", "tuned", "scores", "pairs", "sources", "folders", "names", "name", "file_or_dir")
SOUND = ("model", "adapter", "pairs.jsonl", "full")


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that there is, with its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        elif not command.hidden:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.fixture(scope="session")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of each broken thing, models among them, and some sound ones."""
    root = tmp_path_factory.mktemp("things")
    for name, content in CONTENTS.items():
        for ending in ENDINGS if name in ("binary", "nested", "list", "surrogate") else ENDINGS[:1]:
            (root / f"{name}{ending}").write_bytes(content)
    (root / "folder").mkdir()
    (root / "folder.json").mkdir()
    sound = tiny_folder(root)
    (sound / "generation_config.json").unlink(missing_ok=True)
    tiny_adapter(root / "adapter")
    config = json.loads((sound / "config.json").read_text())
    for name, value in {
        "no kind": {key: value for key, value in config.items() if key != "model_type"},
        "unknown kind": config | {"model_type": "nothing"},
        "list": [1],
        "no attention": config | {"model_type": "mamba", "architectures": ["MambaForCausalLM"]},
        "strange numbers": config | {"num_attention_heads": "x"},
        "no heads": config | {"num_attention_heads": 0},
    }.items():
        shutil.copytree(sound, root / f"model {name}")
        (root / f"model {name}" / "config.json").write_text(json.dumps(value))
    for name, gone in {
        "no weights": "model.safetensors",
        "no config": "config.json",
        "no tokenizer": "tokenizer.json",
    }.items():
        shutil.copytree(sound, root / f"model {name}")
        (root / f"model {name}" / gone).unlink()
    for name, file in {
        "cut": "model.safetensors",
        "broken tokenizer": "tokenizer.json",
        "broken config": "config.json",
    }.items():
        shutil.copytree(sound, root / f"model {name}")
        (root / f"model {name}" / file).write_bytes(b"{\xff")
    shutil.copytree(root / "model no weights", root / "model pickle")
    (root / "model pickle" / "pytorch_model.bin").write_bytes(b"\x80")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copytree(root / "adapter", root / f"adapter broken {file}")
        (root / f"adapter broken {file}" / file).write_bytes(b"{}")
    run = root / "run damaged"
    shutil.copytree(shipped("maps", "smollm2-135m"), run)
    (run / "run.json").write_bytes(b"[" * 100_000)
    (run / "trials.jsonl").write_bytes(CONTENTS["binary"])
    (run / "scores.json").write_bytes(CONTENTS["binary"])
    (root / "full").mkdir()
    (root / "full" / "thesis.txt").write_text("of somebody")
    rows = [{"prompt": f"question {n}", "chosen": "yes", "rejected": f"no {n}"} for n in range(8)]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def sound(things: Path) -> dict[tuple[str, ...], list[str]]:
    """For each command the words with which it would begin, if its folder were free or its model could answer."""
    model, full = str(things / "model"), ["--out", str(things / "full")]
    return {
        ("detect",): [model, "--lengths", "300", "--depths", "0.5", "--n-needles", "1", *full],
        ("dose",): [model, "--scores", "smollm2-135m", *full],
        ("ablate",): [model, "--heads", "L0H0", *full],
        ("pairs",): [model, "--generate", "chat", "--count", "2", "--heads", "L0H0", *full],
        ("join",): [str(things / "run damaged"), *full],
        ("train",): [model, "--pairs", str(things / "pairs.jsonl"), *full],
        ("merge",): [model, "--adapter", str(things / "adapter"), *full],
        ("evaluate",): [model, "--heads", "L0H0", "--trials", "2", *full],
        ("compare",): [str(things / "model no weights"), "--prompt", "a"],
        ("heads",): [str(things / "empty.json")],
        ("families",): [str(things / "empty.json")],
        ("app",): [],
        ("bench", "detect"): [str(things / "model no weights")],
        ("bench", "pair"): [str(things / "model no weights")],
        ("runs", "list"): ["--status", "none"],
        ("runs", "show"): ["nothing"],
        ("runs", "compare"): ["nothing", "nobody"],
        ("runs", "log"): ["nothing"],
        ("runs", "cancel"): ["nothing"],
        ("runs", "resume"): ["nothing"],
        ("runs", "rm"): ["nothing", "--yes"],
    }


def broken(parameter: Any, things: Path, part: int = 0) -> Iterator[str]:
    """The broken values for an option or argument.

    All of them where it names a folder, else a third, another for each `part`: texts are read in one place,
    and a command's options together see everything.
    """
    described = str(
        getattr(parameter, "type", None) or parameter.type_descriptor.annotation
    ).lower()  # by the version of typer
    kind = next((name for name in ("bool", "int", "float") if name in described), "text")
    if kind in KINDS:
        yield from KINDS[kind]
    elif parameter.name in ("out", "out_dir"):  # an empty folder, or one that is not there yet, is none
        yield from (str(path) for path in sorted(things.iterdir()) if path.is_file())
        yield from ("x" * 5000, "/", "a\0b", "a\udcffb", "~no-such-user/x")
    elif kind == "text":
        there = [str(path) for path in sorted(things.iterdir()) if path.name not in SOUND]
        files = [path for path in there if not Path(path).name.startswith("model ")]
        is_folder = parameter.name.removeprefix("rule_") in FOLDERS
        yield from [*there, *STRANGE] if is_folder else [*files, *STRANGE][part % 3 :: 3]


def with_value(base: list[str], parameter: Any, value: str, command: Any) -> list[str]:
    """The sound words with one value in the place of that of the option or argument."""
    if parameter.param_type_name == "argument":
        at = [one for one in command.params if one.param_type_name == "argument"].index(parameter)
        return [*base[:at], value, *base[at + 1 :]] if not value.startswith("-") else base
    flag = max(parameter.opts, key=len)
    if flag in base:
        at = base.index(flag)
        return [*base[: at + 1], value, *base[at + 2 :]]
    return [*base, f"{flag}={value}"]


def written(*roots: Path) -> set[Path]:
    return {path for root in roots for path in root.rglob("*") if "locks" not in path.parts}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_broken_thing_is_one_sentence_and_nothing_is_written(
    words: tuple[str, ...],
    things: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    home.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("RETMASK_HOME", str(home))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(faults, "debugging", lambda: False)
    command, base = COMMANDS[words], sound(things)[words]
    before = written(home, here, things)
    wrong = []
    for part, parameter in enumerate(command.params):
        for value in broken(parameter, things, part):
            capfd.readouterr()
            try:
                code: Any = run_command([*words, *with_value(base, parameter, value, command)])
            except Exception as error:
                code = repr(error)[:200]
            said = capfd.readouterr().err
            lines = said.splitlines()
            is_told = len(lines) == 1 and lines[0].startswith("retmask: ") and len(lines[0]) > 15
            if code != 2 or not is_told or "something unexpected" in said or "Traceback" in said:
                wrong.append(f"{parameter.name}={value[-60:]!r}: {code} {said[:300]!r}")
        new = written(home, here, things) - before
        if new:
            wrong.append(f"{parameter.name} has written {sorted(map(str, new))[:5]}")
            before |= new
    assert not wrong, f"{len(wrong)} of these:\n" + "\n".join(wrong)


COMMAND = [sys.executable, "-m", "retmask.cli"]


def process(*words: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, timeout=120, env=os.environ | environment, check=False
    )


@pytest.mark.parametrize("words", [["--debug", "heads", "/nowhere"], ["heads", "/nowhere", "--debug"]])
def test_debug_shows_the_traceback_before_and_after_a_command(words: list[str]) -> None:
    said = process(*words).stderr.decode()
    assert said.startswith("Traceback")
    assert said.splitlines()[-1].startswith("retmask: there is no score")
    assert "Traceback" not in process("heads", "/nowhere").stderr.decode()
    assert process("heads", "/nowhere", RETMASK_DEBUG="1").stderr.startswith(b"Traceback")


def test_bytes_that_are_no_text_are_refused() -> None:
    done = process("heads", b"caf\xe9.json")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert b"is no text in UTF-8" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_terminal_cannot_show_ends_no_command(encoding: str, tmp_path: Path) -> None:
    """A name with letters beyond the terminal's, and half a pair of surrogates."""
    (tmp_path / "heads.json").write_text('{"0-0": [0.5], "0-1": [0.1]}')
    name = tmp_path / "模型.json"
    name.write_text((tmp_path / "heads.json").read_text())
    done = process("heads", str(name), PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert b"L0H0" in done.stdout
    code = "import sys; from retmask.cli.main import run_command; run_command(['runs', 'list']); print('\\ud800')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding}, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "heads.json").write_text(
        json.dumps({f"{layer}-{head}": [0.5] for layer in range(90) for head in range(90)})
    )
    words = [*COMMAND, "heads", str(tmp_path / "heads.json"), "--top", "8100", "--json"]
    writer = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.read(10)
    writer.stdout.close()
    assert writer.stderr is not None
    assert writer.stderr.read() == b""
    assert writer.wait(30) in (0, 1)


def test_ctrl_c_says_that_it_stopped(fresh_home: Path) -> None:
    (fresh_home / "runs" / "x").mkdir(parents=True)
    record = {"kind": "detect", "status": "queued", "spawned": time.time() + 50, "created": "x"}
    (fresh_home / "runs" / "x" / "run.json").write_text(json.dumps(record))
    words = [*COMMAND, "runs", "cancel", "x"]  # it waits for a worker that never comes
    waiting = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (fresh_home / "runs" / "x" / "cancel").exists():
        assert waiting.poll() is None
        time.sleep(0.05)
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=30)
    assert (waiting.returncode, said) == (130, b"retmask: stopped\n")


def test_what_nobody_has_foreseen_is_one_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> None:
        raise KeyError("a\nb")

    monkeypatch.setattr("retmask.cli.heads.scores_path", fail)
    monkeypatch.setattr(faults, "debugging", lambda: False)
    assert run_command(["heads", "x"]) == 1
    said = "retmask: something unexpected happened: KeyError: 'a\\nb'; run again with --debug for the traceback\n"
    assert capfd.readouterr().err == said


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("a\n  b"), "a b"),
        (ValueError(), "ValueError"),
        (FileNotFoundError(2, "No such file or directory", "x"), "x: No such file or directory"),
        (MemoryError(), "the memory ran out: choose a shorter context, fewer trials or columns, or a smaller model"),
        (RuntimeError("no space"), "RuntimeError: no space"),
        (ValueError("x" * 5000), "x" * 2000 + "…"),
    ],
)
def test_a_sentence_of_an_exception(error: Exception, says: str) -> None:
    assert faults.sentence(error) == says
