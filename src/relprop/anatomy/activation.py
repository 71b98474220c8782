"""Which function an activation is: told from its values, since its equations say nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relprop import _compat
from relprop._core.graph import Atom, Literal
from relprop._core.plan import Step
from relprop.anatomy.blocks import Activation, Gate, place
from relprop.anatomy.decays import of_states, repeated_decays
from relprop.anatomy.opening import openings
from relprop.anatomy.routing import routers, weighing
from relprop.anatomy.wiring import LINEAR_LINKS, Wiring, passes

_GRID = np.array(
    [-0.5, 1.0, 0.0, -3.0, 2.5, -1.0, 0.25, 7.0, -7.0, 4.0, -2.0, 0.75, -0.1, 3.0, 6.5, -4.5]
)
_LARGEST = 2**22  # entries: more than that are not computed only to find a name

#: Between the scores of experts and the products by which they weigh.
_SCORED = passes(*LINEAR_LINKS, "activation", "sum", "quotient")

_IDENTITY = "identity"  # such as a limit that no finite number reaches


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, 0)


# In NumPy, since a model may be inspected while JAX traces another function.
_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    _IDENTITY: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu (tanh)": lambda x: x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "gelu": lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / 2**0.5)),
    "quick gelu": lambda x: x * _sigmoid(1.702 * x),
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softplus": _softplus,
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "hard swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hard sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "relu6": lambda x: np.clip(x, 0, 6),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "leaky relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "leaky relu (0.2)": lambda x: np.where(x > 0, x, 0.2 * x),
    "squared relu": lambda x: np.maximum(x, 0) ** 2,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "log sigmoid": lambda x: -_softplus(-x),
    "hard tanh": lambda x: np.clip(x, -1, 1),
    "exp": np.exp,
    "square": np.square,
    "sin": np.sin,
    "cos": np.cos,
    "absolute value": np.abs,
}


def activations(wiring: Wiring) -> Iterator[Activation]:
    """Each function of one value, with its name where the values tell it."""
    repeated = repeated_decays(wiring)
    found = [
        step
        for step in wiring.steps
        if step.structure == "activation" and repeated.isdisjoint(step.operation.outputs)
    ]
    ends = {step.operation.last: {*step.operation.equations} for step in found}
    for step in found:
        # `1 - z`, where z is used as well, is no activation of its own to its author.
        inside = ends[step.operation.last]
        if not any(inside > ends[equation] for equation in inside if equation in ends):
            name = function_name(wiring, step)
            if name != _IDENTITY and not _is_guard(wiring, step):
                yield Activation("activation", **place(step), function=name)  # type: ignore[arg-type]


def _is_guard(wiring: Wiring, step: Step) -> bool:
    """Whether it only keeps what something is divided by from being zero."""
    if not {e.name for e in step.operation.equations} <= {"max", "clamp"}:
        return False
    values = list(step.operation.outputs)
    while values:
        value = values.pop()
        readers = wiring.readers(value)
        for reader in readers:
            if reader.structure == "structural":
                values.extend(reader.operation.outputs)
            elif reader.structure != "quotient" or wiring.active(reader)[-1] is not value:
                return False
        if not readers:
            return False
    return True


def gates(wiring: Wiring) -> Iterator[Gate]:
    """Each product of a signal with an activation, but those that weigh experts or fill a state."""
    states = of_states(wiring)
    scores = {router.value for router in routers(wiring)} | weighing(wiring)
    for opening in openings(wiring):
        yield Gate(kind="gate", **place(opening.product), function="softmax")  # type: ignore[arg-type]
    for step in wiring.steps:
        if step.structure == "gate" and states.isdisjoint(step.operation.outputs):
            opening = wiring.active(step)[0]
            links = (link for a in wiring.active(step) for link in wiring.back(a, _SCORED))
            layers = (out for link in links for out in link.step.operation.outputs)
            if not scores.isdisjoint(layers):
                continue
            maker = wiring.maker(wiring.origin(opening, "structural", "scale", "offset"))
            function = function_name(wiring, maker) if maker else ""
            yield Gate(kind="gate", **place(step), function=function)  # type: ignore[arg-type]


def function_name(wiring: Wiring, step: Step) -> str:
    """The name of the function of a step, or an empty string."""
    values = _values(wiring, step)
    if values is None:
        return ""
    grid, found = values
    if not np.all(np.isfinite(found)):  # Not a function of all numbers.
        return ""
    known = {name: function(grid) for name, function in _FUNCTIONS.items()}
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
        if _compat.is_traced(out):
            return None
        found.append((np.ravel(grid), np.ravel(np.asarray(out, np.float64))))
    points, values = (np.concatenate(column) for column in zip(*found, strict=True))
    return points[: len(_GRID)], values[: len(_GRID)]


def _number(wiring: Wiring, atom: Atom) -> Any:
    """The value of a constant, if it was computed from numbers in the code; None otherwise."""
    found: dict[Atom, Any] = {}
    queue = [atom]
    while queue:
        one = queue[-1]
        constants = wiring.plan.graph.constants
        known = one.array if isinstance(one, Literal) else constants.get(one)
        if known is not None and not _compat.is_traced(known):
            found[one] = known
        if one in found:
            queue.pop()
            continue
        equation = wiring.equation(one)
        if equation is None or one in wiring.touched or len(equation.outputs) != 1:
            return None
        missing = [a for a in equation.inputs if a not in found]
        queue.extend(missing)
        if not missing:
            found[one] = equation.evaluate([found[a] for a in equation.inputs])[0]
    return found[atom]
