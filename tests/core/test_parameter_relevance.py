"""Relevance of parameters: a second reading of the pass that explains the inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import relprop
from relprop.places import Parameter
from relprop.rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Gradient,
    Pass,
    Stop,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
)
from tests import oracles

KEYS = jax.random.split(jax.random.key(0), 8)
W = 0.5 * jax.random.normal(KEYS[0], (3, 4, 4))
X = jax.random.normal(KEYS[1], (2, 4))
RULES = relprop.presets.attn_lrp()
EVERYTHING = Parameter("p/*")

# Rules with their oracles, which share out the relevance of one application at a time.
ORACLES = {
    Zero(): oracles.zero,
    Zero(bias="ignore"): functools.partial(oracles.zero, bias="ignore"),
    Epsilon(0.1): functools.partial(oracles.epsilon, eps=0.1),
    Gamma(0.5, 0.1): functools.partial(oracles.gamma, gamma=0.5, eps=0.1),
    AlphaBeta(2.0, 1.0, 0.1): functools.partial(oracles.alpha_beta, alpha=2.0, beta=1.0, eps=0.1),
    ZPlus(0.1): functools.partial(oracles.z_plus, eps=0.1),
    ZBox(-1.0, 2.0, 0.1): functools.partial(oracles.z_box, low=-1.0, high=2.0, eps=0.1),
    WSquare(0.1): functools.partial(oracles.w_square, eps=0.1),
    Flat(0.1): functools.partial(oracles.flat, eps=0.1),
}


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def credited(f, x, p, rules=RULES, places=EVERYTHING):
    """Relevance of the inputs, and of the parameters by their names without the argument's."""
    R, inside = jax.jit(relprop.relevance(f, rules, places=places))(x, p)
    return R, {name.removeprefix("p/"): place.relevance for name, place in inside.items()}


# ------------------------------------------------------------------------ rules, by definition


@functools.cache
def dense(rule):
    @jax.jit
    def explain(x, p, seed):
        def score(x, p):
            return ((x @ p["w"] + p["b"][None]) * seed).sum()

        return credited(score, x, p, rule)

    return explain


@functools.cache
def convolution(rule):
    @jax.jit
    def explain(x, w, seed):
        def score(x, p):
            y = lax.conv_general_dilated(x, p["w"], (2,), [(1, 0)])
            return (y * seed).sum()

        R, credits = credited(score, x, {"w": w}, rule)
        return R, credits["w"]

    return explain


def contributions(rule, x, layer, relevance):
    """The contributions c_ij of inputs, [inputs, outputs], and of biases, [outputs]."""
    each = [ORACLES[rule](x, layer, one) for one in np.diag(relevance)]
    return np.stack([s.inputs for s in each], axis=1), np.array([s.bias for s in each])


@pytest.mark.parametrize("rule", ORACLES, ids=str)
@given(seed=st.integers(0, 2**31))
def test_a_weight_has_its_contributions_and_a_bias_what_it_absorbs(rule, seed):
    rng = np.random.default_rng(seed)
    x, w, b = rng.normal(size=(2, 3)), rng.normal(size=(3, 4)), rng.normal(size=4)
    scale = rng.normal(size=(2, 4)) * rng.integers(0, 2, (2, 4))
    with jax.enable_x64(True):
        R, credits = jax.device_get(dense(rule)(x, {"w": w, "b": b}, scale))
    layer = oracles.Layer(w, b, np.ones((3, 4), bool))
    to_weight, to_bias = np.zeros((3, 4)), np.zeros(4)
    for row, relevance in zip(x, (x @ w + b) * scale, strict=True):
        weights, biases = contributions(rule, row, layer, relevance)
        to_weight += weights
        to_bias += biases
    close(credits["w"], to_weight, 1e-9)
    close(credits["b"], to_bias, 1e-9)
    close(credits["w"].sum(), R.sum(), 1e-9)


