"""The one place that knows how JAX releases differ, and the only user of ``jax.extend``.

JAX 0.10 and 0.12 disagree about the shape of a jaxpr: closed and open jaxprs were merged,
``scan`` describes its operands differently, primitives come and go. Everything above this module
sees one interface.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend import source_info_util
from jax.extend.core import Literal, Primitive, primitives
from jax.interpreters import ad

__all__ = [
    "Literal",
    "Primitive",
    "alike",
    "as_one",
    "at_source",
    "barrier",
    "bind",
    "call_shardings",
    "carried_operands",
    "constraint",
    "context",
    "entry_type",
    "function_name",
    "is_at_hand",
    "is_staged",
    "is_traced",
    "looked_at",
    "make_jaxpr",
    "open_jaxpr",
    "primitive",
    "replaced",
    "scan_sizes",
    "scope_of",
    "source_of",
    "transposed",
    "type_of",
    "varying",
    "zeros",
]


def open_jaxpr(jaxpr: Any) -> tuple[Any, tuple[Any, ...]]:
    """Splits a jaxpr, open or closed, of any release, into the open one and its constants."""
    consts = tuple(getattr(jaxpr, "consts", ()) or ())
    return getattr(jaxpr, "jaxpr", jaxpr), consts


def primitive(name: str) -> Primitive | None:
    """The primitive called ``NAME_p`` in this JAX, or None where this release has none."""
    for home in (primitives, lax):
        # Some stubs in `primitives` are deprecated and warn when touched; none is needed here.
        found = getattr(home, f"{name}_p", None)
        if isinstance(found, Primitive):
            return found
    return None


def bind(eqn: Any, values: Sequence[Any], **overrides: Any) -> list[Any]:
    """Evaluates one equation on new operands, in the context in which it was traced."""
    prim = eqn.primitive
    params = {**eqn.params, **overrides}
    # Plain params fail for custom derivatives: their functions are packed in the jaxpr.
    with _context(eqn):
        # Derivatives that users have written index what they are given; as JAX has it, by tracers.
        values = [jnp.asarray(v) if isinstance(v, np.ndarray) and v.ndim else v for v in values]
        summed = frozenset(params.get("axes", ())) if prim.name in _SUMS else frozenset()
        values = _together(values, [varying(var.aval) for var in eqn.invars], summed)
        out = prim.bind(*values, **prim.get_bind_params(params))
    return list(out) if prim.multiple_results else [out]


def transposed(
    eqn: Any, active: Sequence[bool], values: Sequence[Any], given: Any, **overrides: Any
) -> list[Any] | None:
    """What the transpose of an equation makes of a cotangent, per operand that it is linear in.

    By JAX's own rule for the primitive, which takes a twentieth of the time of
    `jax.linear_transpose`: that traces and wraps a function to call the same rule.

    Args:
        eqn: of one result.
        active: per operand, whether it is one of those in which the equation is linear.
        values: the operands; of active ones only the type matters.
        given: the cotangent of the result.
        overrides: other values of some parameters.

    Returns:
        One array per active operand; None where JAX has no such rule, or devices hold different
        parts, which `jax.linear_transpose` has to see to.
    """
    rule = ad.primitive_transposes.get(eqn.primitive) or _TRANSPOSES.get(eqn.primitive.name)
    kinds = [type_of(value) for value in values]
    alone = not any(varying(kind) or _explicit(kind) for kind in (*kinds, type_of(given)))
    if rule is None or eqn.primitive.multiple_results or not alone:
        return None
    pairs = zip(values, kinds, active, strict=True)
    operands = [ad.UndefinedPrimal(kind) if on else value for value, kind, on in pairs]
    with _context(eqn):
        found = rule(given, *operands, **{**eqn.params, **overrides})
    return [
        jnp.zeros(kind.shape, kind.dtype) if part is None or isinstance(part, ad.Zero) else part
        for part, kind, on in zip(found, kinds, active, strict=True)
        if on
    ]


def _slice_transposed(given: Any, x: Any, start_indices: Any, strides: Any, **_: Any) -> list[Any]:
    steps = strides or (1,) * given.ndim
    taken = [(n - 1) * step + 1 if n else 0 for n, step in zip(given.shape, steps, strict=True)]
    ends = zip(x.aval.shape, start_indices, taken, strict=True)
    after = [whole - start - length for whole, start, length in ends]
    padding = [(a, b, step - 1) for a, b, step in zip(start_indices, after, steps, strict=True)]
    return [lax.pad(given, jnp.zeros((), given.dtype), padding)]


# Of primitives whose rules JAX has elsewhere.
_TRANSPOSES = {"slice": _slice_transposed}


@contextlib.contextmanager
def at_source(eqn: Any) -> Iterator[None]:
    """What is evaluated meanwhile has the user's line of an equation for its source."""
    with source_info_util.user_context(eqn.source_info.traceback):
        yield


