"""The arrays of the reference implementation, and how near to them is near enough."""

from __future__ import annotations

import functools
import json
import pathlib

import numpy as np

DATA = pathlib.Path(__file__).parents[1] / "data"


@functools.cache
def load(name):
    return dict(np.load(DATA / f"{name}.npz"))


def text(name, key):
    return json.loads(str(load(name)[key]))


def error(found, expected):
    """The largest difference, relative to the largest expected number."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"{found.shape} instead of {expected.shape}"
    if np.isnan(expected).any():
        assert np.array_equal(np.isnan(found), np.isnan(expected))
        return 0.0
    return np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)


def tolerance(single, double):
    """Ten times what the reference itself is off in single precision, and 1e-5 at best."""
    return max(10 * error(single, double), 1e-5)
