"""Functions to be explained: small, deterministic, at least one for each thing a program may hold.

`CASES` is the list. A case builds its function and arguments when asked, so that a framework is
imported only where it is wanted. Most functions return arrays; `score` makes one number of whatever
a function returns, so that relevance and gradients can be asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")  # read once, when keras is imported

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from .uncompiled import evaluated


class Draw:
    """Numbers that depend on the name of a case only."""

    def __init__(self, name: str):
        self._generator = np.random.default_rng(zlib.crc32(name.encode()))

    def __call__(self, *shape: int, scale: float = 1.0, dtype: Any = jnp.float32) -> jax.Array:
        drawn = scale * self._generator.standard_normal(shape)
        return jnp.asarray(np.asarray(drawn, np.float32).astype(dtype))

    def positive(self, *shape: int, low: float = 0.5, high: float = 2.0) -> jax.Array:
        return jnp.asarray(np.asarray(self._generator.uniform(low, high, shape), np.float32))

    def dense(self, inputs: int, outputs: int, *stack: int) -> jax.Array:
        return self(*stack, inputs, outputs, scale=inputs**-0.5)

    def integers(self, *shape: int, below: int) -> jax.Array:
        return jnp.asarray(np.asarray(self._generator.integers(0, below, shape), np.int32))

    def distinct(self, *shape: int, scale: float = 0.25) -> jax.Array:
        """No two of them are near each other, so that nothing ties or changes order."""
        size = int(np.prod(shape))
        order = self._generator.permutation(size) - (size - 1) / 2 + 0.3
        return jnp.asarray(np.asarray(scale * order.reshape(shape), np.float32))


@dataclasses.dataclass(frozen=True)
class Case:
    """One function with arguments.

    Attributes:
        name: its name.
        build: returns the function and its arguments.
        argnums: the arguments to be explained.
        framework: the package that it needs, or "".
        tolerance: relative to the largest entry.
        tags: what tests may choose or avoid it by.
    """

    name: str
    build: Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]
    argnums: int | tuple[int, ...] = 0
    framework: str = ""
    tolerance: float = 1e-5
    tags: frozenset[str] = frozenset()

    def explained(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The function of the explained arguments alone, and these."""
        f, args = self.build()
        numbers = (self.argnums,) if isinstance(self.argnums, int) else self.argnums

        def g(*chosen: Any) -> Any:
            filled = list(args)
            for number, value in zip(numbers, chosen, strict=True):
                filled[number] = value
            return f(*filled)

        return g, tuple(args[number] for number in numbers)


CASES: list[Case] = []


def case(
    argnums: int | tuple[int, ...] = 0,
    framework: str = "",
    tolerance: float = 1e-5,
    tags: str = "",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds a case: the decorated function draws numbers and returns ``(f, args)``."""

    def add(make: Callable[..., Any]) -> Callable[..., Any]:
        name = make.__name__

        @functools.cache
        def build() -> Any:
            with warnings.catch_warnings(), promotion():
                if framework:
                    # What a framework says about itself while it is imported is its own affair.
                    warnings.simplefilter("ignore")
                    pytest.importorskip(framework, reason=f"the case {name} needs {framework}")
                f, args = make(Draw(name))
            return users_own(f), args

        labels = frozenset(tags.split())
        CASES.append(Case(name, build, argnums, framework, tolerance, labels))
        return make

    return add


@contextlib.contextmanager
def promotion() -> Iterator[None]:
    """As JAX is by default. The tests forbid both kinds of promotion, for the package's sake."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def users_own(f: Callable[..., Any]) -> Callable[..., Any]:
    """A function that may add a bias to a batch, or a number to a flag."""

    def allowed(*args: Any) -> Any:
        with promotion():
            return f(*args)

    return allowed


def params(having: str = "", without: str = "") -> list[Any]:
    """The cases that have all of some tags and none of others, for `pytest.mark.parametrize`."""
    wanted, unwanted = set(having.split()), set(without.split())
    return [
        pytest.param(c, id=c.name, marks=[pytest.mark.frameworks] if c.framework else [])
        for c in CASES
        if wanted <= c.tags and not unwanted & c.tags
    ]


def named(names: str) -> list[Any]:
    """Cases by name, for `pytest.mark.parametrize`."""
    known = {c.name: c for c in CASES}
    return [pytest.param(known[name], id=name) for name in names.split()]


def floats(tree: Any) -> list[Any]:
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]


def score(f: Callable[..., Any]) -> Callable[..., jax.Array]:
    """The function, made one number: every float it returns times a weight of its own."""

    def one_number(*args: Any) -> jax.Array:
        terms = []
        for number, out in enumerate(floats(f(*args))):
            out = jnp.asarray(out)
            if jnp.issubdtype(out.dtype, jnp.complexfloating):
                out = jnp.real(out) + 0.7 * jnp.imag(out)
            weights = np.cos(1.0 + number + 1.7 * np.arange(out.size)).reshape(out.shape)
            term = jnp.sum(weights.astype(out.dtype) * out)
            with promotion():
                terms.append(term.astype(jnp.promote_types(term.dtype, jnp.float32)))
        return sum(terms[1:], terms[0])

    return one_number


# Networks.


