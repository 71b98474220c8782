"""Every rule for linear layers against its definition in matrix form, for every kind of layer.

One run of a layer covers all signs: rows of the batch are mixed, positive, negative, partly zero
and all zero; output channels of the kernel likewise; biases are positive, negative and zero.
Numbers are 1, 1/2 and their negatives: sums are exact, and some cancel exactly.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import rules
from tests import oracles
from tests.uncompiled import uncompiled

# -------------------------------------------------------------------------------------- rules

EPS = 0.05  # large, so that it shows where it went


def _with_bias(rule, oracle, **params):
    def make(bias):
        return rule(bias=bias), functools.partial(oracle, bias=bias, **params)

    return make


def _without_bias(rule, oracle, **params):
    def make(bias):
        return rule(), functools.partial(oracle, bias=bias, **params)

    return make


def _rule(kind, **params):
    return functools.partial(kind, **params)


RULES = {
    "zero": _with_bias(rules.Zero, oracles.zero),
    "epsilon": _with_bias(_rule(rules.Epsilon, epsilon=EPS), oracles.epsilon, eps=EPS),
    "norm": _with_bias(_rule(rules.Norm, epsilon=EPS), oracles.norm, eps=EPS),
    "gamma": _with_bias(
        _rule(rules.Gamma, gamma=0.6, epsilon=EPS), oracles.gamma, gamma=0.6, eps=EPS
    ),
    "alpha2-beta1": _with_bias(
        _rule(rules.AlphaBeta, epsilon=EPS), oracles.alpha_beta, alpha=2.0, beta=1.0, eps=EPS
    ),
    "alpha0-beta-1": _with_bias(
        _rule(rules.AlphaBeta, alpha=0.0, beta=-1.0, epsilon=1e-6), oracles.alpha_beta,
        alpha=0.0, beta=-1.0, eps=1e-6,
    ),
    "z-plus": _with_bias(_rule(rules.ZPlus, epsilon=EPS), oracles.z_plus, eps=EPS),
    "z-box": _without_bias(
        _rule(rules.ZBox, low=-1.5, high=2.0, epsilon=EPS), oracles.z_box,
        low=-1.5, high=2.0, eps=EPS,
    ),
    "w-square": _with_bias(_rule(rules.WSquare, epsilon=EPS), oracles.w_square, eps=EPS),
    "flat": _without_bias(_rule(rules.Flat, epsilon=EPS), oracles.flat, eps=EPS),
    "gradient": _without_bias(rules.Gradient, oracles.gradient),
}  # fmt: skip

# ------------------------------------------------------------------------------------- layers


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of layer.

    Attributes:
        linear: its linear part, a function of the list of inputs and the kernel.
        shapes: of the inputs.
        kernel: shape of the kernel; () where a layer has no weights of its own.
        channel: axis of the kernel that is the output channel, and of the output.
        batch: axis of the inputs along which signs change; None: signs change with the entry.
        attach: how the bias, of the rank of the output, is added; None where there is none.
        structure: what the layer is recognised as, if a bare rule would not apply to it.
        spelled: the whole layer as a function of inputs, kernel and bias, if it is special.
        one_hot: whether the input is rows of the unit matrix.
        scaled: whether all inputs of an output have weights that the layer doesn't know of; then
            the unit of epsilon is a matter of taste for rules by weight alone.
        diagonal: whether every output has one input only.
        only_biased: whether there is no such layer without bias.
    """

    linear: Callable
    shapes: tuple[tuple[int, ...], ...]
    kernel: tuple[int, ...] = ()
    channel: tuple[int, int] = (-1, -1)
    batch: int | None = 0
    attach: Callable | None = lambda z, b: z + b
    structure: str = ""
    spelled: Callable | None = None
    one_hot: bool = False
    scaled: bool = False
    diagonal: bool = False
    only_biased: bool = False

    def __call__(self, xs, kernel, bias):
        if bias is None:
            return self.linear(xs, kernel)
        if self.spelled is not None:
            return self.spelled(xs, kernel, bias)
        return self.attach(self.linear(xs, kernel), bias)


def _conv(dimensions, **params):
    def linear(xs, w):
        return lax.conv_general_dilated(xs[0], w, dimension_numbers=dimensions, **params)

    return linear


