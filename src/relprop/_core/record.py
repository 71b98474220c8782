"""What is asked of a way back beside the relevance of the inputs, and what it leaves behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
from jaxtyping import Array, Inexact

from relprop._core.edit import Edits

# What the ledger knows of one step: the name of an entry -> a scalar.
Account = dict[str, Any]
Accounts = dict[int, Account]  # by the number of the step
Keep = Literal["", "sums", "faults"]
CONSTANT = -1  # in place of a number: relevance that a graph was given for its constant outputs
PLACES = -2  # likewise: what masks have stopped, and what has entered by seeds


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Inside:
    r"""A place inside a function.

    .. math:: R = c \odot x

    Attributes:
        relevance: of the value; inside of a scan, with one entry per step in front.
        value: what the forward pass computed there.
        coefficient: relevance per unit of the value, c, also where the value is 0. By
            `relprop.rules.Gradient` alone, whose relevance is the derivative of the score, it is
            that. None where there is none: an operation that reads the value has handed on shares
            of relevance (`Pass` through an activation, `Flat`, `ZBox`), which are in no proportion
            to the value.
    """

    relevance: Inexact[Array, "..."]
    value: Inexact[Array, "..."]
    coefficient: Inexact[Array, "..."] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What is wanted of a way back.

    Attributes:
        leaf: what the rule of a step does (`passage.by_rule`), traced once for steps that are alike
            (`repeated.Shared`).
        keep: what to sum up per step: ``"sums"`` of what arrives, leaves and is absorbed, or
            ``"faults"``, the same and how many numbers are NaN or infinite.
        edits: masks and seeds at values.
        derivative: whether all relevance is the derivative itself, as by `Gradient` alone.
        never: for `cpu.once`, or None where nothing is to be kept from being computed twice.
    """

    leaf: Callable[..., Any]
    keep: Keep = ""
    edits: Edits = dataclasses.field(default_factory=dict)
    derivative: bool = False
    never: Array | None = None


class Record(NamedTuple):
    """What a way back leaves behind, beside the relevance of the inputs.

    Attributes:
        accounts: sums per step, by its number, if somebody keeps the ledger.
        inside: the watched places, by their names.
    """

    accounts: Accounts
    inside: dict[str, Inside]

    @property
    def places(self) -> dict[str, Inside]:
        """The watched places in the order of their names, as a compiled function returns them."""
        return dict(sorted(self.inside.items()))
