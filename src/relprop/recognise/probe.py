"""What a function of one value does, told from its values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from relprop import _compat
from relprop._core.graph import Atom, Equation, Literal, Value
from relprop._core.operation import Operation

#: From far left to far right; sigmoids are flat at both ends.
GRID = np.concatenate([[-40.0, -37.0, -34.0], np.linspace(-12, 12, 49), [34.0, 37.0, 40.0]])


def probed(operation: Operation, number: Callable[[Atom], float | None]) -> np.ndarray | None:
    """The values of a function of the entries of one array, or None where it reads other arrays.

    In NumPy where its equations are common ones: it is computed while JAX traces the function.
    """
    start, *_ = (a for a in operation.inputs if isinstance(a, Value) and number(a) is None)
    known: dict[Any, Any] = {start: GRID}

    def read(atom: Atom) -> Any:
        if atom in known:
            return known[atom]
        value = number(atom)
        if value is None:
            raise KeyError(atom)
        return np.float64(value)

    try:
        with np.errstate(all="ignore"):
            for equation in operation.equations:
                values = [read(atom) for atom in equation.inputs]
                for out, value in zip(equation.outputs, _evaluated(equation, values), strict=True):
                    known[out] = value
    except (KeyError, TypeError, ValueError, NotImplementedError):
        return None
    found = np.broadcast_to(np.asarray(known[operation.outputs[0]], np.float64), GRID.shape)
    return found if np.isfinite(found).all() else None


def _evaluated(equation: Equation, values: Sequence[Any]) -> list[Any]:
    if equation.bodies:
        raise ValueError("a function of one shape")
    function = _FUNCTIONS.get(equation.name)
    if function is not None:
        return [function(equation.params, *values)]
    with jax.ensure_compile_time_eval():
        arrays = [
            value if isinstance(atom, Literal) else np.asarray(value, atom.dtype)
            for atom, value in zip(equation.inputs, values, strict=True)
        ]
        outputs = equation.evaluate(arrays)
    if any(map(_compat.is_traced, outputs)):
        raise ValueError("not known yet")
    return [np.asarray(out, np.float64) for out in outputs]


def _logistic(x: Any) -> Any:
    return 0.5 * (1 + np.tanh(np.asarray(x) / 2))


_erf = np.vectorize(math.erf, otypes=[float])
_erfc = np.vectorize(math.erfc, otypes=[float])

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": lambda p, a, b: a + b,
    "sub": lambda p, a, b: a - b,
    "mul": lambda p, a, b: a * b,
    "div": lambda p, a, b: np.divide(a, b),
    "neg": lambda p, a: -a,
    "max": lambda p, a, b: np.maximum(a, b),
    "min": lambda p, a, b: np.minimum(a, b),
    "pow": lambda p, a, b: np.power(a, b),
    "integer_pow": lambda p, a: np.power(a, float(p["y"])),
    "square": lambda p, a: a * a,
    "abs": lambda p, a: np.abs(a),
    "sign": lambda p, a: np.sign(a),
    "sqrt": lambda p, a: np.sqrt(a),
    "rsqrt": lambda p, a: 1 / np.sqrt(a),
    "exp": lambda p, a: np.exp(a),
    "exp2": lambda p, a: np.exp2(a),
    "expm1": lambda p, a: np.expm1(a),
    "log": lambda p, a: np.log(a),
    "log1p": lambda p, a: np.log1p(a),
    "logistic": lambda p, a: _logistic(a),
    "tanh": lambda p, a: np.tanh(a),
    "erf": lambda p, a: _erf(a),
    "erfc": lambda p, a: _erfc(a),
    "clamp": lambda p, low, a, high: np.clip(a, low, high),
    "select_n": lambda p, which, *cases: np.choose(np.asarray(which, int), cases, mode="clip"),
    "gt": lambda p, a, b: a > b,
    "ge": lambda p, a, b: a >= b,
    "lt": lambda p, a, b: a < b,
    "le": lambda p, a, b: a <= b,
    "eq": lambda p, a, b: a == b,
    "ne": lambda p, a, b: a != b,
    **dict.fromkeys(
        ("convert_element_type", "copy", "copy_p", "stop_gradient", "name", "reduce_precision"),
        lambda p, a: a,
    ),
}
