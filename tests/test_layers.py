"""Who may import whom: every room has a floor, and imports go down."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = "files runs heads families figures text items tasks model detect compare pairs train evaluate"
FLOORS = {  # what of retmask each of its rooms may import beside itself, and app/ and analyses/
    "files": "",
    "runs": "files",
    "heads": "files runs",
    "text": "files heads",
    "items": "files heads text",
    "tasks": "files text items",
    "families": "files runs heads",
    "figures": "files heads families",
    "model": "files runs heads text",
    "detect": "files runs heads text model",
    "compare": "files runs heads text figures model detect",
    "pairs": "files runs heads text model",
    "train": "files runs heads text model pairs",
    "evaluate": "files runs heads text items tasks figures model detect compare pairs",
    "cli": LIBRARY + " cli",
    "app": LIBRARY + " cli",
    "analyses": LIBRARY + " cli",
}
ROOMS = set(FLOORS) - {"files", "app", "analyses"}
TORCH = "model detect compare train evaluate pairs analyses"
ONLY = {  # who alone may import these
    "streamlit": "app",
    "app": "app",
    "transformer_lens": "model/bridge",
    "trl": "train/trainer",
    "openai": "pairs/server",
    "lm_eval": "evaluate/harness evaluate/benchmarks",
    "torch": TORCH,
    "transformers": TORCH + " text/template",  # where messages become text: no torch comes with it
}


def imports(tree: ast.AST) -> Iterator[str]:
    """The dotted names imported at run time, inside functions too; `retmask.load` counts as `retmask.model`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from imports(ast.Module(node.orelse, []))
            continue
        if isinstance(node, ast.Import):
            yield from ("retmask.model" if alias.name == "retmask" else alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "retmask":
            names = [alias.name for alias in node.names if alias.name != "__version__"]
            yield from (f"retmask.{name if name in FLOORS else 'model'}" for name in names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
        yield from imports(node)


def violations(owner: str, source: str) -> list[str]:
    """What `source` imports and its owner may not. Never relative.

    An owner is a file of a room of retmask, such as `model/bridge`, or `files`, `app` or `analyses`.
    """
    room = owner.partition("/")[0]
    assert room in FLOORS, f"{room} has no floor: say in {__file__} what it may import"
    found = []
    for name in imports(ast.parse(source)):
        package, _, module = name.partition(".")
        if package == "retmask":
            fine = module.split(".")[0] in {room, *FLOORS[room].split()}
        else:
            fine = package != "" and not {room, owner}.isdisjoint(ONLY.get(package, owner).split())
        if not fine:
            found.append(name)
    return found


SOURCES = [path for folder in ("retmask", "app", "analyses") for path in sorted((ROOT / folder).rglob("*.py"))]
SOURCES.remove(ROOT / "retmask" / "__init__.py")  # its imports are lazy


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    assert violations("/".join(rest) if folder == "retmask" else folder, path.read_text(encoding="utf-8")) == []


def test_a_page_takes_from_the_shared_room_alone() -> None:
    """A room of the app imports its own modules and those of `shared`; `main.py` alone knows all rooms."""
    app = ROOT / "app"
    rooms = {path.name for path in app.iterdir() if any(path.glob("*.py"))}
    assert {"heads", "compare", "shared"} <= rooms
    foreign = {}
    for path in SOURCES:
        if app in path.parents and path != app / "main.py":
            fine = {"shared", path.parent.name}
            names = [
                name for name in imports(ast.parse(path.read_text(encoding="utf-8"))) if name.split(".")[0] == "app"
            ]
            foreign[str(path.relative_to(ROOT))] = [
                name for name in names if name.partition(".")[2].split(".")[0] not in fine
            ]
    assert {path: names for path, names in foreign.items() if names} == {}


def test_a_room_is_small() -> None:
    """Beside the rooms only `files.py`; a room has two to ten files, a file at most 350 lines."""
    library = ROOT / "retmask"
    assert {path.stem for path in library.glob("*.py")} == {"__init__", "files"}
    assert {path.name for path in library.iterdir() if path.is_dir() and any(path.glob("*.py"))} == ROOMS
    for room in [*map(library.joinpath, ROOMS), *filter(Path.is_dir, (ROOT / "app").iterdir())]:
        files = [path for path in room.glob("*.py") if not path.name.startswith("__")]
        assert not files or 2 <= len(files) <= 10, f"{room.name} has {len(files)} files"
    long = {str(path): n for path in SOURCES if (n := len(path.read_text(encoding="utf-8").splitlines())) > 350}
    assert long == {}


def keys(tree: ast.AST) -> Iterator[str]:
    """The literal names that a module keeps something under in the session: its widgets' keys, values, places.

    A key that is made of several parts counts by its first. Containers have keys for the sake of the stylesheet only.
    """
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = ast.unparse(call.func)
        if called.endswith("container") or called in ("sorted", "min", "max"):
            continue
        named = [keyword.value for keyword in call.keywords if keyword.arg == "key"]
        if called.startswith("session.") or called.partition("[")[0] == "Value":
            named += call.args[:1] if called != "session.say" else call.args[1:]
            yield from (keyword.arg for keyword in call.keywords if called == "session.fill" and keyword.arg)
        for name in (name.values[0] if isinstance(name, ast.JoinedStr) else name for name in named):
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value


def test_the_session_is_one_module() -> None:
    """Only `session.py` touches Streamlit's session, and no name in it stands in two modules."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES if (ROOT / "app") in path.parents}
    assert len(trees) > 50
    touching = {path for path, tree in trees.items() for node in ast.walk(tree) if _is_session_state(node)}
    assert touching == {ROOT / "app" / "shared" / "session.py"}
    owners: dict[str, set[str]] = {}
    for path, tree in trees.items():
        for name in keys(tree):
            owners.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    assert "train_pairs" in owners, "no keys are found any more"
    assert {name: files for name, files in owners.items() if len(files) > 1} == {}


def _is_session_state(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "session_state"


BROKEN = [
    ("heads/grid", "import streamlit as st"),
    ("heads/grid", "from retmask.families.agreement import Agreement"),
    ("heads/grid", "from retmask.model.lens import LensModel"),
    ("heads/grid", "from retmask import model"),
    ("heads/grid", "from retmask import load"),
    ("heads/grid", "import retmask"),
    ("heads/grid", "from . import files"),
    ("heads/grid", "def lazily():\n    import torch"),
    ("heads/grid", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch"),
    ("figures/heads", "from retmask.detect.trials import Trial"),
    ("pairs/pair", "import transformer_lens"),
    ("model/lens", "import transformer_lens"),
    ("model/lens", "from trl import DPOTrainer"),
    ("train/job", "from trl import DPOTrainer"),
    ("detect/job", "from retmask.cli.main import main"),
    ("runs/run", "from retmask.heads.grid import Grid"),
    ("runs/run", "import app.state"),
    ("app", "import torch.nn.functional as F"),
    ("analyses", "from app import state"),
]
KEPT = [
    ("heads/scores", "import numpy as np\nfrom retmask.files import write_atomic"),
    ("text/needle", "if TYPE_CHECKING:\n    from retmask.model.lens import LensModel"),
    ("model/bridge", "import transformer_lens"),
    ("cli/main", "from retmask import __version__, detect"),
    ("app", "import retmask.runs, streamlit\nfrom app.shared import session\nfrom retmask.heads.grid import HeadMask"),
]


@pytest.mark.parametrize(("owner", "source"), BROKEN)
def test_a_broken_rule_is_found(owner: str, source: str) -> None:
    assert violations(owner, source)


@pytest.mark.parametrize(("owner", "source"), KEPT)
def test_a_kept_rule_is_not(owner: str, source: str) -> None:
    assert violations(owner, source) == []
