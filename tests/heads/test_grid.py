"""Heads, the grid and masks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retmask.heads.grid import Grid, HeadId, heads_words, share_count
from retmask.heads.masks import HeadMask


def test_head_names() -> None:
    assert str(HeadId(15, 30)) == "L15H30"
    assert HeadId(15, 30).key == "15-30"
    assert HeadId.parse(" l15h30 ") == HeadId.parse("15-30") == HeadId(15, 30)
    for wrong in ("", "L1", "15", "L1H2x", "-1-2", "L1-2"):
        with pytest.raises(ValueError, match="is not a head"):
            HeadId.parse(wrong)


def test_kv_groups() -> None:
    """9 heads on 3 KV heads: three by three; unknown where the KV heads are."""
    grid = Grid(2, 9, 3)
    assert [grid.kv_group(HeadId(0, head)) for head in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert Grid(2, 9).kv_group(HeadId(0, 3)) is None


@pytest.mark.parametrize(
    ("n", "share", "k"), [(270, 0.05, 14), (72, 0.05, 4), (1024, 0.05, 51), (3, 0.05, 1), (4, 1, 4)]
)
def test_share_count(n: int, share: float, k: int) -> None:
    assert share_count(n, share) == k


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_impossible_shares(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        share_count(10, share)


def test_masks() -> None:
    grid = Grid(3, 4)
    mask = HeadMask.parse("L1H2, 0-3;1-2", grid)
    assert mask.heads == (HeadId(0, 3), HeadId(1, 2))
    assert str(mask) == "L0H3,L1H2"
    assert mask.array(grid).sum() == 10
    assert HeadMask().array(grid).all()
    with pytest.raises(ValueError, match="head L3H0 is outside this model's 3 x 4 grid"):
        HeadMask.parse("L3H0", grid)
    with pytest.raises(ValueError, match="outside 0 to 2"):
        HeadMask.of([HeadId(0, 0)], 2.5)


@given(st.integers(0, 20), st.integers(0, 99))
def test_random_masks(k: int, seed: int) -> None:
    """As many as asked, none left out, the same again for the same seed."""
    grid, best = Grid(6, 5), [HeadId(2, 2), HeadId(4, 0)]
    mask = HeadMask.random(grid, k, seed, excluding=best)
    assert len(mask) == k
    assert not set(best) & set(mask.heads)
    assert mask == HeadMask.random(grid, k, seed, excluding=best)


def test_layer_matched_random_mask() -> None:
    best = [HeadId(2, 2), HeadId(2, 4), HeadId(5, 0)]
    mask = HeadMask.random(Grid(6, 5), 3, 7, excluding=best, layer_matched=best)
    assert [head.layer for head in mask.heads] == [2, 2, 5]
    with pytest.raises(ValueError, match="31 random heads asked for, 30 are left"):
        HeadMask.random(Grid(6, 5), 31, 0)


def test_heads_in_words() -> None:
    assert [heads_words(n) for n in (0, 1, 2)] == ["0 heads", "1 head", "2 heads"]
    assert (heads_words(1, "random"), heads_words(1400, "best")) == ("1 random head", "1,400 best heads")
