"""NumPy takes a jaxpr's equations one by one; loops are run by Python."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np

from relprop import _compat

from .operations import by_numpy

# Where the body of an equation is that does nothing but evaluate it.
_BODIES = {
    "jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr",
    "remat2": "jaxpr", "remat": "jaxpr", "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_vmap_call": "call",
}  # fmt: skip


def evaluated(f: Callable[..., Any], args: Sequence[Any]) -> Any:
    """What f returns, as arrays of NumPy; by f itself where something has no numbers yet."""
    if _compat.is_staged() or not _known(jax.tree.leaves(args)):
        return f(*args)
    jaxpr, shapes = _compat.make_jaxpr(f, *args)
    if not _known(_compat.open_jaxpr(jaxpr)[1]):  # A rule may have traced parameters.
        return f(*args)
    with np.errstate(all="ignore"):
        return jax.tree.unflatten(jax.tree.structure(shapes), _run(jaxpr, jax.tree.leaves(args)))


def uncompiled(f: Callable[..., Any]) -> Callable[..., Any]:
    """In the place of `jax.jit`, around what is called once."""

    @functools.wraps(f)
    def call(*args: Any) -> Any:
        return evaluated(f, args)

    return call


def _known(arrays: Sequence[Any]) -> bool:
    return not any(map(_compat.is_traced, arrays))


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
    found = by_numpy(name, operands, params)
    if found is not None:
        return found
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