def _conv(x, kernel, **options):
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    return lax.conv_general_dilated(
        x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def _max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _avg_pool(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4.0


def _batch_norm(x, mean, var, scale, bias):
    return (x - mean) * lax.rsqrt(var + 1e-5) * scale + bias


@case(tags="layers second")
def mlp(draw):
    w1, b1, w2, b2 = draw.dense(5, 6), draw(6), draw.dense(6, 3), draw(3)
    return lambda x: jax.nn.relu(x @ w1 + b1) @ w2 + b2, (draw(2, 5),)


@case(tags="layers")
def mlp_weight_on_the_left(draw):
    w1, b1, w2 = draw.dense(6, 5), draw(6), draw.dense(3, 6)
    return lambda x: w2 @ jnp.tanh(w1 @ x + b1), (draw(5),)


@case(argnums=(0, 1), tags="pytree")
def mlp_inputs_and_parameters(draw):
    def f(params, x):
        for layer in params["layers"]:
            x = jax.nn.softplus(x @ layer["kernel"] + layer["bias"])
        return {"logits": x, "norm": jnp.sum(x**2)}

    layers = [{"kernel": draw.dense(4, 4), "bias": draw(4)} for _ in range(2)]
    return f, ({"layers": layers}, draw(3, 4))


@case(tags="layers")
def cnn(draw):
    k1, b1, k2, b2 = draw(3, 3, 2, 4, scale=0.3), draw(4), draw(3, 3, 4, 4, scale=0.2), draw(4)
    mean, var, scale, bias = draw(4), draw.positive(4), draw.positive(4), draw(4)
    w = draw.dense(4, 3)

    def f(x):
        x = _batch_norm(_conv(x, k1) + b1, mean, var, scale, bias)
        x = _max_pool(jax.nn.relu(x))
        x = _avg_pool(jax.nn.relu(_conv(x, k2) + b2))
        return jnp.mean(x, axis=(1, 2)) @ w

    return f, (draw(1, 8, 8, 2),)


@case(tags="layers")
def convolutions(draw):
    strided, dilated = draw(3, 3, 4, 4, scale=0.2), draw(2, 2, 4, 4, scale=0.3)
    grouped, up = draw(3, 3, 1, 8, scale=0.3), draw(2, 2, 8, 3, scale=0.3)

    def f(x):
        x = _conv(x, strided, window_strides=(2, 2), padding="VALID")
        x = _conv(x, dilated, rhs_dilation=(2, 2))
        x = _conv(x, grouped, feature_group_count=4)
        return lax.conv_transpose(x, up, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    return f, (draw(1, 9, 9, 4),)


@case()
def convolution_1d_and_its_kernel(draw):
    signal, kernel = draw(1, 2, 9), draw(3, 2, 3)

    def f(kernel):
        return lax.conv_general_dilated(signal, kernel, (1,), "SAME")

    return f, (kernel,)


@case(tags="layers")
def residual_block(draw):
    w1, w2 = draw.dense(4, 8), draw.dense(8, 4)
    return lambda x: x + jax.nn.gelu(x @ w1) @ w2, (draw(3, 4),)


# Calls: jit, custom derivatives, rematerialisation.


@case()
def jit_with_closed_over_constants(draw):
    w, b = draw.dense(4, 3), draw(3)
    inner = jax.jit(lambda x: x @ w + b)
    return lambda x: jnp.tanh(inner(x)), (draw(4),)


@case(tags="second")
def jit_nested(draw):
    w = draw.dense(3, 3)
    one = jax.jit(lambda x: jnp.sin(x @ w))
    two = jax.jit(lambda x: one(one(x)) + x)
    return jax.jit(lambda x: two(x) * one(x)), (draw(3),)


@case()
def jit_with_static_argument(draw):
    power = jax.jit(lambda x, n: x**n, static_argnums=1)
    return lambda x: power(x, 3) + power(x, 2), (draw(4),)


@case()
def relu_at_zero(draw):
    x = jnp.array([-1.0, 0.0, 2.0, 0.0])
    return lambda x: jax.nn.relu(x) * 3.0 + jax.nn.relu6(x), (x,)


@jax.custom_jvp
def _straight_through(x):
    return jnp.round(x)


_straight_through.defjvp(lambda primals, tangents: (_straight_through(*primals), 0.5 * tangents[0]))


@case()
def custom_jvp_unlike_its_body(draw):
    return lambda x: _straight_through(3.0 * x) ** 2, (draw(5),)


@jax.custom_jvp
def _bilinear(x, w):
    return jnp.tanh(x @ w)


@_bilinear.defjvp
def _bilinear_jvp(primals, tangents):
    (x, w), (dx, dw) = primals, tangents
    y = _bilinear(x, w)
    return y, (1 - y**2) * (dx @ w + x @ dw)


@case(argnums=(0, 1), tags="second")
def custom_jvp_with_matmul(draw):
    return lambda x, w: _bilinear(x, w) * 2.0, (draw(2, 3), draw(3, 3))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _applied(function, x):
    return function(x)


@_applied.defjvp
def _applied_jvp(function, primals, tangents):
    return jax.jvp(function, primals, tangents)


@case()
def custom_jvp_with_function_argument(draw):
    return lambda x: _applied(jnp.sin, x) + _applied(jnp.exp, x), (draw(4),)


@jax.custom_vjp
def _clip_gradient(x):
    return x


_clip_gradient.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.1, 0.1),))


@case(tags="vmap")
def custom_vjp_clipped_gradient(draw):
    w = draw.dense(4, 3)
    return lambda x: _clip_gradient(jnp.sin(x)) @ w, (draw(4),)


@jax.custom_vjp
def _scaled_product(x, w):
    return x @ w


_scaled_product.defvjp(
    lambda x, w: (x @ w, (x, w)), lambda saved, g: (2 * g @ saved[1].T, 3 * saved[0].T @ g)
)


@case(argnums=(0, 1))
def custom_vjp_with_matmul(draw):
    return lambda x, w: jnp.tanh(_scaled_product(x, w)), (draw(2, 3), draw(3, 2))


@case(tags="second vmap")
def remat(draw):
    w = draw.dense(4, 4)
    layer = jax.checkpoint(lambda x: jnp.tanh(x @ w))
    return lambda x: layer(layer(x)), (draw(4),)


@case()
def remat_with_policy(draw):
    w1, w2 = draw.dense(4, 4), draw.dense(4, 4)
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable

    def f(x, w1, w2):
        return jnp.sin(jnp.sin(x @ w1) @ w2)

    checkpointed = jax.checkpoint(f, policy=policy)
    return lambda x: checkpointed(x, w1, w2), (draw(2, 4),)


@case()
def remat_without_barrier(draw):
    w = draw.dense(4, 4)
    layer = jax.checkpoint(lambda x: jnp.tanh(x @ w) * x, prevent_cse=False)
    return lambda x: layer(layer(x)), (draw(4),)