@pytest.mark.parametrize("rule", ORACLES, ids=str)
def test_a_kernel_adds_up_over_positions(rule, x64):
    rng = np.random.default_rng(0)
    x, w, seed = rng.normal(size=(1, 2, 5)), rng.normal(size=(3, 2, 2)), rng.normal(size=(1, 3, 3))
    R, credit = jax.device_get(convolution(rule)(x, w, seed))
    # The layer as a matrix, and which entry of the kernel stands at each place of it.
    matrix = np.zeros((2, 5, 3, 3))
    entry = -np.ones((2, 5, 3, 3), int)
    for channel, i, out, j, k in np.ndindex(2, 5, 3, 3, 2):
        if i == 2 * j + k - 1:
            matrix[channel, i, out, j] = w[out, channel, k]
            entry[channel, i, out, j] = np.ravel_multi_index((out, channel, k), w.shape)
    matrix, entry = matrix.reshape(10, 9), entry.reshape(10, 9)
    layer = oracles.Layer(matrix, None, entry >= 0)
    z = x.reshape(-1) @ matrix
    weights, _ = contributions(rule, x.reshape(-1), layer, z * seed.reshape(-1))
    expected = np.zeros(w.size)
    np.add.at(expected, entry[entry >= 0], weights[entry >= 0])
    close(credit.reshape(-1), expected, 1e-9)
    close(credit.sum(), R.sum(), 1e-9)


def test_the_gradient_rule_gives_gradients():
    p = {"w": W[0], "b": X[0], "table": W[1]}

    def f(x, p):
        return (jnp.tanh(x @ p["w"] + p["b"][None]) * p["table"][jnp.array([2, 2])]).sum()

    R, credits = credited(f, X, p, Gradient())
    by_input, by_parameter = jax.grad(f, argnums=(0, 1))(X, p)
    close(R, by_input)
    for name in p:
        close(credits[name], by_parameter[name])


# ------------------------------------------------------------------------------------ networks


def layer(x, p):
    return x + jax.nn.relu(x @ p["w"] + (p["b"] if x.ndim == 1 else p["b"][None]))


STACK = {"w": W, "b": 0.1 * jax.random.normal(KEYS[2], (3, 4))}


def unrolled(x, p):
    for i in range(3):
        x = layer(x, jax.tree.map(lambda a, i=i: a[i], p))
    return x.sum()


def test_the_inputs_do_not_notice_and_all_is_accounted_for():
    R, credits = credited(unrolled, X, STACK)
    close(R, relprop.relevance(unrolled, RULES)(X, STACK))
    # What is not the inputs' in the end was absorbed by biases.
    close(unrolled(X, STACK), R.sum() + credits["b"].sum())
    book = relprop.ledger(unrolled, RULES)(X, STACK)
    close(credits["b"].sum(), book.bias)
    again = relprop.ledger(unrolled, RULES, places=EVERYTHING)(X, STACK)
    assert [row.left for row in again] == [row.left for row in book]
    assert again.bias == book.bias


@pytest.mark.parametrize("how", ["constants", "stacked", "indexed", "carried", "checkpoints"])
def test_in_loops_and_checkpoints(how):
    steps = jnp.arange(3)

    def f(x, p):
        if how == "constants":
            x = lax.scan(lambda x, w: (layer(x, {"w": w, "b": p["b"][1]}), None), x, p["w"])[0]
        elif how == "stacked":
            x = lax.scan(lambda x, q: (layer(x, q), None), x, p)[0]
        elif how == "indexed":
            at = lambda i: jax.tree.map(lambda a: a[i], p)  # noqa: E731
            x = lax.scan(lambda x, i: (layer(x, at(i)), None), x, steps)[0]
        elif how == "carried":

            def step(carry, i):
                x, p = carry
                return (layer(x, jax.tree.map(lambda a: a[i], p)), p), None

            x = lax.scan(step, (x, p), steps)[0][0]
        else:
            x = lax.scan(lambda x, q: (jax.checkpoint(layer)(x, q), None), x, p)[0]
        return x.sum()

    p = STACK | {"b": jnp.broadcast_to(STACK["b"][1], (3, 4))} if how == "constants" else STACK
    expected, wanted = credited(unrolled, X, p)
    R, credits = jax.jit(lambda x, p: credited(f, x, p))(X, p)
    close(R, expected)
    close(credits["w"], wanted["w"])
    if how == "constants":
        close(credits["b"][1], wanted["b"].sum(0))
    else:
        close(credits["b"], wanted["b"])


