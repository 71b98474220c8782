"""Loops over keys that keep their sums in range, as flash attention does, are softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import presets
from relprop.rules import Epsilon

pytestmark = pytest.mark.usefixtures("by_numpy")
T, D, N = 6, 4, 2
KEYS = jax.random.split(jax.random.key(3), 6)
X = jax.random.normal(KEYS[0], (T, D))
Q, K, V, O = (jax.random.normal(key, (D, D)) / 2 for key in KEYS[1:5])  # noqa: E741
MASK = jnp.tril(jnp.ones((T, T), bool))


def plain(q, k, v, mask=None):
    z = q @ k.T
    return jax.nn.softmax(z if mask is None else jnp.where(mask, z, -jnp.inf)) @ v


def step(q, carry, k, v, mask=True, exp=jnp.exp):
    m, total, out = carry
    z = jnp.where(mask, q @ k.T, -jnp.inf)
    new = jnp.maximum(m, z.max(-1))
    scale, p = exp(m - new), exp(z - new[:, None])
    return new, scale * total + p.sum(-1), scale[:, None] * out + p @ v


def start(q, v):
    return jnp.full(q.shape[0], -1e30), jnp.zeros(q.shape[0]), jnp.zeros((q.shape[0], v.shape[1]))


def by_scan(q, k, v, chunk=N, **how):
    chunks = k.reshape(-1, chunk, D), v.reshape(-1, chunk, D)
    _, total, out = lax.scan(
        lambda carry, kv: (step(q, carry, *kv, **how), None), start(q, v), chunks
    )[0]
    return out / total[:, None]


def by_loop(q, k, v, chunk=N):
    def turn(i, carry):
        part = (lax.dynamic_slice_in_dim(a, i * chunk, chunk) for a in (k, v))
        return step(q, carry, *part)

    _, total, out = lax.fori_loop(0, T // chunk, turn, start(q, v))
    return out / total[:, None]


def by_checkpoint(q, k, v):
    return jax.checkpoint(by_scan)(q, k, v)


def inverse(q, k, v):
    chunks = k.reshape(-1, N, D), v.reshape(-1, N, D)
    m, total, out = lax.scan(lambda c, kv: (step(q, c, *kv), None), start(q, v), chunks)[0]
    return out * jnp.exp(-(m + jnp.log(total)) + m)[:, None]


FORMS = {
    "by key": lambda q, k, v: by_scan(q, k, v, 1),
    "by chunk": by_scan,
    "all at once": lambda q, k, v: by_scan(q, k, v, T),
    "powers of two": lambda q, k, v: by_scan(q * np.log2(np.e), k, v, exp=jnp.exp2),
    "fori_loop": by_loop,
    "checkpoint": by_checkpoint,
    "jit": jax.jit(by_scan),
    "by the logarithm": inverse,
}
RULES = {
    "attn_lrp": presets.attn_lrp(),
    "cp_lrp": presets.cp_lrp(),
    "epsilon": Epsilon(0.1),
    "epsilon_plus": presets.epsilon_plus(),
    "chefer": presets.chefer(),
}


def model(attend):
    return lambda x: jnp.sum(jnp.tanh(x + attend(x @ Q, x @ K, x @ V) @ O)[-1])


def same(f, g, rules, x=X):
    found, expected = (relprop.relevance(h, rules)(x) for h in (f, g))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("form", FORMS)
def test_the_same_as_softmax(form, rules):
    same(model(FORMS[form]), model(plain), RULES[rules])


def test_a_causal_mask():
    def masked(q, k, v):
        chunks = k.reshape(-1, N, D), v.reshape(-1, N, D), MASK.T.reshape(-1, N, T)
        _, total, out = lax.scan(
            lambda c, kvm: (step(q, c, kvm[0], kvm[1], kvm[2].T), None), start(q, v), chunks
        )[0]
        return out / total[:, None]

    same(model(masked), model(lambda q, k, v: plain(q, k, v, MASK)), RULES["attn_lrp"])


def test_heads_by_vmap():
    def heads(attend):
        def f(q, k, v):
            q, k, v = (jnp.stack([a, a[:, ::-1]]) for a in (q, k, v))
            return jax.vmap(attend)(q, k, v).sum(0)

        return f

    same(model(heads(by_scan)), model(heads(plain)), RULES["attn_lrp"])


@pytest.mark.parametrize("compiled", [False, True])
def test_the_logarithm_of_the_sum(compiled):
    """Which reads the shift as well."""

    def lse(z):
        def turn(carry, z):
            m, total = carry
            new = jnp.maximum(m, z)
            return (new, total * jnp.exp(m - new) + jnp.exp(z - new)), None

        m, total = lax.scan(turn, (jnp.full(T, -1e30), jnp.zeros(T)), z.T)[0]
        return m + jnp.log(total)

    def score(of):
        return lambda x: jnp.sum(of(jnp.tanh(x @ Q)) * jnp.arange(1.0, T + 1))

    explain = relprop.relevance(score(lse), RULES["attn_lrp"])
    found = (jax.jit(explain) if compiled else explain)(X)
    expected = relprop.relevance(score(_lse), RULES["attn_lrp"])(X)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def _lse(z):
    return jax.nn.logsumexp(z, -1)


@pytest.mark.usefixtures("by_jax")
def test_values_and_gradient():
    """The forward pass runs the loop as it was written, and a gradient goes through it."""
    f = model(by_scan)
    value, R = relprop.value_and_relevance(f, presets.attn_lrp())(X)
    assert value == f(X)
    assert jnp.isfinite(R).all()
    gradient = relprop.relevance(f, relprop.rules.Gradient())(X)
    np.testing.assert_allclose(gradient, jax.grad(f)(X), rtol=1e-4, atol=1e-5)


def test_backwards_with_a_counter():
    """What is gone over from its end meets the numbers of turns in the other order."""
    weights = jnp.arange(1.0, T // N + 1)

    def weighed(q, k, v):
        chunks = k.reshape(-1, N, D), v.reshape(-1, N, D)

        def turn(carry, kv):
            i, *carry = carry
            return (i + 1, *step(q, carry, kv[0], kv[1] * weights[i])), None

        first = jnp.int32(0), *start(q, v)
        _, _, total, out = lax.scan(turn, first, chunks, reverse=True)[0]
        return out / total[:, None]

    def at_once(q, k, v):
        return plain(q, k, v * jnp.repeat(weights[::-1], N)[:, None])

    np.testing.assert_allclose(model(weighed)(X), model(at_once)(X), rtol=1e-5)
    same(model(weighed), model(at_once), RULES["attn_lrp"])


# It looks like a product with a gate, which is told.
@pytest.mark.filterwarnings("ignore::relprop.SuspicionWarning")
def test_what_reads_the_shift_and_the_turn_is_no_summand():
    """A factor of the shift doesn't cancel, though the number of the turn is in it as well."""

    def f(x):
        z = jnp.tanh(x @ Q)

        def turn(carry, z):
            i, m, total = carry
            new = jnp.maximum(m, z)
            added = jnp.exp(z - new) * jnp.cos(new * (i + 1).astype(x.dtype))
            return (i + 1, new, total * jnp.exp(m - new) + added), None

        carry = jnp.int32(0), jnp.full(T, -1e30), jnp.zeros(T)
        return jnp.sum(lax.scan(turn, carry, z.T)[0][2])

    assert "scan" in [op.structure for op in relprop.inspect(f, Epsilon(0.1))(X)]


def test_an_additive_mask():
    def added(q, k, v):
        return jax.nn.softmax(q @ k.T + jnp.where(MASK, 0.0, -jnp.inf)) @ v

    def of_logarithms(q, k, v):
        z = q @ k.T + jnp.where(MASK, 0.0, -jnp.inf)
        return jnp.exp(z - jax.nn.logsumexp(z, -1, keepdims=True)) @ v

    masked = model(lambda q, k, v: plain(q, k, v, MASK))
    for attend in (added, of_logarithms):
        same(model(attend), masked, RULES["attn_lrp"])


def test_another_decay_is_no_shift():
    """What forgets is a recurrence: nothing cancels, and it stays a loop."""

    def forgetful(q, k, v):
        chunks = k.reshape(-1, N, D), v.reshape(-1, N, D)

        def turn(carry, kv):
            m, total, out = carry
            return step(q, (m, 0.5 * total, 0.5 * out), *kv), None

        _, total, out = lax.scan(turn, start(q, v), chunks)[0]
        return out / total[:, None]

    primitives = [op.structure for op in relprop.inspect(model(forgetful), Epsilon(0.1))(X)]
    assert "scan" in primitives and "softmax" not in primitives
