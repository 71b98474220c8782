"""What is known never to be negative, and what rules of signs save by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import rules
from relprop._core.trace import trace
from relprop._run import Run
from relprop.composites import composite_of
from relprop.recognise.nonnegative import Sign, sign_of, signs_of

N, PLUS, UNKNOWN = Sign.NOT_NEGATIVE, Sign.PLUS, Sign.UNKNOWN


@jax.custom_jvp
def own_relu(x):
    return jnp.maximum(x, 0)


own_relu.defjvp(lambda p, t: (own_relu(p[0]), jnp.where(p[0] > 0, t[0], 0)))


def _pooled(x, padding):
    window = (lax.max, (2, 2), (1, 1), padding)
    return lax.reduce_window(jax.nn.relu(x), -jnp.inf, *window)


def _carried(start, step):
    return lambda x: lax.scan(lambda c, _: (step(c, x), c), start(x), None, length=3)[0]


KNOWN = {
    "relu": (jax.nn.relu, N),
    "own": (own_relu, N),
    "relu6": (jax.nn.relu6, N),
    "negated_before": (lambda x: jax.nn.relu(-x), N),
    "sigmoid": (jax.nn.sigmoid, PLUS),
    "softmax": (jax.nn.softmax, PLUS),
    "square": (lambda x: x * x, PLUS),
    "power": (lambda x: x**4, PLUS),
    "absolute": (jnp.abs, PLUS),
    "sum": (lambda x: jax.nn.relu(x) + jnp.exp(x), PLUS),
    "mean": (lambda x: jax.nn.relu(x).mean(0), N),
    "pool": (lambda x: _pooled(x, "SAME"), N),
    "joined": (lambda x: jnp.concatenate([jax.nn.relu(x).T.reshape(3, 4), jnp.abs(x)]), N),
    "padded": (lambda x: jnp.pad(jax.nn.relu(x), 1), N),
    "chosen": (lambda x: jnp.where(x > 1, jax.nn.relu(x), 0.5), N),
    "replaced": (lambda x: jax.nn.relu(x).at[0].set(2.0), N),
    "added_to": (lambda x: jax.nn.relu(x).at[0].add(jnp.abs(x[1])), N),
    "weighted": (lambda x: jax.nn.softmax(x) @ jax.nn.relu(x).T, N),
    "half": (lambda x: jax.nn.relu(x.astype(jnp.bfloat16)).astype(jnp.float32), N),
    "counted": (lambda x: (x > 0).astype(x.dtype) * jax.nn.relu(x), N),
    "divided": (lambda x: jax.nn.relu(x) / (1 + jnp.exp(x)), N),
    "rooted": (lambda x: jnp.sqrt(x), N),
    "checkpoint": (jax.checkpoint(lambda x: jax.nn.relu(x) * 2), N),
    "branches": (lambda x: lax.cond(x.sum() > 0, jax.nn.relu, jnp.abs, x), N),
    "carried": (_carried(jnp.abs, lambda c, x: c + jax.nn.relu(x)), N),
    "while": (lambda x: lax.while_loop(lambda c: c.sum() < 9, lambda c: c + 1, jnp.abs(x)), N),
}
NOT_KNOWN = {
    "input": lambda x: x + 0,
    "negative": lambda x: -jax.nn.relu(x),
    "difference": lambda x: jax.nn.relu(x) - jnp.abs(x),
    "less": lambda x: jax.nn.relu(x) - 0.1,
    "leaky": jax.nn.leaky_relu,
    "limit_below_zero": lambda x: jnp.maximum(x, -0.1),
    "limited_above": lambda x: jnp.minimum(jax.nn.relu(x), -1.0),
    "clipped": lambda x: jnp.clip(jax.nn.relu(x), -1, 6) * -1,
    "one_case": lambda x: jnp.where(x > 1, jax.nn.relu(x), x),
    "replaced": lambda x: jax.nn.relu(x).at[0].set(-1.0),
    "padded": lambda x: jnp.pad(jax.nn.relu(x), 1, constant_values=-1.0),
    "odd": lambda x: x**3,
    "over_minus_zero": lambda x: 1 / jax.nn.relu(x),
    "over_its_root": lambda x: lax.rsqrt(jax.nn.relu(x)),
    "windows_of_padding": lambda x: _pooled(x, ((2, 2), (0, 0))),
    "of_nothing": lambda x: lax.reduce_max(jax.nn.relu(x[:0]), (0,)),
    "of_a_branch": lambda x: lax.cond(x.sum() > 0, jax.nn.relu, jnp.tanh, x),
    "turns_negative": _carried(jnp.abs, lambda c, x: c - jax.nn.relu(x)),
    "turns_later": _carried(jnp.abs, lambda c, x: c * x),
    "starts_negative": _carried(jnp.tanh, lambda c, x: c + jax.nn.relu(x)),
    "integers": lambda x: (jnp.abs(x).astype(jnp.int32) + 2**30).astype(x.dtype),
    "complex": lambda x: lax.complex(jnp.abs(x), x).real,
    "wrapped": lambda x: lax.convert_element_type(jnp.abs(x).astype(jnp.int8), x.dtype),
}


def _sign(f, x):
    traced = trace(f, [x], (0,))
    (out,) = traced.graph.outputs
    return sign_of(out, signs_of(traced.graph, {}))


def _numbers(shape=(3, 4)):
    x = np.random.default_rng(0).normal(size=shape)
    x.flat[:5] = [0.0, -0.0, np.inf, -np.inf, 1e-40]
    return jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize("name", KNOWN)
def test_known(name):
    f, least = KNOWN[name]
    found = _sign(f, _numbers())
    assert found >= least
    y = np.asarray(f(_numbers()))
    assert not (y < 0).any()
    if found is PLUS:
        assert not np.signbit(y[~np.isnan(y)]).any()


@pytest.mark.parametrize("name", NOT_KNOWN)
def test_not_known(name):
    assert _sign(NOT_KNOWN[name], _numbers()) is UNKNOWN


def test_a_carried_value_is_known_inside_of_its_loop():
    w = jnp.eye(40) - 0.01

    def f(x):
        return lax.scan(lambda c, _: (jax.nn.relu(c @ w), None), jnp.abs(x), None, length=3)[
            0
        ].sum()

    (step,) = (s for s in _steps(f, jnp.ones(40)) if s.structure == "dense")
    assert step.never_negative[0]
    assert step.rectified is True


def test_the_first_value_of_a_loop_counts():
    w = jnp.eye(40) - 0.01

    def f(x):
        return lax.scan(lambda c, _: (jax.nn.relu(c @ w), None), x, None, length=3)[0].sum()

    (step,) = (s for s in _steps(f, jnp.ones(40)) if s.structure == "dense")
    assert not step.never_negative[0]


def _steps(f, x):
    composite = composite_of(rules.Gamma())
    return [*Run.start(f, (x,), 0, composite, "error", has_aux=False).plan.walk()]


RULES = {
    "z+": rules.ZPlus(),
    "z-": rules.AlphaBeta(0.0, -1.0),
    "gamma": rules.Gamma(0.3),
    "ignored": rules.Gamma(0.3, bias="ignore"),
    "alpha2-beta1": rules.AlphaBeta(2.0, 1.0),
}


def _network(width, known, dtype=jnp.float32):
    """Layers whose inputs are never negative, by what the code says, or by its numbers alone."""
    random = np.random.default_rng(0)
    weights = [jnp.asarray(random.normal(size=(width, width)), dtype) for _ in range(3)]
    biases = [jnp.asarray(random.normal(size=width), dtype) for _ in range(3)]
    ones = jnp.ones(width, dtype)

    def f(x):
        for w, b in zip(weights, biases, strict=True):
            x = x if known else x * ones
            x = jax.nn.relu(x @ w + b)
        return x @ weights[0][0]

    return lambda x: f(jax.nn.relu(x)), jnp.asarray(random.normal(size=width), dtype)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("width", [8, 40])
def test_the_relevance_is_the_same(name, width, x64):
    del x64
    explained = []
    for known in (True, False):
        f, x = _network(width, known, jnp.float64)
        explained.append(relprop.relevance(f, RULES[name])(x))
    R, expected = explained
    np.testing.assert_allclose(R, expected, rtol=1e-7, atol=1e-9 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("name", ["z+", "gamma"])
def test_three_products_are_enough(name):
    f, x = _network(64, known=True)
    x = jnp.broadcast_to(x, (32, 64))
    explain = jax.vmap(relprop.value_and_relevance(f, RULES[name]))
    gradient = jax.vmap(jax.value_and_grad(f))
    flops = [jax.jit(g).lower(x).compile().cost_analysis()["flops"] for g in (explain, gradient)]
    assert flops[0] < 1.65 * flops[1]


def test_shares_may_arrive_at_closed_neurons():
    """The flat rule gives relevance to zeros, which a ReLU passes on to negative outputs."""
    random = np.random.default_rng(0)
    w = jnp.asarray(random.normal(size=(40, 40)), jnp.float32)
    flat = relprop.Composite().at(path="v").use(rules.Flat()).at(path="w").use(rules.Gamma(0.5))

    def relevance(factor):
        def f(x, w, v):
            return (jax.nn.relu((jax.nn.relu(x) * factor) @ w) @ v)[0]

        return relprop.relevance(f, flat)(jnp.arange(40.0), w, w)

    # A constant of which nothing is known hides what the code says.
    known, unknown = relevance(1.0), relevance(jnp.ones(40))
    np.testing.assert_allclose(known, unknown, rtol=1e-3, atol=1e-5)
