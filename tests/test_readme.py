"""What the README shows of Python runs as it stands, and prints what it is there to show."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from tiny import tiny_model

import retmask
from retmask.cli.main import COMMANDS as NAMES
from retmask.cli.main import _check_name, app

README = Path(__file__).parent.parent / "README.md"
INIT = Path(retmask.__file__)
COMMANDS = re.findall(r"^(?:\.venv/bin/)?(retmask .*?)(?:\s+#.*)?$", README.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_example_in_python_runs_and_shows_what_masking_does(capsys: pytest.CaptureFixture[str]) -> None:
    """The heads that copied lose the needle when they are masked; as many others do not."""
    (block,) = re.findall(r"```python\n(import retmask\n.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    answers = names["answers"]
    assert isinstance(answers, retmask.Comparison)
    assert [column.name for column in answers.columns] == ["unmasked", "masked", "random control"]
    assert [answers.recall(i) == 1 for i in range(3)] == [True, False, True]
    *columns, heads = capsys.readouterr().out.split("\n\n")[-1].strip().splitlines()
    assert columns
    assert set(map(retmask.HeadId.parse, heads.split())) == answers.traces[0].heads_at(8) != set()


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_is_one(line: str) -> None:
    """Its name and its options exist; nothing is run."""
    _, *words = shlex.split(line.removesuffix("\\"))
    _check_name(words)
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    command.make_context(name, words)


def test_the_commands_stand_under_the_seven_words() -> None:
    """Those of the pages, in their order; each says in its heading what it is for, and no command is left out."""
    text = README.read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^### (\w+): .+\n\n```\n([^`]*)```", text, re.MULTILINE))
    assert list(blocks) == ["heads", "compare", "pairs", "train", "evaluate", "families", "runs"]
    assert all(f"retmask {word} " in block for word, block in blocks.items())
    assert set(NAMES) <= {line.split()[1] for line in COMMANDS}


def test_a_model_that_finds_nothing_has_no_scores_and_a_text_of_ones_own_is_answered() -> None:
    model = tiny_model("llama")
    task = retmask.NeedleTask(retmask.known_needle("fair"), context_tokens=400, depth=0.5)
    with pytest.raises(ValueError, match="None of 1 trials found its needle"):
        retmask.detect(model, tasks=[task])
    mask = retmask.HeadMask.parse("L0H1", model.grid)
    answers = retmask.compare(model, "abcabc", mask, answer="abc", max_new_tokens=3)
    assert [column.name for column in answers.columns] == ["unmasked", "masked"]
    assert [len(text) <= 3 for text in answers.token_ids] == [True, True]
    assert answers.recall(0) is not None
    with pytest.raises(ValueError, match="the prompt is empty"):
        retmask.compare(model, " ", mask)


IMPORTS = """
import json, sys
import retmask
first, *names = sys.argv[1:]
if first:
    __import__(first)
there = {name: callable(getattr(retmask, name)) for name in names}
print(json.dumps([there, "torch" in sys.modules, sorted(set(names) - set(dir(retmask)))]))
"""


@pytest.mark.parametrize("first", ["", "retmask.detect.job", "retmask.compare.comparison"])
def test_what_a_script_starts_from_is_there_whatever_was_imported_before(first: str) -> None:
    """Also where a room of the same name stands in the package already; and without torch, but for a model's own."""
    names = [name for name in retmask.__all__ if name not in ("__version__", "load", "LensModel")]
    command = [sys.executable, "-c", IMPORTS, first, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=INIT.parents[1])
    there, torch, missing = json.loads(done.stdout)
    assert all(there.values()), there
    assert not torch
    assert missing == []


def test_types_are_those_of_what_is_imported_when_it_is_asked_for() -> None:
    """The imports that a type checker reads name the same modules as those that run."""
    checked = next(node for node in ast.parse(INIT.read_text(encoding="utf-8")).body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    run = {name: f"retmask.{name}" if home == "retmask" else home for name, home in retmask._HOMES.items()}
    assert typed == run
    assert set(retmask.__all__) == {*typed, "__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        retmask.nothing  # noqa: B018
