"""Presets against their papers: input times the gradient of a function with parts held constant.

Most rule sets for transformers and state spaces can be written in that form (and are, by their
authors): a value that gets no relevance is held constant, a product that is shared in halves counts
half, an activation is its input times a constant.
"""

import inspect
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import presets
from tests.uncompiled import evaluated

KEYS = jax.random.split(jax.random.key(0), 16)
B, T, D = 2, 5, 6
X = jax.random.normal(KEYS[0], (B, T, D))
W = [0.5 * jax.random.normal(key, (D, D)) for key in KEYS[1:]]
PARAMS = {name: w for name, w in zip(("x_proj", "dt", "in", "z", "out"), W, strict=False)}


def constant(x):
    return lax.stop_gradient(x)


pytestmark = pytest.mark.usefixtures("by_numpy")


def identity(function):
    """An activation whose relevance passes."""
    return lambda x: x * constant(function(x) / x)


def half(product):
    return product / 2 + constant(product) / 2


def check(f, modified, rules, *args, tolerance=2e-5):
    x, *rest = args
    value, gradient = evaluated(jax.value_and_grad(lambda x: modified(x, *rest)), (x,))
    score, found = jax.jit(lambda x, params: relprop.value_and_relevance(f, rules)(x, *params))(
        x, rest
    )
    expected = x * gradient
    np.testing.assert_allclose(score, value, rtol=1e-5)
    np.testing.assert_allclose(found, expected, atol=tolerance * float(jnp.abs(expected).max()))


def transformer(act=jax.nn.silu, keep=lambda a: a, share=lambda p: p, root=lambda s: s):
    """A pre-norm block with a gated MLP; the arguments are what rule sets change."""

    def norm(x):
        return x * root(lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6))

    def f(x):
        h = norm(x)
        weights = keep(jax.nn.softmax((h @ W[0]) @ (h @ W[1]).swapaxes(-1, -2) / D**0.5, -1))
        x = x + weights @ (h @ W[2]) @ W[3]
        h = norm(x)
        return (x + share(act(h @ W[4]) * (h @ W[5])) @ W[6])[0, -1, 2]

    return f


@pytest.mark.parametrize("rule", [relprop.rules.Zero(), relprop.rules.Epsilon(0.0)])
def test_relp(rule):
    modified = transformer(identity(jax.nn.silu), constant, half, constant)
    check(transformer(), modified, presets.relp(rule), X)


def test_cp_lrp():
    def gate(x):
        return constant(jax.nn.silu(x))

    check(transformer(), transformer(gate, constant, root=constant), presets.cp_lrp(), X)


def mamba(unrolled, hold=lambda a: a, act=jax.nn.silu, share=lambda p: p, root=lambda s: s):
    """One Mamba mixer with its recurrence in a scan or written out."""

    def f(x, params):
        x = x * root(lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6))
        u, z = act(x @ params["in"]), act(x @ params["z"])
        step, b, c = jnp.split(hold(u @ params["x_proj"]), 3, -1)
        delta = jax.nn.softplus(jnp.tile(step, 3) @ params["dt"])
        decay = jnp.exp(-delta[..., None] * jnp.array([1.0, 2.0])[None, None, None])
        drive = delta[..., None] * b[:, :, None] * u[..., None]

        def recur(state, now):
            a, bu, c = now
            state = a * state + bu
            return state, jnp.einsum("bds,bs->bd", state, c)

        along = [jnp.moveaxis(a, 1, 0) for a in (decay, drive, c)]
        state = jnp.zeros((B, D, 2))
        if unrolled:
            ys = []
            for t in range(T):
                state, y = recur(state, [a[t] for a in along])
                ys.append(y)
            y = jnp.stack(ys, 1)
        else:
            y = jnp.moveaxis(lax.scan(recur, state, along)[1], 0, 1)
        return (share(y * z) @ params["out"])[0, -1].sum()

    return f


@pytest.mark.parametrize("unrolled", [True, False])
def test_mamba_lrp(unrolled):
    modified = mamba(unrolled, constant, identity(jax.nn.silu), half, constant)
    check(mamba(unrolled), modified, presets.mamba_lrp(), X, PARAMS)


