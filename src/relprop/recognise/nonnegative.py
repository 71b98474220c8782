"""Which values are never negative: what comes after a ReLU, a square, a softmax, and sums of such.

Rules that look at the signs of contributions need fewer products where the inputs of a layer are
never negative. That is proven here from the equations, or it is not known: a value of which nothing
is known is `UNKNOWN`. NaN counts as not negative, since no comparison says that it is. Rounding is
no matter: no operation in the tables turns numbers from zero on into a negative one. (Convolutions
may, where they are computed by transforms, and are not among them.)
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from relprop import _compat
from relprop._core import registry
from relprop._core.control import Branch, Call, Scan, While
from relprop._core.graph import Atom, Equation, Graph, Literal, Value


class Sign(enum.IntEnum):
    """What is known of the sign of all entries of a value."""

    UNKNOWN = 0
    #: From zero on. It may be the zero that is written -0, by which 1 is divided to minus infinity.
    NOT_NEGATIVE = 1
    #: From zero on, and no zero is written -0.
    PLUS = 2


Signs = dict[Value, Sign]
#: Of an equation and of its operands, the sign of its only result.
Judge = Callable[[Equation, Sequence[Sign]], Sign]


def signs_of(graph: Graph, given: Mapping[Value, Sign]) -> Signs:
    """The signs of all values of a graph, and of the inputs of the bodies in it.

    Args:
        graph: the graph, as it was traced or as it is read.
        given: the signs of its inputs, as far as they are known.
    """
    known: Signs = dict(given)
    for equation in graph.evaluated:
        _judged(equation, known)
    # What was traced is what is computed. What only the reading has comes after what it reads.
    traced = {out for equation in graph.evaluated for out in equation.outputs}
    own = {*graph.evaluated} if graph.run is not None else set()
    for equation in graph.equations if graph.run is not None else ():
        if equation in own or not traced.intersection(equation.outputs):
            _judged(equation, known)
    return known


def _judged(equation: Equation, known: Signs) -> None:
    """Notes the signs of the results of an equation."""
    signs = [sign_of(atom, known) for atom in equation.inputs]
    if equation.bodies:
        found = _of_bodies(equation, signs, known)
    elif equation.name in _EACH and len(signs) == len(equation.outputs):
        found = signs
    else:
        judge = _JUDGES.get(equation.name)
        found = [Sign.UNKNOWN if judge is None else judge(equation, signs)]
        found *= len(equation.outputs)
    for out, sign in zip(equation.outputs, found, strict=True):
        if jnp.issubdtype(out.dtype, jnp.floating):
            known[out] = max(sign, known.get(out, Sign.UNKNOWN))


def sign_of(atom: Atom, known: Mapping[Value, Sign]) -> Sign:
    """The sign of a value or number, by what is known of those of values."""
    dtype = atom.dtype
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return Sign.UNKNOWN
    if jnp.issubdtype(dtype, jnp.bool_) or jnp.issubdtype(dtype, jnp.unsignedinteger):
        return Sign.PLUS
    if isinstance(atom, Value):
        return known.get(atom, Sign.UNKNOWN)
    if _compat.is_traced(atom.array) or jnp.issubdtype(dtype, jnp.complexfloating):
        return Sign.UNKNOWN
    array = np.asarray(atom.array)
    if bool((array < 0).any()):
        return Sign.UNKNOWN
    return Sign.NOT_NEGATIVE if bool(np.signbit(array.astype(np.float64)).any()) else Sign.PLUS


# What is inside of calls, branches and loops.


def _of_bodies(equation: Equation, signs: Sequence[Sign], known: Signs) -> list[Sign]:
    """The signs of the results of an equation with bodies; notes those of the bodies' inputs."""
    kind = registry.lookup(equation.primitive)
    if isinstance(kind, (Call, Branch)):
        each = [_of_body(body, _last(signs, body), known) for body in equation.bodies]
        return [min(column) for column in zip(*each, strict=True)]
    if isinstance(kind, Scan):
        (body,) = equation.bodies
        consts, carried = _compat.scan_sizes(equation.params)
        return _of_loop(body, list(signs), slice(consts, consts + carried), known)
    if isinstance(kind, While):
        *_, body = equation.bodies
        carry = slice(len(body.inputs) - len(body.outputs), len(body.inputs))
        return _of_loop(body, _last(signs, body), carry, known)
    return [Sign.UNKNOWN] * len(equation.outputs)


def _last(signs: Sequence[Sign], body: Graph) -> list[Sign]:
    """Those of the operands that a body reads; the number of a branch comes before."""
    return list(signs[len(signs) - len(body.inputs) :])


def _of_body(body: Graph, signs: Sequence[Sign], known: Signs) -> list[Sign]:
    """The signs of the results of a body, from those of its inputs."""
    given = dict(zip(body.inputs, signs, strict=True))
    known.update(given)
    inside = signs_of(body, given)
    return [sign_of(out, inside) for out in body.outputs]


def _of_loop(body: Graph, signs: list[Sign], carry: slice, known: Signs) -> list[Sign]:
    """As `_of_body`, of what is carried from turn to turn: what holds before holds after it."""
    while True:
        found = _of_body(body, signs, known)
        before = signs[carry]
        signs[carry] = [min(a, b) for a, b in zip(before, found[: len(before)], strict=True)]
        if signs[carry] == before:
            return [*before, *found[len(before) :]]