def test_under_vmap_and_for_weights_used_twice():
    def twice(x, p):
        return (jax.nn.relu(x @ p["w"]) @ p["w"].T).sum()

    def apart(x, p):
        return (jax.nn.relu(x @ p["first"]) @ p["second"].T).sum()

    p = {"w": W[0]}
    explain = jax.jit(jax.vmap(lambda x: credited(twice, x, p)))
    R, credits = explain(X)
    for i, x in enumerate(X):
        one, each = credited(apart, x, {"first": W[0], "second": W[0]})
        close(R[i], one)
        close(credits["w"][i], each["first"] + each["second"])


def test_branches_and_the_state_that_a_loop_starts_from():
    def f(x, p):
        h = lax.scan(lambda h, x: (jnp.tanh(h @ p["w"] + x), None), p["start"], x)[0]
        return lax.cond(h[0] > 10, lambda h: h.sum(), lambda h: h @ p["head"], h)

    def by_hand(x, p):
        h = p["start"]
        for row in x:
            h = jnp.tanh(h @ p["w"] + row)
        return h @ p["head"]

    p = {"start": jnp.ones(4), "w": W[0], "head": W[1, 0]}
    R, credits = credited(f, X, p)
    # By hand, the product of the first state with a weight is one of two parameters; one at a time.
    for name in ("start", "head"):
        same, wanted = credited(by_hand, X, p, places=Parameter(f"p/{name}"))
        close(R, same)
        close(credits[name], wanted[name])
    # All of the score went to the inputs and to the state before the first of them.
    close(R.sum() + credits["start"].sum(), f(X, p))


# ---------------------------------------------------------------- what happens before the layer


def norm(x, p):
    inverse = lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)
    return (x - x.mean(-1, keepdims=True)) * (inverse * p["scale"]) + p["shift"]


def norm_scaled_last(x, p):
    inverse = lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)
    return (x - x.mean(-1, keepdims=True)) * inverse * p["scale"] + p["shift"]


def test_scales_of_norms_have_what_passes_them():
    p = {"scale": jnp.array([[1.0, -2.0, 0.5, 3.0]]), "shift": X[:1]}
    for function in (norm, norm_scaled_last):
        f = lambda x, p: (function(x, p) @ W[0]).sum()  # noqa: E731, B023
        R, credits = credited(f, X, p)
        close(credits["shift"], 2 * p["shift"] * W[0].sum(1)[None])
        through = (function(X, p) - p["shift"]) * W[0].sum(1)[None]
        close(credits["scale"], through.sum(0, keepdims=True))
        close(R.sum(), credits["scale"].sum())


def test_embeddings_positions_and_class_tokens():
    ids = jnp.array([2, 0, 2])

    def f(x, p):
        x = jnp.concatenate([p["class"], x])
        x = x + p["table"][ids] + p["position"][:3]
        return (x @ p["table"].T)[0].sum()

    p = {"class": X[:1], "table": W[0], "position": W[1]}
    R, credits = credited(f, X, p)
    m = jnp.zeros((3, 4)).at[0].set(p["table"].sum(0))
    close(R, jnp.zeros((2, 4)))
    close(credits["class"], X[:1] * m[:1])
    close(credits["position"][:3], p["position"][:3] * m)
    close(credits["position"][3], jnp.zeros(4))
    looked_up = jnp.zeros((4, 4)).at[2].set(p["table"][2] * m[0])
    hidden = p["class"][0] + p["table"][2] + p["position"][0]
    close(credits["table"], looked_up + hidden[None] * p["table"])


