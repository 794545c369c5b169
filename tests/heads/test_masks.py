"""Masks as lists, by name and in files."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retmask.heads.grid import Grid, HeadId
from retmask.heads.masks import HeadMask, load_mask, save_mask, saved_masks

GRID = Grid(3, 4)
MASK = HeadMask({HeadId(0, 1): 0.0, HeadId(2, 3): 0.5})


@given(st.dictionaries(st.tuples(st.integers(0, 2), st.integers(0, 3)), st.floats(0, 2)))
def test_a_mask_reads_what_it_prints(scales: dict[tuple[int, int], float]) -> None:
    mask = HeadMask({HeadId(*head): scale for head, scale in scales.items()})
    assert HeadMask.parse(str(mask), GRID) == mask


@pytest.mark.parametrize(
    ("text", "says"), [("L0H1:x", "no scale"), ("L0H1:", "no scale"), ("L0H1:3", "outside 0 to 2"), ("L3H0", "outside")]
)
def test_wrong_lists(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        HeadMask.parse(text, GRID)


def test_first_masked_layer() -> None:
    assert MASK.first_layer == 0
    assert HeadMask({HeadId(0, 1): 1.0, HeadId(2, 3): 0.5}).first_layer == 2
    assert HeadMask.of([HeadId(1, 1)], 1).first_layer is None


def test_masks_are_kept_by_name(fresh_home: Path) -> None:
    assert saved_masks() == []
    path = save_mask("best-two", MASK, GRID, "tiny")
    assert saved_masks() == ["best-two"]
    assert load_mask("best-two", GRID) == load_mask(str(path), GRID) == MASK
    assert json.loads(path.read_text())["grid"] == [3, 4]
    with pytest.raises(ValueError, match="best-two masks a 3 x 4 grid and this model has 5 x 5"):
        load_mask("best-two", Grid(5, 5))
    with pytest.raises(ValueError, match="is not a mask name"):
        save_mask("../elsewhere", MASK, GRID)
    save_mask("best-two", MASK, GRID, "tiny")
    with pytest.raises(ValueError, match="there is another mask named best-two"):
        save_mask("best-two", HeadMask.of([HeadId(0, 0)]), GRID)
    assert load_mask("best-two", GRID) == MASK


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"grid": 3, "scales": {}}',
        '{"grid": [3, 4], "scales": {"x": 0}}',
        "[" * 100_000,
        '{"grid": [3, 4], "scales": {"0-1": null}}',
        '{"grid": [3, 4], "scales": [1]}',
        '{"mask": 3}',
    ],
)
def test_what_is_no_mask_file(content: str, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="is no mask file"):
        load_mask(str(path), GRID)


def test_a_mask_file_cannot_name_heads_off_its_grid(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text('{"grid": [3, 4], "scales": {"9-9": 0}}')
    with pytest.raises(ValueError, match="L9H9 is outside"):
        load_mask(str(path), GRID)
