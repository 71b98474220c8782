"""Evaluation without compiling anything as a whole.

An explanation is asked for once, so that compiling it costs ten times what it takes to run it.
Operations one by one are in the caches of JAX after a while, but a loop is compiled anew each time,
even outside of `jax.jit`. Here loops are run by Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from relprop import _compat

LOOPS = ("scan", "while", "cond")
# Where the body of an equation is that does nothing but evaluate it.
_BODIES = {
    "jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr",
    "remat2": "jaxpr", "remat": "jaxpr", "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr",
}  # fmt: skip


def evaluated(f: Callable[..., Any], args: Sequence[Any], looping: bool) -> Any:
    """What f returns; one operation after the other, and loops by Python if there are any."""
    if not looping:
        return f(*args)
    jaxpr, shapes = _compat.make_jaxpr(f, *args)
    return jax.tree.unflatten(jax.tree.structure(shapes), _run(jaxpr, jax.tree.leaves(args)))


def has_loops(f: Callable[..., Any], *args: Any) -> bool:
    """Whether there is a loop or a branch in a function, at any depth."""

    def inside(jaxpr: Any) -> bool:
        return any(
            eqn.primitive.name in LOOPS or any(inside(body) for body in _bodies(eqn.params))
            for eqn in _compat.open_jaxpr(jaxpr)[0].eqns
        )

    return inside(jax.make_jaxpr(f)(*args))


def _bodies(params: Any) -> list[Any]:
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: hasattr(leaf, "eqns"))
    return [leaf for leaf in leaves if hasattr(leaf, "eqns")]


def _run(jaxpr: Any, operands: Sequence[Any]) -> list[Any]:
    jaxpr, consts = _compat.open_jaxpr(jaxpr)
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, operands, strict=True))

    def read(var: Any) -> Any:
        return var.val if isinstance(var, _compat.Literal) else values[var]

    for eqn in jaxpr.eqns:
        outs = _evaluate(eqn, [read(var) for var in eqn.invars])
        values.update(zip(eqn.outvars, outs, strict=True))
    return [read(var) for var in jaxpr.outvars]


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
    return _compat.bind(eqn, operands)


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
        jnp.stack([collected[i][k] for i in range(length)])
        if length
        else jnp.zeros((0, *kind.aval.shape), kind.aval.dtype)
        for k, kind in enumerate(kinds)
    ]
    return [*carry, *stacked]
