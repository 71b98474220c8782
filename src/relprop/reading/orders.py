"""Numbers in another order: a gather that takes each of them once, such as of channels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from relprop._core.graph import Equation
from relprop.reading.draft import Draft

#: Orders of more numbers are not looked at.
_MOST = 1 << 14


def order_of(draft: Draft, equation: Equation) -> np.ndarray | None:
    """Where each number was before, if all that is done is to take each once, in another order."""
    if equation.name != "gather" or len(draft.index.operands(equation)) != 1:
        return None
    memory = draft.index.memory.setdefault("orders", {})
    if equation not in memory:
        memory[equation] = _found_order(draft, equation)
    return memory[equation]


def _found_order(draft: Draft, equation: Equation) -> np.ndarray | None:
    operand, indices = equation.inputs
    size = int(np.prod(operand.shape))
    if operand not in draft.index.dependent or size != np.prod(equation.outputs[0].shape):
        return None
    known = draft.known(indices) if size <= _MOST else None
    if known is None:
        return None
    with jax.ensure_compile_time_eval():
        numbers = jnp.arange(size, dtype=jnp.float32).reshape(operand.shape)
        order = np.asarray(equation.evaluate([numbers, known])[0]).ravel()
    order = np.nan_to_num(order, nan=-1).astype(int)
    return order if np.array_equal(np.sort(order), np.arange(size)) else None
