"""What moved between two maps: paired by trial, worked by hand."""

import numpy as np
import pytest

from retmask.families.difference import difference
from retmask.heads.scores import HeadScores, TrialLabel


def a_map(**trials: tuple[float, float]) -> HeadScores:
    """Scores of two heads by trial; `a1` is a trial of needle a."""
    labels = tuple(TrialLabel(name[0], 512, int(name[1]) / 10) for name in trials)
    return HeadScores("m", np.array([[list(scores)] for scores in trials.values()]), labels=labels)


def test_only_trials_of_both_are_subtracted() -> None:
    """L0H1 scores 0.5 in both wherever both were tried; means of all trials would say that it fell by 0.3."""
    before = a_map(a1=(0.2, 0.5), a2=(0.4, 0.5), b1=(0.1, 0.5), c1=(0.0, 0.5), d1=(0.9, 1.0), d2=(0.9, 1.0))
    after = a_map(c1=(0.3, 0.5), b1=(0.2, 0.5), a2=(0.6, 0.5), a1=(0.2, 0.5), e1=(0.0, 0.0))
    assert before.mean[0, 1] - after.mean[0, 1] == pytest.approx(2 / 3 - 0.4)
    found = difference(before, after)
    assert found.pairs == 4
    np.testing.assert_allclose(found.change, [[(0.0 + 0.2 + 0.1 + 0.3) / 4, 0]])
    assert [label.needle for label in found.after.labels] == ["a", "a", "b", "c"]
    assert found.interval is not None
    np.testing.assert_allclose(found.interval.low, [[0.1, 0]])  # needles a and b alone: 0.1 each
    np.testing.assert_allclose(found.interval.high, [[0.3, 0]])  # needle c alone
    assert (found.interval.n, found.interval.unit) == (3, "needle")
    assert found.holds.tolist() == [[True, False]]


def test_what_goes_both_ways_does_not_hold() -> None:
    before = a_map(a1=(0.5, 0.5), b1=(0.5, 0.5), c1=(0.5, 0.5))
    after = a_map(a1=(0.9, 0.6), b1=(0.9, 0.6), c1=(0.4, 0.6))
    assert difference(before, after).holds.tolist() == [[False, True]]


def test_two_needles_are_too_few() -> None:
    found = difference(a_map(a1=(0.5, 0.5), b1=(0.5, 0.5)), a_map(a1=(0.9, 0.5), b1=(0.9, 0.5)))
    assert (found.pairs, found.interval, found.holds.any()) == (2, None, False)
    assert found.change[0, 0] == pytest.approx(0.4)


def test_trials_that_are_not_known_are_not_paired() -> None:
    one, other = a_map(a1=(0.2, 0.0), b1=(0.4, 0.0), c1=(0.6, 0.0)), a_map(d1=(0.9, 0.0), e1=(0.9, 0.0))
    for after in (other, HeadScores("m", other.values)):
        found = difference(one, after)
        assert (found.pairs, found.interval, found.holds.any(), found.before) == (0, None, False, one)
        assert found.change[0, 0] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="these scores are for 1 x 3 heads"):
        difference(one, HeadScores("m", np.ones((1, 1, 3))))
