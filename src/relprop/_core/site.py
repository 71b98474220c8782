"""What a rule sees: one operation with the numbers that went through it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from relprop._core.cpu import in_turn
from relprop._core.linear_map import LinearMap
from relprop._core.operation import Numbers, Operation
from relprop._core.relevance import Relevance


class Site(Numbers):
    """One operation at run time, as its rule sees it.

    Arrays have the shapes that they have in the function; half precision is raised to float32. A
    rule looks at these:

    Attributes:
        inputs: the active operands, those that depend on the explained inputs.
        output: the only result; of operations with several, `outputs` has all.
        values: all operands, active or not, in their order; `active` says which are.
        operation: what is known of it: `propagator`, and ``operation.last.params``, the parameters
            of its primitive.
        reference: the same operation in the run of the reference, if there is one.
        credited: per operand, whether it is a parameter to be credited with what it contributes.
        never_negative: per operand, whether it is known that no entry is below zero.
        rectified: whether nothing arrives where the output is negative, as before a ReLU.

    Of a linear operation it looks at `linear`, a `LinearMap`, and at `product`; and it calls `vjp`
    and `function`, and `absorb` for the ledger.
    """

    def __init__(
        self,
        operation: Operation,
        active: Sequence[bool],
        values: Sequence[Any],
        outputs: Sequence[Any],
        account: Callable[[str, Callable[[], Any]], None] | None = None,
        reference: Site | None = None,
        credited: Sequence[bool] = (),
        never_negative: Sequence[bool] = (),
        rectified: bool = False,
        awaited: Array | None = None,
    ):
        late = values if awaited is None else in_turn(operation.inputs, values, awaited)
        super().__init__(operation, active, late, outputs)
        self._traced, self._awaited = tuple(values), awaited
        self.credited = tuple(credited) or (False,) * len(self.active)
        self.never_negative = tuple(never_negative) or (False,) * len(self.active)
        self.rectified = rectified
        self._account = account
        self.reference = reference

    @property
    def turned(self) -> Site:
        """The same with the roles exchanged: the credited operands are the inputs."""
        return Site(
            self.operation, self.credited, self._traced, self._outputs, awaited=self._awaited
        )

    def gated(self, gate: Array, account: Callable[[str, Callable[[], Any]], None]) -> Site:
        """The same with a factor of each weight on the way back, and another account."""
        site = Site(
            self.operation,
            self.active,
            self._traced,
            self._outputs,
            account,
            self.reference,
            never_negative=self.never_negative,
            rectified=self.rectified,
            awaited=self._awaited,
        )
        site.linear = dataclasses.replace(self.linear, gate=gate)
        return site

    @functools.cached_property
    def linear(self) -> LinearMap:
        """The operation as an affine function of its active operands."""
        pairs = zip(self.never_negative, self.active, strict=True)
        never = all(known for known, on in pairs if on)
        found = self.operation.propagator.linear_map(self)
        return dataclasses.replace(found, never_negative=never) if never else found

    @functools.cached_property
    def _forward(self) -> Site:
        """The same with operands as the forward pass reads them: its product is there already."""
        values = in_turn(self.operation.inputs, self._traced)
        return Site(self.operation, self.active, values, self._outputs)

    @property
    def product(self) -> Array:
        """The output without the bias and never rounded to half precision.

        A rounding error of the output is no matter beside the output itself, but it is beside the
        small difference of that and another sum.
        """
        linear = self.linear
        if linear.bias is None and jnp.result_type(self._outputs[0]) == self.output.dtype:
            return linear.product
        linear = self._forward.linear
        return linear.apply(linear.inputs, linear.weight)

    def absorb_zeros(self, relevance: Relevance, z: Array) -> None:
        """Notes the share of outputs that are exactly zero, which no proportion can hand on."""
        share = relevance.share
        if share is not None:
            self.absorb("epsilon", lambda: jnp.where(z == 0, share, 0))

    def absorb(self, what: str, amount: Callable[[], Array]) -> None:
        """Notes relevance that ends here: ``"bias"``, ``"epsilon"`` or ``"stopped"``.

        `amount` is called only when somebody keeps the ledger; it returns an array of any shape,
        whose sum counts.
        """
        if self._account is not None:
            self._account(what, amount)


def shares(arrays: Sequence[Array]) -> tuple[Relevance, ...]:
    return tuple(Relevance(share=a) for a in arrays)


def multipliers(arrays: Sequence[Array]) -> tuple[Relevance, ...]:
    return tuple(Relevance(multiplier=a) for a in arrays)
