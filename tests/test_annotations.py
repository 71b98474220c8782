"""Annotations of relprop are checked while tests run: what it accepts, not what it refuses."""

from __future__ import annotations

import os

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import relprop
from relprop.chefer import functional
from relprop.propagators import general
from relprop.rules import signs


def test_what_is_accepted_must_be_annotated():
    assert functional.along(jnp.ones(3), 0, np.int64(2)).shape == (3, 1)
    for wrong in (jnp.arange(3), jnp.ones((3, 1)), np.ones(3, np.float32)):
        with pytest.raises(jaxtyping.TypeCheckError, match="along"):
            functional.along(wrong, 0, wrong.ndim + 1)


def test_shapes_must_fit_those_of_the_result():
    with pytest.raises(jaxtyping.TypeCheckError, match="batch_norm|product|linear"):
        functional.linear(jnp.ones((2, 3)), jnp.ones((4, 3)), jnp.ones(1))


def test_what_is_refused_needs_no_annotation():
    with pytest.raises(ValueError, match="none"):
        relprop.presets.lstm("none")


def test_only_functions_of_graphs_are_left_out():
    """See `leave_out_graphs`: what has arrays in its annotations is checked, and constructors."""
    unchecked = "__no_type_check__"
    assert hasattr(general.is_elementwise, unchecked) is not checks_all()
    assert not hasattr(signs.number_of_terms, unchecked)
    assert not hasattr(relprop.rules.ZBox.__init__, unchecked)


def checks_all():
    return os.environ.get("RELPROP_CHECK") == "all"