@case(tags="second")
def remat_in_scan(draw):
    def f(x, ws):
        return lax.scan(jax.checkpoint(lambda c, w: (jnp.tanh(c @ w), c.sum())), x, ws)

    ws = draw.dense(4, 4, 3)
    return lambda x: f(x, ws), (draw(4),)


@case()
def scan_in_remat(draw):
    ws = draw.dense(4, 4, 3)
    body = jax.checkpoint(lambda x: lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, ws)[0])
    return lambda x: body(x) * x, (draw(4),)


@case()
def remat_of_remat(draw):
    w = draw.dense(3, 3)
    inner = jax.checkpoint(lambda x: jnp.sin(x @ w))
    return jax.checkpoint(lambda x: inner(x) + inner(2.0 * x)), (draw(3),)


@case()
def named_checkpoint(draw):
    from jax.ad_checkpoint import checkpoint_name

    w = draw.dense(3, 3)
    return lambda x: jnp.tanh(checkpoint_name(x @ w, "hidden")), (draw(3),)


# Loops and branches.


@case()
def scan_over_layers(draw):
    ws, bs = draw.dense(4, 4, 3), draw(3, 4)

    def f(x):
        return lax.scan(lambda c, wb: (jax.nn.gelu(c @ wb[0] + wb[1]), None), x, (ws, bs))[0]

    return f, (draw(2, 4),)


@case(argnums=(0, 1), tags="vmap")
def scan_of_mixed_carry(draw):
    def f(x, xs):
        def body(carry, step):
            i, h, odd, hits = carry
            h = jnp.where(odd, jnp.sin(h) + step, h * step)
            return (i + 1, h, ~odd, hits + (h.sum() > 0)), h * i

        start = (jnp.int32(0), x, jnp.array(True), jnp.zeros((), jnp.int32))
        (i, h, _, hits), ys = lax.scan(body, start, xs)
        return h * (i + hits), ys

    return f, (draw(3), draw(4, 3))


@case()
def scan_active_from_second_step(draw):
    # The first carry is a constant; it depends on x only after the second value did.
    def f(x):
        def body(carry, _):
            a, b, c = carry
            return (a + jnp.sin(b), b * c, x + 0.1 * c), a.sum()

        return lax.scan(body, (jnp.ones(3), jnp.full(3, 2.0), jnp.ones(3)), None, length=4)

    return f, (draw(3),)


@case(argnums=(0, 1))
def scan_reversed(draw):
    def f(x, xs):
        return lax.scan(lambda c, a: (jnp.tanh(c + a), c * a), x, xs, reverse=True)

    return f, (draw(3), draw(4, 3))


@case(tags="vmap")
def scan_nested(draw):
    ws = draw.dense(3, 3, 2, 2)

    def f(x):
        def outer(c, per_block):
            c, ys = lax.scan(lambda c, w: (jnp.tanh(c @ w), c[0]), c, per_block)
            return c + 0.5, ys

        return lax.scan(outer, x, ws)

    return f, (draw(3),)


@case()
def scan_without_xs(draw):
    return lambda x: lax.scan(lambda c, _: (c * jnp.cos(c), None), x, None, length=3)[0], (draw(4),)


@case(argnums=(0, 1))
def scan_of_length_zero(draw):
    def f(x, xs):
        return lax.scan(lambda c, a: (jnp.sin(c) + a, c), x, xs)

    return f, (draw(3), jnp.zeros((0, 3)))


@case(argnums=(0, 1))
def scan_with_active_constants(draw):
    def f(x, w):
        return lax.scan(lambda c, _: (jnp.tanh(c @ w + x), None), jnp.zeros(3), None, length=3)[0]

    return f, (draw(3), draw.dense(3, 3))


@case(argnums=(0, 1))
def scan_with_unused_outputs(draw):
    def f(x, xs):
        (a, _, unchanged), (_, ys) = lax.scan(
            lambda c, s: ((c[0] + s, c[1] * 2.0, c[2]), (c[1] + s, c[0] * s)), (x, x, 2 * x), xs
        )
        return a, ys, unchanged

    return f, (draw(2), draw(3, 2))


@case(argnums=(0, 1))
def scan_of_pytrees_unrolled(draw):
    def f(state, xs):
        def body(carry, step):
            h = jnp.tanh(carry["h"] + step["a"] * step["b"])
            return {"h": h, "sum": (carry["sum"][0] + h,)}, {"y": h * 2, "n": jnp.int32(1)}

        return lax.scan(body, state, xs, unroll=2)

    state = {"h": draw(3), "sum": (draw(3),)}
    return f, (state, {"a": draw(5, 3), "b": draw(5, 3)})


@case()
def scan_of_custom_jvp_with_matmul(draw):
    w = draw.dense(3, 3)
    return lambda x: lax.scan(lambda c, _: (_bilinear(c, w), None), x, None, length=3)[0], (
        draw(3),
    )


@case()
def scan_with_invariant_work(draw):
    w = draw.dense(3, 3)

    def f(x):
        def body(c, i):
            scaled = w * jnp.exp(-jnp.abs(w))  # the same in each step
            return jnp.tanh(c @ scaled) * (1.0 + i), None

        return lax.scan(body, x, jnp.arange(3.0))[0]

    return f, (draw(3),)


@case()
def scan_with_random_keys(draw):
    def f(x):
        def body(carry, key):
            c, last = carry
            noise = jax.random.normal(key, (3,))
            return (c * (1.0 + 0.1 * noise), key), noise.sum()

        start = jax.random.key(3)
        return lax.scan(body, (x, start), jax.random.split(start, 3))[0][0]

    return f, (draw(3),)


@case(tags="vmap")
def fori_loop_static(draw):
    w = draw.dense(3, 3)
    return lambda x: lax.fori_loop(0, 3, lambda i, c: jnp.sin(c @ w) + i, x), (draw(3),)


@case()
def fori_loop_updates_in_place(draw):
    def f(x):
        return lax.fori_loop(1, 4, lambda i, a: a.at[i].set(a[i - 1] * x[i]), x)

    return f, (draw(4),)


@case()
def associative_scan(draw):
    return lambda x: lax.associative_scan(lambda a, b: a * b + a, x), (draw(5),)


