"""What the tests of models share."""

import pytest
from tiny import CONFIGS, tiny_model

from retmask.model.lens import LensModel


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> LensModel:
    """A tiny model of every family that differs for us."""
    return tiny_model(request.param)
