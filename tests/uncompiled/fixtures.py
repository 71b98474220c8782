"""Fixtures: explanations without a compiler."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

import relprop
from relprop import _transform

from .evaluation import evaluated, uncompiled

_explaining = _transform._explaining
_attribution = relprop.transformer_attribution


@pytest.fixture(scope="module")
def by_numpy(request: pytest.FixtureRequest) -> Iterator[pytest.MonkeyPatch]:
    """NumPy evaluates what is explained, where no function around it is being traced.

    For modules about numbers. Plans, warnings and errors are those of an explanation by JAX, and
    results are arrays of NumPy.
    """
    with pytest.MonkeyPatch.context() as patch:
        _exchange(patch, request.module)
        yield patch


@pytest.fixture
def by_jax(by_numpy: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """What JAX makes of an explanation, for a test of that in such a module."""
    by_numpy.undo()
    yield
    _exchange(by_numpy, request.module)


def _exchange(patch: pytest.MonkeyPatch, module: Any) -> None:
    patch.setattr(_transform, "_explaining", lambda *run: uncompiled(_explaining(*run)))
    patch.setattr(_transform, "Programs", lambda: lambda f, *args: evaluated(f, args))
    for home in (relprop, relprop.attribution, module):
        if getattr(home, "transformer_attribution", None) is _attribution:
            patch.setattr(home, "transformer_attribution", _attributing)


@functools.wraps(_attribution)
def _attributing(*given: Any, **options: Any) -> Callable[..., Any]:
    explain = _attribution(*given, **options)

    @functools.wraps(explain)
    def tokens_of(*args: Any, **kwargs: Any) -> Any:
        found = evaluated(functools.partial(explain, **kwargs), args)
        # While it is traced, it has NaN in the place of an error.
        computed = [x for x in jax.tree.leaves(found) if isinstance(x, np.ndarray)]
        refused = any(np.isnan(x).any() for x in computed)
        return explain(*args, **kwargs) if refused else found

    return tokens_of
