"""Masks by rule, and their random controls."""

from pathlib import Path

import pytest
from tiny import GRID, SCORES

from retmask.heads.grid import Grid, HeadId
from retmask.heads.masks import HeadMask
from retmask.heads.rules import MaskRule, control, retrieval_heads
from retmask.heads.scores import HeadScores
from retmask.runs.settings import record, same, whole


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"top_k": 3}, "a list of 2 heads without scores"),
        ({"share": 0.5}, "take no more of them"),
        ({"threshold": 0.1}, "without scores"),
    ],
)
def test_a_list_of_heads_has_no_more_heads_than_it_names(rule: dict[str, float], says: str, tmp_path: Path) -> None:
    listed = tmp_path / "heads.yaml"
    listed.write_text('attn_head_set: "2-3,0-1"\n')
    assert str(MaskRule(scores=str(listed), top_k=2).build(GRID)) == "L0H1,L2H3"
    assert str(MaskRule(scores=str(listed), top_k=1).build(GRID)) == "L2H3"
    with pytest.raises(ValueError, match=says):
        MaskRule(scores=str(listed), **rule).build(GRID)
    drawn = {str(MaskRule(scores=str(listed), random=10, seed=seed).build(GRID)) for seed in range(5)}
    assert len(drawn) == 1, "all but the two that are listed"
    assert "L2H3" not in drawn.pop()


def test_gates_mask_whole_groups(tmp_path: Path) -> None:
    gates = tmp_path / "gates.tsv"
    gates.write_text("0.1\t0.9\n0.2\t0\n0\t0\n")
    assert str(MaskRule(scores=str(gates), top_k=2).build(Grid(3, 4, 2))) == "L0H2,L0H3"
    with pytest.raises(ValueError, match="3 x 2 key/value heads and the model 3 x 4"):
        MaskRule(scores=str(gates), top_k=2).build(GRID)


@pytest.mark.parametrize(
    ("rule", "mask"),
    [
        ({"heads": "L0H1,2-3:0.5"}, "L0H1,L2H3:0.5"),
        ({"heads": "L0H1,2-3:0.5", "scale": 2.0}, "L0H1:2,L2H3:2"),
        ({"top_k": 2}, "L0H1,L2H3"),
        ({"threshold": 0.2}, "L0H1,L1H0,L2H3"),
        ({"share": 0.1}, "L0H1"),
    ],
)
def test_rules(rule: dict[str, float], mask: str, score_file: str) -> None:
    assert str(MaskRule(scores=score_file, **rule).build(GRID)) == mask


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({}, "say in one way which heads to mask: --mask FILE"),
        ({"heads": "L0H1", "top_k": 3}, "not with --heads and --top-k"),
        ({"top_k": 3}, r"give it with --scores \(of a built-in model: --scores smollm2-135m\)"),
        ({"mask": "nothing"}, "there is no mask nothing"),
        ({"mask": "../x"}, "is not a mask name"),
        ({"random": 13}, "13 random heads asked for, 12 are left"),
        ({"random": -1}, "cannot be negative"),
        ({"random": 1, "seed": -1}, "cannot be negative"),
        ({"mask": "~nobody-has-this-name/x"}, "write the whole path"),
        ({"heads": "L0H1", "scale": 3.0}, "outside 0 to 2"),
    ],
)
def test_wrong_rules(rule: dict[str, float], says: str, fresh_home: Path) -> None:
    with pytest.raises(ValueError, match=says):
        MaskRule(**rule).build(GRID)


def test_scores_of_another_model_are_refused(score_file: str) -> None:
    with pytest.raises(ValueError, match="3 x 4 heads and this model has 5 x 5"):
        MaskRule(scores=score_file, top_k=1).build(Grid(5, 5))


def test_random_heads_are_none_that_retrieve(score_file: str) -> None:
    drawn = MaskRule(random=9, seed=3, scores=score_file).build(GRID)
    assert not {HeadId(0, 1), HeadId(1, 0), HeadId(2, 3)} & set(drawn.heads)
    assert control(HeadMask.parse("L0H1,L1H0", GRID), GRID, 1, SCORES) != control(
        HeadMask.parse("L0H1,L1H0", GRID), GRID, 2, SCORES
    )
    for seed in range(20):
        heads = control(HeadMask.parse("L0H0,L1H1", GRID), GRID, seed, SCORES).heads
        assert not {HeadId(0, 0), HeadId(1, 1), HeadId(0, 1), HeadId(1, 0), HeadId(2, 3)} & set(heads)


