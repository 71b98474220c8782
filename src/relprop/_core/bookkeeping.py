"""The ledger of a way back: sums, per step, of what arrives, leaves and is absorbed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from relprop import _compat
from relprop._core.compared import amount_of, value_of
from relprop._core.graph import Atom
from relprop._core.observer import MaybeRelevance, Observer, Passage
from relprop._core.plan import Plan, Step
from relprop._core.record import CONSTANT, PLACES, Account, Accounts, Keep
from relprop._core.site import Site
from relprop._core.tape import Tape


class Bookkeeper(Observer):
    """Keeps the accounts of a way back.

    Args:
        plan: of the graph.
        tape: of the forward pass.
        keep: what to sum up, as in `Request`.
        accounts: where it is written.
    """

    def __init__(self, plan: Plan, tape: Tape, keep: Keep, accounts: Accounts) -> None:
        self._plan, self._tape, self._keep, self._accounts = plan, tape, keep, accounts

    def begins(self, outputs: Sequence[Atom], seeds: Sequence[MaybeRelevance]) -> None:
        """Books what constant outputs are given."""
        plan = self._plan
        outside = [
            None if atom in plan.active or not jnp.issubdtype(atom.dtype, jnp.inexact) else seed
            for atom, seed in zip(outputs, seeds, strict=True)
        ]
        # Only what is asked for: a tape need not hold outputs that are inputs.
        pairs = [*zip(outputs, outside, strict=True)]
        read = [None if seed is None else self._tape.read(atom) for atom, seed in pairs]
        cut = total_of([seed if atom in plan.severed else None for atom, seed in pairs], read)
        self._accounts[CONSTANT] = {"bias": total_of(outside, read) - cut, "cut": cut}

    def changed(
        self, kind: str, before: MaybeRelevance, after: MaybeRelevance, amount: Any
    ) -> None:
        """Books what a mask has stopped, or a seed taken away (less than nothing)."""
        self._count(kind, total_of([before], [amount]) - total_of([after], [amount]))

    def passes(self, passage: Passage) -> None:
        account = dict(passage.account)
        if passage.inner is not None:
            account |= self._of_bodies(passage)
        if not passage.booked:
            return
        arriving, leaving = passage.arriving, passage.leaving
        values, outputs = passage.values, passage.outputs
        account |= {
            "arrived": total_of(arriving, outputs),
            "left": total_of(leaving, values),
            "size_arrived": total_of(arriving, outputs, jnp.abs),
            "size_left": total_of(leaving, values, jnp.abs),
        }
        if self._keep == "faults":
            account |= _faults(passage)
        self._accounts[passage.step.number] = account

    def _of_bodies(self, passage: Passage) -> Account:
        """Takes over what bodies have booked; what is the step's own of it."""
        inner = dict(passage.inner.accounts) if passage.inner is not None else {}
        changes, constant = inner.pop(PLACES, {}), inner.pop(CONSTANT, None)
        for kind, amount in changes.items():
            self._count(kind, amount)
        self._accounts.update(inner)
        if constant is None:
            return {}
        # Relevance of a constant that a loop starts from, or that a branch returns.
        step, values = passage.step, passage.values
        lost = [
            r if own and atom not in self._plan.active else None
            for atom, r, own in zip(
                step.operation.inputs, passage.handed_back, _handed(step), strict=True
            )
        ]
        severed = step.severed or (False,) * len(lost)
        cut = [r if on else None for r, on in zip(lost, severed, strict=True)]
        rest = [None if on else r for r, on in zip(lost, severed, strict=True)]
        return {
            "cut": constant["cut"] + total_of(cut, values),
            "bias": constant["bias"] + total_of(rest, values),
            **changes,
        }

    def _count(self, kind: str, lost: Any) -> None:
        # Always both entries, so that the branches of a condition keep the same ones.
        nothing = {"mask": jnp.zeros(()), "seed": jnp.zeros(())}
        account = self._accounts.setdefault(PLACES, nothing)
        account[kind] = account[kind] + lost


def noting(account: Account) -> Callable[[str, Callable[[], Any]], None]:
    """What a site calls with relevance that a rule absorbs, see `Site.absorb`."""

    def note(what: str, amount: Callable[[], Any]) -> None:
        # Relevance of complex numbers is real, whatever a rule computes it by.
        account[what] = account.get(what, 0.0) + _everywhere(jnp.real(amount()))

    return note


def severed_part(step: Step, values, outputs, arriving, bias: Any) -> Any:
    """Of what constants have absorbed, the part of those that were computed by way of cuts."""
    operation = step.operation
    positions = operation.propagator.summands(operation, step.active)
    summands = [i for i in positions if jnp.issubdtype(operation.inputs[i].dtype, jnp.inexact)]
    if all(step.severed[i] for i in summands):
        return bias
    # Only what moves numbers has several such operands: outputs are copies of one or the other.
    site = Site(operation, step.severed, [*map(value_of, values)], [*map(value_of, outputs)])
    ones = tuple(jnp.ones_like(x) for x in site.inputs)
    _, copied = jax.jvp(site.function, site.inputs, ones)
    pairs = zip(arriving, site.outputs, copied, strict=True)
    found = (_everywhere(r.total(y) * jnp.real(c)) for r, y, c in pairs if r is not None)
    return sum(found, 0.0)


def total_of(relevances, values, of: Callable[[Array], Array] = lambda r: r) -> Any:
    """The sum of all relevance, after a function of each entry."""
    total = 0.0
    for relevance, value in zip(relevances, values, strict=True):
        if relevance is not None:
            total = total + _everywhere(of(jnp.real(relevance.total(amount_of(value)))))
    return total


def _handed(step: Step) -> list[bool]:
    """Per operand, whether what a body hands it has left the results, and is no mere credit."""
    handed = [False] * len(step.operation.inputs)
    for body in step.bodies:
        own = body.is_active(body.graph.inputs)
        start = len(handed) - len(own)
        handed[start:] = [a or b for a, b in zip(handed[start:], own, strict=True)]
    return handed


def _faults(passage: Passage) -> Account:
    """How many numbers of a step are none."""
    operation = passage.step.operation
    inexact = [jnp.issubdtype(atom.dtype, jnp.inexact) for atom in operation.inputs]
    given = [value_of(v) for v, on in zip(passage.values, inexact, strict=True) if on]
    results = zip(passage.outputs, operation.outputs, strict=True)
    made = [value_of(v) for v, a in results if a.inexact]
    bad_arrived = _count_bad(jax.tree.leaves(passage.arriving))
    bad_left = _count_bad(jax.tree.leaves(passage.leaving))
    nan_given, nan_made = (sum((_everywhere(jnp.isnan(v)) for v in vs), 0) for vs in (given, made))
    # Told apart here, in each turn of a loop by itself: later turns go on with what one has made.
    return {
        "bad_values": _count_bad(made),
        "bad_arrived": bad_arrived,
        "bad_made": jnp.where(bad_arrived == 0, bad_left, 0),
        "nan_given": nan_given,
        "nan_made": jnp.where(nan_given == 0, nan_made, 0),
    }


def _count_bad(arrays) -> Any:
    return sum((_everywhere(~jnp.isfinite(a)) for a in arrays), 0)


def _everywhere(array: Any) -> Any:
    """The sum of all entries, on all devices that hold different ones."""
    total = jnp.sum(array)
    return _compat.alike(total, jax.ShapeDtypeStruct((), total.dtype))