def _window_sum(x, size, strides, padding="VALID"):
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, size, strides, padding)


def _average_of_present(xs, w):
    # At the border fewer pixels are in the window, and only those are counted.
    window = (1, 3, 3, 1), (1, 2, 2, 1), "SAME"
    return _window_sum(xs[0], *window) / _window_sum(jnp.ones(xs[0].shape, xs[0].dtype), *window)


def _ragged(xs, w):
    return lax.ragged_dot(xs[0], w, jnp.array([2, 0, 3], jnp.int32))


_weightless = functools.partial(Kind, attach=None)
_NHWC = ("NHWC", "HWIO", "NHWC")
_IMAGE = ((5, 4, 3, 4),)

LAYERS = {
    "dense": Kind(lambda xs, w: xs[0] @ w, ((5, 4),), (4, 12)),
    "dense, one vector, bias first": Kind(
        lambda xs, w: w @ xs[0], ((6,),), (12, 6),
        channel=(0, 0), batch=None, attach=lambda z, b: b + z,
    ),
    "dense, sequence, bias subtracted": Kind(
        lambda xs, w: xs[0] @ w, ((5, 3, 4),), (4, 6), attach=lambda z, b: z - b
    ),
    "dense, vmapped": Kind(
        lambda xs, w: jax.vmap(lambda x: w @ x)(xs[0]), ((5, 4),), (12, 4), channel=(0, -1)
    ),
    "dense, moved before the bias": Kind(
        lambda xs, w: (w @ xs[0]).T.reshape(5, 2, 6), ((4, 5),), (12, 4), channel=(0, -1), batch=1
    ),
    "dense, per head over two axes": Kind(
        lambda xs, w: jnp.einsum("bhij,hijo->bho", xs[0], w), ((5, 2, 2, 3),), (2, 2, 3, 6)
    ),
    "dense, ragged": Kind(_ragged, ((5, 4),), (3, 4, 6)),
    "embedding of one-hot tokens": Kind(
        lambda xs, w: xs[0] @ w, ((5, 7),), (7, 6), one_hot=True
    ),
    "concatenation": Kind(
        lambda xs, w: jnp.concatenate(xs, axis=1) @ w, ((5, 2), (5, 3)), (5, 12)
    ),
    "convolution 1d": Kind(
        _conv(("NWC", "WIO", "NWC"), window_strides=(1,), padding="SAME"), ((5, 6, 3),), (3, 3, 6)
    ),
    "convolution 2d, strided, channels first": Kind(
        _conv(("NCHW", "OIHW", "NCHW"), window_strides=(2, 1), padding=((0, 1), (1, 0))),
        ((5, 3, 5, 4),), (6, 3, 3, 2), channel=(0, 1),
    ),
    "convolution 2d, dilated": Kind(
        _conv(_NHWC, window_strides=(1, 1), padding="SAME", rhs_dilation=(2, 1)),
        _IMAGE, (2, 2, 4, 6),
    ),
    "convolution 2d, grouped": Kind(
        _conv(_NHWC, window_strides=(1, 1), padding="SAME", feature_group_count=2),
        _IMAGE, (2, 3, 2, 6),
    ),
    "convolution 2d, depthwise": Kind(
        _conv(_NHWC, window_strides=(1, 1), padding="VALID", feature_group_count=4),
        _IMAGE, (3, 2, 1, 8),
    ),
    "convolution 2d, transposed": Kind(
        lambda xs, w: lax.conv_transpose(xs[0], w, (2, 2), "SAME"), ((5, 3, 2, 4),), (3, 3, 4, 6)
    ),
    "convolution 3d": Kind(
        _conv(("NDHWC", "DHWIO", "NDHWC"), window_strides=(1, 1, 1), padding="VALID"),
        ((5, 3, 3, 2, 2),), (2, 2, 2, 2, 6),
    ),
    "average pooling": _weightless(
        lambda xs, w: _window_sum(xs[0], (1, 2, 2, 1), (1, 2, 2, 1)) / 4.0,
        _IMAGE, structure="average", scaled=True,
    ),
    "average pooling, padded": _weightless(
        _average_of_present, _IMAGE, structure="average", scaled=True
    ),
    "mean": _weightless(
        lambda xs, w: jnp.mean(xs[0], axis=(1, 2)), _IMAGE, structure="average", scaled=True
    ),
    "sum": _weightless(lambda xs, w: jnp.sum(xs[0], axis=1), ((5, 4, 3),), structure="sum"),
    "cumulative sum": _weightless(
        lambda xs, w: jnp.cumsum(xs[0], axis=1), ((5, 4),), structure="sum"
    ),
    "residual sum": _weightless(
        lambda xs, w: xs[0] + xs[1], ((5, 4), (5, 4)), structure="sum"
    ),
    "difference": _weightless(
        lambda xs, w: xs[0] - xs[1], ((5, 4), (5, 4)), structure="sum"
    ),
    "scale": _weightless(
        lambda xs, w: xs[0] * jnp.broadcast_to(w, (5, 12)), ((5, 12),), (1, 12),
        structure="scale", diagonal=True,
    ),
    "negation": _weightless(lambda xs, w: -xs[0], ((5, 4),), structure="scale", diagonal=True),
    "weighted sum": _weightless(
        lambda xs, w: jnp.sum(xs[0], axis=1) * jnp.broadcast_to(w, (5, 3)), ((5, 4, 3),), (1, 3),
        structure="average", scaled=True,
    ),
    "offset": Kind(
        lambda xs, w: xs[0], ((5, 4),), structure="offset", diagonal=True, only_biased=True
    ),
    "offset, subtracted from": Kind(
        lambda xs, w: -xs[0], ((5, 4),), structure="offset", diagonal=True, only_biased=True,
        spelled=lambda xs, w, b: b - xs[0],
    ),
    "offset of some entries": Kind(
        lambda xs, w: xs[0], ((5, 4),), structure="sum", only_biased=True,
        spelled=lambda xs, w, b: xs[0].at[:, jnp.array([0, 1])].add(b[:, :2]),
    ),
}  # fmt: skip


