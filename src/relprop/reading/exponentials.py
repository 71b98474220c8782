"""What is computed from exponentials and from sums of those, without weights between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set

from relprop._core.graph import Atom, Equation
from relprop.propagators.general import is_move

EXPONENTIALS = ("exp", "exp2", "logistic", "expm1")
#: What may lie between an exponential and the end of a softmax.
INSIDE = frozenset(
    (
        "add add_any sub mul div neg integer_pow log log1p max min abs reduce_sum reduce_max "
        "select_n gather scatter-add scatter-max stop_gradient psum psum_invariant pmax pvary "
        "concatenate stack tanh square clamp pow cumsum sqrt rsqrt"
    ).split()
)
_SUMS = ("reduce_sum", "dot_general", "scatter-add", "cumsum")


def followed(
    equations: Iterable[Equation],
    touched: Set[Atom],
    maker: Callable[[Atom], Equation | None],
    number: Callable[[Atom], float | None],
) -> tuple[set[Atom], set[Atom]]:
    """Values that are computed from exponentials, and those from sums of exponentials."""
    exponentials: set[Atom] = set()
    sums: set[Atom] = set()
    for equation in equations:
        if not any(a in touched for a in equation.inputs):
            continue
        start = equation.name in EXPONENTIALS
        own = any(a in exponentials for a in equation.inputs)
        if not (start or own or any(a in sums for a in equation.inputs)):
            continue
        passing = start or equation.name in INSIDE or is_move(equation)
        if equation.name == "dot_general":
            # With ones, perhaps as a column beside other things, it is a sum.
            makers = (getattr(maker(a), "name", "") for a in equation.inputs)
            passing = "concatenate" in makers or any(number(a) is not None for a in equation.inputs)
        if start or (own and passing):
            exponentials.update(equation.outputs)
        # A sum that is written out.
        adds = equation.name == "add" and all(a in exponentials for a in equation.inputs)
        summed = own and (equation.name in _SUMS or adds)
        if passing and (summed or any(a in sums for a in equation.inputs)):
            sums.update(equation.outputs)
    return exponentials, sums
