"""What a rule is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax import lax
from jaxtyping import Array, Inexact

from relprop._core.credit import contributions
from relprop._core.operation import Operation
from relprop._core.relevance import Relevance, nothing_of_nan, safe_divide
from relprop._core.site import Site
from relprop.rules.parameters import Number, Parameters, check_number, known, number

Arriving = Sequence[Relevance | None]
Leaving = Sequence[Relevance | None]
Bias = Literal["absorb", "ignore"]


@dataclasses.dataclass(frozen=True)
class Rule(Parameters):
    """How one operation hands the relevance of its outputs to its inputs.

    Rules are frozen values: comparable, hashable, and they print as they are written. What they do
    depends on their fields, the numbers and the operation, and never on where in the model that is:
    in a compiled explanation, operations that differ in their numbers alone are traced once.

    The rules here are pytrees whose leaves are their numbers. These may be arrays and may be
    traced: an explanation can be jitted, mapped and differentiated over them.

    >>> import jax, relprop
    >>> f = lambda x: jax.numpy.sum(x * jax.numpy.array([1.0, 2.0]))
    >>> R = lambda e: relprop.relevance(f, relprop.rules.Epsilon(e))(jax.numpy.ones(2))
    >>> jax.vmap(R)(jax.numpy.array([0.0, 1.0])).shape
    (2, 2)

    A rule of your own is a frozen dataclass with a `propagate` method; for linear layers derive it
    from `LinearRule` instead. To make it a pytree as well, put
    `jax.tree_util.register_pytree_with_keys_class` before it:

    >>> import dataclasses, jax, relprop
    >>> @dataclasses.dataclass(frozen=True)
    ... class Double(relprop.rules.Rule):
    ...     def propagate(self, site, arriving):
    ...         (relevance,) = arriving
    ...         return [relprop.rules.Relevance(share=2.0 * relevance.total(site.output))]
    >>> composite = relprop.Composite().at(primitive="tanh").use(Double())
    >>> bool(relprop.relevance(jax.numpy.tanh, composite)(0.5) == 2 * jax.numpy.tanh(0.5))
    True
    """

    #: A bare rule stands for itself on every linear layer; this one for every operation there is.
    everywhere: ClassVar[bool] = False
    #: The outputs are taken as constants, so that relevance never arrives.
    detaches: ClassVar[bool] = False
    #: Parameters are credited with what they would get as inputs, whatever the operation.
    like_inputs: ClassVar[bool] = False

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        """Relevance of the active operands, given that of the outputs.

        Args:
            site: the operation with its numbers.
            arriving: one `Relevance` per output, whose arrays have its shape; None where nothing
                arrives. A site with one output has something arriving at it.

        Returns:
            One `Relevance` per active operand, whose arrays have its shape, or None for nothing.
        """
        raise NotImplementedError

    def problem(self, operation: Operation, active: Sequence[bool]) -> str | None:
        """Why the rule can't be applied to an operation, or None if it can."""
        del operation, active
        return None

    def conserves(self, operation: Operation, active: Sequence[bool]) -> bool:
        """Whether all that arrives is handed on, or noted as absorbed.

        If not, the ledger calls what is missing (or too much) `not_conserved`, by the structure of
        the operation, and not a gap.
        """
        del operation, active
        return True

    def credit(self, site: Site, arriving: Arriving) -> Leaving:
        """Relevance of each credited operand: of parameters, in a second reading.

        It takes nothing from the active ones. Of a linear operation these are the contributions
        that `propagate` shares relevance out by; of any other, and if a rule is `like_inputs`, what
        parameters would get if they were the inputs.
        """
        if self._shares_out(site.operation, site.active):
            return contributions(site, lambda gated: self.propagate(gated, arriving))
        return self.propagate(site.turned, arriving)

    def credit_problem(
        self, operation: Operation, active: Sequence[bool], credited: Sequence[bool]
    ) -> str | None:
        """Why the rule can't say what parameters contribute, or None if it can."""
        if not self._shares_out(operation, active):
            return self.problem(operation, credited)
        roles = operation.propagator.constants(operation, active)
        if all(i in roles for i, on in enumerate(credited) if on):
            return None
        merged = operation.propagator.note
        reason = f" ({merged}; `composite.canonized()` leaves it apart)" if merged else ""
        return f"{operation.last.name} does not say where its weights are{reason}"

    def _shares_out(self, operation: Operation, active: Sequence[bool]) -> bool:
        return operation.propagator.linear(operation, active) and not self.like_inputs


