"""A tiny model and pairs for it, for trainings that are done for real."""

from pathlib import Path

import pytest
from tiny import tiny_folder

from retmask.pairs.pair import Answer, PreferencePair, write_pairs


@pytest.fixture
def folder(tmp_path: Path, fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # losses are the same to the last bit with the same number of threads
    return tiny_folder(tmp_path)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    made = [
        PreferencePair(
            str(i), (("user", f"question {i}?"),), Answer(f"right {i}", 8, "stop"), Answer(f"so wrong {i}", 11, "stop")
        )
        for i in range(12)
    ]
    return write_pairs(tmp_path, made, False, "model")
