"""Propagators: what the rules may know about one kind of operation, registered per primitive."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from relprop import _compat
from relprop._core.relevance import summed_to

if TYPE_CHECKING:
    from relprop._core.graph import Atom, Equation
    from relprop._core.operation import Operation
    from relprop._core.site import LinearMap, Site


@dataclasses.dataclass(frozen=True)
class Propagator:
    """How one kind of operation looks to a rule. Knows its primitive, and no rule.

    Class attributes say what recognition of structure needs:

    Attributes:
        structural: moves or copies numbers and changes none; each output is one of the inputs.
        elementwise: output and (non-scalar) inputs have one shape, and entries do not mix.
        reduces: sums over axes, so that its result is a statistic of the input.
        cuts: relevance never passes, whatever the rule (comparisons, stop_gradient).
        inline: a call that only groups equations; it is copied into the caller.
        bodies: the names of the parameters that hold sub-computations.
        native: must be evaluated in the dtype it was traced in, not in higher precision.
        of_first: a function of the entries of its first operand, of which others are the scale.
        transposable: linear in the active operands together, if `linear` says so, and JAX can
            transpose it.
        extreme: 1 where the result is the largest of some entries, -1 where the smallest.
        multiplies: a product of its active operands, linear in each of them.
        hides_weights: linear, but by weights that are no operand and cannot be looked at.
        main: of several equations, the position of the one that does the work.
        note: what a reader of the plan should know about every such operation.
        mutates: changes arrays in place, which no data flow shows.
        differentiable: JAX has a vector-Jacobian product for it.
        calls_back: runs code of the user's outside of JAX, which may give something else each time.
    """

    structural: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False
    reduces: ClassVar[bool] = False
    cuts: ClassVar[bool] = False
    inline: ClassVar[bool] = False
    bodies: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    native: ClassVar[bool] = True
    of_first: ClassVar[bool] = False
    transposable: ClassVar[bool] = False
    extreme: int = dataclasses.field(default=0, kw_only=True)
    multiplies: ClassVar[bool] = False
    hides_weights: ClassVar[bool] = False
    main: int = dataclasses.field(default=-1, kw_only=True)
    note: ClassVar[str] = ""
    mutates: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    calls_back: ClassVar[bool] = False

    def structure(self, operation: Operation, active: Sequence[bool]) -> str | None:
        """The name of the structure, given which operands depend on the explained inputs.

        None means that nobody has said how relevance passes here.
        """
        raise NotImplementedError

    def detached_structure(self, operation: Operation, active: Sequence[bool]) -> str | None:
        """The structure where an operand depends on the inputs and a rule made it a constant."""
        return self.structure(operation, active)

    def linear(self, operation: Operation, active: Sequence[bool]) -> bool:
        """Whether the outputs are an affine function of the active operands."""
        del operation, active
        return False

    def linear_map(self, site: Site) -> LinearMap:
        """The affine function, for rules that look at weight and bias."""
        raise NotImplementedError

    def constants(self, operation: Operation, active: Sequence[bool]) -> Mapping[int, str]:
        """Of a linear operation, the positions of its constants: ``"weight"`` or ``"bias"``.

        That of a weight has its shape (one of `linear_map`), that of a bias broadcasts to the
        output. What is none of both is not there, and cannot be credited with relevance.
        """
        del operation, active
        return {}

    def summands(self, operation: Operation, active: Sequence[bool]) -> Collection[int]:
        """The positions of the constants that are a part of the result, and of its relevance."""
        roles = self.constants(operation, active)
        return [position for position, role in roles.items() if role == "bias"]

    def factors(self, site: Site) -> Any:
        """How many factors each output entry is a product of; a number or an array."""
        return len(site.inputs)

    def repeats(self, inputs: Sequence[Atom], dtype: Any) -> Atom | None:
        """What the only result, of a dtype, equals in any case: x as a product of x with 1."""
        del inputs, dtype
        return None

    def rectifies(self, operation: Operation) -> bool:
        """Whether it is a ReLU, `max(x, 0)` and nothing more."""
        del operation
        return False

    def unread(self, operation: Operation, position: int, arriving: Any) -> Any:
        """Where an operand has only results at which nothing has arrived.

        There its multiplier is zero, and not the product of zero with a derivative that may be
        infinite or NaN.

        Args:
            operation: the operation, of one result.
            position: of the operand.
            arriving: per unit of the result.

        Returns:
            Truth values that broadcast to the operand; None where nobody can tell.
        """
        if not self.elementwise:
            return None
        shape = operation.inputs[position].shape
        return arriving == 0 if arriving.shape == shape else summed_to(shape, arriving != 0) == 0

    def evaluate(self, operation: Operation, values: Sequence[Any]) -> list[Any]:
        """The outputs, from the values of all operands."""
        return operation.evaluate(values)


@dataclasses.dataclass(frozen=True)
class Unknown(Propagator):
    """A primitive that nobody registered."""

    def structure(self, operation, active):
        del operation, active
        return None


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