@case(argnums=(1,), tags="vmap")
def cond_on_argument(draw):
    w = draw.dense(3, 3)

    def f(flag, x):
        return lax.cond(flag, lambda x: jnp.tanh(x @ w), lambda x: 2.0 * x, x)

    return f, (jnp.array(True), draw(3))


@case(tags="second vmap")
def cond_on_data(draw):
    def f(x):
        return lax.cond(x.sum() > 0, jnp.sin, lambda x: x * x, x) + lax.cond(
            x.sum() <= 0, lambda x: x * 3.0, lambda x: jnp.ones_like(x), x
        )

    return f, (draw(3),)


@case(argnums=(1, 2), tags="vmap")
def switch_with_many_operands(draw):
    w = draw.dense(3, 3)
    branches = (
        lambda x, y: (x @ w, y.sum()),
        lambda x, y: (jnp.zeros(3), x.sum() * y[0]),
        lambda x, y: (x + y, jnp.float32(2.0)),
    )
    return lambda i, x, y: lax.switch(i, branches, x, y), (jnp.int32(1), draw(3), draw(3))


@case()
def cond_in_scan(draw):
    def f(x):
        def body(c, i):
            return lax.cond(i % 2 == 0, jnp.sin, lambda c: c * 1.5, c), c

        return lax.scan(body, x, jnp.arange(5))

    return f, (draw(3),)


@case()
def scan_in_cond(draw):
    ws = draw.dense(3, 3, 2)

    def f(x):
        def yes(x):
            return lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, ws)[0]

        return lax.cond(x[0] > -10.0, yes, lambda x: x, x)

    return f, (draw(3),)


@case()
def cond_in_vmap(draw):
    def one(x):
        return lax.cond(x[0] > 0, jnp.sin, lambda x: x**2, x)

    return jax.vmap(one), (draw(4, 3),)


@case()
def scan_in_vmap(draw):
    ws = draw.dense(3, 3, 2)

    def one(x):
        return lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, ws)[0]

    return jax.vmap(one), (draw(2, 3),)


@case()
def while_loop_off_the_path(draw):
    def f(x):
        steps = lax.while_loop(lambda n: n < 7, lambda n: n + 2, jnp.int32(0))
        stopped = lax.stop_gradient(x)
        norm = lax.while_loop(lambda v: v > 1.0, lambda v: v / 2.0, jnp.sum(stopped**2) + 3.0)
        return jnp.sin(x) * steps.astype(jnp.float32) * norm

    return f, (draw(3),)


# Activations.


def _activation(name: str, function: Callable[[Any], Any], tags: str = "activation") -> None:
    def make(draw):
        w = draw.dense(5, 5)
        return lambda x: function(x @ w), (draw(2, 5),)

    make.__name__ = f"activation_{name}"
    case(tags=tags)(make)


_activation("gelu_tanh", functools.partial(jax.nn.gelu, approximate=True))
_activation("gelu_exact", functools.partial(jax.nn.gelu, approximate=False), "activation second")
_activation("silu", jax.nn.silu)
_activation("mish", jax.nn.mish)
_activation("softplus", jax.nn.softplus)
_activation("elu", jax.nn.elu)
_activation("selu", jax.nn.selu)
_activation("leaky_relu", jax.nn.leaky_relu)
_activation("hard_swish", jax.nn.hard_swish)
_activation("hard_tanh", jax.nn.hard_tanh)
_activation("sigmoid", jax.nn.sigmoid)
_activation("log_sigmoid", jax.nn.log_sigmoid)
_activation("soft_sign", jax.nn.soft_sign)
_activation("squareplus", jax.nn.squareplus)
_activation("made_up", lambda x: x * jnp.exp(-x * x) / (1.0 + jnp.abs(x)))


@case(tags="gate")
def glu(draw):
    w = draw.dense(4, 6)
    return lambda x: jax.nn.glu(x @ w), (draw(2, 4),)


@case(tags="gate second")
def swiglu(draw):
    w, down = draw.dense(4, 12), draw.dense(6, 4)

    def f(x):
        gate, up = jnp.split(x @ w, 2, axis=-1)
        return (jax.nn.silu(gate) * up) @ down

    return f, (draw(2, 4),)


# Softmax, normalisation, attention.


@case(tags="softmax second")
def softmax(draw):
    return lambda x: jax.nn.softmax(x, axis=-1), (draw(2, 4),)


@case(tags="softmax")
def softmax_where(draw):
    mask = jnp.array([[True, True, False, True], [False, True, True, False]])
    return lambda x: jax.nn.softmax(x, where=mask), (draw(2, 4),)


@case(tags="softmax")
def softmax_minus_infinity(draw):
    mask = jnp.array([[True, True, False, True], [False, True, True, False]])
    return lambda x: jax.nn.softmax(jnp.where(mask, x, -jnp.inf)), (draw(2, 4),)


@case(tags="softmax")
def softmax_by_hand(draw):
    def f(x):
        e = jnp.exp((x - x.max(axis=0)) / 0.7)
        return e / e.sum(axis=0)

    return f, (draw(4, 2),)


@case(argnums=(0, 1), tags="softmax")
def softmax_with_temperature(draw):
    return lambda x, t: jax.nn.softmax(x / t), (draw(2, 4), 0.5)


@case(tags="softmax")
def log_softmax(draw):
    return lambda x: jax.nn.log_softmax(x), (draw(2, 4),)


@case(tags="softmax")
def logsumexp(draw):
    return lambda x: jax.nn.logsumexp(x, axis=-1, b=jnp.array([1.0, 2.0, 0.5])), (draw(2, 3),)


