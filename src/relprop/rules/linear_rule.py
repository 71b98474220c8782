r"""Rules for linear operations, stated as data: which contributions relevance is in proportion to.

A rule says what input i contributes to output j. All the rest is the same for all of them and is
done here, once: the sums, the stabilised division, the way back, the account of what biases and
stabilisers take, and the checks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Inexact

from relprop._core.relevance import Relevance, scaled
from relprop._core.site import Site, multipliers, shares
from relprop._errors import RuleError
from relprop.rules.base import (
    Arriving,
    Leaving,
    Rule,
    check_bias,
    complex_problem,
    is_complex,
    stabilizer,
)
from relprop.rules.magnitudes import Magnitudes
from relprop.rules.parameters import Number, number
from relprop.rules.parts import PER_UNIT, Part, is_by_entry, nonzero, whole


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    r"""Contributions :math:`f_j\, p(x_i)\, q(w_{ij})`, and :math:`f_j\, r(b_j)` of biases.

    Args:
        x: p, a part of each input: `whole`, `positive`, `negative`, ``jnp.abs`` or any function of
            an array that gives one of its shape; or what takes the place of the input, a number or
            an array that broadcasts to it.
        w: q, a part of the weight, likewise.
        b: r, a part of the bias, likewise; None where no bias contributes.
        factor: f, a number or an array of the output's shape.
    """

    x: Part = whole
    w: Part = whole
    b: Part | None = None
    factor: Number = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Contributions:
    r"""Terms with a denominator of their own, :math:`z_j = \sum_k c_{kj} + c_j`.

    Args:
        terms: which make up the contributions :math:`c_{ij}` of inputs and :math:`c_j` of the bias.
        share: how much of the relevance is shared out among them, as alpha of alpha-beta.
        where: the outputs whose relevance is shared out, booleans of their shape; that of the
            others is booked as taken by the stabiliser. None: all of them.
        z: makes :math:`\sum_k c_{kj}` of the sums of the terms, each without factor and bias, where
            that is not their plain sum. Where it gives 0, no input contributes.
    """

    terms: Sequence[Term]
    share: Number = 1
    where: Bool[Array, "..."] | None = None
    z: Callable[..., Array] | None = None


@dataclasses.dataclass(frozen=True)
class LinearRule(Rule):
    r"""Base of the rules that share relevance out in proportion to contributions to a linear sum.

    .. math:: R_i = \sum_j \frac{c_{ij}}{z_j + \epsilon\,\mathrm{sign}(z_j)} R_j, \qquad
              z_j = \sum_k c_{kj} + c_j

    A rule is a frozen dataclass that states its contributions by `terms`: of which parts of the
    inputs x, the weight w and the bias b they are products. Two fields have a meaning by their
    name: ``epsilon``, the stabiliser (0 without such a field), and ``bias``, where ``"ignore"``
    leaves all biases out.

    For operations that are linear in their active operands, with one output: dense layers,
    convolutions, poolings, sums, scales. What relevance the parts `whole`, `positive`, `negative`
    and ``jnp.abs`` of an input get is in proportion to the input and leaves per unit of it.

    >>> import dataclasses, jax.numpy as jnp, relprop
    >>> @dataclasses.dataclass(frozen=True)
    ... class Sizes(LinearRule):
    ...     epsilon: float = 1e-6
    ...     def terms(self, site):
    ...         return [Term(x=1, w=jnp.abs)]
    >>> f = lambda x: x @ jnp.array([3.0, -1.0])
    >>> relprop.relevance(f, Sizes())(jnp.array([2.0, 2.0])).round(1).astype(int).tolist()
    [3, 1]

    Raises:
        ValueError: epsilon is no finite number from 0, or bias no treatment of biases.
        RuleError: a part has a shape that does not fit.
    """

    #: Whether the rule looks at weights, and not only at the function.
    weighs: ClassVar[bool] = True

    def __post_init__(self):
        check_bias(getattr(self, "bias", "absorb"))
        stabilizer(getattr(self, "epsilon", 0.0))

    def terms(self, site: Site) -> Sequence[Term]:
        """The contributions, of the operation at hand."""
        raise NotImplementedError

    def contributions(self, site: Site) -> Iterable[Contributions]:
        """All of them; several where each has its own denominator."""
        return [Contributions(self.terms(site))]

    def share_out(
        self, site: Site, relevance: Relevance, z: Inexact[Array, "*out"]
    ) -> Inexact[Array, "*out"]:
        """Relevance per unit of z, of the output's shape; notes what the stabiliser takes."""
        divide = stabilizer(getattr(self, "epsilon", 0.0)).divide
        if jnp.iscomplexobj(z):
            # The relevance of y is Re(y m) = Re y Re m - Im y Im m: that of its real and that of
            # its imaginary part, each of which is then divided by such a part, stabilised.
            y, m = site.output, relevance.over(site.output)
            real, imag = (divide(part(m) * part(y), part(z)) for part in (jnp.real, jnp.imag))
            coefficients = lax.complex(real, imag)
            site.absorb_zeros(relevance, y)
            site.absorb("epsilon", lambda: jnp.real(m * y - coefficients * z))
            return coefficients
        given = relevance.total(site.output)
        coefficients = divide(given, z)
        site.absorb("epsilon", lambda: given - scaled(z, coefficients))
        return coefficients

    def problem(self, operation, active):
        name, kind = type(self).__name__, operation.propagator
        if not kind.linear(operation, active):
            return f"{name} needs an operation that is linear in its active operands"
        if len(operation.outputs) > 1:
            return f"{name} needs one output, and there are {len(operation.outputs)}"
        if self.weighs and is_complex(operation):
            return complex_problem(name)
        if self.weighs and kind.hides_weights:
            return f"{name} looks at weights, and {operation.last.name} has none to look at"
        return None

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        (relevance,) = arriving
        assert relevance is not None
        sums = _Sums(self, site, relevance)
        found: list[tuple[Term, Array]] = []
        for group in self.contributions(site):
            coefficients = self._coefficients(site, relevance, group, sums)
            found += [(term, coefficients) for term in group.terms]
        return sums.leaving(found)

    def _coefficients(
        self, site: Site, relevance: Relevance, group: Contributions, sums: _Sums
    ) -> Array:
        """Relevance per unit of a contribution, per output."""
        of_inputs, bias = sums.of_inputs(group), sums.of_bias(group)
        z = of_inputs if bias is None or group.z is None else of_inputs + bias
        coefficients = self.share_out(site, _part_of(relevance, group, site), z)
        if bias is not None:
            site.absorb("bias", lambda: scaled(bias, coefficients))
        if group.z is None:
            return coefficients
        # Where there is no contribution, none is to be made of rounding errors.
        return jnp.where(of_inputs == 0, jnp.zeros_like(coefficients), coefficients)


