"""Who may import whom: every module has a floor, and imports go down."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BELOW_JOBS = (
    "files recall controls chat rows pair_files heads intervals concentration scores moved masks needle workers "
    "runs weights cache memory hooks linear sampling model parity bridge loading retrieval trace compare tables "
    "style charts effects curves prompts servers pairs dpo faults launch lora tokens preflight detectors probes "
    "grids formats web sets agreement gains families set_tables"
)
JOBS = " detect dose ablate pairing train evaluate jobs"
SKINS = " bench overview options pace"
TORCH = (
    "weights cache memory hooks linear sampling model parity probes bridge loading dpo launch lora preflight train "
    "dose ablate bench analyses"
)
FLOORS = {  # what of retmask each of its modules may import, and app/ and analyses/
    "files": "",
    "recall": "",
    "controls": "",
    "chat": "controls files",
    "heads": "",
    "intervals": "",
    "concentration": "heads intervals",
    "scores": "concentration detectors files heads intervals",
    "moved": "intervals scores",
    "detectors": "",
    "grids": "files heads weights",
    "formats": "grids heads scores",
    "web": "",
    "sets": "files formats grids heads intervals scores retrieval runs web",
    "agreement": "heads scores retrieval sets trace",
    "gains": "concentration files formats runs scores sets",
    "set_tables": "agreement concentration intervals sets tables",
    "families": "heads scores concentration style tables",
    "masks": "files heads scores sets",
    "needle": "chat controls files recall",
    "turns": "files",
    "workers": "",
    "runs": "faults files needle turns workers",
    "overview": "files runs",
    "pace": "runs",
    "tables": "heads intervals moved scores",
    "style": "",
    "charts": "heads intervals moved scores style tables",
    "effects": "heads intervals style tables",
    "curves": "style",
    "weights": "files memory",
    "cache": "",
    "memory": "files cache weights",
    "hooks": "",
    "linear": "",
    "sampling": "",
    "servers": "chat files sampling",
    "model": "heads cache memory hooks sampling",
    "parity": "heads cache hooks memory model",
    "bridge": "heads hooks linear memory model parity weights",
    "loading": "files memory model bridge weights",
    "trace": "heads retrieval",
    "compare": "chat heads needle recall retrieval runs sampling scores trace",
    "retrieval": "cache chat detectors files heads needle probes recall scores",
    "probes": "cache detectors heads hooks model needle",
    "prompts": "files needle recall rows",
    "pairs": "files recall runs",
    "dpo": "files launch loading lora memory pair_files preflight runs tokens",
    "faults": "",
    "rows": "files",
    "pair_files": "files pairs rows runs",
    "launch": "dpo files memory runs",
    "lora": "dpo",
    "tokens": "chat dpo pair_files",
    "preflight": "dpo files launch loading lora memory model overview pair_files runs tokens turns",
    "detect": BELOW_JOBS,
    "dose": BELOW_JOBS,
    "ablate": BELOW_JOBS,
    "pairing": BELOW_JOBS,
    "train": BELOW_JOBS,
    "evaluate": BELOW_JOBS,
    "jobs": BELOW_JOBS + JOBS,
    "bench": BELOW_JOBS + JOBS,
    "options": BELOW_JOBS + JOBS + " overview",
    "cli_compare": BELOW_JOBS + JOBS + SKINS,
    "cli_bench": BELOW_JOBS + JOBS + SKINS,
    "cli_runs": BELOW_JOBS + JOBS + SKINS,
    "cli_train": BELOW_JOBS + JOBS + SKINS,
    "cli": BELOW_JOBS + JOBS + SKINS + " cli_bench cli_compare cli_runs cli_train",
    "app": BELOW_JOBS + JOBS + SKINS,
    "analyses": BELOW_JOBS + JOBS + SKINS + " cli",
}
ONLY = {  # who alone may import these
    "streamlit": "app",
    "app": "app",
    "transformer_lens": "bridge",
    "trl": "dpo",
    "torch": TORCH,
    "transformers": TORCH + " chat",  # where messages become text: no torch comes with it
}


def imports(tree: ast.AST) -> Iterator[str]:
    """The dotted names imported at run time, inside functions too; `retmask.load` counts as `retmask.loading`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from imports(ast.Module(node.orelse, []))
            continue
        if isinstance(node, ast.Import):
            yield from ("retmask.loading" if alias.name == "retmask" else alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "retmask":
            names = [alias.name for alias in node.names if alias.name != "__version__"]
            yield from (f"retmask.{name if name in FLOORS else 'loading'}" for name in names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
        yield from imports(node)


def violations(owner: str, source: str) -> list[str]:
    """What `source` imports and its owner, a module of retmask or `app` or `analyses`, may not. Never relative."""
    assert owner in FLOORS, f"{owner} has no floor: say in {__file__} what it may import"
    found = []
    for name in imports(ast.parse(source)):
        package, _, module = name.partition(".")
        if package == "retmask":
            fine = module.split(".")[0] in FLOORS[owner].split()
        else:
            fine = package != "" and owner in ONLY.get(package, owner).split()
        if not fine:
            found.append(name)
    return found


SOURCES = [path for folder in ("retmask", "app", "analyses") for path in sorted((ROOT / folder).rglob("*.py"))]
SOURCES.remove(ROOT / "retmask" / "__init__.py")  # its one import of model is lazy


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    owner = path.stem if folder == "retmask" else folder
    assert violations(owner, path.read_text(encoding="utf-8")) == []


BROKEN = [
    ("heads", "import streamlit as st"),
    ("heads", "from retmask.model import load"),
    ("heads", "from retmask import model"),
    ("heads", "from retmask import load"),
    ("heads", "import retmask"),
    ("heads", "from . import files"),
    ("heads", "def lazily():\n    import torch"),
    ("heads", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch"),
    ("charts", "from retmask.retrieval import Trial"),
    ("pairs", "import transformer_lens"),
    ("model", "from trl import DPOTrainer"),
    ("jobs", "from retmask.cli import main"),
    ("runs", "import app.state"),
    ("app", "import torch.nn.functional as F"),
    ("app", "from retmask import cli"),
    ("analyses", "from app import state"),
]
KEPT = [
    ("scores", "import numpy as np\nfrom retmask.files import write_atomic"),
    ("needle", "if TYPE_CHECKING:\n    from retmask.model import LensModel"),
    ("cli", "from retmask import __version__, jobs"),
    ("app", "import retmask, streamlit\nfrom app import state\nfrom retmask.heads import HeadMask"),
]


@pytest.mark.parametrize(("owner", "source"), BROKEN)
def test_a_broken_rule_is_found(owner: str, source: str) -> None:
    assert violations(owner, source)


@pytest.mark.parametrize(("owner", "source"), KEPT)
def test_a_kept_rule_is_not(owner: str, source: str) -> None:
    assert violations(owner, source) == []