# What the primitives do.


def _all(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """Sums, copies, choices of entries: the result is no less than the least that is known."""
    del equation
    return min(signs)


def _first(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """Functions of the first operand that have its sign; others are indices."""
    del equation
    return signs[0]


def _plus(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """What is never negative whatever the operands are, as exponentials."""
    del equation, signs
    return Sign.PLUS


def _unless_empty(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """The largest of some entries; that of none is minus infinity."""
    return signs[0] if all(equation.inputs[0].shape) else Sign.UNKNOWN


def _sum(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """A sum of two: -0 is that of two such zeros alone."""
    del equation
    return max(signs) if min(signs) else Sign.UNKNOWN


def _difference(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """Minus a number below zero, or nothing less itself."""
    (_, other) = equation.inputs
    number = _number(other)
    return signs[0] if number is not None and number <= 0 else Sign.UNKNOWN


def _product(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """A product; that of a value with itself is a square."""
    return Sign.PLUS if equation.inputs[0] is equation.inputs[1] else min(signs)


def _quotient(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """By -0 something is divided to minus infinity."""
    del equation
    return signs[0] if signs[1] is Sign.PLUS else Sign.UNKNOWN


def _maximum(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """The larger of two; of two zeros it may be either."""
    del equation
    return Sign.PLUS if min(signs) is Sign.PLUS else min(Sign.NOT_NEGATIVE, max(signs))


def _clamped(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """What is between two numbers; that of the upper one counts, whatever the lower one is."""
    del equation
    lower, value, upper = signs
    return min(Sign.NOT_NEGATIVE, upper, max(lower, value))


def _integer_power(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """Even powers, whatever is raised; odd ones below zero divide by it."""
    exponent = equation.params["y"]
    if exponent % 2 == 0:
        return Sign.PLUS
    return signs[0] if exponent > 0 or signs[0] is Sign.PLUS else Sign.UNKNOWN


def _power(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """A power of what is never negative; those below zero divide by it."""
    exponent = _number(equation.inputs[1])
    if signs[0] is Sign.NOT_NEGATIVE and (exponent is None or exponent <= 0):
        return Sign.UNKNOWN
    return signs[0]


def _root(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """The square root of what is negative is NaN."""
    del equation
    return max(signs[0], Sign.NOT_NEGATIVE)


def _inverse_root(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """One over a root; that of -0 is minus infinity."""
    del equation
    return signs[0] if signs[0] is Sign.PLUS else Sign.UNKNOWN


def _chosen(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """One of several values."""
    del equation
    return min(signs[1:])


def _gathered(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """Entries by their numbers; what is not there may have been given a value."""
    fill = equation.params.get("fill_value")
    return signs[0] if fill is None or fill >= 0 else Sign.UNKNOWN


def _updated(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """An array in which entries are replaced or added to; the second operand is their numbers."""
    del equation
    return min(signs[0], signs[2])


def _replaced(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """An array in which a part is replaced; further operands are its numbers."""
    del equation
    return min(signs[0], signs[1])


def _pooled(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """The largest of each window; of one that lies in the padding alone it is minus infinity."""
    params = equation.params
    rank = len(equation.inputs[0].shape)
    plain = all(n == 1 for name in ("base_dilation", "window_dilation") for n in params[name])
    pads = zip(params["padding"], params["window_dimensions"], strict=True)
    filled = all(low < size and high < size for (low, high), size in pads)
    return _unless_empty(equation, signs) if rank and plain and filled else Sign.UNKNOWN


def _number(atom: Atom) -> float | None:
    """A number that is written into the function."""
    if not isinstance(atom, Literal) or atom.shape or _compat.is_traced(atom.array):
        return None
    return None if np.iscomplexobj(atom.array) else float(atom.array)


#: Results are operands, moved about or limited to some of their entries; several have one each.
_EACH = frozenset("sort optimization_barrier psum pvary copy copy_p name checkpoint_name".split())

_TABLE: Mapping[Judge, str] = {
    _plus: "exp exp2 logistic abs square erfc iota",
    _all: "concatenate stack pad min reduce_sum cumsum reduce_window_sum reduce_prod cumprod "
    "cummax cummin reduce_min reduce_window_min dot_general all_gather",
    _first: "reshape transpose broadcast_in_dim squeeze expand_dims rev slice dynamic_slice split "
    "unstack tile convert_element_type reduce_precision sharding_constraint tanh erf log1p "
    "expm1 floor round sign",
    _unless_empty: "reduce_max",
    _sum: "add add_any",
    _difference: "sub",
    _product: "mul",
    _quotient: "div",
    _maximum: "max",
    _clamped: "clamp",
    _integer_power: "integer_pow",
    _power: "pow",
    _root: "sqrt",
    _inverse_root: "rsqrt",
    _chosen: "select_n",
    _gathered: "gather",
    _updated: "scatter scatter-add",
    _replaced: "dynamic_update_slice",
    _pooled: "reduce_window_max",
}
_JUDGES: Mapping[str, Judge] = {
    name: judge for judge, names in _TABLE.items() for name in names.split()
}
