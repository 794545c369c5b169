"""Agreement of maps: cases worked by hand, recounting of real trials, and what samples of trials can say."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trials import a_trial

from retmask.families.agreement import Agreement, agreement, set_agreement, split_half
from retmask.files import shipped
from retmask.heads.grid import Grid, HeadId
from retmask.heads.scores import HeadScores
from retmask.heads.sets import ScoreSet
from retmask.heads.trials import By, Trial, read_trials, recounted, slices

GRID = Grid(2, 2)
H = HeadId


def scores(*trials: list[list[float]], kv: int | None = None) -> HeadScores:
    return HeadScores("m", np.array(trials, dtype=float), "set", kv)


def listed(*heads: HeadId) -> ScoreSet:
    values = np.zeros((1, max(head.layer for head in heads) + 1, max(head.head for head in heads) + 1))
    for place, head in enumerate(heads):
        values[(0, *head)] = (len(heads) - place) / len(heads)
    return ScoreSet("list", HeadScores("m", values, "ranking"), grid_known=False)


def trial(copied: dict[HeadId, tuple[tuple[int, int], ...]], **changes: object) -> Trial:
    scores = {head: len({position for _, position in pairs}) / 4 for head, pairs in copied.items()}
    return a_trial(**({"needle": "n", "needle_span": (10, 14), "scores": scores, "copied": copied} | changes))


def test_by_hand() -> None:
    """Tops {L0H0, L0H1} and {L0H0, L1H1}: one of three in common. Ranks 4 3 2 1 and 4 1 2 3: rho = 1 - 6*8/60."""
    found = agreement(scores([[0.9, 0.6], [0.3, 0.1]]), scores([[0.8, 0.1], [0.2, 0.7]]), 2)
    assert found == Agreement(pytest.approx(0.2), pytest.approx(1 / 3), 0.5, 2, 4)  # type: ignore[arg-type]
    assert agreement(scores([[0.9, 0.6], [0.3, 0.1]]), scores([[0.8, 0.1], [0.2, 0.7]])).k == 1


def test_a_head_without_a_score_is_in_no_top() -> None:
    """Both tops of three would hold heads that never copied, and agree on them."""
    one, other = scores([[0.9, 0.0], [0.0, 0.2]]), scores([[0.0, 0.0], [0.7, 0.0]])
    found = agreement(one, other, 3)
    assert (found.k, found.jaccard, found.overlap) == (1, 0, 0)
    nothing = agreement(one, scores([[0, 0], [0, 0]]), 3)
    assert nothing == Agreement(None, 0, 0, 0, 4)


def test_heads_that_tie_share_the_places_left() -> None:
    """Of two places L0H0 has one, three tied heads a third each: 1/3 + 1/3 in common with {L0H1, L1H1}."""
    tied, clear = scores([[0.9, 0.5], [0.5, 0.5]]), scores([[0.1, 0.8], [0.2, 0.7]])
    found = agreement(tied, clear, 2)
    assert found[1:] == pytest.approx(((2 / 3) / (4 - 2 / 3), 1 / 3, 2, 4))
    assert agreement(clear, tied, 2) == pytest.approx(found)
    assert agreement(tied, clear, 1).overlap == 0, "no tie at that cut"
    assert agreement(tied, tied, 2).overlap == pytest.approx((1 + 3 / 9) / 2)
    sums = scores([[0.3, 0.1]], [[0.0, 0.1]], [[0.0, 0.1]])  # both 0.1, but for what summing leaves
    assert agreement(sums, scores([[1, 0]]), 1).overlap == pytest.approx(0.5)


def test_many_ties_agree_by_chance() -> None:
    """As of gates of which 56 of 256 are exactly 1: where a head stands says nothing."""
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        gates = rng.random((2, 1, 32, 8)) * 0.9
        for one in gates.reshape(2, -1):
            one[rng.choice(256, 56, replace=False)] = 1
        found.append(agreement(*(HeadScores("m", one, "gates") for one in gates)))
    k = found[0].k
    assert k == 13
    assert np.mean([one.overlap for one in found]) == pytest.approx(k / 256, abs=0.005)
    assert np.mean([one.jaccard for one in found]) == pytest.approx(k / (512 - k), abs=0.003)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_without_ties_the_tops_are_those_of_the_map(seed: int, k: int) -> None:
    one, other = (HeadScores("m", np.random.default_rng(seed + i).random((2, 3, 4))) for i in range(2))
    tops = set(one.top(k)), set(other.top(k))
    shared = len(tops[0] & tops[1])
    assert agreement(one, other, k)[1:3] == pytest.approx((shared / len(tops[0] | tops[1]), shared / k))


def test_refusals() -> None:
    one = scores([[0.9, 0.0], [0.0, 0.2]])
    with pytest.raises(ValueError, match="for 1 x 2 heads and m has 2 x 2"):
        agreement(one, scores([[1, 0]]))
    for k in (0, -1, 5):
        with pytest.raises(ValueError, match=f"the best {k} of 4 heads cannot be compared"):
            agreement(one, one, k)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_symmetric_and_full_with_itself(seed: int, k: int) -> None:
    one, other = (HeadScores("m", np.random.default_rng(seed + i).random((2, 3, 4))) for i in range(2))
    assert agreement(one, other, k) == pytest.approx(agreement(other, one, k))
    assert agreement(one, one, k) == pytest.approx((1, 1, 1, k, 12))


def test_gates_are_compared_with_gates_alone() -> None:
    """A gate stands for a group of query heads, so no head of one set is a head of the other."""
    query = ScoreSet("q", scores([[0.9, 0.1, 0.2, 0.0], [0.0, 0.0, 0.3, 0.5]], kv=2))
    gates = ScoreSet("g", HeadScores("m", np.array([[[1.0, 0.1], [0.05, 0.8]]]), "gates"), level="kv")
    for pair in ((query, gates), (gates, query), (listed(H(0, 1), H(1, 2)), gates)):
        with pytest.raises(ValueError, match="not compared head by head"):
            set_agreement(*pair)
    other = replace(gates, scores=HeadScores("m", np.array([[[0.9, 0.1], [0.7, 0.2]]]), "gates"))
    assert set_agreement(gates, other, 2) == Agreement(pytest.approx(0.4), pytest.approx(1 / 3), 0.5, 2, 4)  # type: ignore[arg-type]
    deeper = ScoreSet("g", HeadScores("m", np.ones((1, 3, 2)), "gates"), level="kv")
    with pytest.raises(ValueError, match="for 3 x 2 heads and m has 2 x 2"):
        set_agreement(gates, deeper)


def test_a_list_meets_scores() -> None:
    """The list ends before the grid does; its order is all that counts."""
    full = ScoreSet("q", scores([[0.9, 0.1, 0.2], [0.0, 0.8, 0.3]]))
    heads = listed(H(0, 0), H(1, 0))
    found = set_agreement(heads, full, 5)
    assert found == Agreement(None, pytest.approx(1 / 3), 0.5, 2, 6)  # type: ignore[arg-type]
    assert set_agreement(full, heads, 5) == found
    with pytest.raises(ValueError, match="does not fit"):
        set_agreement(listed(H(2, 0)), full)


def test_a_list_meets_a_list() -> None:
    found = set_agreement(listed(H(0, 5), H(3, 1), H(1, 1)), listed(H(3, 1), H(4, 0)), 3)
    assert found == Agreement(None, pytest.approx(1 / 3), 0.5, 2, None)  # type: ignore[arg-type]
    assert set_agreement(listed(H(0, 5), H(3, 1), H(1, 1)), listed(H(3, 1), H(4, 0))) == found, "the shorter's length"


def test_counting_by_hand() -> None:
    """Position 11 is copied at two steps: 2 of 4 tokens, 3 steps of 4, active."""
    copies = {H(0, 1): ((0, 11), (1, 12), (2, 11))}
    trials = [trial(copies), trial({}), trial({H(1, 1): ((0, 10),)}, success=False)]
    for rule, first in (("set", 0.5), ("steps", 0.75), ("activation", 1.0)):
        found = recounted(trials, GRID, "m", rule)  # type: ignore[arg-type]
        assert found is not None
        np.testing.assert_array_equal(found.values, [[[0, first], [0, 0]], np.zeros((2, 2))])
        assert (found.model, found.counting) == ("m", rule)


def test_nothing_to_recount() -> None:
    assert recounted([], GRID, "m", "set") is None
    assert recounted([trial({H(0, 0): ((0, 10),)}, success=False)], GRID, "m", "set") is None
    assert recounted([trial({}, scores={H(0, 0): 0.5})], GRID, "m", "set") is None
    with pytest.raises(ValueError, match="counting 'twice' is unknown"):
        recounted([], GRID, "m", "twice")  # type: ignore[arg-type]


def test_trials_of_heads_that_the_grid_has_not() -> None:
    off = [trial({H(0, 7): ((0, 10),)})]
    with pytest.raises(ValueError, match="head L0H7 is outside this model's 2 x 2 grid"):
        recounted(off, GRID, "m", "set")
    with pytest.raises(ValueError, match="head L0H7 is outside this model's 2 x 2 grid"):
        slices(off, GRID, "m", "set", "depth")


@pytest.mark.parametrize("model", ["smollm2-135m", "gemma-3-270m"])
def test_recounting_by_the_same_rule_gives_the_same_scores(model: str) -> None:
    folder = shipped("maps", model)
    kept, trials = HeadScores.load(folder), read_trials(folder)
    again = {rule: recounted(trials, kept.grid, model, rule) for rule in ("set", "steps", "activation")}  # type: ignore[arg-type]
    assert all(again.values())
    assert kept.counting == "set"
    np.testing.assert_array_equal(np.round(again["set"].values, 6), kept.values)  # type: ignore[union-attr]
    np.testing.assert_array_equal(again["activation"].mean, kept.activation)  # type: ignore[union-attr]
    assert (again["steps"].values >= again["set"].values).all()  # type: ignore[union-attr]
    assert again["steps"].values.max() > 1  # type: ignore[union-attr]


def test_slices_by_hand() -> None:
    one, two = {H(0, 0): ((0, 10),)}, {H(1, 1): ((0, 10), (1, 11))}
    trials = [
        trial(one, needle="b", context_tokens=1024, depth=1.0),
        trial(two, needle="a", context_tokens=512, depth=0.0),
        trial(one, needle="a", context_tokens=512, depth=0.25),
        trial(one, needle="a", context_tokens=256, depth=0.25, success=False),
    ]
    assert {name: found.n_trials for name, found in slices(trials, GRID, "m", "set", "needle").items()} == {
        "b": 1,
        "a": 2,
    }
    lengths = slices(trials, GRID, "m", "set", "length")
    assert list(lengths) == [512, 1024], "256 tokens had no success"
    np.testing.assert_array_equal(lengths[512].mean, [[0.125, 0], [0, 0.25]])
    assert list(slices(trials, GRID, "m", "set", "depth")) == [0.0, 0.25, 1.0]
    with pytest.raises(ValueError, match="cannot be parted by 'answer'"):
        slices(trials, GRID, "m", "set", "answer")  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["needle", "length", "depth"])
def test_slices_part_the_trials(by: By) -> None:
    folder = shipped("maps", "smollm2-135m")
    kept = HeadScores.load(folder)
    parts = slices(read_trials(folder), kept.grid, kept.model, kept.counting, by)
    weighted = sum(part.mean * part.n_trials for part in parts.values())
    np.testing.assert_allclose(weighted / kept.n_trials, kept.mean, atol=1e-6)


def test_halves_of_equal_trials_agree() -> None:
    values = np.repeat([[[0.9, 0.5, 0.0], [0.3, 0.0, 0.0]]], 7, axis=0)
    assert split_half(values, 0.5) == (3, 1, 1, 1)


def test_halves_of_opposite_trials_do_not() -> None:
    assert split_half(np.array([[[1.0, 0.0]], [[0.0, 1.0]]]), 0.5) == (1, 0, 0, 0)


def test_heads_without_a_score_do_not_agree() -> None:
    """A trial whose heads all score 0 names no head, not the first ones."""
    values = np.zeros((2, 1, 4))
    values[0] = [0.9, 0.0, 0.0, 0.8]
    assert split_half(values, 0.5) == (1, 0, 0, 0)


def test_a_top_is_as_large_in_every_sample() -> None:
    """Three heads score in all; of each trial only L0H0 and one of the others, so the top of three is never full."""
    values = np.array([[[0.9, 0.5, 0.0, 0.0]], [[0.9, 0.0, 0.5, 0.0]]])
    assert split_half(values, 0.75) == (1, *[pytest.approx(1 / 3)] * 3)  # type: ignore[comparison-overlap]


def test_samples_of_a_size() -> None:
    values = np.random.default_rng(0).random((9, 2, 10))
    assert split_half(values, size=4) == split_half(values)
    assert split_half(values, size=2).n_trials == 2  # type: ignore[union-attr]
    for size in (0, 5):
        with pytest.raises(ValueError, match=f"9 trials have no two samples of {size}: choose 1 to 4"):
            split_half(values, size=size)


def test_too_little_to_split() -> None:
    assert split_half(np.ones((1, 2, 2))) is None
    assert split_half(np.zeros((4, 2, 2))) is None
    with pytest.raises(ValueError, match="a share of 2"):
        split_half(np.ones((4, 2, 2)), 2.0)


def test_noise_halves_agree_as_by_chance() -> None:
    found = [split_half(np.random.default_rng(seed).random((40, 20, 20)), 0.1, draws=50) for seed in range(12)]
    assert np.mean([half.mean for half in found if half]) == pytest.approx(0.1, abs=0.03)