@case(tags="norm second")
def layer_norm_two_pass(draw):
    scale, bias = draw(6), draw(6)

    def f(x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + bias

    return f, (draw(2, 6),)


@case(tags="norm")
def layer_norm_moments(draw):
    scale, bias = draw(6), draw(6)

    def f(x):
        mean, square = x.mean(-1, keepdims=True), (x * x).mean(-1, keepdims=True)
        factor = lax.rsqrt(jnp.maximum(square - mean * mean, 0.0) + 1e-6) * scale
        return (x - mean) * factor + bias

    return f, (draw(2, 6),)


@case(tags="norm")
def layer_norm_var(draw):
    scale, bias = draw(6), draw(6)

    def f(x):
        inverse = (x.var(-1, keepdims=True) + 1e-5) ** -0.5 * scale
        return x * inverse + (bias - x.mean(-1, keepdims=True) * inverse)

    return f, (draw(2, 6),)


@case(tags="norm")
def rms_norm(draw):
    scale = draw(6)
    return lambda x: x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * scale, (draw(2, 6),)


@case(tags="norm")
def group_norm(draw):
    scale, bias = draw(4), draw(4)

    def f(x):
        groups = x.reshape(1, 3, 3, 2, 2)
        mean, var = groups.mean((1, 2, 4), keepdims=True), groups.var((1, 2, 4), keepdims=True)
        return ((groups - mean) * lax.rsqrt(var + 1e-5)).reshape(x.shape) * scale + bias

    return f, (draw(1, 3, 3, 4),)


@case(tags="norm")
def batch_norm_inference(draw):
    values = draw(4), draw.positive(4), draw(4), draw(4)
    return lambda x: _batch_norm(x, *values), (draw(3, 4),)


@case(tags="norm")
def l2_normalise(draw):
    return lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True), (draw(2, 4),)


@case(tags="norm")
def standardize(draw):
    return lambda x: jax.nn.standardize(x), (draw(2, 5),)


@case(argnums=(0, 1, 2), tags="attention")
def causal_attention(draw):
    def f(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)

    return f, (draw(1, 4, 2, 3), draw(1, 4, 2, 3), draw(1, 4, 2, 3))


@case(tags="attention")
def grouped_query_attention(draw):
    wq, wk, wv = draw.dense(6, 12), draw.dense(6, 6), draw.dense(6, 6)

    def f(x):
        q, k, v = ((x @ w).reshape(1, 3, -1, 3) for w in (wq, wk, wv))
        return jax.nn.dot_product_attention(q, k, v)

    return f, (draw(1, 3, 6),)


@case(tags="attention")
def multi_head_attention(draw):
    wq, wk, wv, wo = (draw.dense(6, 6) for _ in range(4))

    def f(x):
        q, k, v = ((x @ w).reshape(-1, 2, 3).transpose(1, 0, 2) for w in (wq, wk, wv))
        weights = jax.nn.softmax(jnp.einsum("hqd,hkd->hqk", q, k) / 3**0.5)
        return jnp.einsum("hqk,hkd->qhd", weights, v).reshape(-1, 6) @ wo

    return f, (draw(4, 6),)


@case(tags="attention")
def rotary_embedding(draw):
    angles = jnp.arange(4.0)[:, None] * 0.5 ** jnp.arange(3.0)
    cos, sin = jnp.cos(angles), jnp.sin(angles)

    def rotate(x):
        a, b = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    w = draw.dense(6, 6)
    return lambda x: jax.nn.softmax(rotate(x @ w) @ rotate(x).T) @ x, (draw(4, 6),)


@case(tags="attention")
def transformer_block(draw):
    wq, wk, wv, wo = (draw.dense(6, 6) for _ in range(4))
    up, down, scale, bias = draw.dense(6, 8), draw.dense(8, 6), draw(6), draw(6)

    def norm(x):
        mean = x.mean(-1, keepdims=True)
        return (x - mean) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias

    def f(x):
        h = norm(x)
        q, k, v = ((h @ w).reshape(1, 4, 2, 3) for w in (wq, wk, wv))
        x = x + jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(4, 6) @ wo
        return x + jax.nn.gelu(norm(x) @ up) @ down

    return f, (draw(4, 6),)


# Moving numbers.


@case(tags="moves vmap")
def gather_rows(draw):
    indices = draw.integers(5, below=4)
    return lambda x: (x[indices], jnp.take(x, indices[:2], axis=1, mode="clip"), x[-1]), (
        draw(4, 4),
    )


@case(tags="moves")
def take_along_axis(draw):
    order = draw.integers(2, 3, below=4)
    return lambda x: jnp.take_along_axis(x, order, axis=1), (draw(2, 4),)


@case(argnums=(1, 2), tags="moves vmap")
def dynamic_slices(draw):
    def f(i, x, y):
        part = lax.dynamic_slice(x, (i, 0), (2, 3))
        return lax.dynamic_update_slice(x, y * part, (0, i))

    return f, (jnp.int32(1), draw(4, 5), draw(2, 3))


@case(argnums=(0, 1), tags="moves")
def scatters(draw):
    i = jnp.array([3, 0, 1])

    def f(x, u):
        return (
            x.at[i].set(u),
            x.at[i].add(u),
            x.at[i].mul(u, unique_indices=True),
            x.at[i].max(u),
            x.at[i].min(u),
        )

    return f, (draw.distinct(5), draw.distinct(3, scale=0.4))


@case(tags="moves")
def scatter_into_constant(draw):
    return lambda x: jnp.ones((4, 3)).at[jnp.array([2, 0])].set(x).at[1].add(x[0]), (draw(2, 3),)


@case(tags="moves vmap")
def sort(draw):
    return lambda x: jnp.sort(x, axis=0) * jnp.arange(1.0, 5.0)[:, None], (draw.distinct(4, 2),)


@case(argnums=(0, 1), tags="moves")
def sort_with_payload(draw):
    return lambda k, v: lax.sort((k, v, jnp.arange(5)), num_keys=1), (draw.distinct(5), draw(5))


@case(tags="moves")
def top_k(draw):
    return lambda x: lax.top_k(x, 2), (draw.distinct(3, 5),)


@case(tags="moves")
def gather_by_argsort(draw):
    return lambda x: x[jnp.argsort(-x)] * jnp.arange(1.0, 6.0), (draw.distinct(5),)


@case()
def one_hot_by_data(draw):
    return lambda x: jax.nn.one_hot(jnp.argmax(x, -1), 4) * x, (draw.distinct(2, 4),)