def irreversible(operation: Operation) -> str | None:
    """Why an operation has no derivative to take relevance along, or None if it has one."""
    if operation.propagator.differentiable:
        return None
    return f"{operation.last.name} cannot be differentiated in reverse"


def is_complex(operation: Operation) -> bool:
    """Whether it has complex results or operands."""
    atoms = (*operation.inputs, *operation.outputs)
    return any(jnp.issubdtype(atom.dtype, jnp.complexfloating) for atom in atoms)


def complex_problem(name: str) -> str:
    """Why a rule that looks at signs is refused where numbers are complex."""
    return (
        f"{name} looks at signs and sizes, which complex numbers do not have; take `Zero`, "
        "`Epsilon` or `Gradient`, or write the operation in real and imaginary parts, as a real "
        "one of twice the size"
    )


def check_bias(bias: str) -> None:
    """Refuses what is no treatment of biases."""
    if bias not in ("absorb", "ignore"):
        raise ValueError(f"bias must be 'absorb' or 'ignore', got {bias!r}.")


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Stabilizer(Parameters):
    r"""Keeps a denominator away from zero.

    .. math:: \mathrm{stab}(z) = z + \epsilon \,\mathrm{sign}(z), \qquad \mathrm{sign}(0) = 1

    Args:
        epsilon: distance kept from zero, in units of z.
        clip: raise to epsilon only what is nearer to zero than that, instead of adding it to all.
        norm_scale: take epsilon in units of the root mean square of z.
        axes: axes of that mean; the default is all but the first (the batch), and
            the only one of a vector.

    Raises:
        ValueError: epsilon is no finite number from 0.

    Source: Bach et al. 2015, eq. 58 (epsilon rule); the variants are those of zennit 0.5.
    """

    epsilon: Number = 1e-6
    clip: bool = False
    norm_scale: bool = False
    axes: tuple[int, ...] | None = None

    def __post_init__(self):
        check_number("epsilon", self.epsilon)

    def __call__(self, z: Inexact[Array, "*shape"]) -> Inexact[Array, "*shape"]:
        epsilon: Number = number(self.epsilon, z)
        if self.norm_scale:
            default = tuple(range(min(1, max(z.ndim - 1, 0)), z.ndim))
            axes = default if self.axes is None else self.axes
            square = jnp.mean(z * z, axis=axes, keepdims=True)
            # The slope of the root at zero is infinite, and of no use.
            root = jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))
            epsilon = jnp.broadcast_to(epsilon * root, z.shape)
        if self.clip:
            return jnp.where(z < 0, jnp.minimum(z, -epsilon), jnp.maximum(z, epsilon))
        if not isinstance(epsilon, (int, float)):
            return z + jnp.where(z < 0, -epsilon, epsilon)
        above, below = (lax.full_like(z, size) for size in (epsilon, -epsilon))
        return lax.add(z, lax.select(lax.lt(z, lax.full_like(z, 0)), below, above))

    def divide(
        self, a: Inexact[Array, "*shape"], z: Inexact[Array, "*shape"]
    ) -> Inexact[Array, "*shape"]:
        """`a / stab(z)`; an epsilon of zero loses what it can't divide and makes no NaN of it.

        Nothing has no part of a z that is NaN.
        """
        z = nothing_of_nan(a, z)
        epsilon = None if self.norm_scale else known(self.epsilon)
        if epsilon is not None and np.all(epsilon >= float(jnp.finfo(z.dtype).tiny)):
            return a / self(z)
        return safe_divide(a, self(z))


def stabilizer(epsilon: Number | Stabilizer) -> Stabilizer:
    """A number is short for `Stabilizer(number)`."""
    return epsilon if isinstance(epsilon, Stabilizer) else Stabilizer(epsilon)