def replaced(eqn: Any, invars: Sequence[Any], **params: Any) -> Any:
    """An equation with other operands, and with other values of some parameters."""
    return eqn.replace(invars=list(invars), params={**eqn.params, **params})


@contextlib.contextmanager
def _context(eqn: Any) -> Iterator[None]:
    # Without this, compute_on, xla_metadata, the threefry mode and the abstract mesh get lost.
    settings = context(eqn)
    if settings is None:
        yield
        return
    with settings.manager:
        yield


def context(eqn: Any) -> Any:
    """What was set around an equation when it was traced; the same object for the same settings."""
    return getattr(eqn, "ctx", None)


def type_of(array: Any) -> Any:
    """The type of an array: shape, dtype, explicit sharding and `varying` axes."""
    return array if isinstance(array, jax.ShapeDtypeStruct) else jax.typeof(array)


def entry_type(array: Any) -> jax.ShapeDtypeStruct:
    """The type of the entries of an array along its first dimension."""
    kind = type_of(array)
    mesh = getattr(kind.sharding, "mesh", None)
    if not mesh:
        return jax.ShapeDtypeStruct(kind.shape[1:], kind.dtype)
    spec = jax.sharding.PartitionSpec(*kind.sharding.spec[1:])
    return jax.ShapeDtypeStruct(
        kind.shape[1:],
        kind.dtype,
        sharding=jax.sharding.NamedSharding(mesh, spec),
        manual_axis_type=kind.manual_axis_type,
    )


def varying(kind: Any) -> frozenset[Any]:
    """The mesh axes of a `shard_map` along which arrays of a type differ between devices.

    None where JAX does not keep track of them: outside, and inside with ``check_vma=False``.
    """
    manual = getattr(kind, "manual_axis_type", None)
    return frozenset(getattr(manual, "varying", None) or ())


# Sums over devices, which only take what differs between them.
_SUMS = frozenset({"psum", "psum_invariant"})


def _together(
    values: Sequence[Any], traced: Sequence[frozenset[Any]], summed: frozenset[Any]
) -> list[Any]:
    """Operands with copies for the devices along which others of them differ, or are summed.

    A number in the code is the same on all devices; what it meets may not be.
    """
    if not any(traced):
        return list(values)
    present = summed.union(*(varying(type_of(x)) for x in values))
    return [_spread(x, axes & present) for x, axes in zip(values, traced, strict=True)]


def _spread(array: Any, axes: frozenset[Any]) -> Any:
    """An array with a copy of it for each device along some mesh axes."""
    missing = axes and axes - varying(type_of(array))
    return lax.pcast(array, _ordered(missing), to="varying") if missing else array


def alike(array: jax.Array, like: Any) -> jax.Array:
    """An array of relevance, laid out over devices as its value is.

    Where devices hold the same value, each of them has found a part of its relevance: the parts are
    added up. Where they hold different ones, each keeps its own.

    Args:
        array: the relevance.
        like: the value, or anything of its type.
    """
    wanted = type_of(like)
    surplus = varying(type_of(array)) - varying(wanted)
    if surplus:
        array = lax.psum(array, _ordered(surplus))
    array = _spread(array, varying(wanted))
    if _explicit(wanted) and _explicit(wanted) != _explicit(type_of(array)):
        array = jax.sharding.reshard(array, wanted.sharding)
    return array


def _explicit(kind: Any) -> Any:
    """The sharding that is part of a type, None where XLA chooses."""
    sharding: Any = getattr(kind, "sharding", None)
    mesh = getattr(sharding, "mesh", None)
    return sharding.spec if mesh and mesh.explicit_axes else None


def barrier(tree: Any) -> Any:
    """`lax.optimization_barrier`, which would make all its operands differ between devices."""
    leaves, structure = jax.tree.flatten(tree)
    groups: dict[Any, list[int]] = {}
    for i, leaf in enumerate(leaves):
        groups.setdefault(varying(type_of(leaf)), []).append(i)
    for members in groups.values():
        held = lax.optimization_barrier([leaves[i] for i in members])
        for i, leaf in zip(members, held, strict=True):
            leaves[i] = leaf
    return jax.tree.unflatten(structure, leaves)


def _ordered(axes: frozenset[Any]) -> tuple[Any, ...]:
    # The order of a set differs from one run to the next, and from one process to another.
    return tuple(sorted(axes, key=str))