@case(argnums=(0, 1), tags="moves")
def shapes(draw):
    def f(x, y):
        joined = jnp.concatenate([x, jnp.zeros((1, 3)), y, x], axis=0)
        stacked = jnp.stack([x, 2.0 * x, y]).swapaxes(0, 2)
        padded = jnp.pad(x, ((1, 0), (0, 2)), constant_values=3.0)
        edges = jnp.pad(y, 1, mode="reflect")
        turned = jnp.flip(x, 0), jnp.roll(y, 1, axis=1), jnp.tile(x, (2, 1)), jnp.repeat(y, 2, 0)
        a, b = jnp.split(x, 2)
        return joined, stacked, padded, edges, turned, a * b, x[None].squeeze(0), x[::-1, 1:]

    return f, (draw(2, 3), draw(2, 3))


@case(argnums=(0, 1), tags="moves vmap")
def where(draw):
    def f(x, y):
        return jnp.where(x > y, x, y * 2.0), jnp.where(x > 0, x, 0.0), jnp.where(x > 1e9, 1.0, y)

    return f, (draw(3, 2), draw(3, 2))


@case()
def clips(draw):
    return lambda x: (jnp.clip(x, -0.5, 0.5), lax.clamp(-0.5, x, 1.0), jnp.minimum(x, 0.3)), (
        draw(8),
    )


@case(argnums=(0, 1))
def maxima(draw):
    def f(x, y):
        tie = jnp.maximum(x, x)
        return jnp.maximum(x, y), jnp.minimum(x, y), x.max(), y.min(), tie, jnp.max(x * 0.0 + 1.0)

    return f, (draw.distinct(4), draw.distinct(4, scale=0.3))


@case()
def running(draw):
    def f(x):
        return (
            jnp.cumsum(x),
            lax.cumsum(x, reverse=True),
            jnp.cumprod(x),
            lax.cummax(x),
            lax.cummin(x),
            lax.cumlogsumexp(x),
        )

    return f, (draw.distinct(4),)


@case(tags="second")
def products(draw):
    return lambda x: (jnp.prod(x, axis=1), jnp.prod(x), lax.cumprod(x, 1, reverse=True)), (
        draw(2, 3),
    )


@case()
def product_with_zero(draw):
    return lambda x: jnp.prod(x), (jnp.array([2.0, 0.0, 3.0]),)


@case(argnums=(0, 1), tags="vmap")
def einsums(draw):
    def f(x, y):
        return (
            jnp.einsum("ij,kj->ik", x, y),
            jnp.einsum("ij,ij->i", x, y),
            jnp.einsum("ij,kj,il->jkl", x, y, x),
            x @ x.T,
        )

    return f, (draw(2, 3), draw(2, 3))


@case(argnums=(0, 1))
def ragged_dot(draw):
    sizes = jnp.array([2, 0, 3], jnp.int32)
    return lambda x, w: lax.ragged_dot(x, w, sizes), (draw(5, 3), draw(3, 3, 2))


@case()
def poolings(draw):
    def f(x):
        return (
            _max_pool(x),
            _avg_pool(x),
            lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"),
        )

    return f, (draw.distinct(1, 4, 4, 2),)


# Linear algebra, Fourier transforms, complex numbers.


@case(argnums=(0, 1))
def linear_solve(draw):
    return lambda a, b: jnp.linalg.solve(a + 3.0 * jnp.eye(3), b), (draw(3, 3), draw(3))


@case()
def linear_solve_right_hand_side(draw):
    a = draw(3, 3) + 3.0 * jnp.eye(3)
    return lambda b: jnp.linalg.solve(a, b), (draw(3, 2),)


@case()
def cholesky(draw):
    return lambda x: jnp.linalg.cholesky(x @ x.T + jnp.eye(3)), (draw(3, 3),)


@case(argnums=(0, 1))
def triangular_solve(draw):
    def f(a, b):
        return jax.scipy.linalg.solve_triangular(a + 2.0 * jnp.eye(3), b, lower=True)

    return f, (draw(3, 3), draw(3, 2))


@case(tolerance=1e-4)
def eigh(draw):
    def f(x):
        values, vectors = jnp.linalg.eigh(x + x.T + jnp.diag(jnp.arange(3.0) * 4))
        return values, vectors**2

    return f, (draw(3, 3),)


@case(tolerance=1e-4)
def determinants(draw):
    def f(x):
        return jnp.linalg.det(x), jnp.linalg.slogdet(x)[1], jnp.linalg.inv(x + 3 * jnp.eye(4))

    return f, (draw(4, 4),)


@case(tolerance=1e-4)
def qr_and_svd(draw):
    def f(x):
        return jnp.linalg.qr(x)[1] ** 2, jnp.linalg.svd(x, compute_uv=False)

    return f, (draw(4, 3),)


@case()
def fourier(draw):
    w = draw(5) + 1j * draw(5)
    return lambda x: (jnp.fft.irfft(jnp.fft.rfft(x) * w), jnp.abs(jnp.fft.fft(x))), (draw(8),)


@case(argnums=(0, 1))
def complex_numbers(draw):
    def f(x, y):
        z = lax.complex(x, y)
        return jnp.abs(z), jnp.real(z * z), jnp.imag(jnp.conj(z) * 2j * z), jnp.real(jnp.exp(z))

    return f, (draw(3), draw(3))


# Precision.


@case(tolerance=2e-2, tags="half")
def bfloat16_casts(draw):
    w = draw.dense(4, 4).astype(jnp.bfloat16)

    def f(x):
        return (jnp.tanh(x.astype(jnp.bfloat16) @ w) * 2).astype(jnp.float32)

    return f, (draw(3, 4),)


@case(tolerance=3e-2, tags="half")
def bfloat16_inputs(draw):
    w = draw.dense(4, 4).astype(jnp.bfloat16)
    return lambda x: jax.nn.gelu(x @ w) + x, (draw(3, 4, dtype=jnp.bfloat16),)


@case(tolerance=3e-2, tags="half")
def bfloat16_scan(draw):
    ws = draw.dense(4, 4, 3).astype(jnp.bfloat16)
    return lambda x: lax.scan(lambda c, w: (jnp.tanh(c @ w), c.sum()), x, ws), (
        draw(4, dtype=jnp.bfloat16),
    )


