"""What holds for every page."""

import subprocess
import sys

import pytest
from page import MAIN

ROOMS = sorted(path.parent.name for path in MAIN.parent.glob("*/page.py"))


@pytest.mark.parametrize("room", [*ROOMS, "shared"])
def test_opening_imports_no_torch(room: str) -> None:
    names = ", ".join(f"app.{room}.{path.stem}" for path in (MAIN.parent / room).glob("*.py"))
    code = f"import sys; import {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=MAIN.parent.parent, check=False).returncode == 0