def test_what_a_map_calls_retrieval_heads() -> None:
    """0.1 where copies are counted; in other units, or where nothing reaches that, the best 5 %; or as one says."""
    copies, mass = SCORES, HeadScores("tiny", SCORES.values / 100, "attention")
    signed = HeadScores("tiny", SCORES.values - 1, "query")
    assert retrieval_heads(copies) == (HeadId(0, 1), HeadId(2, 3), HeadId(1, 0))
    assert retrieval_heads(mass) == retrieval_heads(signed) == (HeadId(0, 1),)
    assert retrieval_heads(HeadScores("tiny", SCORES.values / 100, "set")) == (HeadId(0, 1),)
    assert retrieval_heads(copies, "0.05") == (HeadId(0, 1), HeadId(2, 3), HeadId(1, 0), HeadId(1, 2))
    assert retrieval_heads(mass, "17%") == (HeadId(0, 1), HeadId(2, 3))
    assert retrieval_heads(copies, "0%") == ()
    for wrong in ("x", "-1", "101%", "nan", "inf", "%"):
        with pytest.raises(ValueError, match="excludes no heads: write the least mean score"):
            retrieval_heads(copies, wrong)


@pytest.mark.parametrize("counting", ["attention", "query", "causal"])
def test_a_control_draws_no_retrieval_head_of_a_score_in_other_units(counting: str) -> None:
    """All of these means are below 0.1, and the best head of twelve is the best 5 %."""
    scores = HeadScores("tiny", SCORES.values / 100, counting)
    mask = HeadMask.parse("L0H0", GRID)
    drawn = {control(mask, GRID, seed, scores).heads[0] for seed in range(200)}
    assert drawn == set(GRID.heads()) - {HeadId(0, 0), HeadId(0, 1)}
    drawn = {control(mask, GRID, seed, scores, exclude="0.0005").heads[0] for seed in range(200)}
    assert len(drawn) == 7


def test_a_rule_records_what_its_draw_leaves_out(score_file: str) -> None:
    rule = MaskRule(random=8, seed=1, scores=score_file, exclude="0.05")
    assert rule.excluded(GRID) == (HeadId(0, 1), HeadId(1, 0), HeadId(1, 2), HeadId(2, 3))
    assert set(rule.build(GRID).heads) == set(GRID.heads()) - set(rule.excluded(GRID))
    assert record(rule)["exclude"] == "0.05"
    assert same(MaskRule(random=8), {"random": 8}), "what runs before this setting have"
    with pytest.raises(ValueError, match="--exclude names the best heads of a score file"):
        MaskRule(random=8, exclude="0.05")


def test_layer_matched_controls_have_as_many_of_each_layer() -> None:
    mask = HeadMask.parse("L0H1:0.5,L0H2,L2H3:2", GRID)
    drawn = control(mask, GRID, 0, SCORES, matched=True)
    assert [head.layer for head in drawn.heads] == [0, 0, 2]
    assert [drawn.scales[head] for head in drawn.heads] == [0.5, 0, 2]
    assert not set(drawn.heads) & set(mask.heads)
    for seed in range(20):
        assert not set(control(mask, GRID, seed, SCORES, matched=True).heads) & set(retrieval_heads(SCORES))
    with pytest.raises(ValueError, match=r"mask fewer heads, count fewer as retrieval heads \(--exclude\), draw from"):
        control(mask, GRID, 0, SCORES, matched=True, exclude="0")


def test_a_run_keeps_a_saved_masks_name_and_a_files_whole_path(
    tmp_path: Path, fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `load_mask` reads them: a folder of the mask's name is no mask."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "top5").mkdir()
    (tmp_path / "mine").touch()
    assert whole(MaskRule(mask="top5")) == MaskRule(mask="top5")
    assert whole(MaskRule(mask="mine")) == MaskRule(mask=str(tmp_path / "mine"))
    assert whole(MaskRule(heads="L0H0")) == MaskRule(heads="L0H0")