@case(tolerance=3e-3, tags="half")
def float16_inputs(draw):
    w = draw.dense(4, 4).astype(jnp.float16)
    return lambda x: jax.nn.softmax(x @ w) * x, (draw(3, 4, dtype=jnp.float16),)


@case(tolerance=2e-2, tags="half")
def mixed_precision_accumulation(draw):
    w = draw.dense(4, 3).astype(jnp.bfloat16)

    def f(x):
        y = lax.dot(x.astype(jnp.bfloat16), w, preferred_element_type=jnp.float32)
        return lax.reduce_precision(y, 8, 10)

    return f, (draw(2, 4),)


# Recurrent cells.


@case()
def lstm(draw):
    wx, wh, b = draw.dense(3, 16), draw.dense(4, 16), draw(16, scale=0.1)

    def f(xs):
        def cell(carry, x):
            h, c = carry
            i, o, forget, g = jnp.split(x @ wx + h @ wh + b, 4)
            c = jax.nn.sigmoid(forget) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        return lax.scan(cell, (jnp.zeros(4), jnp.zeros(4)), xs)

    return f, (draw(5, 3),)


@case()
def gru(draw):
    wz, wr, wh = (draw.dense(7, 4) for _ in range(3))

    def f(xs):
        def cell(h, x):
            both = jnp.concatenate([x, h])
            z, r = jax.nn.sigmoid(both @ wz), jax.nn.sigmoid(both @ wr)
            new = jnp.tanh(jnp.concatenate([x, r * h]) @ wh)
            return (1 - z) * h + z * new, None

        return lax.scan(cell, jnp.zeros(4), xs)[0]

    return f, (draw(4, 3),)


# Odd ways to take and give.


@case(tags="outputs vmap")
def outputs_repeated_and_passed_through(draw):
    def f(x):
        y = x * x
        return y, x, y, 1.0, jnp.arange(2), [x, (y,)]

    return f, (draw(3),)


@case(tags="outputs")
def output_independent_of_input(draw):
    return lambda x: (jnp.ones(2), jnp.sum(x) * 0.0 + 2.0), (draw(3),)


@case(argnums=(0, 2), tags="outputs")
def argument_not_used(draw):
    return lambda x, n, y: x * n, (draw(3), 2, draw(2))


@case()
def input_used_twice(draw):
    return lambda x: x * x + x / (x * x + 1.0) - x, (draw(4),)


@case(tags="pytree")
def pytree_argument(draw):
    def f(tree):
        (a, b), named = tree["pair"], tree["named"]
        return a @ b + named["bias"] * 2, tree["none"] is None

    tree = {"pair": (draw(2, 3), draw(3)), "named": {"bias": draw(2)}, "none": None}
    return f, (tree,)


@case(argnums=2)
def arguments_that_are_no_arrays(draw):
    def f(name, options, x, repeat):
        y = {"sin": jnp.sin, "cos": jnp.cos}[name](x)
        for _ in range(repeat):
            y = y * options["factor"] if options["scale"] else y + 1.0
        return y

    return f, ("sin", {"scale": True, "factor": 0.5, "note": None}, draw(3), 2)


@case()
def scalar_python_float(draw):
    return lambda x: jnp.sin(x) * x, (0.7,)


@case()
def numpy_array(draw):
    return lambda x: jnp.sin(x) @ jnp.ones(3), (np.asarray(draw(3)),)


@case()
def gradient_stopped(draw):
    def f(x):
        return x * lax.stop_gradient(jnp.exp(x)) + lax.stop_gradient(x)

    return f, (draw(3),)


@case()
def debug_print_inside(draw):
    def f(x):
        jax.debug.callback(lambda value: None, x)
        y = jnp.sin(x)
        jax.debug.callback(lambda value: None, y.sum())
        return y

    return f, (draw(3),)


@case()
def gradient_inside(draw):
    w = draw.dense(3, 3)
    inner = jax.grad(lambda x: jnp.sum(jnp.tanh(x @ w) ** 2))
    return lambda x: x - 0.1 * inner(x), (draw(3),)


@case()
def jacobian_inside(draw):
    return lambda x: jax.jacfwd(lambda x: jnp.sin(x) * x.sum())(x) @ x, (draw(3),)


@case()
def vmap_with_axes(draw):
    w = draw.dense(3, 2)
    return jax.vmap(lambda x, s: jnp.tanh(x @ w) * s, in_axes=(1, None), out_axes=1), (
        draw(3, 4),
        2.0,
    )


@case()
def optimization_barrier(draw):
    def f(x):
        a, b = lax.optimization_barrier((x * 2.0, jnp.sin(x)))
        return a * b

    return f, (draw(3),)


@case()
def special_functions(draw):
    def f(x):
        return (
            lax.lgamma(x),
            lax.digamma(x),
            lax.erf_inv(x / 4.0),
            lax.igamma(jnp.full(3, 2.0), x),
            lax.bessel_i0e(x),
            jnp.sinc(x),
        )

    return f, (draw.positive(3),)


@case(argnums=(0, 1))
def functions_of_two(draw):
    def f(x, y):
        return (
            jnp.arctan2(x, y),
            jnp.power(x, y),
            jnp.logaddexp(x, y),
            jnp.hypot(x, y),
            x % y,
            x / y,
        )

    return f, (draw.positive(4), draw.positive(4))


@case()
def polynomial(draw):
    return lambda x: jnp.polyval(jnp.array([1.0, -2.0, 0.5, 3.0]), x), (draw(4),)


@case()
def interpolation(draw):
    return lambda x: jax.image.resize(x, (1, 6, 5, 2), "bilinear"), (draw(1, 3, 4, 2),)


@case()
def embedding_of_tokens(draw):
    tokens, w = draw.integers(4, below=6), draw.dense(3, 2)
    return lambda table: jnp.mean(table[tokens], axis=0) @ w, (draw(6, 3),)


