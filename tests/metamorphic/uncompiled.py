"""Evaluation without compiling anything: NumPy takes a jaxpr's equations one by one.

An explanation is asked for once, so that compiling it costs ten times what it takes to run it, and
even operation by operation there is a program to compile for every shape. NumPy knows most of the
operations that explanations are made of. JAX evaluates the others, one by one; loops are run by
Python.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np

from relprop import _compat

# Where the body of an equation is that does nothing but evaluate it.
_BODIES = {
    "jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr",
    "remat2": "jaxpr", "remat": "jaxpr", "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr",
}  # fmt: skip

# What has the same meaning in NumPy, element by element.
_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative,
    "max": np.maximum, "min": np.minimum, "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1,
    "log": np.log, "log1p": np.log1p, "sqrt": np.sqrt, "square": np.square, "tanh": np.tanh,
    "abs": np.abs, "sign": np.sign, "floor": np.floor, "ceil": np.ceil, "sin": np.sin,
    "cos": np.cos, "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal, "and": np.bitwise_and, "or": np.bitwise_or,
    "not": np.invert, "is_finite": np.isfinite, "stop_gradient": np.asarray, "copy": np.asarray,
    "copy_p": np.asarray, "optimization_barrier": np.asarray,
}  # fmt: skip
_OTHERS: dict[str, Callable[..., Any]] = {
    "rsqrt": lambda x, **_: 1 / np.sqrt(x),
    "logistic": lambda x, **_: 1 / (1 + np.exp(-x)),
    "integer_pow": lambda x, y: x**y if y >= 0 else 1 / x**-y,
    "div": lambda x, y: x / y if x.dtype.kind == "f" else None,
    "select_n": lambda which, *cases: (
        np.where(which, cases[1], cases[0]) if which.dtype == bool else None
    ),
    "convert_element_type": lambda x, new_dtype, **_: (
        None if jax.dtypes.issubdtype(new_dtype, jax.dtypes.extended) else x.astype(new_dtype)
    ),
    "reduce_sum": lambda x, axes, **_: x.sum(tuple(axes), dtype=x.dtype),
    "reduce_max": lambda x, axes, **_: x.max(tuple(axes)),
    "reduce_min": lambda x, axes, **_: x.min(tuple(axes)),
    "reshape": lambda x, new_sizes, dimensions=None, **_: (
        x if dimensions is None else x.transpose(dimensions)
    ).reshape(new_sizes),
    "squeeze": lambda x, dimensions: x.squeeze(tuple(dimensions)),
    "expand_dims": lambda x, dimensions: np.expand_dims(x, tuple(dimensions)),
    "transpose": lambda x, permutation: x.transpose(permutation),
    "rev": lambda x, dimensions: np.flip(x, tuple(dimensions)),
    "concatenate": lambda *xs, dimension: np.concatenate(xs, dimension),
    "slice": lambda x, start_indices, limit_indices, strides: x[
        tuple(map(slice, start_indices, limit_indices, strides or (1,) * x.ndim))
    ],
    "broadcast_in_dim": lambda x, shape, broadcast_dimensions, **_: np.broadcast_to(
        x.reshape(
            [
                x.shape[broadcast_dimensions.index(axis)] if axis in broadcast_dimensions else 1
                for axis in range(len(shape))
            ]
        ),
        shape,
    ),
    "dot_general": lambda x, y, dimension_numbers, **_: _contracted(x, y, dimension_numbers),
}

# Those that NumPy computes with as XLA does; it has no sums of short numbers in longer ones.
_DTYPES = [np.dtype(name) for name in "bool int32 int64 uint32 float32 float64".split()]


def _contracted(x: np.ndarray, y: np.ndarray, dimension_numbers: Any) -> np.ndarray:
    (summed_x, summed_y), (batch_x, batch_y) = dimension_numbers
    letters_x, letters_y = list(range(x.ndim)), list(range(x.ndim, x.ndim + y.ndim))
    for a, b in zip((*summed_x, *batch_x), (*summed_y, *batch_y), strict=True):
        letters_y[b] = letters_x[a]
    batch = [letters_x[a] for a in batch_x]
    free_x = [c for a, c in enumerate(letters_x) if a not in (*summed_x, *batch_x)]
    free_y = [c for b, c in enumerate(letters_y) if b not in (*summed_y, *batch_y)]
    return np.einsum(x, letters_x, y, letters_y, batch + free_x + free_y)


def evaluated(f: Callable[..., Any], args: Sequence[Any]) -> Any:
    """What f returns, as arrays of NumPy."""
    jaxpr, shapes = _compat.make_jaxpr(f, *args)
    with np.errstate(all="ignore"):
        return jax.tree.unflatten(jax.tree.structure(shapes), _run(jaxpr, jax.tree.leaves(args)))


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Without the check of annotations, a quarter of the time: all other tests have it."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def _run(jaxpr: Any, operands: Sequence[Any]) -> list[Any]:
    jaxpr, consts = _compat.open_jaxpr(jaxpr)
    values = dict(zip(jaxpr.constvars, map(_array, consts), strict=True))
    values.update(zip(jaxpr.invars, map(_array, operands), strict=True))

    def read(var: Any) -> Any:
        return _array(var.val) if isinstance(var, _compat.Literal) else values[var]

    for eqn in jaxpr.eqns:
        outs = _evaluate(eqn, [read(var) for var in eqn.invars])
        values.update(zip(eqn.outvars, map(_array, outs), strict=True))
    return [read(var) for var in jaxpr.outvars]


def _array(value: Any) -> Any:
    """NumPy's form of an array; keys of random numbers have none."""
    dtype = jax.dtypes.result_type(value) if not hasattr(value, "dtype") else value.dtype
    extended = jax.dtypes.issubdtype(dtype, jax.dtypes.extended)
    return value if extended else np.asarray(value, dtype)


