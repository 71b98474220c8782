"""What parameters contribute: a second reading of relevance that is on its way to the inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from relprop import _compat
from relprop._core.relevance import Relevance, summed_to
from relprop._core.site import Site

Propagate = Callable[[Site], Sequence[Relevance | None]]


def contributions(site: Site, propagate: Propagate) -> list[Relevance | None]:
    r"""Relevance of the weight and the bias of a linear operation, by a rule for its inputs.

    A rule hands relevance on in proportion to contributions :math:`c_{ij}`, each of which comes
    from one weight:

    .. math:: R_i = \sum_j c_{ij}, \qquad R_{w_{ij}} = c_{ij},

    summed over all that a weight is used for, such as the positions of a convolution. For the
    epsilon rule, :math:`R_w = w \sum x R_j / z_j`. Whatever the rule makes of weights and inputs,
    what it hands on is linear in the weights that it transposes, with the denominators fixed. So
    the contributions are the derivatives of all that is handed on by a factor of each such weight.
    A bias is credited with what the ledger books as absorbed by it.

    Args:
        site: a linear operation, some of whose constants are credited.
        propagate: the rule.

    Returns:
        Relevance of each credited operand.
    """
    absorbed: list[Array] = []

    def note(what: str, amount: Callable[[], Any]) -> None:
        if what == "bias":
            absorbed.append(amount())

    def handed_on(gate: Array) -> tuple[Array, tuple[list[Array], Array | None]]:
        absorbed.clear()
        leaving = propagate(site.gated(gate, note))
        totals = [
            jnp.zeros_like(jnp.real(x)) if r is None else r.total(x)
            for r, x in zip(leaving, site.inputs, strict=True)
        ]
        bias = sum(absorbed[1:], absorbed[0]) if absorbed else None
        return sum((jnp.sum(t) for t in totals), jnp.zeros(())), (totals, bias)

    weight = site.linear.weight
    ones = _compat.alike(jnp.ones_like(jnp.real(weight)), weight)
    roles = site.operation.propagator.constants(site.operation, site.active)
    if site.linear.diagonal or "weight" not in {roles[i] for i in _positions(site)}:
        _, (totals, bias) = handed_on(ones)
        # With one input for each output, what an input gets is the contribution.
        weight = summed_to(ones.shape, totals[0]) if site.linear.diagonal else ones
    else:
        weight, (_, bias) = jax.grad(handed_on, has_aux=True)(ones)
    credits = {"weight": weight, "bias": bias}
    return [_credit(site.values[i], credits[roles[i]]) for i in _positions(site)]


def _positions(site: Site) -> list[int]:
    return [i for i, on in enumerate(site.credited) if on]


def _credit(parameter: Array, relevance: Array | None) -> Relevance | None:
    if relevance is None:
        return None
    return Relevance(share=summed_to(parameter.shape, relevance))