@case()
def mixture_of_experts(draw):
    router, experts = draw.dense(4, 3), draw.dense(4, 4, 3)

    def f(x):
        weights, chosen = lax.top_k(jax.nn.softmax(x @ router), 2)
        outputs = jnp.einsum("td,tkdf->tkf", x, experts[chosen])
        return jnp.einsum("tk,tkf->tf", weights / weights.sum(-1, keepdims=True), outputs)

    return f, (draw(3, 4),)


@case(tags="second")
def state_space_model(draw):
    a, b, c = draw.positive(4, low=0.1, high=0.9), draw(4), draw(4)

    def f(xs):
        def step(h, x):
            dt = jax.nn.softplus(x)
            h = jnp.exp(-dt * a) * h + dt * b * x
            return h, h @ c

        return lax.scan(step, jnp.zeros(4), xs)[1]

    return f, (draw(5),)


# Frameworks.


def _linen_call(model, draw, x):
    variables = jax.tree.map(jnp.asarray, evaluated(model.init, (jax.random.key(0), x)))
    return lambda x: model.apply(variables, x), (x,)


@case(framework="flax.linen")
def linen_cnn(draw):
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x)))
            x = nn.max_pool(x, (2, 2), (2, 2))
            x = nn.avg_pool(nn.relu(nn.Conv(4, (3, 3), strides=2)(x)), (2, 2))
            return nn.Dense(3)(x.reshape(x.shape[0], -1))

    return _linen_call(Net(), draw, draw(1, 8, 8, 2))


@case(framework="flax.linen")
def linen_transformer_block(draw):
    import flax.linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(2, deterministic=True)(h, h)
            return x + nn.Dense(6)(nn.gelu(nn.Dense(8)(nn.LayerNorm()(x))))

    return _linen_call(Block(), draw, draw(1, 4, 6))


@case(framework="flax.linen")
def linen_lstm(draw):
    import flax.linen as nn

    return _linen_call(nn.RNN(nn.LSTMCell(4)), draw, draw(1, 5, 3))


@case(framework="flax.nnx")
def nnx_cnn(draw):
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
            self.head = nnx.Linear(64, 3, rngs=rngs)

        def __call__(self, x):
            x = nnx.max_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), (2, 2))
            return self.head(x.reshape(x.shape[0], -1))

    model = Net(nnx.Rngs(0))
    graph, state = nnx.split(model)
    return lambda x: nnx.merge(graph, state)(x), (draw(1, 8, 8, 2),)


@case(framework="flax.nnx", argnums=(0, 1))
def nnx_transformer_block(draw):
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.norm1, self.norm2 = nnx.LayerNorm(6, rngs=rngs), nnx.RMSNorm(6, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(
                num_heads=2, in_features=6, decode=False, rngs=rngs
            )
            self.up, self.down = nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, 6, rngs=rngs)

        def __call__(self, x):
            x = x + self.attention(self.norm1(x))
            return x + self.down(nnx.gelu(self.up(self.norm2(x))))

    graph, params, rest = nnx.split(Block(nnx.Rngs(0)), nnx.Param, ...)
    return lambda params, x: nnx.merge(graph, params, rest)(x), (params, draw(1, 4, 6))


@case(framework="flax.nnx")
def nnx_lstm(draw):
    from flax import nnx

    model = nnx.RNN(nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    carry = jnp.zeros((1, 4)), jnp.zeros((1, 4))  # drawing one would change the model

    def f(x):
        # The loop of Flax wants variables that were made where it is traced.
        return nnx.merge(graph, state, copy=True)(x, initial_carry=carry)

    return f, (draw(1, 5, 3),)


@case(framework="equinox")
def equinox_cnn(draw):
    import equinox as eqx

    k1, k2 = jax.random.split(jax.random.key(0))
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, axis_name="batch", mode="batch")
    # Statistics as if it had been trained: of a new one they are not a number that means anything.
    (mean, var) = state.get(norm.batch_state_index)
    state = state.set(norm.batch_state_index, (mean + 0.1, var * 0 + 1.5))
    norm = eqx.nn.inference_mode(norm)
    conv, head = eqx.nn.Conv2d(2, 4, 3, key=k1), eqx.nn.Linear(36, 3, key=k2)

    def f(x):
        x, _ = norm(conv(x), state)
        return head(eqx.nn.MaxPool2d(2, 2)(jax.nn.relu(x)).reshape(-1))

    return f, (draw(2, 8, 8),)


@case(framework="equinox")
def equinox_transformer_block(draw):
    import equinox as eqx

    k1, k2 = jax.random.split(jax.random.key(0))
    attention = eqx.nn.MultiheadAttention(2, 6, key=k1)
    mlp, norm = eqx.nn.MLP(6, 6, 8, 1, jax.nn.gelu, key=k2), eqx.nn.LayerNorm(6)

    def f(x):
        h = jax.vmap(norm)(x)
        x = x + attention(h, h, h)
        return x + jax.vmap(lambda t: mlp(norm(t)))(x)

    return f, (draw(4, 6),)


@case(framework="equinox")
def equinox_lstm(draw):
    import equinox as eqx

    cell = eqx.nn.LSTMCell(3, 4, key=jax.random.key(0))

    def f(xs):
        return lax.scan(lambda c, x: (cell(x, c), None), (jnp.zeros(4), jnp.zeros(4)), xs)[0]

    return f, (draw(5, 3),)


def _keras_call(model):
    trainable = [v.value for v in model.trainable_variables]
    fixed = [v.value for v in model.non_trainable_variables]
    return lambda x: model.stateless_call(trainable, fixed, x, training=False)[0]


@case(framework="keras")
def keras_cnn(draw):
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    return _keras_call(model), (draw(1, 8, 8, 2),)


@case(framework="keras")
def keras_transformer_block(draw):
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = entry = keras.Input((4, 6))
    h = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 3)(h, h)
    h = layers.Dense(8, activation="gelu")(layers.LayerNormalization()(x))
    return _keras_call(keras.Model(entry, x + layers.Dense(6)(h))), (draw(1, 4, 6),)


@case(framework="keras")
def keras_lstm(draw):
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5, 3)), keras.layers.LSTM(4), keras.layers.Dense(2)])
    return _keras_call(model), (draw(1, 5, 3),)
