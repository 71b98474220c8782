"""Rules that need no weights, against their definitions, and exactness where numbers are zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import rules
from relprop.rules import Epsilon, Gradient, Pass, Stop, Uniform, Zero
from tests import oracles
from tests.uncompiled import uncompiled

pytestmark = pytest.mark.usefixtures("by_numpy")

A = np.array([[0.5, -1.5, 0.0], [2.0, 0.0, -0.25]])
B = np.array([[1.0, -2.0], [0.5, 0.25], [-1.0, 0.75]])


def explained(f, *arguments, seed, using=None):
    """Relevance by the defaults, or by a rule for every operation."""
    composite = relprop.Composite() if using is None else relprop.Composite().at().use(using)

    @uncompiled
    def explain(arguments, seed):
        _, back = relprop.vrp(f, *arguments, rules=composite)
        return back(seed)

    found = explain(arguments, seed)
    return found[0] if len(arguments) == 1 else found


def assert_equal(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


# -------------------------------------------------------------------------------------- pass

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "hard_tanh": jax.nn.hard_tanh,
    "clamp": lambda x: jnp.clip(x, -1.0, 1.0),
    "threshold": lambda x: jnp.where(x > 0.25, x, 0.0),
    "square": lambda x: x * x,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_pass_relevance_on(name, x64):
    seed = np.array([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]])
    assert_equal(explained(ACTIVATIONS[name], A, seed=seed), oracles.passed(seed))


RELUS = {
    "relu": jax.nn.relu,
    "relu of jit": jax.jit(jax.nn.relu),
    "maximum": lambda x: jnp.maximum(x, 0),
    "maximum, the other way round": lambda x: jnp.maximum(0.0, x),
}


@pytest.mark.parametrize("name", RELUS)
def test_nothing_is_divided_at_a_relu(name, x64):
    """Its output is a multiple of its input: a multiplier passes, and LRP-0 is exact."""

    def network(x):
        return jnp.sum(RELUS[name](RELUS[name](x @ B) @ B.T))

    explain = relprop.relevance(network, Zero())
    assert "div" not in str(jax.make_jaxpr(explain)(A))
    x = jnp.asarray(np.concatenate([A @ B @ B.T, -A, np.zeros((1, 3)), [[1e-300, -1.0, 1.0]]]))
    np.testing.assert_allclose(explain(x), x * jax.grad(network)(x), rtol=1e-12, atol=0)


def test_what_passes_a_relu_is_what_its_definition_says(x64):
    x = jnp.array([[2.0, 0.0, -0.0, -3.0, jnp.inf, -jnp.inf, jnp.nan]])
    multiplier = jnp.array([[0.5, 1.0, 1.0, 2.0, 0.0, 1.0, 1.0]])
    score = lambda x: jnp.sum(jax.nn.relu(x) * multiplier)  # noqa: E731
    found = relprop.relevance(score, relprop.Composite())(x)
    np.testing.assert_array_equal(found, [[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, jnp.nan]])
    # Two consumers, one of which leaves a share.
    both = relprop.Composite().at(primitive="tanh").use(Pass())

    def twice(x):
        y = jax.nn.relu(x)
        return jnp.sum(y * 3) + jnp.sum(jnp.tanh(y))

    y = jnp.array([[2.0, -1.0, 0.0]])
    expected = jnp.where(y > 0, 3 * y + jnp.tanh(y), 0.0)
    np.testing.assert_allclose(relprop.relevance(twice, both)(y), expected, rtol=1e-12)


def test_pass_is_refused_where_shapes_change_or_operands_compete(x64):
    for f, arguments in ((jnp.sum, [A]), (jnp.multiply, [A, A])):
        with pytest.raises(relprop.RuleError, match="Pass needs one active operand"):
            explained(f, *arguments, seed=f(*arguments), using=Pass())


# -------------------------------------------------------------------------------------- route


def _pooled(x):
    return lax.reduce_window(x, -np.inf, lax.max, (2, 3), (1, 2), "VALID")


IMAGE = np.array(
    [[1.0, -2.0, 3.5, 0.0, 0.25], [-1.0, 4.0, 0.5, 2.0, -3.0], [0.75, -0.5, 1.5, -4.0, 5.0]]
)
# For each window, the positions of its entries in the image.
WINDOWS = [
    [5 * (i + a) + j + b for a in range(2) for b in range(3)] for i in range(2) for j in (0, 2)
]


def test_max_pooling_gives_all_to_the_winner(x64):
    seed = np.array([[1.0, -2.0], [0.5, 3.0]])
    expected = oracles.winner_takes_all(IMAGE.reshape(-1), WINDOWS, seed.reshape(-1))
    assert_equal(np.reshape(explained(_pooled, IMAGE, seed=seed), -1), expected)


def test_max_pooling_gives_nothing_to_losers_when_winners_tie(x64):
    # As in the gradient of JAX, one of the winners may have it all.
    image = np.where(np.abs(IMAGE) < 2, 0.0, np.sign(IMAGE))
    seed = np.array([[1.0, -2.0], [0.5, 3.0]])
    found = np.reshape(explained(_pooled, image, seed=seed), -1)
    assert_equal(found.sum(), seed.sum())
    winners = oracles.winner_takes_all(image.reshape(-1), WINDOWS, np.ones(4)) != 0
    assert not found[~winners].any()


@pytest.mark.parametrize("sign", [1, -1], ids=["maximum", "minimum"])
def test_maximum_along_an_axis_and_of_two_arrays(sign, x64):
    x = np.array([[2.0, 0.5, 2.0, 2.0], [-1.0, 0.0, 0.0, -3.0], [0.0, 0.0, 0.0, 0.0]])
    seed = np.array([1.5, -2.0, 0.5])
    rows = [list(range(4 * i, 4 * i + 4)) for i in range(3)]
    along = (jnp.max if sign > 0 else jnp.min), sign * x
    expected = oracles.winner_takes_all(x.reshape(-1), rows, seed).reshape(x.shape)
    assert_equal(explained(lambda x: along[0](x, axis=1), along[1], seed=seed), expected)

    a, b = x[0], np.array([1.0, 0.5, 3.0, 2.0])
    seed = np.array([1.0, -2.0, 0.5, 3.0])
    pairs = [[i, 4 + i] for i in range(4)]
    expected = oracles.winner_takes_all(np.concatenate([a, b]), pairs, seed)
    of_two = jnp.maximum if sign > 0 else jnp.minimum
    found = explained(of_two, sign * a, sign * b, seed=seed)
    assert_equal(np.concatenate(found), expected)


MOVES = {
    "reshape": lambda x: x.reshape(3, 2),
    "transpose": lambda x: x.T,
    "broadcast": lambda x: jnp.broadcast_to(x[:, None], (2, 4, 3)),
    "slice": lambda x: x[:, 1:],
    "reverse": lambda x: x[::-1],
    "dynamic slice": lambda x: lax.dynamic_slice_in_dim(x, 1, 2, axis=1),
    "gather": lambda x: x[:, jnp.array([2, 2, 0])],
    "concatenate": lambda x: jnp.concatenate([x, x[:1]], axis=0),
    "pad": lambda x: jnp.pad(x, 1),
    "split": lambda x: jnp.split(x, [1], axis=1)[1],
    "stack": lambda x: jnp.stack([x, x]),
    "sort": lambda x: jnp.sort(x, axis=1),
    "top k": lambda x: lax.top_k(x, 2)[0],
    "select": lambda x: jnp.where(jnp.array([True, False, True])[None], x, x[::-1]),
    "roll": lambda x: jnp.roll(x, 1, axis=1),
    "scatter": lambda x: x.at[0, jnp.array([0, 2])].set(x[1, :2]),
    "dynamic update": lambda x: lax.dynamic_update_slice(x, x[:1, :2], (1, 1)),
    "barrier": lambda x: lax.optimization_barrier((x, x[0]))[0],
    "convert": lambda x: x.astype(jnp.float32).astype(jnp.float64),
}


@pytest.mark.parametrize("name", MOVES)
def test_relevance_moves_back_to_where_values_came_from(name, x64):
    # The matrix of a move is of zeros and ones, and LRP-0 and the gradient are the same.
    f = MOVES[name]
    x = np.array([[0.5, -1.5, 0.0], [2.0, 1.0, -0.25]])
    y = f(jnp.asarray(x))
    seed = np.random.default_rng(0).normal(size=y.shape)
    positions = np.asarray(f(jnp.asarray(x) * 0 + np.arange(1.0, 7.0).reshape(2, 3)))
    if name in ("sort", "top k"):  # they move by value
        positions = np.asarray(y)
        codes = {v: i for i, v in enumerate(x.reshape(-1))}
    else:
        codes = {float(i + 1): i for i in range(6)}
    expected = np.zeros(6)
    for code, given in zip(positions.reshape(-1), seed.reshape(-1), strict=True):
        if code in codes:  # else it is padding
            expected[codes[code]] += given
    rtol = 1e-6 if name == "convert" else 1e-12  # relevance is in the precision of the values
    np.testing.assert_allclose(explained(f, x, seed=seed), expected.reshape(2, 3), rtol=rtol)


# ------------------------------------------------------------------------------------ uniform


def test_factors_of_a_product_share_equally_whatever_their_values(x64):
    a, b = np.array([2.0, 0.0, -1.0, 0.0]), np.array([-0.5, 3.0, 0.0, 0.0])
    seed = np.array([1.0, -2.0, 0.5, 4.0])
    for f, arguments in ((jnp.multiply, (a, b)), (jnp.divide, (a, np.array([1.0, -2, 3, 4])))):
        for part in explained(f, *arguments, seed=seed):
            assert_equal(part, seed / 2)


def test_halves_of_a_matrix_product(x64):
    seed = np.array([[1.0, -2.0], [0.5, 3.0]])
    to_a, to_b = oracles.half_of_matrix_product(A, B, seed)
    found = explained(jnp.matmul, A, B, seed=seed)
    assert_equal(found[0], to_a)
    assert_equal(found[1], to_b)
    assert_equal(found[0].sum() + found[1].sum(), seed.sum())
    # Batched, as in attention, each product is by itself.
    stacked = explained(
        lambda a, b: jnp.einsum("hij,hjk->hik", a, b),
        np.stack([A, 2 * A]), np.stack([B, -B]), seed=np.stack([seed, seed]),
    )  # fmt: skip
    assert_equal(stacked[0], np.stack([to_a, to_a]))
    assert_equal(stacked[1], np.stack([to_b, to_b]))


def test_factors_of_a_product_along_an_axis(x64):
    x = np.array([[2.0, -1.0, 0.5], [3.0, 1.0, -2.0]])
    seed = np.array([1.5, -3.0])
    expected = np.repeat(seed[:, None] / 3, 3, axis=1)
    assert_equal(explained(lambda x: jnp.prod(x, axis=1), x, seed=seed), expected)
    # Of the running products the first has one factor, the second two, the third three.
    seed = np.array([[1.0, -4.0, 3.0], [0.5, 2.0, 6.0]])
    parts = seed / np.array([[1.0, 2.0, 3.0]])
    expected = np.cumsum(parts[:, ::-1], axis=1)[:, ::-1]
    assert_equal(explained(lambda x: jnp.cumprod(x, axis=1), x, seed=seed), expected)


def test_uniform_is_refused_where_nothing_is_multiplied(x64):
    with pytest.raises(relprop.RuleError, match="Uniform needs a product"):
        explained(jnp.sum, A, seed=A.sum(), using=Uniform())


# ------------------------------------------------------------------- stop, constant, gradient


def test_stop_ends_relevance_and_the_ledger_says_so(x64):
    def f(x):
        return jnp.sum(jnp.tanh(x) * 2.0) + jnp.sum(x)

    composite = relprop.Composite().at(primitive="tanh").use(Stop())
    book = relprop.ledger(f, composite)(jnp.asarray(A))
    assert_equal(book.relevance, A)  # by the other path only
    assert_equal(book.stopped, 2 * np.tanh(A).sum())
    assert_equal(book.gap, 0.0)
    _, back = relprop.vrp(jnp.tanh, jnp.asarray(A), rules=composite)
    assert_equal(back(jnp.ones_like(A))[0], oracles.stopped(A))


def test_constant_sends_all_relevance_to_what_it_is_combined_with(x64):
    def gated(x):
        return x * jax.nn.sigmoid(x[:, ::-1])

    seed = np.array([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]])
    composite = relprop.Composite().at(structure="activation").use(rules.Constant())
    _, back = relprop.vrp(gated, jnp.asarray(A), rules=composite)
    assert_equal(back(jnp.asarray(seed))[0], seed)
    # Without it the gate has half.
    assert_equal(explained(gated, A, seed=seed), (seed + seed[:, ::-1]) / 2)


def test_signal_takes_all_and_the_gate_nothing(x64):
    def gated(x, h):
        return jax.nn.sigmoid(x) * h

    # The gate is sigmoid(-1000) = 0 in one place, the signal in another.
    x, h = np.array([0.5, -1000.0, 2.0]), np.array([-1.0, 3.0, 0.0])
    composite = relprop.Composite().at(structure="gate").use(rules.SignalTakesAll())
    seed = np.array([1.0, -2.0, 0.5])
    _, back = relprop.vrp(gated, jnp.asarray(x), jnp.asarray(h), rules=composite)
    to_gate, to_signal = back(jnp.asarray(seed))
    assert_equal(to_gate, oracles.stopped(seed))
    assert_equal(to_signal, oracles.passed(seed))
    # The same where relevance arrives per unit of the value, as from a score.
    score = relprop.relevance(lambda *a: jnp.sum(gated(*a)), composite, argnums=(0, 1))
    assert_equal(score(x, h)[0], oracles.stopped(seed))
    assert_equal(score(x, h)[1], gated(x, h))


def test_gradient_alone_is_the_gradient(x64):
    def f(x):
        h = jax.nn.gelu(x @ B + 0.5)
        return jnp.sum(jax.nn.softmax(h) * jnp.max(x, axis=1, keepdims=True)) + jnp.prod(x[0])

    x = jnp.asarray(A)
    assert_equal(relprop.relevance(f, Gradient())(x), jax.grad(f)(x))


@pytest.mark.parametrize("rule", [Zero(), Gradient()])
def test_softmax_by_taylor_expansion(rule, x64):
    x, seed = A[1], np.array([1.0, -2.0, 0.5])
    p = np.exp(x) / np.exp(x).sum()
    jacobian = np.diag(p) - np.outer(p, p)
    # AttnLRP, eq. 13: x_i (R_i - p_i sum_j R_j) is x times the Jacobian times R / p.
    expected = x * (seed - p * seed.sum()) if isinstance(rule, Zero) else jacobian @ seed
    composite = relprop.Composite().at(structure="softmax").use(rule)
    _, back = relprop.vrp(jax.nn.softmax, jnp.asarray(x), rules=composite)
    assert_equal(back(jnp.asarray(seed))[0], expected)


# ---------------------------------------------------------------------------- where it is zero

# Zero in some places, in a whole column and in whole rows.
X = np.array([[0.5, -1.5, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
W = np.array([[1.0, -1.0, 0.0], [0.5, 0.0, 0.0], [-1.5, 1.0, 0.0]])

# Functions of X whose results are not zero where their arguments are.
ZEROS = {
    "dense, no bias": lambda x: jax.nn.sigmoid(x @ W),
    "dense, bias": lambda x: jax.nn.sigmoid(x @ W + jnp.array([[1.0, 0.0, -1.0]])),
    "convolution": lambda x: jnp.cos(lax.conv(x[:, None], W[:, None], (1,), "SAME")),
    "scale": lambda x: jax.nn.sigmoid(2.0 * x),
    "scale by zeros": lambda x: jax.nn.sigmoid(x * jnp.array([[1.0, 0.0, -2.0]])),
    "quotient by a constant": lambda x: jnp.cos(x / 3.0),
    "negation": lambda x: jnp.cos(-x),
    "offset": lambda x: jnp.cos(x + 0.5),
    "offset to zero": lambda x: jnp.cos(x - X),
    "residual": lambda x: jnp.cos(x + jnp.tanh(x)),
    "difference": lambda x: jnp.cos(x - x[::-1]),
    "mean": lambda x: jnp.cos(jnp.mean(x, axis=1)),
    "sum": lambda x: jnp.cos(jnp.sum(x, axis=0)),
    "product": lambda x: jnp.cos(x * x[::-1]),
    "quotient": lambda x: jnp.cos(x / (1.0 + x[::-1] ** 2)),
    "matrix product": lambda x: jnp.cos(x @ x.T),
    "product along an axis": lambda x: jnp.cos(jnp.prod(x, axis=1)),
    "running product": lambda x: jnp.cos(jnp.cumprod(x, axis=1)),
    "maximum": lambda x: jnp.cos(jnp.max(x, axis=1)),
    "max pooling": lambda x: jnp.cos(
        lax.reduce_window(x, -np.inf, lax.max, (1, 2), (1, 1), "VALID")
    ),
    "layer norm": lambda x: jnp.cos(jax.nn.standardize(x) * 2.0 + 0.25),
    "masked": lambda x: jnp.cos(jnp.where(jnp.arange(12).reshape(4, 3) % 2 == 0, x, 0.0)),
    "padding": lambda x: jnp.cos(jnp.pad(x, 1)),
    "scan": lambda x: lax.scan(lambda c, _: (jnp.cos(c @ W), None), x, length=2)[0],
}


@pytest.mark.parametrize("name", ZEROS)
def test_nothing_is_lost_or_invented_silently_at_zero(name, x64):
    def score(x):
        return jnp.sum(ZEROS[name](x))

    book = relprop.ledger(score, Epsilon(1e-6))(jnp.asarray(X))
    assert book.fault is None
    for row in book:
        # Rounding is blown up where a denominator is no more than epsilon.
        if not abs(row.gap) < 1e-9 * (1 + abs(row.arrived)):
            pytest.fail(f"{row.operation.structure} has a gap of {row.gap}:\n{book}")
    accounted = book.left + book.bias + book.epsilon + book.stopped
    np.testing.assert_allclose(accounted, uncompiled(score)(X), rtol=1e-9)
    assert_equal(book.seed, uncompiled(score)(X))
