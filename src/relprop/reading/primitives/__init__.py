"""What the primitives are, as terms of their operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from relprop._core.graph import Atom, Equation
from relprop.reading.algebra import Algebra, Handler
from relprop.reading.primitives.arithmetic import (
    addition,
    log,
    logistic,
    maximum,
    pow_,
    product,
    select,
    tanh,
    unary,
)
from relprop.reading.primitives.moves import (
    broadcast,
    concatenate,
    pad,
    reshape,
    reverse,
    same,
    slice_,
    stack,
    tile,
    transpose,
)
from relprop.reading.primitives.picks import gathered, largest
from relprop.reading.primitives.reductions import contract, cumulated, reduce
from relprop.reading.primitives.rows import scatter
from relprop.reading.terms import (
    ONE,
    exponential,
    logarithm,
    never_negative,
    plus,
    power,
    scaled,
)

HANDLERS: dict[str, Handler] = {
    "add": addition,
    "add_any": addition,
    "sub": addition,
    "mul": product,
    "div": product,
    "neg": unary(lambda t, e: scaled(t, -1.0)),
    "integer_pow": unary(lambda t, e: power(t, e.params["y"])),
    "square": unary(lambda t, e: power(t, 2)),
    "sqrt": unary(lambda t, e: power(t, 0.5)),
    "rsqrt": unary(lambda t, e: power(t, -0.5)),
    "pow": pow_,
    "exp": unary(lambda t, e: exponential(t)),
    "exp2": unary(lambda t, e: exponential(scaled(t, math.log(2)))),
    "expm1": unary(lambda t, e: plus(exponential(t), {ONE: -1.0})),
    "log": log,
    "log1p": unary(lambda t, e: logarithm(plus({ONE: 1.0}, t))),
    "logistic": unary(logistic),
    "tanh": unary(tanh),
    "abs": unary(lambda t, e: t if never_negative(t) else None),  # type: ignore[return-value]
    "transpose": transpose,
    "broadcast_in_dim": broadcast,
    "reshape": reshape,
    "squeeze": reshape,
    "expand_dims": reshape,
    "rev": reverse,
    "slice": slice_,
    "pad": pad,
    "tile": tile,
    "concatenate": concatenate,
    "stack": stack,
    "reduce_sum": reduce,
    "dot_general": contract,
    "cumsum": cumulated,
    "max": maximum,
    "select_n": select,
    "gather": gathered,
    "top_k": largest,
    "sort": largest,
    "scatter-add": scatter,
    **dict.fromkeys(
        (
            "stop_gradient",
            "convert_element_type",
            "copy",
            "copy_p",
            "name",
            "checkpoint_name",
            "reduce_precision",
            "optimization_barrier",
            "psum",
            "psum_invariant",
            "pvary",
            "sharding_constraint",
        ),
        same,
    ),
}


def algebra_of(
    maker: Callable[[Atom], Equation | None],
    number: Callable[[Atom], float | None],
    more: Mapping[str, Handler] | None = None,
) -> Algebra:
    """The terms of the values of a graph.

    Args:
        maker: the equation that makes a value, or None.
        number: the number that all entries of a constant are, or None.
        more: what other primitives are to be taken for.
    """
    return Algebra(maker, number, {**HANDLERS, **(more or {})})