def _evaluate(eqn: Any, operands: list[Any]) -> list[Any]:
    name, params = eqn.primitive.name, eqn.params
    if name == "cond":
        return _run(params["branches"][int(operands[0])], operands[1:])
    if name == "while":
        return _while(params, operands)
    if name == "scan":
        return _scan(params, operands)
    if name in _BODIES:
        return _run(params[_BODIES[name]], operands)
    own = all(x.dtype in _DTYPES for x in operands)
    if own and name in _ELEMENTWISE and len(eqn.outvars) == 1:
        return [_ELEMENTWISE[name](*operands)]
    if own and name in _OTHERS:
        found = _OTHERS[name](*operands, **params)
        if found is not None:
            return [found]
    return _compat.bind(eqn, [jnp.asarray(x) for x in operands])


def _while(params: Any, operands: list[Any]) -> list[Any]:
    first, second = params["cond_nconsts"], params["body_nconsts"]
    asked, done = operands[:first], operands[first : first + second]
    carry = operands[first + second :]
    while bool(_run(params["cond_jaxpr"], [*asked, *carry])[0]):
        carry = _run(params["body_jaxpr"], [*done, *carry])
    return carry


def _scan(params: Any, operands: list[Any]) -> list[Any]:
    constant, carried = _compat.scan_sizes(params)
    consts, carry = operands[:constant], operands[constant : constant + carried]
    rows, length = operands[constant + carried :], params["length"]
    order = range(length)[::-1] if params["reverse"] else range(length)
    collected: dict[int, list[Any]] = {}
    for i in order:
        outs = _run(params["jaxpr"], [*consts, *carry, *(row[i] for row in rows)])
        carry, collected[i] = outs[:carried], outs[carried:]
    kinds = _compat.open_jaxpr(params["jaxpr"])[0].outvars[carried:]
    stacked = [
        np.stack([collected[i][k] for i in range(length)])
        if length
        else np.zeros((0, *kind.aval.shape), kind.aval.dtype)
        for k, kind in enumerate(kinds)
    ]
    return [*carry, *stacked]