def test_parameters_that_are_made_of_others():
    def f(x, p):
        low_rank = p["a"] @ p["b"]
        direction = p["v"] / jnp.sqrt((p["v"] ** 2).sum(0, keepdims=True))
        kept = jnp.where(W[2] > 0, p["masked"], 0.0)
        return (x @ (W[0] + low_rank) + x @ direction + x @ kept.T).sum()

    p = {"a": W[1, :, :2], "b": W[1, :2], "v": W[2], "masked": W[0]}
    R, credits = credited(f, X, p)
    close(R, relprop.relevance(f, RULES)(X, p))
    used = X.sum(0)[:, None] * (p["a"] @ p["b"])
    close(credits["a"].sum(), used.sum() / 2)
    close(credits["b"].sum(0), used.sum(0) / 2)
    close(credits["masked"], jnp.where(W[2] > 0, W[0] * X.sum(0)[None], 0.0))
    norm = p["v"] / jnp.linalg.norm(p["v"], axis=0, keepdims=True)
    close(credits["v"].sum(), (X @ norm).sum())


def test_positions_of_rules_count_the_ways_of_inputs_only():
    def f(x, p):
        return (jax.nn.relu(x @ (p["a"] @ p["b"])) @ p["head"]).sum()

    p = {"a": W[0], "b": W[1], "head": W[2]}
    rules = relprop.Composite().at(structure="dense", position=0).use(Flat())
    rules = rules.at(structure="dense", position=-1).use(Epsilon(0.1))
    R, credits = credited(f, X, p, rules)
    close(R, relprop.relevance(f, rules)(X, p))
    close(credits["a"].sum() + credits["b"].sum(), R.sum())
    plan = relprop.inspect(f, rules, places=EVERYTHING)(X, p)
    assert [op.note for op in plan].count("parameters") == 1
    others = [op for op in plan if not op.note]
    plain = relprop.inspect(f, rules)(X, p)
    assert [(op.structure, op.rule) for op in others] == [(op.structure, op.rule) for op in plain]


def test_half_precision_and_what_is_stopped():
    p = {"w": W[0].astype(jnp.bfloat16), "b": X[0].astype(jnp.bfloat16), "unused": W[1]}
    f = lambda x, p: (x @ p["w"] + p["b"][None]).sum()  # noqa: E731
    _, credits = credited(f, X.astype(jnp.bfloat16), p)
    assert credits["w"].dtype == credits["b"].dtype == jnp.float32
    close(credits["b"], 2 * X[0], 1e-2)
    close(credits["unused"], jnp.zeros((4, 4)))
    _, credits = credited(f, X, {"w": W[0], "b": X[0]}, Stop())
    close(credits["w"], jnp.zeros((4, 4)))


# -------------------------------------------------------------------------------------- errors


def test_parameters_inside_of_what_is_one_operation():
    def f(x, p):
        x = jnp.where(x > 0, x, p["slope"] * x)
        return lax.linalg.triangular_solve(p["matrix"], x, left_side=True, lower=True).sum()

    p = {"slope": jnp.ones((1, 4)) / 4, "matrix": jnp.eye(2)}
    with pytest.raises(relprop.InputError) as error:
        credited(f, X, p)
    assert "2 operation(s) read parameters" in str(error.value)
    assert "triangular_solve does not say where its weights are" in str(error.value)
    assert "Pass(): Pass needs one active operand" in str(error.value)
    assert __file__ in str(error.value)


def test_a_scale_that_relevance_passes():
    rules = relprop.Composite().at(structure="scale").use(Pass())
    R, credits = credited(lambda x, p: (x * p["scale"]).sum(), X, {"scale": X[:1]}, rules)
    close(credits["scale"], R.sum(0, keepdims=True))


def test_parameters_that_are_not_there():
    with pytest.raises(relprop.NothingMatchedError, match="positional arguments"):
        credited(unrolled, X, STACK, places=Parameter("p/kernel"))
    with pytest.raises(relprop.NothingMatchedError, match="positional arguments"):
        relprop.relevance(unrolled, RULES, argnums=1, places=EVERYTHING)(X, STACK)
