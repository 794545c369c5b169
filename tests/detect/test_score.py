"""The score of a head, on cases that can be checked in the head."""

import numpy as np
import pytest

from retmask.detect.score import retrieval_score
from retmask.text.needle import NeedlePrompt

# positions:            0   1   2   3   4   5
PROMPT = NeedlePrompt((10, 11, 12, 13, 11, 14), (1, 4), "answer", "plain", 0.5)


def one_head(*positions: int) -> np.ndarray:
    return np.array(positions)[:, None, None]


@pytest.mark.parametrize(
    ("attended", "generated", "by_set", "by_steps"),
    [
        ((1, 2, 3), (11, 12, 13), 1, 1),  # all of the needle
        ((1, 1, 1), (11, 11, 11), 1 / 3, 1),  # one position three times
        ((1, 2, 3), (12, 13, 11), 0, 0),  # looks there, writes something else
        ((4, 4, 4), (11, 11, 11), 0, 0),  # the same token outside the needle
        ((1, 2, 0), (11, 12, 10), 2 / 3, 2 / 3),  # position 0 is copied, but no needle
        ((6, 7, 2), (11, 12, 12), 1 / 3, 1 / 3),  # 6 and 7 are the answer itself
        ((1, 1, 1, 2), (11, 11, 11, 12), 2 / 3, 4 / 3),  # steps may pass 1
        ((), (), 0, 0),
    ],
)
def test_score(attended: tuple[int, ...], generated: tuple[int, ...], by_set: float, by_steps: float) -> None:
    positions = one_head(*attended) if attended else np.zeros((0, 1, 1), dtype=int)
    assert retrieval_score(positions, generated, PROMPT)[0, 0] == pytest.approx(by_set)
    assert retrieval_score(positions, generated, PROMPT, "steps")[0, 0] == pytest.approx(by_steps)


def test_heads_are_scored_apart() -> None:
    attended = np.zeros((3, 2, 2), dtype=int)
    attended[:, 1, 0] = (1, 2, 3)
    scores = retrieval_score(attended, (11, 12, 13), PROMPT)
    np.testing.assert_array_equal(scores, [[0, 0], [1, 0]])
