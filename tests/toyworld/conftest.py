"""A model of the toy world without any skill, for tests that need none."""

import pytest


@pytest.fixture(scope="session")
def untrained(base):
    """A tiny model with random weights, and the toy world's processor."""
    from repic_core.models.loading import load_model

    return load_model(base)