def test_constants_stay_constants_inside_of_loops_and_calls():
    def f(x, p, call):
        weights = jax.nn.softmax(x @ p["in"] @ jnp.swapaxes(x, -1, -2), -1)
        return call(lambda a, v: jnp.tanh(a @ v), weights, x @ p["z"])[0, -1].sum()

    calls = {
        "plain": lambda f, *args: f(*args),
        "checkpoint": lambda f, *args: jax.checkpoint(f)(*args),
        "region": lambda f, *args: relprop.region("r")(f)(*args),
        "scan": lambda f, *args: lax.scan(lambda c, ab: (c, f(*ab)), 0.0, args)[1],
    }
    for rules in (presets.cp_lrp(relprop.rules.Gamma(0.5)), presets.attn_lrp()):
        found = {n: relprop.relevance(f, rules)(X, PARAMS, call) for n, call in calls.items()}
        for name in calls:
            np.testing.assert_allclose(found[name], found["plain"], rtol=1e-4, atol=1e-6)


def test_mamba_lrp_finds_its_layer_by_scope_as_well():
    def f(x):
        with jax.named_scope("x_proj"):
            b = x @ W[0]
        return (b * x).sum()

    np.testing.assert_allclose(
        relprop.relevance(f, presets.mamba_lrp())(X), (X @ W[0]) * X, rtol=1e-5
    )


def test_mamba_lrp_wants_a_selection():
    with pytest.raises(relprop.NothingMatchedError, match="x_proj"):
        relprop.relevance(transformer(), presets.mamba_lrp())(X)


def lstm(gate=lambda g: g, act=jnp.tanh, share=lambda p: p):
    def cell(carry, x):
        h, c = carry
        i, f, o = (gate(jax.nn.sigmoid(x @ W[n] + h @ W[n + 3])) for n in range(3))
        g = act(x @ W[6] + h @ W[7])
        c = share(f * c) + share(i * g)
        h = share(o * act(c))
        return (h, c), None

    def run(x):
        # A first state that isn't zero, so that no denominator is.
        state = (x[0, 0][None] * 0.1, x[0, 1][None] * 0.1)
        return lax.scan(cell, state, x[0][2:, None])[0][0][0, 1]

    return run


def test_lstm_all():
    check(lstm(), lstm(constant, identity(jnp.tanh)), presets.lstm("all", epsilon=0.0), X)


def test_lstm_half():
    rules = presets.lstm("half", epsilon=0.0)

    def sigmoid(x):
        return x * constant(jax.nn.sigmoid(x) / x)

    def modified(x):
        def cell(carry, x):
            h, c = carry
            i, f, o = (sigmoid(x @ W[n] + h @ W[n + 3]) for n in range(3))
            g = identity(jnp.tanh)(x @ W[6] + h @ W[7])
            c = half(f * c) + half(i * g)
            return (half(o * identity(jnp.tanh)(c)), c), None

        state = (x[0, 0][None] * 0.1, x[0, 1][None] * 0.1)
        return lax.scan(cell, state, x[0][2:, None])[0][0][0, 1]

    check(lstm(), modified, rules, X)


SIGMOIDS = {
    "logistic": jax.nn.sigmoid,
    "written out": lambda x: 1 / (1 + jnp.exp(-x)),
    "power": lambda x: (1 + jnp.exp(-x)) ** -1,
    "hard": jax.nn.hard_sigmoid,
    "clipped": lambda x: jnp.clip(x + 3, 0, 6) / 6,
}


@pytest.mark.parametrize("gate", SIGMOIDS)
@pytest.mark.parametrize("signal", [jnp.tanh, jax.nn.hard_silu, lambda x: 3 * x])
@pytest.mark.parametrize("rules", [presets.lstm(epsilon=0.0), presets.cp_lrp()])
def test_the_signal_takes_all_and_not_the_gate(gate, signal, rules):
    def f(g, s):
        return (SIGMOIDS[gate](g @ W[0]) * signal(s @ W[1])).sum()

    to_gate, to_signal = relprop.relevance(f, rules, argnums=(0, 1))(X, X[::-1])
    np.testing.assert_allclose(to_gate, 0)
    np.testing.assert_allclose(to_signal.sum(), f(X, X[::-1]), rtol=1e-4)


