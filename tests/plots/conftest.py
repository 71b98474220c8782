"""What all plots have in common."""

import sys

import pytest


@pytest.fixture(autouse=True)
def _pyplot_knows_of_nothing():
    """No plot may leave a figure to be closed, or even import pyplot."""
    before = "matplotlib.pyplot" in sys.modules
    yield
    if before:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
    else:
        assert "matplotlib.pyplot" not in sys.modules