def zeros(like: Any) -> jax.Array:
    """Zeros of the type of an array."""
    return alike(lax.full(like.shape, 0, like.dtype), like)  # Of random keys, too.


def is_staged() -> bool:
    """Whether operations are recorded here, for a compiler, and not executed one by one."""
    # Not by `jnp.zeros`, which is a program to compile, and each time where JAX looks for leaks.
    return isinstance(jax.device_put(np.float32(0)), Tracer)


def is_at_hand(array: Any) -> bool:
    """Whether all of an array can be read by this process."""
    return getattr(array, "is_fully_addressable", True)


def is_traced(array: Any) -> bool:
    """Whether an array has no value yet, since a function around is being traced."""
    return isinstance(array, Tracer)


@contextlib.contextmanager
def as_one() -> Iterator[None]:
    """`jax_debug_nans` and `jax_debug_infs` don't look at what is in between, see `looked_at`.

    As in a compiled function: what `jnp.var` would return for too few numbers is a NaN, which is
    written into every function that calls it and chosen by none.
    """
    if not _checks():
        yield
        return
    with jax.debug_nans(False), jax.debug_infs(False):
        yield


def looked_at(arrays: Any) -> Any:
    """Results, which `jax_debug_nans` and `jax_debug_infs` refuse if they are not finite."""
    return jax.tree.map(jnp.copy, arrays) if _checks() else arrays


def _checks() -> bool:
    config: Any = jax.config
    return config.jax_debug_nans or config.jax_debug_infs


def source_of(eqn: Any) -> str:
    """The user's source line behind an equation, as ``file.py:12:3 (function)``, if known.

    Of a PyTorch model that is the line of the model, and not that of torchax.
    """
    line = source_info_util.summarize(eqn.source_info)
    if line.startswith("<unknown>"):
        return ""
    if not any(folder in line for folder in _BRIDGES):
        return line
    frames = getattr(eqn.source_info.traceback, "frames", ())
    outside = (f for f in frames if not any(folder in f.file_name for folder in _LIBRARIES))
    return next((f"{f.file_name}:{f.line_num} ({f.function_name})" for f in outside), line)


# What stands between the user's code and JAX.
_BRIDGES = tuple(f"{os.sep}{name}{os.sep}" for name in ("torch", "torchax")) + (
    os.path.join(os.path.dirname(__file__), "_core", ""),
    os.path.join(os.path.dirname(__file__), "interop", ""),
)
_LIBRARIES = (
    *_BRIDGES,
    *(os.path.join(os.path.dirname(str(m.__file__)), "") for m in (jax, jaxlib)),
)


def scope_of(eqn: Any) -> str:
    """The named scopes around an equation, as ``outer/inner``."""
    return str(eqn.source_info.name_stack)


def scan_sizes(params: Mapping[str, Any]) -> tuple[int, int]:
    """The number of constants and of carried values of a ``scan`` equation."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = (len(part) for part in params["ft_in"].unpack())  # JAX >= 0.11
    return consts, carry


def carried_operands(eqn: Any) -> range:
    """Which inputs of the body of a loop are what it carries; none for other equations."""
    if eqn.primitive.name == "scan":
        consts, carried = scan_sizes(eqn.params)
        return range(consts, consts + carried)
    if eqn.primitive.name == "while":
        return range(eqn.params["body_nconsts"], len(eqn.invars))
    return range(0)


def function_name(jaxpr: Any) -> str:
    """The name of the Python function that a jaxpr was traced from, or an empty string."""
    info = getattr(open_jaxpr(jaxpr)[0], "debug_info", None)
    return getattr(info, "func_name", "") or ""


def call_shardings(eqn: Any) -> tuple[list[Any], list[Any]]:
    """How a jitted call asks for its operands and its results to be split; None: not at all."""

    def asked(name: str, count: int) -> list[Any]:
        given = eqn.params.get(name) or [None] * count
        return [s if isinstance(s, jax.sharding.Sharding) else None for s in given]

    return asked("in_shardings", len(eqn.invars)), asked("out_shardings", len(eqn.outvars))


def constraint(shape: tuple[int, ...], dtype: Any, sharding: Any) -> Any:
    """An equation that splits an array as asked for."""
    jaxpr = jax.make_jaxpr(lambda x: lax.with_sharding_constraint(x, sharding))(
        jax.ShapeDtypeStruct(shape, dtype)
    )
    (eqn,) = open_jaxpr(jaxpr)[0].eqns
    return eqn


def make_jaxpr(function: Any, *args: Any) -> tuple[Any, Any]:
    """Traces a function of arrays; returns its jaxpr and the shapes it returns."""
    return jax.make_jaxpr(function, return_shape=True)(*args)
