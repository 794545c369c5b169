"""The axes that signatures state are checked while tests run, in every process that runs some."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from retmask.detect.score import copies
from retmask.heads.detectors import query_focus
from retmask.model.decoding import choose
from retmask.model.parity import differ

LOGITS = torch.linspace(0, 1, 24).reshape(1, 4, 6)


def test_an_array_of_other_axes_is_refused() -> None:
    """Transposed, with an axis too many, of another type, and of another length than the array beside it."""
    assert differ(LOGITS, LOGITS, torch.float32) == ""
    with pytest.raises(TypeCheckError, match="parameter 'logits'"):
        differ(LOGITS.transpose(0, 1), LOGITS, torch.float32)
    with pytest.raises(TypeCheckError, match="parameter 'logits'"):
        choose(LOGITS, [None])
    attended, attention = np.zeros((2, 3, 4), dtype=int), np.ones((3, 4, 5, 2))
    assert copies(attended, [7, 7], [7], (0, 1)).all()
    with pytest.raises(TypeCheckError, match="parameter 'attended'"):
        copies(attended.astype(float), [7, 7], [7], (0, 1))
    assert query_focus(attention, 0 * attention).shape == (3, 4)
    with pytest.raises(TypeCheckError, match="parameters of"):
        query_focus(attention, 0 * attention.swapaxes(0, 1))
