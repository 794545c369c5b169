"""Which checkpoint a training goes on from."""

import json
from pathlib import Path

from retmask.train.checkpoints import newest


def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    for step, sizes in ((2, {"a": 3}), (4, {"a": 4})):
        path = tmp_path / f"checkpoint-{step}"
        path.mkdir()
        (path / "a").write_text("abc")
        (path / "complete.json").write_text(json.dumps({"step": step, "sizes": sizes}))
    (tmp_path / "checkpoint-6").mkdir()
    assert newest(tmp_path) == tmp_path / "checkpoint-2"
    assert newest(tmp_path / "none") is None
