"""Complex numbers: the value of the real block form, or a refusal that says so."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import presets, rules
from relprop.rules import Epsilon, Gradient, Norm, Zero

RANDOM = np.random.default_rng(0)
A, B = RANDOM.normal(size=(2, 4, 3))
C, D, U, V = RANDOM.normal(size=(4, 3))
X, Y = RANDOM.normal(size=(2, 4))


def as_complex(x, y, biased):
    z = lax.complex(x, y) @ lax.complex(A, B)
    z = z + lax.complex(C, D) if biased else z
    return jnp.real(z) @ U + jnp.imag(z) @ V


def as_blocks(x, y, biased):
    z = jnp.concatenate([x, y]) @ np.block([[A, B], [-B, A]])
    z = z + np.concatenate([C, D]) if biased else z
    return z[:3] @ U + z[3:] @ V


def first_layer(rule):
    return relprop.Composite().at(structure="dense", position=0).use(rule)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    "rule",
    [Zero(), Epsilon(0.1), Epsilon(0.5, "ignore"), Epsilon(rules.Stabilizer(0.1, clip=True))],
    ids=repr,
)
def test_a_complex_layer_is_its_real_block_form(rule, biased, x64):
    x, y = jnp.asarray(X), jnp.asarray(Y)
    ours, theirs = (
        relprop.ledger(lambda x, y, f=f: f(x, y, biased), first_layer(rule), (0, 1))(x, y)
        for f in (as_complex, as_blocks)
    )
    np.testing.assert_allclose(ours.relevance, theirs.relevance, rtol=1e-9, atol=1e-12)
    for name in ("left", "bias", "epsilon", "stopped"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-9)
    assert abs(ours.gap) < 1e-9


def spectral(x):
    """A layer of a Fourier neural operator."""
    weight = lax.complex(jnp.asarray(A[:3], x.dtype), jnp.asarray(B[:3], x.dtype))
    return jnp.fft.irfft(jnp.fft.rfft(x) @ weight) @ jnp.asarray(X, x.dtype)


@pytest.mark.parametrize(
    "rule",
    [Zero(), Epsilon(1e-3), Norm(), Gradient(), presets.attn_lrp(), presets.epsilon_plus()],
    ids=lambda rule: getattr(rule, "name", None) or repr(rule),
)
def test_the_ledger_of_a_model_with_a_fourier_transform(rule, x64):
    book = relprop.ledger(spectral, rule)(jnp.asarray(X))
    assert book.relevance.dtype == jnp.float64
    for row in book:
        assert isinstance(row.arrived, float) and isinstance(row.gap, float)
    if rule != Gradient():
        assert abs(book.gap) < 1e-9
        np.testing.assert_allclose(book.left + book.epsilon, book.score, rtol=1e-9)
    np.testing.assert_allclose(jax.jit(relprop.relevance(spectral, rule))(X), book.relevance)


@pytest.mark.parametrize(
    "rule",
    [
        rules.Gamma(), rules.ZPlus(), rules.AlphaBeta(), rules.WSquare(), rules.Flat(),
        rules.ZBox(-3.0, 3.0), rules.Reweighted(), rules.Linearised(), presets.chefer(),
    ],
    ids=lambda rule: getattr(rule, "name", None) or type(rule).__name__,
)  # fmt: skip
@pytest.mark.parametrize("transform", [relprop.relevance, relprop.ledger, relprop.inspect])
def test_rules_that_look_at_signs_are_refused(rule, transform):
    with pytest.raises(relprop.RuleError, match="complex") as caught:
        transform(spectral, rule)(jnp.asarray(X, jnp.float32))
    assert "real and imaginary parts" in str(caught.value) and "`Zero`" in str(caught.value)
    assert "test_complex_numbers.py" in str(caught.value)