@pytest.mark.parametrize("absolute", [False, True])
def test_lstm_proportional(absolute):
    a = jnp.array([0.5, -2.0, 3.0, 0.0])

    def f(a):
        return (jax.nn.sigmoid(a) * (2 * a[::-1])).sum()

    rules = presets.lstm("absolute" if absolute else "proportional", epsilon=0.0)
    book = relprop.ledger(f, rules)(a)
    gate, signal = jax.nn.sigmoid(a), 2 * a[::-1]
    values = [jnp.abs(v) if absolute else v for v in (gate, signal)]
    shares = [gate * signal * v / (values[0] + values[1]) for v in values]
    # The sigmoid passes its share on, the other one goes back to where it was flipped from.
    expected = shares[0] + shares[1][::-1]
    np.testing.assert_allclose(relprop.relevance(f, rules)(a), expected, rtol=1e-4)
    assert abs(book.gap) < 1e-5


def test_lstm_conserves_but_for_biases():
    for gates in ("all", "absolute"):
        book = relprop.ledger(lstm(), presets.lstm(gates, epsilon=1e-6))(X[:1, :4])
        assert abs(book.gap) < 1e-5 * max(1.0, abs(float(book.score)))


def rotary(x, share=lambda p: p):
    angles = jnp.arange(float(T))[:, None] * jnp.ones((1, D))

    def turn(x):
        flipped = jnp.concatenate([-x[..., D // 2 :], x[..., : D // 2]], -1)
        return share(x * jnp.cos(angles)) + share(flipped * jnp.sin(angles))

    scores = share(turn(x @ W[0]) @ turn(x @ W[1]).swapaxes(-1, -2))
    return share(jax.nn.softmax(scores, -1) @ (x @ W[2]))[0, -1].sum()


def test_pa_lrp_with_rotary_phases():
    with jax.numpy_rank_promotion("allow"):
        R, inside = relprop.relevance(rotary, presets.pa_lrp(), places=relprop.places.positions())(
            X
        )
        expected = X * jax.grad(lambda x: rotary(x, half))(X)
    np.testing.assert_allclose(R, expected, atol=1e-5)
    assert set(inside) == {"cos", "cos#1", "sin", "sin#1"}


def test_pa_lrp_with_learned_positions_conserves():
    def f(x, params):
        return jnp.tanh((x + params["wpe"][None]) @ W[0]).sum()

    params = {"wpe": jax.random.normal(KEYS[3], (T, D))}
    explain = relprop.relevance(f, presets.pa_lrp(), places=relprop.places.positions("*wpe"))
    R, inside = explain(X, params)
    np.testing.assert_allclose(
        R.sum() + inside["params/wpe"].relevance.sum(), f(X, params), rtol=1e-4
    )


@pytest.mark.parametrize("attention", ["attn_lrp", "cp_lrp"])
def test_gamma_vit(attention):
    rules = presets.gamma_vit(attention=attention)
    image = jax.random.normal(KEYS[4], (1, 3, 8, 8))
    kernel = jax.random.normal(KEYS[5], (D, 3, 4, 4))

    def f(x):
        patches = lax.conv(x, kernel, (4, 4), "VALID").reshape(1, D, 4).swapaxes(1, 2)
        return transformer()(jnp.tile(patches, (1, 2, 1)))

    plan = relprop.inspect(f, rules)(image)
    used = {(op.structure, type(op.rule).__name__) for op in plan}
    assert {("convolution", "Gamma"), ("dense", "Gamma")} <= used
    assert (("softmax", "Constant") in used) == (attention == "cp_lrp")
    gammas = {op.structure: op.rule.gamma for op in plan if hasattr(op.rule, "gamma")}
    assert gammas == {"convolution": 0.25, "dense": 0.05}
    assert jnp.isfinite(relprop.relevance(f, rules)(image)).all()


# What all presets have in common.


@pytest.mark.parametrize("name", presets.names())
def test_presets_print_as_tables_and_cite_their_papers(name):
    preset = presets.by_name(name)
    lines = str(preset).splitlines()
    assert lines[0].startswith(name) and lines[1].split() == ["operations", "rule"]
    assert preset == presets.by_name(name) and hash(preset) == hash(presets.by_name(name))
    for key in preset.references:
        assert f"{{{key}," in preset.bibtex()
    if inspect.isfunction(getattr(presets, name, None)):
        assert preset.references, "a preset is from somewhere"


def test_presets_show_in_rich():
    rich = pytest.importorskip("rich.console", reason="rich comes with the command line")
    console = rich.Console(width=120, record=True, file=io.StringIO())
    console.print(presets.attn_lrp())
    assert "by the rules inside" in console.export_text()


def test_unknown_variants():
    with pytest.raises(ValueError, match="gates must be one of"):
        presets.lstm("none")
    with pytest.raises(ValueError, match="attention must be"):
        presets.gamma_vit(attention="no")
