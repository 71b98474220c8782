"""Operators of ONNX as functions of JAX arrays: numbers, sums and moves.

`OPERATORS` is all that are known, and `lowers` enters one. Each takes the inputs of a node in their
order, None for one that is left out, and its attributes by their names, so that the operator
specification of ONNX is the documentation. An input that has to be known before anything is
computed (a shape, the axes) arrives as a NumPy array; `known` says so where it doesn't.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relprop._errors import InputError

OPERATORS: dict[str, Callable[..., Any]] = {}
#: Of some operators the positions of inputs that are settings, and no weights.
SETTINGS: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "OneHot": (2,),
    "Pad": (2,),
    "Range": (0, 1, 2),
    "Resize": (1, 2),
    "Upsample": (1,),
}


def lowers(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enters a function for some operators."""

    def entered(function: Callable[..., Any]) -> Callable[..., Any]:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return entered


def known(value: Any, what: str) -> np.ndarray:
    """An input that a node needs as numbers.

    Raises:
        InputError: it depends on what is computed.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    raise InputError(
        f"{what} depends on the arguments or the parameters, so that the shapes in the graph are "
        "not known before it runs. Give the argument that it comes from as a NumPy array or a "
        "Python number, outside of what is jitted or explained."
    )


def _axes(given: Any, axes: Any, default: Any = None) -> Any:
    """Axes, which older versions have as an attribute and newer ones as an input."""
    found = axes if given is None else known(given, "The axes")
    return default if found is None else tuple(int(a) for a in np.atleast_1d(found))


# Functions of each entry.

_ENTRYWISE: dict[str, Callable[..., Any]] = {
    **{name: getattr(jnp, name.lower()) for name in ("Abs", "Ceil", "Cos", "Cosh", "Exp", "Floor")},
    **{name: getattr(jnp, name.lower()) for name in ("Log", "Sign", "Sin", "Sinh", "Sqrt")},
    **{name: getattr(jnp, name.lower()) for name in ("Tan", "Tanh", "Round", "IsNaN")},
    **{name: getattr(jnp, "arc" + name[1:].lower()) for name in ("Acos", "Acosh", "Asin", "Asinh")},
    **{name: getattr(jnp, "arc" + name[1:].lower()) for name in ("Atan", "Atanh")},
    "Erf": jax.lax.erf,
    "Identity": lambda x: x,
    "Mish": lambda x: x * jnp.tanh(jax.nn.softplus(x)),
    "HardSwish": lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1),
    "Neg": jnp.negative,
    "Not": jnp.logical_not,
    "Reciprocal": lambda x: 1 / x,
    "Relu": jax.nn.relu,
    "Sigmoid": jax.nn.sigmoid,
    "Softplus": jax.nn.softplus,
    "Softsign": jax.nn.soft_sign,
    "And": jnp.logical_and,
    "Or": jnp.logical_or,
    "Xor": jnp.logical_xor,
    "Add": jnp.add,
    "Sub": jnp.subtract,
    "Mul": jnp.multiply,
    "Equal": jnp.equal,
    "Greater": jnp.greater,
    "GreaterOrEqual": jnp.greater_equal,
    "Less": jnp.less,
    "LessOrEqual": jnp.less_equal,
    "Where": jnp.where,
    "PRelu": lambda x, slope: jnp.where(x < 0, slope * x, x),
    "Max": lambda *xs: functools.reduce(jnp.maximum, xs),
    "Min": lambda *xs: functools.reduce(jnp.minimum, xs),
    "Sum": lambda *xs: functools.reduce(jnp.add, xs),
    "Mean": lambda *xs: functools.reduce(jnp.add, xs) / len(xs),
}
OPERATORS.update(_ENTRYWISE)


@lowers("Div")
def div(a: Any, b: Any):
    whole = jnp.issubdtype(jnp.result_type(a), jnp.integer)
    return jax.lax.div(*jnp.broadcast_arrays(a, b)) if whole else a / b


@lowers("Pow")
def power(x: Any, exponent: Any):
    """A number that is known and whole is a repeated product, also where x is negative."""
    if isinstance(exponent, np.ndarray) and exponent.size == 1 and float(exponent.item()) % 1 == 0:
        return x ** int(exponent.item())
    return jnp.power(x, exponent).astype(jnp.result_type(x))


@lowers("Mod")
def mod(a: Any, b: Any, fmod: int = 0):
    return jnp.fmod(a, b) if fmod else jnp.mod(a, b)


@lowers("LeakyRelu")
def leaky_relu(x: Any, alpha: float = 0.01):
    return jax.nn.leaky_relu(x, alpha)


@lowers("Elu")
def elu(x: Any, alpha: float = 1.0):
    return jax.nn.elu(x, alpha)


@lowers("Celu")
def celu(x: Any, alpha: float = 1.0):
    return jax.nn.celu(x, alpha)


@lowers("Selu")
def selu(x: Any, alpha: float = 1.6732632, gamma: float = 1.0507010):
    return gamma * jax.nn.elu(x, alpha)


@lowers("Gelu")
def gelu(x: Any, approximate: str = "none"):
    return jax.nn.gelu(x, approximate=approximate == "tanh")


@lowers("HardSigmoid")
def hard_sigmoid(x: Any, alpha: float = 0.2, beta: float = 0.5):
    return jnp.clip(alpha * x + beta, 0, 1)


@lowers("Clip")
def clip(x: Any, low: Any = None, high: Any = None, *, min: Any = None, max: Any = None):
    low, high = (a if a is not None else b for a, b in ((low, min), (high, max)))
    return x if low is None and high is None else jnp.clip(x, low, high)


@lowers("Cast")
def cast(x: Any, to: int, saturate: int = 1):
    return x.astype(_dtype(to))


@lowers("CastLike")
def cast_like(x: Any, like: Any, saturate: int = 1):
    return x.astype(jnp.result_type(like))


def _dtype(number: int) -> Any:
    import onnx  # pyright: ignore[reportMissingImports]

    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number))
    return jax.dtypes.canonicalize_dtype(kind)


@lowers("Dropout")
def dropout(x: Any, *unused: Any, **attributes: Any):
    """In inference: nothing is dropped."""
    return x


# Quantisation.


def _per_axis(value: Any, x: Any, axis: int) -> Any:
    value = jnp.asarray(value)
    shape = [-1 if at == axis % x.ndim else 1 for at in range(x.ndim)]
    return value.reshape(shape) if value.ndim == 1 else value


@lowers("DequantizeLinear")
def dequantize_linear(x: Any, scale: Any, zero: Any = None, axis: int = 1, block_size: int = 0):
    steps = x.astype(jnp.result_type(scale))
    if zero is not None:
        steps = steps - _per_axis(zero, x, axis).astype(steps.dtype)
    return steps * _per_axis(scale, x, axis)


@lowers("QuantizeLinear")
def quantize_linear(x: Any, scale: Any, zero: Any = None, axis: int = 1, **attributes: Any):
    kind = jnp.dtype(jnp.uint8) if zero is None else jnp.result_type(zero)
    steps = jnp.round(x / _per_axis(scale, x, axis))
    if zero is not None:
        steps = steps + _per_axis(zero, x, axis).astype(steps.dtype)
    limits = jnp.iinfo(kind)
    return jnp.clip(steps, limits.min, limits.max).astype(kind)


# Sums and other reductions.


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduced(
        x: Any,
        given: Any = None,
        axes: Any = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ):
        along = _axes(given, axes)
        if not along and noop_with_empty_axes:
            return x
        return function(x, axis=along or None, keepdims=bool(keepdims))

    return reduced


OPERATORS.update(
    {
        "ReduceSum": _reduction(jnp.sum),
        "ReduceMean": _reduction(jnp.mean),
        "ReduceMax": _reduction(jnp.max),
        "ReduceMin": _reduction(jnp.min),
        "ReduceProd": _reduction(jnp.prod),
        "ReduceL1": _reduction(lambda x, **how: jnp.sum(jnp.abs(x), **how)),
        "ReduceL2": _reduction(lambda x, **how: jnp.sqrt(jnp.sum(x * x, **how))),
        "ReduceSumSquare": _reduction(lambda x, **how: jnp.sum(x * x, **how)),
        "ReduceLogSum": _reduction(lambda x, **how: jnp.log(jnp.sum(x, **how))),
        "ReduceLogSumExp": _reduction(jax.nn.logsumexp),
    }
)


@lowers("ArgMax")
def argmax(x: Any, axis: int = 0, keepdims: int = 1, select_last_index: int = 0):
    return _best(jnp.argmax, x, axis, keepdims, select_last_index)


@lowers("ArgMin")
def argmin(x: Any, axis: int = 0, keepdims: int = 1, select_last_index: int = 0):
    return _best(jnp.argmin, x, axis, keepdims, select_last_index)


def _best(function: Any, x: Any, axis: int, keepdims: int, last: int) -> Any:
    if last:
        at = function(jnp.flip(x, axis), axis, keepdims=bool(keepdims))
        return x.shape[axis] - 1 - at
    return function(x, axis, keepdims=bool(keepdims))


@lowers("CumSum")
def cumsum(x: Any, axis: Any, exclusive: int = 0, reverse: int = 0):
    along = int(known(axis, "The axis").item())
    x = jnp.flip(x, along) if reverse else x
    out = jnp.cumsum(x, along) - (x if exclusive else 0)
    return jnp.flip(out, along) if reverse else out


@lowers("TopK")
def top_k(x: Any, k: Any, axis: int = -1, largest: int = 1, sorted: int = 1):
    count = int(known(k, "The number k of TopK").item())
    turned = jnp.moveaxis(x, axis, -1)
    values, at = jax.lax.top_k(turned if largest else -turned, count)
    return jnp.moveaxis(values if largest else -values, -1, axis), jnp.moveaxis(at, -1, axis)


# Shapes and moves.


@lowers("Shape")
def shape(x: Any, start: int = 0, end: int | None = None):
    return np.asarray(np.shape(x)[start:end], np.int64)


@lowers("Size")
def size(x: Any):
    return np.asarray(np.size(x), np.int64)


@lowers("Reshape")
def reshape(x: Any, to: Any, allowzero: int = 0):
    wanted = known(to, "The shape").tolist()
    wanted = [x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(wanted)]
    return jnp.reshape(x, wanted)


@lowers("Flatten")
def flatten(x: Any, axis: int = 1):
    axis = axis + x.ndim if axis < 0 else axis
    return jnp.reshape(x, (int(np.prod(x.shape[:axis])), -1))


@lowers("Transpose")
def transpose(x: Any, perm: Any = None):
    return jnp.transpose(x, perm)


@lowers("Squeeze")
def squeeze(x: Any, given: Any = None, axes: Any = None):
    return jnp.squeeze(x, _axes(given, axes))


@lowers("Unsqueeze")
def unsqueeze(x: Any, given: Any = None, axes: Any = None):
    return jnp.expand_dims(x, _axes(given, axes))


@lowers("Concat")
def concat(*xs: Any, axis: int):
    return jnp.concatenate(xs, axis)


@lowers("Split")
def split(x: Any, sizes: Any = None, *, axis: int = 0, split: Any = None, num_outputs: Any = None):
    given = split if sizes is None else known(sizes, "The sizes of the parts")
    if given is None:
        longest = -(-x.shape[axis] // num_outputs)
        given = [longest] * (num_outputs - 1)
        return tuple(jnp.split(x, np.cumsum(given).tolist(), axis))
    return tuple(jnp.split(x, np.cumsum(given)[:-1].tolist(), axis))


@lowers("Slice")
def slice_(x: Any, first: Any = None, last: Any = None, along: Any = None, by: Any = None, **old):
    first = old.get("starts") if first is None else known(first, "The start of a slice")
    last = old.get("ends") if last is None else known(last, "The end of a slice")
    along = old.get("axes") if along is None else known(along, "The axes of a slice")
    steps = np.ones(len(first), int) if by is None else known(by, "The step of a slice")
    at = [slice(None)] * x.ndim
    for axis, start, end, step in zip(
        range(len(first)) if along is None else along, first, last, steps, strict=True
    ):
        # Backwards, an end before the first entry is none.
        beyond = step < 0 and int(end) < -x.shape[axis]
        at[axis] = slice(int(start), None if beyond else int(end), int(step))
    return x[tuple(at)]


@lowers("Gather")
def gather(x: Any, indices: Any, axis: int = 0):
    return jnp.take(x, indices, axis, mode=None if isinstance(indices, np.ndarray) else "wrap")


@lowers("GatherElements")
def gather_elements(x: Any, indices: Any, axis: int = 0):
    return x[_at(indices, axis)]


def _at(indices: Any, axis: int) -> tuple[Any, ...]:
    """The places that indices along one axis stand for, each at its own place on the others."""
    at: list[Any] = list(jnp.indices(indices.shape))
    at[axis] = jnp.asarray(indices)
    return tuple(at)


@lowers("GatherND")
def gather_nd(x: Any, indices: Any, batch_dims: int = 0):
    def one(x: Any, indices: Any) -> Any:
        return x[tuple(jnp.moveaxis(indices, -1, 0))]

    for _ in range(batch_dims):
        one = jax.vmap(one)
    return one(x, jnp.asarray(indices))


@lowers("ScatterND")
def scatter_nd(x: Any, indices: Any, updates: Any, reduction: str = "none"):
    return _scattered(x, tuple(jnp.moveaxis(jnp.asarray(indices), -1, 0)), updates, reduction)


@lowers("ScatterElements")
def scatter_elements(x: Any, indices: Any, updates: Any, axis: int = 0, reduction: str = "none"):
    return _scattered(x, _at(indices, axis), updates, reduction)


def _scattered(x: Any, at: tuple[Any, ...], updates: Any, reduction: str) -> Any:
    names = {"none": "set", "mul": "multiply"}
    return getattr(jnp.asarray(x).at[at], names.get(reduction, reduction))(updates)


@lowers("Expand")
def expand(x: Any, to: Any):
    return jnp.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(known(to, "The shape"))))


@lowers("Tile")
def tile(x: Any, repeats: Any):
    return jnp.tile(x, known(repeats, "The number of repeats").tolist())


@lowers("Pad")
def pad(x: Any, pads: Any = None, value: Any = None, along: Any = None, **old: Any):
    widths: Any = old.get("pads") if pads is None else known(pads, "The padding")
    mode = old.get("mode", "constant")
    axes = range(x.ndim) if along is None else known(along, "The axes of a padding").tolist()
    each = [(0, 0)] * x.ndim
    for i, axis in enumerate(axes):
        each[axis] = (int(widths[i]), int(widths[i + len(axes)]))
    # What is negative is cut off.
    inner = tuple(
        slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(each, x.shape, strict=True)
    )
    each = [(max(a, 0), max(b, 0)) for a, b in each]
    if mode != "constant":
        return jnp.pad(x[inner], each, mode)
    value = old.get("value", 0.0) if value is None else jnp.reshape(value, ())
    return jnp.pad(x[inner], each, constant_values=value)


@lowers("OneHot")
def one_hot(indices: Any, depth: Any, values: Any, axis: int = -1):
    count = int(known(depth, "The depth of OneHot").item())
    on = jax.nn.one_hot(jnp.mod(indices, count), count, axis=axis, dtype=bool)
    return jnp.where(on, values[1], values[0])


@lowers("Trilu")
def trilu(x: Any, k: Any = None, upper: int = 1):
    diagonal = 0 if k is None else int(known(k, "The diagonal").item())
    return (jnp.triu if upper else jnp.tril)(x, diagonal)


@lowers("DepthToSpace")
def depth_to_space(x: Any, blocksize: int, mode: str = "DCR"):
    samples, channels, height, width = x.shape
    rest = channels // blocksize**2
    if mode == "DCR":
        x = x.reshape(samples, blocksize, blocksize, rest, height, width)
        x = x.transpose(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(samples, rest, blocksize, blocksize, height, width)
        x = x.transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(samples, rest, height * blocksize, width * blocksize)


@lowers("SpaceToDepth")
def space_to_depth(x: Any, blocksize: int):
    samples, channels, height, width = x.shape
    rows, columns = height // blocksize, width // blocksize
    x = x.reshape(samples, channels, rows, blocksize, columns, blocksize)
    return x.transpose(0, 3, 5, 1, 2, 4).reshape(samples, -1, rows, columns)


# Products.


@lowers("MatMul")
def matmul(a: Any, b: Any):
    return jnp.matmul(a, b)


@lowers("Gemm")
def gemm(
    a: Any,
    b: Any,
    c: Any = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
):
    out = (a.T if transA else a) @ (b.T if transB else b)
    out = out if alpha == 1 else alpha * out
    return out if c is None else out + (c if beta == 1 else beta * c)


@lowers("Einsum")
def einsum(*xs: Any, equation: str):
    return jnp.einsum(equation, *xs)


def pairs(pads: Sequence[int]) -> list[tuple[int, int]]:
    """Paddings of each axis, which ONNX lists as all beginnings and then all ends."""
    half = len(pads) // 2
    return list(zip(pads[:half], pads[half:], strict=True))