def _part_of(relevance: Relevance, group: Contributions, site: Site) -> Relevance:
    """What of the relevance is shared out among some contributions."""
    if _is_one(group.share) and group.where is None:
        return relevance
    given = relevance.total(site.output)
    share = _times(group.share, given)
    if group.where is not None:
        where, arrived = group.where, share
        site.absorb("epsilon", lambda: jnp.where(where, 0, arrived))
        share = jnp.where(where, share, jnp.zeros_like(share))
    return Relevance(share=share)


class _Sums:
    """Sums of contributions over inputs, and the way back to them; each product is made once."""

    def __init__(self, rule: LinearRule, site: Site, relevance: Relevance):
        self._rule, self._site, self._linear = rule, site, site.linear
        self._relevance = relevance
        self._weights: dict[Hashable, Array] = {}
        self._made: dict[Hashable, Array] = {}
        self._parts: dict[Hashable, Magnitudes] = {}
        self._keeps_bias = getattr(rule, "bias", "absorb") == "absorb"

    def of_inputs(self, group: Contributions) -> Array:
        """The sum of the contributions of inputs; a plain one has those of the bias in it."""
        if not group.terms:
            raise RuleError(f"{self._rule} states no terms to share relevance out by; see Stop.")
        if group.z is not None:
            return group.z(*map(self._sum, group.terms))
        return _sum(_times(term.factor, self._with_bias(term)) for term in group.terms)

    def of_bias(self, group: Contributions) -> Array | None:
        """The contributions of the bias, if there are any."""
        biases = [(term.factor, self._bias(term)) for term in group.terms]
        found = [_times(factor, bias) for factor, bias in biases if bias is not None]
        return _sum(found) if found else None

    def leaving(self, found: Sequence[tuple[Term, Array]]) -> Leaving:
        """Relevance of each input, by the coefficients of all terms.

        It is per unit of the input, if all parts are in proportion to it.
        """
        products: dict[Hashable, list[tuple[Term, Array]]] = {}
        for term, coefficients in found:
            products.setdefault(_key(term), []).append((term, coefficients))
        proportional = all(_key(term)[0] in PER_UNIT for term, _ in found)
        totals: list[Array | None] = [None] * len(self._linear.inputs)
        for same in products.values():
            coefficients, factor = _combined(same)
            x = same[0][0].x
            for n, part in enumerate(self._transposed(same[0][0].w, coefficients)):
                value, part = self._linear.inputs[n], _times(factor, part)
                part = _per_unit(x, value, part) if proportional else self._share(x, value, part)
                total = totals[n]
                totals[n] = part if total is None else total + part
        made = [
            jnp.zeros_like(x) if total is None else total
            for total, x in zip(totals, self._linear.inputs, strict=True)
        ]
        return multipliers(made) if proportional else shares(made)

    def _share(self, x: Part, value: Array, part: Array) -> Array:
        if callable(x):
            return scaled(self._fitting("input", x, value), part)
        return part if _is_one(x) else self._fitting("input", x, value) * part

    def _bias(self, term: Term) -> Array | None:
        bias = self._linear.bias
        if bias is None or term.b is None or not self._keeps_bias:
            return None
        part = self._fitting("bias", term.b, jnp.asarray(bias))
        return jnp.broadcast_to(part, self._site.output.shape)

    def _with_bias(self, term: Term) -> Array:
        bias = self._bias(term)
        if all(part is whole for part in (term.x, term.w, term.b)):
            # What the forward pass has computed already.
            has_none = self._linear.bias is None or bias is not None
            return self._site.output if has_none else self._site.product
        made = self._sum(term)
        return made if bias is None else made + bias

    def _sum(self, term: Term) -> Array:
        if term.w is whole and (term.x is whole or term.x is nonzero):
            return self._site.product
        key, xs = _key(term), self._linear.inputs
        if key not in self._made:
            if is_by_entry(term.w):
                made = self._part_of_weight(term.w).apply(
                    lambda x: self._fitting("input", term.x, x)
                )
            else:
                parts = [self._fitting("input", term.x, x) for x in xs]
                made = self._linear.apply(parts, self._weight(term.w))
            self._made[key] = made
        return self._made[key]

    def _transposed(self, w: Part, coefficients: Array) -> tuple[Array, ...]:
        if is_by_entry(w):
            return self._part_of_weight(w).transpose(coefficients)
        return self._linear.transpose(self._weight(w), coefficients)

    def _weight(self, w: Part) -> Array:
        if w is whole:
            return self._linear.weight
        key = _name(w)
        if key not in self._weights:
            self._weights[key] = self._fitting("weight", w, self._linear.weight)
        return self._weights[key]

    def _part_of_weight(self, w: Any) -> Magnitudes:
        if w not in self._parts:
            self._parts[w] = Magnitudes(self._linear, self._given, w)
        return self._parts[w]

    @functools.cached_property
    def _given(self) -> Array:
        return self._relevance.total(self._site.output)

    def _fitting(self, role: str, part: Part, array: Array) -> Array:
        """A part of an array, in its shape and dtype."""
        found = jnp.asarray(part(array) if callable(part) else part, array.dtype)
        try:
            return found if found.shape == array.shape else jnp.broadcast_to(found, array.shape)
        except ValueError:
            operation = self._site.operation
            raise RuleError(
                f"{self._rule} makes a part of shape {found.shape} of the {role} of shape "
                f"{array.shape} at {operation.primitive}, {operation.last.source}; a part has the "
                "shape of what it is a part of, or broadcasts to it."
            ) from None


