"""What must hold for a layer or model of any framework."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import relprop

from ..uncompiled import evaluated

#: What an author of a model would name; means, scales and reshapes are left out.
NAMED = (
    "dense",
    "convolution",
    "softmax",
    "normaliser",
    "activation",
    "gate",
    "product",
    "maximum",
)
LAYERS = ("dense", "convolution")


def assert_gradient(fn: Callable[..., Any], params: Any, x: Any) -> None:
    """The gradient preset equals `jax.grad` for a score that weighs all outputs differently."""

    def score(params: Any, x: Any) -> Any:
        out = fn(params, x)
        return (jax.random.normal(jax.random.key(7), out.shape, out.dtype) * out).sum()

    explain = relprop.relevance(score, relprop.presets.gradient(), argnums=1)
    gradient = jax.grad(score, argnums=1)
    R, expected = evaluated(lambda *args: (explain(*args), gradient(*args)), (params, x))
    expected = np.asarray(expected)
    assert np.abs(expected).max() > 1e-3  # A gradient of zero would prove nothing.
    np.testing.assert_allclose(R, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def assert_structure(
    fn: Callable[..., Any], params: Any, x: Any, counts: dict[str, int], paths: Sequence[str]
) -> None:
    """Structures are found as often as the author would say, and weights have their names."""
    plan = relprop.inspect(fn, relprop.presets.attn_lrp(), argnums=1)(params, x)
    found = collections.Counter(op.structure for op in plan if op.structure in NAMED)
    assert dict(found) == counts
    assert [op.path for op in plan if op.structure in LAYERS] == list(paths)


def assert_same_relevance(f: Callable[..., Any], g: Callable[..., Any], x: Any) -> None:
    """Two ways to write one function have the same relevance, the first of them under vmap.

    The rule looks at weights and inputs, and the second example has other signs.
    """
    rules = relprop.Composite().at(structure=LAYERS).use(relprop.rules.Gamma(0.25))
    explain = [relprop.value_and_relevance(lambda x, h=h: h(x).sum(), rules) for h in (f, g)]
    batch = jnp.stack([x, -x])
    (values, found), (value, expected) = evaluated(
        lambda batch: (jax.vmap(explain[0])(batch), explain[1](batch[0])), (batch,)
    )
    scale = np.abs(expected).max()
    assert scale > 1e-3
    np.testing.assert_allclose(values[0], value, rtol=1e-4)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5 * scale)
    assert np.abs(found[1] - found[0]).max() > 1e-3 * scale


def broadcasting() -> contextlib.AbstractContextManager[Any]:
    """For libraries that add biases of another rank."""
    return jax.numpy_rank_promotion("allow")
