"""Which heads copied which token, on cases worked by hand."""

import math

import numpy as np
import pytest

from retmask.compare.trace import Trace, jaccard
from retmask.heads.grid import Grid, HeadId

A, B, C = HeadId(0, 0), HeadId(0, 1), HeadId(1, 0)


TRACE = Trace(4, Grid(2, 2), {A: {0: 5, 1: 6, 3: 2}, B: {0: 5}, C: {1: 9}})


def test_trace_reads_copies_from_the_prompt_only() -> None:
    """Prompt 10 11 12, answer 11 12 11: a head copies where it looks at the same token, not at the answer itself."""
    attended = np.zeros((3, 1, 2), dtype=int)
    attended[:, 0, 0] = [1, 2, 3]  # 11 and 12; then position 3, the answer's own 11
    attended[:, 0, 1] = [0, 2, 1]  # 10, which is not said; 12; 11
    trace = Trace.read(attended, [11, 12, 11], [10, 11, 12])
    assert trace.copied == {HeadId(0, 0): {0: 1, 1: 2}, HeadId(0, 1): {1: 2, 2: 1}}
    assert trace.n_steps == 3
    assert trace.grid == Grid(1, 2)


def test_trace_by_step() -> None:
    assert TRACE.heads_at(0) == {A, B}
    assert TRACE.heads_at(2) == frozenset()
    assert TRACE.sources(0) == {5: (A, B)}
    assert TRACE.sources(1) == {6: (A,), 9: (C,)}


def test_measures_by_hand() -> None:
    """H = {A,B}, {A,C}, {}, {A}; against {A}: 1/2, 1/2, -, 1; neighbours: 1/3, 0, 0; copies 3, 1, 1 of 5."""
    assert TRACE.overlap([A]) == pytest.approx(2 / 3)
    assert TRACE.persistence() == pytest.approx(1 / 9)
    assert TRACE.entropy() == pytest.approx(-(0.6 * math.log(0.6) + 0.4 * math.log(0.2)))
    assert Trace(2, Grid(2, 2), {A: {0: 1, 1: 1}}).entropy() == 0
    empty = Trace(3, Grid(2, 2), {})
    assert (empty.overlap([A]), empty.persistence(), empty.entropy()) == (None, None, None)
    assert jaccard(frozenset(), frozenset()) == 1
