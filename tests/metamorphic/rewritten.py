"""Any function in another form: its equations are replayed, and something is done about each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from relprop import _compat

from .wrappers import Wrapper

Replayed = Callable[[Any, list[Any]], list[Any]]


def with_intermediates(f: Callable[..., Any], *args: Any) -> Callable[..., tuple[Any, list[Any]]]:
    """A function that returns, beside its result, every float that is computed on the way."""

    def run(*args: Any) -> tuple[Any, list[Any]]:
        seen: list[Any] = []

        def evaluate(eqn: Any, operands: list[Any]) -> list[Any]:
            outs = _compat.bind(eqn, operands)
            seen.extend(out for out in outs if _is_float(out))
            return outs

        return replayed(*args, evaluate=evaluate), seen

    replayed = _replay(f, *args)
    return run


def each_wrapped(f: Callable[..., Any], wrap: Wrapper, *args: Any) -> Callable[..., Any]:
    """A function that has each of its equations in a wrapper of its own."""

    def evaluate(eqn: Any, operands: list[Any]) -> list[Any]:
        if not all(map(_is_float, [*operands, *eqn.outvars])) or not operands:
            return _compat.bind(eqn, operands)
        return list(wrap(lambda *operands: tuple(_compat.bind(eqn, operands)))(*operands))

    replayed = _replay(f, *args)
    return lambda *args: replayed(*args, evaluate=evaluate)


def _is_float(value: Any) -> bool:
    dtype = getattr(value, "dtype", None) or value.aval.dtype
    return jnp.issubdtype(dtype, jnp.floating)


def _replay(f: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """The function, traced once; with each call comes a way of evaluating its equations."""
    closed, shapes = _compat.make_jaxpr(f, *args)
    jaxpr, consts = _compat.open_jaxpr(closed)
    structure = jax.tree.structure(shapes)

    def run(*args: Any, evaluate: Replayed) -> Any:
        values = dict(zip(jaxpr.constvars, consts, strict=True))
        values.update(zip(jaxpr.invars, jax.tree.leaves(args), strict=True))

        def read(var: Any) -> Any:
            return var.val if isinstance(var, _compat.Literal) else values[var]

        for eqn in jaxpr.eqns:
            outs = evaluate(eqn, [read(var) for var in eqn.invars])
            values.update(zip(eqn.outvars, outs, strict=True))
        return jax.tree.unflatten(structure, [read(var) for var in jaxpr.outvars])

    return run