def _per_unit(x: Part, value: Array, coefficients: Array) -> Array:
    """What a part of x gets, per unit of x."""
    size = PER_UNIT[x](value)
    if size is None:
        return coefficients
    if size.dtype == bool:
        return jnp.where(size, coefficients, jnp.zeros_like(coefficients))
    return scaled(size, coefficients)


def _key(term: Term) -> tuple[Hashable, Hashable]:
    """Equal for terms that take the same products."""
    return _name(term.x), _name(term.w)


def _name(part: Part) -> Hashable:
    return part if callable(part) or isinstance(part, (int, float)) else id(part)


def _combined(found: Sequence[tuple[Term, Array]]) -> tuple[Array, Number]:
    """The coefficients for one product that serves several denominators, and a factor after it."""
    (term, coefficients), *more = found
    if not more and jnp.ndim(term.factor) == 0:
        return coefficients, term.factor
    return _sum(scaled(number(term.factor, c), c) for term, c in found), 1


def _sum(arrays: Iterable[Array]) -> Array:
    return functools.reduce(jnp.add, arrays)


def _times(factor: Number, array: Array) -> Array:
    return array if _is_one(factor) else number(factor, array) * array


def _is_one(factor: Number) -> bool:
    return isinstance(factor, (int, float)) and bool(factor == 1)