# --------------------------------------------------------------------------------------- data


def _signs(rng, shape, axis, patterns):
    """Random numbers whose signs change along an axis: 'm'ixed, '+', '-', 's'parse or '0'."""
    values = rng.choice([0.5, 1.0], shape) * rng.choice([-1, 1], shape)
    out = np.moveaxis(values, axis, 0)
    for k in range(len(out)):
        pattern = patterns[k % len(patterns)]
        if pattern in "+-":
            out[k] = np.abs(out[k]) * (1 if pattern == "+" else -1)
        elif pattern == "s":
            out[k] *= rng.random(out[k].shape) < 0.5
        elif pattern == "0":
            out[k] = 0
    return np.moveaxis(out, 0, axis)


@dataclasses.dataclass(frozen=True)
class Case:
    """Numbers for a layer, all of them exact in float32, and its matrices."""

    xs: list[np.ndarray]
    kernel: np.ndarray
    bias: np.ndarray
    seed: np.ndarray
    weight: np.ndarray
    own: np.ndarray
    connected: np.ndarray


@functools.cache
def _case(name):
    kind = LAYERS[name]
    rng = np.random.default_rng(len(name))
    if kind.one_hot:
        xs = [np.eye(kind.shapes[0][1])[[3, 0, 3, 6, 2]]]
    elif kind.batch is None:
        xs = [_signs(rng, shape, 0, "+s-m0m") for shape in kind.shapes]
    else:
        xs = [_signs(rng, shape, kind.batch, "m+-s0") for shape in kind.shapes]
    kernel = _signs(rng, kind.kernel, kind.channel[0], "m+-0sm") if kind.kernel else np.ones(())
    if kind.scaled:  # a third of a sum is rounded, so that nothing cancels exactly
        xs = [x * rng.uniform(0.5, 1.5, x.shape) for x in xs]
        xs = [x.astype(np.float32).astype(np.float64) for x in xs]
    with jax.enable_x64(True):
        out = jax.eval_shape(kind.linear, [jnp.asarray(x) for x in xs], kernel).shape
        along = [1] * len(out)
        along[kind.channel[1]] = channels = out[kind.channel[1]]
        bias = np.reshape([(0.75, -0.5, 0.0)[(k + k // 6) % 3] for k in range(channels)], along)

        @uncompiled
        def probe(kernel, bias):
            nothing = [jnp.zeros(shape) for shape in kind.shapes]
            ones = jnp.ones(kernel.shape)
            return (
                oracles.as_matrix(lambda arrays: kind.linear(arrays, kernel), kind.shapes),
                oracles.as_matrix(lambda arrays: kind.linear(arrays, ones), kind.shapes) != 0,
                jnp.zeros(out) if kind.attach is None else kind(nothing, kernel, bias),
            )

        weight, connected, own = map(np.asarray, probe(kernel, bias))
    seed = rng.normal(size=out).astype(np.float32) * (rng.random(out) < 0.9)
    return Case(xs, kernel, bias, seed, weight, own.reshape(-1), connected)


# These are checked in all ways: with and without biases, absorbed and ignored, in single precision.
THOROUGHLY = (
    "dense", "dense, moved before the bias", "dense, ragged", "embedding of one-hot tokens",
    "convolution 1d", "convolution 2d, strided, channels first", "mean", "residual sum", "scale",
    "offset",
)  # fmt: skip

# All numbers on the way are exact in half precision: what is not has been rounded without need.
IN_HALF_PRECISION = (
    "dense", "convolution 1d", "cumulative sum", "difference", "offset of some entries",
)  # fmt: skip


def _rules(layer):
    """The rules to be checked on a layer: those that are another one's variant only on some."""
    left_out = set() if layer in ("dense", "convolution 1d", "mean", "sum") else {"alpha0-beta-1"}
    if LAYERS[layer].attach is not None:
        left_out.add("norm")
    return [rule for rule in RULES if rule not in left_out]


def _ways(layer, rule, dtype):
    """What to do with biases, and whether there are any."""
    kind = LAYERS[layer]
    if kind.attach is None or (dtype == "float32" and not kind.structure):
        return [("absorb", False)]
    if dtype == "float64" and layer in THOROUGHLY and "bias" in _fields(rule):
        return [("absorb", True), ("ignore", True)]
    return [("absorb", True)]


def _fields(rule):
    return {field.name for field in dataclasses.fields(RULES[rule]("absorb")[0])}


def _applied(name, way):
    """The rule, and its oracle."""
    rule, oracle = RULES[name[1]](way[0])
    if LAYERS[name[0]].scaled and isinstance(rule, rules.WSquare | rules.Flat):
        return dataclasses.replace(rule, epsilon=0.0), functools.partial(oracle, eps=0.0)
    if LAYERS[name[0]].diagonal and isinstance(rule, rules.Zero):
        return rule, functools.partial(oracle, diagonal=True)
    return rule, oracle


@functools.cache
def _explained(layer, dtype):
    """Relevance by every rule. Compiled in one go: that is what the time is spent on."""
    kind, case = LAYERS[layer], _case(layer)
    names, failed = [], {}

    def explain(xs, kernel, bias, seed):
        names.clear()
        relevance = []
        for rule in _rules(layer):
            for way in _ways(layer, rule, dtype):
                applied, _ = _applied((layer, rule), way)
                if kind.structure and not applied.everywhere:
                    applied = relprop.Composite().at(structure=kind.structure).use(applied)
                b = bias if way[1] else None
                try:
                    _, back = relprop.vrp(lambda *a, b=b: kind(a, kernel, b), *xs, rules=applied)
                    relevance.append(back(seed))
                    names.append((rule, *way))
                except Exception as error:  # to be raised by the test of this rule
                    failed[rule, *way] = error
        return relevance

    with jax.enable_x64(dtype == "float64"):
        arrays = (case.xs, case.kernel, case.bias)
        arrays = jax.tree.map(lambda a: jnp.asarray(a, dtype), arrays)
        relevance = uncompiled(explain)(*arrays, jnp.asarray(case.seed, _precision(dtype)))
    return failed | dict(zip(names, relevance, strict=True))


def _precision(dtype):
    """What relevance is kept in."""
    return "float32" if dtype == "bfloat16" else dtype


# -------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize(
    ("dtype", "layer", "rule"),
    [
        (dtype, layer, rule)
        for dtype, layers in (
            ("float64", LAYERS),
            ("float32", THOROUGHLY),
            ("bfloat16", IN_HALF_PRECISION),
        )
        for layer in layers
        for rule in _rules(layer)
    ],
)
def test_rule_is_its_definition(dtype, layer, rule):
    kind, case = LAYERS[layer], _case(layer)
    x = np.concatenate([x.reshape(-1) for x in case.xs])
    for way in _ways(layer, rule, dtype):
        applied, oracle = _applied((layer, rule), way)
        matrix = oracles.Layer(case.weight, case.own if way[1] else None, case.connected)
        defined = oracle(x, matrix, case.seed.reshape(-1).astype(np.float64))
        found = _explained(layer, dtype)[rule, *way]
        if isinstance(found, Exception):
            raise found
        assert [r.shape for r in found] == list(kind.shapes)
        assert all(r.dtype == _precision(dtype) for r in found)
        found = np.concatenate([np.asarray(r, np.float64).reshape(-1) for r in found])
        where = f"{applied} on {layer}, {'with' if way[1] else 'without'} bias"
        _assert_close(found, defined, _precision(dtype), where)


def _assert_close(found, defined, dtype, where=""):
    # Each contribution is rounded a few times, and summed up with fewer than a hundred others.
    allowed = 1e-14 + 64 * np.finfo(dtype).eps * defined.rounding
    error = np.abs(found - defined.inputs)
    worst = np.argmax(error - allowed)
    if not error[worst] <= allowed[worst]:
        pytest.fail(f"{where}: {found[worst]} should be {defined.inputs[worst]}")


X = np.array([[1.0, -0.5, 2.0], [0.0, 0.25, -1.0]])
W = np.array([[0.5, -1.0, 1.0, 2.0], [1.0, 0.5, -0.25, 0.0], [0.0, 0.75, -1.5, -1.0]])
B = np.array([0.5, -0.75, 0.0, -0.5])
C = np.array([1.0, -2.0, 0.5, 1.5])


def _small_layer():
    """A dense layer of x [2, 3], flattened."""
    weight = np.kron(np.eye(2), W)
    return oracles.Layer(weight, np.tile(B, 2), np.kron(np.eye(2), np.ones(W.shape)) != 0)


@pytest.mark.parametrize(
    ("rule", "bias"),
    [(rule, "absorb") for rule in RULES if rule != "gradient"]
    + [(rule, "ignore") for rule in ("zero", "epsilon", "gamma")],
)
def test_ledger_tells_what_biases_and_stabilisers_absorb(rule, bias, x64):
    applied, oracle = RULES[rule](bias)
    # Of each sample another one: what only depends on the channel would be merged into the layer.
    scale = np.linspace(1.0, 2.0, len(X))[:, None] * C[None]
    given = np.reshape((X @ W + B) * scale, -1)
    defined = oracle(X.reshape(-1), _small_layer(), given)
    book = relprop.ledger(lambda x: jnp.sum((x @ W + B[None]) * scale), applied)(jnp.asarray(X))
    np.testing.assert_allclose(book.seed, given.sum(), rtol=1e-12)
    np.testing.assert_allclose(book.left, defined.inputs.sum(), rtol=1e-12)
    np.testing.assert_allclose(book.bias, defined.bias, rtol=1e-12, atol=1e-14)
    rest = given.sum() - defined.inputs.sum() - defined.bias
    np.testing.assert_allclose(book.epsilon, rest, rtol=1e-10, atol=1e-13)
    assert abs(book.gap) < 1e-13


@pytest.mark.parametrize("clip", [False, True])
def test_stabilizer(clip, x64):
    z = [-3.0, -0.02, -0.0, 0.0, 1e-300, 0.02, 3.0]
    expected = [oracles.stabilise(value, 0.1, clip) for value in z]
    np.testing.assert_allclose(rules.Stabilizer(0.1, clip)(jnp.array(z)), expected, rtol=1e-15)
    # A rule takes one in the place of a number.
    defined = oracles.epsilon(X.reshape(-1), _small_layer(), np.tile(C, 2), eps=0.1, clip=clip)
    rule = rules.Epsilon(rules.Stabilizer(0.1, clip))
    _, back = relprop.vrp(lambda x: x @ W + B[None], jnp.asarray(X), rules=rule)
    (found,) = back(jnp.tile(C, (2, 1)))
    _assert_close(np.reshape(found, -1), defined, "float64")


@pytest.mark.parametrize(
    "stabilizer",
    [
        rules.Stabilizer(1e-6),
        rules.Stabilizer(1e-6, clip=True),
        rules.Stabilizer(0.0),
        rules.Stabilizer(0.0, clip=True),
        rules.Stabilizer(1e-45),  # nothing that single precision could tell from zero
        rules.Stabilizer(0.1, norm_scale=True, axes=(0,)),
    ],
)
def test_no_stabilizer_divides_by_zero(stabilizer):
    some = jnp.array([-2.0, -0.0, 0.0, 1e-20, 4.0], jnp.float32)
    for z in (some, jnp.zeros_like(some)):
        found = stabilizer.divide(jnp.ones_like(z), z)
        assert np.isfinite(found).all() or stabilizer.epsilon == 1e-45
        denominator = stabilizer(z)
        defined = [0.0 if d == 0 else 1 / d for d in np.asarray(denominator, np.float64)]
        np.testing.assert_allclose(found, np.float32(defined), rtol=1e-6)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("axes", [None, (0,), (1, 2)])
def test_stabilizer_in_units_of_the_root_mean_square(axes, clip, x64):
    z = np.random.default_rng(0).normal(size=(3, 4, 2))
    z[1, 2, 0] = 0.0
    scale = np.sqrt(np.mean(z**2, axis=(1, 2) if axes is None else axes, keepdims=True))
    scale = np.broadcast_to(scale, z.shape)
    found = rules.Stabilizer(0.5, clip, norm_scale=True, axes=axes)(jnp.asarray(z))
    for index in np.ndindex(z.shape):
        expected = oracles.stabilise(z[index], 0.5 * scale[index], clip)
        np.testing.assert_allclose(found[index], expected, rtol=1e-14)


@pytest.mark.parametrize("kind", [tuple, jnp.array])
def test_box_with_bounds_for_each_input(kind, x64):
    low, high = (-1.0, -0.5, -2.0), (1.0, 0.0, 3.0)
    params = {"low": np.tile(low, 2), "high": np.tile(high, 2), "eps": 1e-6}
    defined = oracles.z_box(X.reshape(-1), _small_layer(), np.tile(C, 2), **params)
    rule = rules.ZBox(kind(low), kind(high), 1e-6)
    _, back = relprop.vrp(lambda x: x @ W + B[None], jnp.asarray(X), rules=rule)
    (found,) = back(jnp.tile(C, (2, 1)))
    _assert_close(np.reshape(found, -1), defined, "float64")


@pytest.mark.parametrize(
    "rule", ["zero", "epsilon", "gamma", "alpha2-beta1", "z-plus", "z-box", "w-square", "flat"]
)
def test_weights_inside_of_an_operation_are_seen_or_the_rule_is_refused(rule, x64):
    # The inverse of a matrix is no operand of the solver, but has signs all the same.
    matrix = jnp.array([[2.0, 0.0, 0.0], [1.0, -1.0, 0.0], [-0.5, 2.0, 1.0]])

    def solve(x):
        return lax.linalg.triangular_solve(matrix, x, left_side=True, lower=True)

    x, seed = jnp.array([[1.0], [-2.0], [0.5]]), np.array([1.0, -1.0, 0.5])
    applied, oracle = RULES[rule]("absorb")
    composite = relprop.Composite().at(structure="linear").use(applied)
    try:
        _, back = relprop.vrp(solve, x, rules=composite)
    except relprop.RuleError:
        assert rule not in ("zero", "epsilon"), "these look at no weights"
        return
    weight = np.linalg.inv(matrix).T
    defined = oracle(np.reshape(x, -1), oracles.Layer(weight, None, weight != 0), seed)
    _assert_close(
        np.reshape(uncompiled(back)(seed[:, None])[0], -1),
        defined,
        "float64",
        f"{applied} on solve",
    )
