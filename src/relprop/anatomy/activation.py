"""Which function an activation is: told from its values, since its equations say nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relprop import _compat
from relprop._core.graph import Atom, Constant
from relprop._core.plan import Step
from relprop.anatomy.blocks import Activation, Gate, place
from relprop.anatomy.wiring import Wiring

_GRID = np.array(
    [-0.5, 1.0, 0.0, -3.0, 2.5, -1.0, 0.25, 7.0, -7.0, 4.0, -2.0, 0.75, -0.1, 3.0, 6.5, -4.5]
)
_LARGEST = 2**22  # entries: more than that are not computed only to find a name

_IDENTITY = "identity"  # such as a limit that no finite number reaches
_FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    _IDENTITY: lambda x: x,
    "relu": jax.nn.relu,
    "gelu (tanh)": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "quick gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "mish": jax.nn.mish,
    "hard swish": jax.nn.hard_silu,
    "hard sigmoid": jax.nn.hard_sigmoid,
    "relu6": jax.nn.relu6,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "leaky relu": jax.nn.leaky_relu,
    "leaky relu (0.2)": lambda x: jax.nn.leaky_relu(x, 0.2),
    "squared relu": lambda x: jnp.square(jax.nn.relu(x)),
    "softsign": jax.nn.soft_sign,
    "log sigmoid": jax.nn.log_sigmoid,
    "hard tanh": jax.nn.hard_tanh,
    "celu": jax.nn.celu,
    "exp": jnp.exp,
    "square": jnp.square,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "absolute value": jnp.abs,
}


def activations(wiring: Wiring) -> Iterator[Activation]:
    """Each function of one value, with its name where the values tell it."""
    for step in wiring.steps:
        if step.structure == "activation":
            name = function_name(wiring, step)
            if name != _IDENTITY:
                yield Activation("activation", **place(step), function=name)  # type: ignore[arg-type]


def gates(wiring: Wiring) -> Iterator[Gate]:
    """Each product of a signal with an activation."""
    for step in wiring.steps:
        if step.structure == "gate":
            opening = wiring.active(step)[0]
            maker = wiring.maker(wiring.origin(opening, "structural", "scale", "offset"))
            function = function_name(wiring, maker) if maker else ""
            yield Gate(kind="gate", **place(step), function=function)  # type: ignore[arg-type]


def function_name(wiring: Wiring, step: Step) -> str:
    """The name of the function of a step, or an empty string."""
    values = _values(wiring, step)
    if values is None:
        return ""
    grid, found = values
    with jax.ensure_compile_time_eval():
        known = {name: np.asarray(f(grid), np.float64) for name, f in _FUNCTIONS.items()}
    errors = {name: np.max(np.abs(y - found) / (1 + np.abs(found))) for name, y in known.items()}
    # The two forms of GELU differ by 5e-4, and half precision by more than that.
    best = min(errors, key=errors.__getitem__)
    return best if errors[best] < 1e-2 else ""


def _values(wiring: Wiring, step: Step) -> tuple[np.ndarray, np.ndarray] | None:
    """Points, and the function at these points."""
    operands = wiring.active(step)
    if step.structure != "activation" or len(operands) != 1:
        return None
    (operand,) = operands
    size = int(np.prod(operand.shape, dtype=np.int64))
    if not 0 < size <= _LARGEST or operand.dtype.kind == "c":
        return None
    found = []
    count = -(-len(_GRID) // size)
    for part in range(count):
        grid = np.resize(np.roll(_GRID, -part * size), operand.shape)
        # A model may be inspected while another function is traced.
        with jax.ensure_compile_time_eval():
            point = jnp.asarray(grid, operand.dtype)
            given = [point if a is operand else _number(wiring, a) for a in step.operation.inputs]
            if any(array is None for array in given):
                return None
            (out,) = step.operation.evaluate(given)
        found.append((np.ravel(grid), np.ravel(np.asarray(out, np.float64))))
    points, values = (np.concatenate(column) for column in zip(*found, strict=True))
    return points[: len(_GRID)].astype(np.float32), values[: len(_GRID)]


def _number(wiring: Wiring, atom: Atom) -> Any:
    """The value of a constant, if it was computed from numbers in the code; None otherwise."""
    if isinstance(atom, Constant):
        return atom.array
    known = wiring.plan.graph.constants.get(atom)
    if known is not None and not _compat.is_traced(known):
        return known
    equation = wiring.equation(atom)
    if equation is None or atom in wiring.touched or len(equation.outputs) != 1:
        return None
    inputs = [_number(wiring, a) for a in equation.inputs]
    return None if any(a is None for a in inputs) else equation.evaluate(inputs)[0]
