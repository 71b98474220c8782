"""The table of propagators: what is known of each primitive."""

from __future__ import annotations

from typing import Any

from relprop import _compat
from relprop._core.graph import Equation
from relprop._core.operation import Operation, Propagator, Unknown

_UNKNOWN = Unknown()
_table: dict[Any, Propagator] = {}


def register(primitive: Any, propagator: Propagator) -> None:
    """Says how relevance passes through a primitive; replaces what was said before.

    Args:
        primitive: the primitive, or its name as in ``jax.lax.NAME_p``. A name that this JAX does
            not have is ignored, so that one table serves several releases.
        propagator: what rules may know about it, for example
            `relprop.propagators.Structural()` or one of your own.
    """
    if isinstance(primitive, str):
        primitive = _compat.primitive(primitive) or primitive
    _table[primitive] = propagator
    # Some primitives can only be had by tracing; those are found by their name.
    _table[getattr(primitive, "name", primitive)] = propagator


def lookup(primitive: Any) -> Propagator:
    """What is registered for a primitive."""
    found = _table.get(primitive)
    return found if found is not None else _table.get(primitive.name, _UNKNOWN)


def unrepeatable(equation: Equation) -> bool:
    """Whether something in it has results that a second evaluation need not give again.

    Such are callbacks; their results are kept from the one run that there is.
    """
    if equation.bodies:
        return any(unrepeatable(e) for body in equation.bodies for e in body.equations)
    outside = equation.has_effects or lookup(equation.primitive).calls_back
    return outside and bool(equation.outputs)


def registered() -> dict[str, Propagator]:
    """Everything registered, by the name of the primitive."""
    return {k if isinstance(k, str) else k.name: v for k, v in _table.items()}


def operation_of(equation: Equation) -> Operation:
    """An equation as it stands, as an operation."""
    kind = lookup(equation.primitive)
    return Operation(kind, (equation,), equation.inputs, equation.outputs)
