"""Changes of relevance at places: a part of it is let through, or relevance starts there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from relprop._core.edit import Edit, Mask, Seed, fits
from relprop._core.graph import Value
from relprop._core.plan import Plan
from relprop._errors import InputError
from relprop.anatomy.channels import channel_axis
from relprop.places.kinds import Around


@dataclasses.dataclass(frozen=True, eq=False)
class Masked(Around):
    r"""A place whose relevance is multiplied by a mask before it goes on.

    .. math:: R' = m \odot R

    The ground for concept relevance: with a mask that keeps one channel, the relevance of the
    inputs is that which goes through this channel. What the mask takes away counts as stopped.

    Args:
        place: where, as in `places=`.
        mask: numbers or truth values that broadcast to the shape of `Inside.relevance` there, which
            inside of a scan has an axis for the steps in front; or a function ``(relevance, value)
            -> mask`` of the arrays of one evaluation (in a scan, of one step).

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.sum(relprop.named(2 * x, "doubled") + 1)
    >>> second = Masked("doubled", jnp.array([0.0, 1.0]))
    >>> R, inside = relprop.relevance(f, relprop.rules.Epsilon(), places=second)(jnp.ones(2))
    >>> R.tolist()
    [0.0, 2.0]

    Source: Achtibat et al. 2023 (conditional relevance).
    """

    mask: Any

    def edits(self, name):
        return (*self.place.edits(name), _edit(Mask, self.mask, name))


@dataclasses.dataclass(frozen=True, eq=False)
class Seeded(Around):
    """A place at which relevance starts, instead of at the score or besides.

    Args:
        place: where, as in `places=`.
        relevance: what is handed out there: numbers or a function, of shapes as for `Masked`.
        besides: the relevance of the score is handed out as well. In `relprop.vrp` what is given
            to ``back`` always is.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.sum(relprop.named(2 * x, "doubled") + 1)
    >>> at_first = Seeded("doubled", jnp.array([5.0, 0.0]))
    >>> R, inside = relprop.relevance(f, relprop.rules.Epsilon(), places=at_first)(jnp.ones(2))
    >>> R.tolist()
    [5.0, 0.0]
    """

    relevance: Any
    besides: bool = False

    def edits(self, name):
        return (*self.place.edits(name), _edit(Seed, self.relevance, name))

    @property
    def alone(self):
        return not self.besides or self.place.alone


def _edit(kind: type[Mask | Seed], given: Any, name: str) -> Edit:
    if callable(given):
        return kind(None, given, name)
    if isinstance(given, (str, type(None))):
        raise InputError(
            f"A {kind.kind} must be numbers or a function of relevance and value; for {name!r} "
            f"there is {given!r}."
        )
    return kind(jnp.asarray(given), None, name)


def knowing_channels(edit: Edit, plan: Plan, value: Value) -> Edit:
    """The edit, told the axis of channels at its place if what computes it wants to know."""
    along = getattr(edit.make, "along", None)
    if along is None:
        return edit
    return dataclasses.replace(edit, make=along(lambda: channel_axis(plan.graph, value, edit.name)))


def fitted_to(plan: Plan, edits: Mapping[Value, Sequence[Edit]]) -> dict[Value, list[Edit]]:
    """The edits with arrays of the shape of what they change; all that do not fit are told."""
    fitted: dict[Value, list[Edit]] = {}
    wrong = []
    for body, rounds in _in_loops(plan):
        for value in body.graph.values():
            shape = (*rounds, *value.shape)
            for edit in edits.get(value, ()):
                if isinstance(edit, Seed) and value not in body.active:
                    wrong.append(f"  {edit.name}: the rules take the value as a constant")
                elif edit.array is not None and not fits(edit.array.shape, shape):
                    wrong.append(
                        f"  {edit.name}: {edit.kind} {edit.array.shape}, relevance {shape}"
                    )
                else:
                    fitted.setdefault(value, []).append(edit.of_shape(shape))
    if wrong:
        raise InputError(
            f"{len(wrong)} change(s) cannot be made to the relevance at places:\n"
            + "\n".join(wrong)
            + "\nMasks and seeds must broadcast to the shape of the relevance there, which the "
            "place alone in `places=` returns; in a scan it has an axis for the steps in front."
        )
    return fitted


def _in_loops(plan: Plan, rounds: tuple[int, ...] = ()) -> Iterator[tuple[Plan, tuple[int, ...]]]:
    """The plan and those of bodies, each with how often the loops around it are run."""
    yield plan, rounds
    for step in plan.steps:
        for body in step.bodies:
            yield from _in_loops(body, (*rounds, *step.nested.rounds(step)))
