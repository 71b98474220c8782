r"""The classical rules for linear operations :math:`z_j = \sum_i x_i w_{ij} + b_j`.

All of them hold for anything that is linear in its active operands: dense layers, convolutions
of every kind, poolings, sums, scales. They see it as `LinearMap` and know no primitive.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike

from relprop._core.relevance import Relevance, scaled
from relprop._core.site import LinearMap, Site, multipliers, shares
from relprop._errors import ConservationWarning
from relprop.rules.base import (
    Arriving,
    Bias,
    Leaving,
    Rule,
    Stabilizer,
    check_bias,
    complex_problem,
    irreversible,
    is_complex,
    negative,
    positive,
    stabilizer,
)
from relprop.rules.parameters import Number, check_number, is_array, is_zero, known, number, text
from relprop.rules.signs import FEW, Magnitudes, number_of_terms, sum_of_sign


@dataclasses.dataclass(frozen=True)
class LinearRule(Rule):
    """Base of the rules that need a linear operation; for one with a single output."""

    #: Whether the rule looks at weights, and not only at the function.
    weighs: ClassVar[bool] = True

    def problem(self, operation, active):
        name, kind = type(self).__name__, operation.propagator
        if not kind.linear(operation, active):
            return f"{name} needs an operation that is linear in its active operands"
        if self.weighs and is_complex(operation):
            return complex_problem(name)
        if self.weighs and kind.hides_weights:
            return f"{name} looks at weights, and {operation.last.name} has none to look at"
        return None

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        (relevance,) = arriving
        assert relevance is not None
        return self.through(site, site.linear, relevance)

    def through(self, site: Site, linear: LinearMap, relevance: Relevance) -> Leaving:
        """The rule itself."""
        raise NotImplementedError


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Zero(Rule):
    r"""LRP-0, the basic rule: relevance in proportion to the contributions.

    .. math:: R_i = x_i \sum_j w_{ij} \frac{R_j}{z_j}

    Without a stabiliser. Carried as a multiplier it is the plain vector-Jacobian product, so that
    nothing is divided and nothing lost where z is zero; where relevance arrives as a share and z
    is exactly zero, it ends there and the ledger says so.

    On an operation that isn't linear it is the first-order Taylor expansion, gradient times input,
    which for softmax is the rule of AttnLRP (Achtibat et al. 2024, eq. 13) and in general does not
    conserve relevance.

    Args:
        bias: ``"absorb"``: b is part of z and takes its share; ``"ignore"``: z is without b.

    Source: Bach et al. 2015, eq. 56; Montavon et al. 2019, section 10.2.1.
    """

    bias: Bias = "absorb"

    def __post_init__(self):
        check_bias(self.bias)

    def problem(self, operation, active):
        return irreversible(operation)

    def conserves(self, operation, active):
        kind = operation.propagator
        return kind.structural or (kind.linear(operation, active) and len(operation.outputs) == 1)

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        if not site.is_linear or len(site.outputs) > 1:
            pairs = list(zip(arriving, site.outputs, strict=True))
            for relevance, y in pairs:
                if relevance is not None:
                    site.absorb_zeros(relevance, y)
            return multipliers(site.vjp([None if r is None else r.over(y) for r, y in pairs]))
        (relevance,) = arriving
        assert relevance is not None
        linear = site.linear
        if self.bias == "ignore" and linear.bias is not None:
            relevance = Relevance(share=relevance.total(site.output))
        elif linear.bias is not None:
            coefficients = relevance.over(site.output)
            _absorb_bias(site, linear, coefficients)
            site.absorb_zeros(relevance, site.output)
            return multipliers(linear.transpose(linear.weight, coefficients))
        if linear.diagonal:
            return self._diagonal(site, linear, relevance)
        site.absorb_zeros(relevance, linear.product)
        coefficients = relevance.over(linear.product)
        return multipliers(linear.transpose(linear.weight, coefficients))

    @staticmethod
    def _diagonal(site: Site, linear: LinearMap, relevance: Relevance) -> Leaving:
        # One input per output: it is the only contribution, so its share is all of it, also where
        # x and z are zero. Where the weight is zero there's no contribution to be found.
        share, multiplier = relevance.share, relevance.multiplier
        if share is not None:
            given, kept = share, jnp.broadcast_to(linear.weight != 0, share.shape)
            site.absorb("stopped", lambda: jnp.where(kept, 0, given))
            share = jnp.where(kept, share, 0)
        if multiplier is not None:
            (multiplier,) = linear.transpose(linear.weight, multiplier)
        return [Relevance(share, multiplier)]


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Epsilon(LinearRule):
    r"""Epsilon rule: LRP-0 with a stabiliser, which takes up small or contradictory relevance.

    .. math:: R_i = x_i \sum_j w_{ij} \frac{R_j}{z_j + \epsilon\,\mathrm{sign}(z_j)}

    Of complex numbers it is the value of the real block form: real and imaginary parts are outputs
    of their own, each with its stabiliser.

    Args:
        epsilon: in units of z; a number or a `Stabilizer`.
        bias: whether b is part of z (``"absorb"``) or left out (``"ignore"``).

    Raises:
        ValueError: epsilon is no finite number from 0.

    Source: Bach et al. 2015, eq. 58; Montavon et al. 2019, section 10.2.2.
    """

    epsilon: Number | Stabilizer = 1e-6
    bias: Bias = "absorb"
    weighs: ClassVar[bool] = False

    def __post_init__(self):
        check_bias(self.bias)
        stabilizer(self.epsilon)

    def through(self, site, linear, relevance):
        keep = self.bias == "absorb" and linear.bias is not None
        z = site.output if keep else linear.product
        if jnp.iscomplexobj(z):
            return self._by_parts(site, linear, relevance, z, keep)
        given = relevance.total(site.output)
        coefficients = stabilizer(self.epsilon).divide(given, z)
        if keep:
            _absorb_bias(site, linear, coefficients)
        site.absorb("epsilon", lambda: given - scaled(z, coefficients))
        return multipliers(linear.transpose(linear.weight, coefficients))

    def _by_parts(
        self, site: Site, linear: LinearMap, relevance: Relevance, z: Array, keep: bool
    ) -> Leaving:
        # The relevance of y is Re(y m) = Re y Re m - Im y Im m: that of its real and that of its
        # imaginary part, each of which is then divided by such a part, stabilised.
        divide, y, m = stabilizer(self.epsilon).divide, site.output, relevance.over(site.output)
        real, imag = (divide(part(m) * part(y), part(z)) for part in (jnp.real, jnp.imag))
        coefficients = lax.complex(real, imag)
        if keep:
            _absorb_bias(site, linear, coefficients)
        site.absorb_zeros(relevance, y)
        site.absorb("epsilon", lambda: jnp.real(m * y - coefficients * z))
        return multipliers(linear.transpose(linear.weight, coefficients))


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Norm(Epsilon):
    r"""Normalises contributions, for operations without weights (sums and average poolings).

    .. math:: R_i = x_i \frac{R_j}{z_j + \epsilon\,\mathrm{sign}(z_j)}, \qquad z_j = \sum_i x_i

    The epsilon rule under the name that zennit gives it.

    Source: zennit (Anders et al. 2021), rule ``Norm``.
    """


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Gamma(LinearRule):
    r"""Generalised gamma rule: favours contributions of the sign of the output.

    .. math::
        R_i = \sum_j \frac{x_i w_{ij} + \gamma\,(x_i w_{ij})^{\pm}}
                          {\sum_k x_k w_{kj} + \gamma\,(x_k w_{kj})^{\pm}}\, R_j

    with the positive parts where :math:`z_j > 0` and the negative parts where :math:`z_j < 0`,
    the bias being one of the contributions. Inputs and weights may have either sign. Where z is
    exactly zero no relevance passes.

    Args:
        gamma: strength, not negative; 0 is the epsilon rule, and as it grows the rule becomes z+
            on positive outputs.
        epsilon: stabiliser, in units of z.
        bias: whether b is a contribution (``"absorb"``) or left out (``"ignore"``); the sign of
            the output is that of the real one, with b, either way.

    Raises:
        ValueError: gamma or epsilon is no finite number from 0.

    Needs three products: with :math:`a = |x||w|`, the sums of the positive and negative parts are
    :math:`(xw \pm a) / 2`.

    Source: Montavon et al. 2019, section 10.2.3; Andéol et al. 2021 for all signs.
    """

    gamma: Number = 0.25
    epsilon: Number | Stabilizer = 1e-6
    bias: Bias = "absorb"

    def __post_init__(self):
        check_bias(self.bias)
        check_number("gamma", self.gamma)
        stabilizer(self.epsilon)

    def through(self, site, linear, relevance):
        given = relevance.total(site.output)
        sizes = Magnitudes(linear, given)
        # On the side of the output's sign: xw + gamma (xw)^+- = (1 + gamma/2) xw +- gamma/2 |xw|.
        sign, gamma = jnp.sign(site.output), number(self.gamma, given)
        whole, part = 1 + gamma / 2, gamma / 2 * sign
        total, size, bias = linear.product, sizes.output, None
        if self.bias == "absorb" and linear.bias is not None:
            bias = jnp.broadcast_to(linear.bias, size.shape)
            total, size = site.output, size + jnp.abs(bias)
        z = whole * total + part * size
        coefficients = stabilizer(self.epsilon).divide(given, z)
        coefficients = jnp.where(sign == 0, jnp.zeros_like(given), coefficients)
        if bias is not None:
            site.absorb("bias", lambda: scaled(whole * bias + part * jnp.abs(bias), coefficients))
        site.absorb("epsilon", lambda: given - scaled(z, coefficients))
        plain = linear.transpose(linear.weight, coefficients)
        signed = sizes.transpose(scaled(part, coefficients))
        return multipliers(
            [
                whole * p + scaled(jnp.sign(x), s)
                for p, s, x in zip(plain, signed, site.inputs, strict=True)
            ]
        )


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class AlphaBeta(LinearRule):
    r"""Alpha-beta rule: positive and negative contributions, each normalised by itself.

    .. math::
        R_i = \sum_j \left( \alpha \frac{(x_i w_{ij})^+}{z_j^+}
                          - \beta \frac{(x_i w_{ij})^-}{z_j^-} \right) R_j

    with :math:`z^\pm` the sums of the positive and of the negative contributions, b among them.

    Needs three products, as `Gamma` does:

    .. math:: \sum_i (x_i w_{ij})^\pm = \tfrac12 (x w \pm |x| |w|)_j

    so that a sum which is a small fraction of :math:`|x||w|` loses as many digits, and counts as
    zero where it is not more than rounding errors. Layers of few terms take a product for each
    sign, which is exact.

    Args:
        alpha: weight of what speaks for the output, not negative.
        beta: weight of what speaks against it; alpha - beta = 1 conserves relevance. Then it may be
            negative, so that both kinds get a share of it.
        epsilon: stabiliser of both denominators, in units of z. The default is that of the
            reference code of Chefer et al. 2021; zennit takes 1e-6.
        bias: whether b is a contribution (``"absorb"``) or left out (``"ignore"``).

    Raises:
        ValueError: alpha and beta are both 0, one of them is not finite, alpha or epsilon is
            negative, or beta is where alpha - beta is not 1.

    Warns:
        ConservationWarning: alpha - beta is not 1, so that the rule multiplies relevance by it.

    Source: Bach et al. 2015, eq. 60.
    """

    alpha: Number = 2.0
    beta: Number = 1.0
    epsilon: Number | Stabilizer = 1e-9
    bias: Bias = "absorb"

    def __post_init__(self):
        check_bias(self.bias)
        stabilizer(self.epsilon)
        check_number("alpha", self.alpha)
        check_number("beta", self.beta, least=-np.inf)
        alpha, beta = known(self.alpha), known(self.beta)
        if alpha is None or beta is None:
            return
        if is_zero(alpha) and is_zero(beta):
            raise ValueError("alpha and beta are both 0, so that no relevance passes; see Stop.")
        conserves = np.isclose(alpha - beta, 1)
        if not np.all(conserves | (beta >= 0)):
            raise ValueError(
                "beta must not be negative unless alpha - beta is 1, got "
                f"alpha={text(self.alpha)}, beta={text(self.beta)}."
            )
        if not np.all(conserves):
            warnings.warn(
                f"alpha - beta is {text(alpha - beta)} and not 1: relevance is not conserved, but "
                "multiplied by that at each operation of the rule.",
                ConservationWarning,
                stacklevel=3,
            )

    def conserves(self, operation, active):
        alpha, beta = known(self.alpha), known(self.beta)
        return alpha is not None and beta is not None and bool(np.allclose(alpha - beta, 1))

    def through(self, site, linear, relevance):
        given = relevance.total(site.output)
        terms = number_of_terms(linear)
        if terms < FEW:
            return multipliers(self._directly(site, linear, given))
        sizes, product = Magnitudes(linear, given), site.product
        found = {}
        for factor, sign in self._factors(given):
            z = sum_of_sign(product, sizes.output, sign, terms)
            found[sign] = self._coefficients(site, linear, factor * given, z, sign)
        plain, *more = found.values()
        signed = plain if 1 in found else -plain
        for coefficients in more:
            plain, signed = plain + coefficients, signed - coefficients
        plain = linear.transpose(linear.weight, plain)
        signed = sizes.transpose(signed)
        return multipliers(
            [
                # Nothing where x is zero.
                scaled(jnp.sign(x) / 2, scaled(jnp.sign(x), p) + s)
                for p, s, x in zip(plain, signed, site.inputs, strict=True)
            ]
        )

    def _factors(self, given: Array) -> Iterator[tuple[Any, int]]:
        """The weight of each sign of contributions, but for one that is known to be nothing."""
        for factor, sign in ((self.alpha, 1), (-self.beta, -1)):
            if not is_zero(factor):
                yield number(factor, given), sign

    def _directly(self, site: Site, linear: LinearMap, given: Array) -> list[Array]:
        """With a product for each sign of x and of w: exact where nearly everything cancels."""
        leaving = [jnp.zeros_like(x) for x in site.inputs]
        for factor, sign in self._factors(given):
            part, opposite = (positive, negative) if sign > 0 else (negative, positive)
            # x+ meets the part of w that makes the contribution of the wanted sign, x- the other.
            halves = [
                ([positive(x) for x in site.inputs], part(linear.weight)),
                ([negative(x) for x in site.inputs], opposite(linear.weight)),
            ]
            above, below = (linear.apply(xs, w) for xs, w in halves)
            coefficients = self._coefficients(site, linear, factor * given, above + below, sign)
            for xs, w in halves:
                backs = linear.transpose(w, coefficients)
                leaving = [
                    got + jnp.where(x == 0, 0, back)
                    for got, x, back in zip(leaving, xs, backs, strict=True)
                ]
        return leaving

    def _coefficients(
        self, site: Site, linear: LinearMap, given: Array, z: Array, sign: int
    ) -> Array:
        """Relevance per unit of contribution, for the contributions z of one sign."""
        divide, total = stabilizer(self.epsilon).divide, z
        if self.bias == "absorb" and linear.bias is not None:
            bias = (positive if sign > 0 else negative)(jnp.broadcast_to(linear.bias, z.shape))
            total = z + bias
            site.absorb("bias", lambda: divide(given, total) * bias)
        site.absorb("epsilon", lambda: given - scaled(total, divide(given, total)))
        # Where there is no contribution, none is to be made of rounding errors.
        return divide(jnp.where(z == 0, jnp.zeros_like(given), given), total)


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class ZPlus(AlphaBeta):
    r"""z+ rule: positive contributions only; alpha-beta with alpha 1 and beta 0.

    .. math:: R_i = \sum_j \frac{(x_i w_{ij})^+}{\sum_k (x_k w_{kj})^+ + b_j^+}\, R_j

    Args:
        epsilon: stabiliser, in units of z.
        bias: whether the positive part of b is a contribution or left out.

    Source: Bach et al. 2015, eq. 60 with beta 0; Montavon et al. 2017, eq. 6 for inputs >= 0.
    """

    alpha: Number = dataclasses.field(default=1.0, init=False, repr=False)
    beta: Number = dataclasses.field(default=0.0, init=False, repr=False)
    epsilon: Number | Stabilizer = 1e-6


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class ZBox(LinearRule):
    r"""z-box rule for inputs that live in a box, such as pixels.

    .. math::
        R_i = \sum_j \frac{x_i w_{ij} - l_i w_{ij}^+ - h_i w_{ij}^-}
                          {\sum_k x_k w_{kj} - l_k w_{kj}^+ - h_k w_{kj}^-}\, R_j

    The bias cancels.

    Args:
        low: smallest value an input can take; a number or array that broadcasts to the input.
        high: largest value, likewise.
        epsilon: stabiliser, in units of z.

    Raises:
        ValueError: a bound is not finite, low is above high, or epsilon is no finite number from 0.

    Source: Montavon et al. 2017, eq. 7.
    """

    low: Sequence | ArrayLike = 0.0
    high: Sequence | ArrayLike = 1.0
    epsilon: Number | Stabilizer = 1e-6

    def __post_init__(self):
        stabilizer(self.epsilon)
        for name in ("low", "high"):
            object.__setattr__(self, name, _bound(getattr(self, name)))
            check_number(name, getattr(self, name), least=-np.inf)
        low, high = known(self.low), known(self.high)
        if low is not None and high is not None and not _is_box(low, high):
            raise ValueError(
                "low must not be above high, and have a shape that fits, got "
                f"low={text(self.low)}, high={text(self.high)}."
            )

    def through(self, site, linear, relevance):
        given = relevance.total(site.output)
        weight = linear.weight
        lows = [_filled(self.low, x) for x in site.inputs]
        highs = [_filled(self.high, x) for x in site.inputs]
        plus, minus = positive(weight), negative(weight)
        z = site.product - linear.apply(lows, plus) - linear.apply(highs, minus)
        coefficients = stabilizer(self.epsilon).divide(given, z)
        site.absorb("epsilon", lambda: given - scaled(z, coefficients))
        parts = (
            linear.transpose(weight, coefficients),
            linear.transpose(plus, coefficients),
            linear.transpose(minus, coefficients),
        )
        return shares(
            [
                scaled(x, whole) - low * up - high * down
                for x, low, high, whole, up, down in zip(
                    site.inputs, lows, highs, *parts, strict=True
                )
            ]
        )


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class WSquare(LinearRule):
    r"""w-square rule: relevance by squared weights, whatever the inputs.

    .. math:: R_i = \sum_j \frac{w_{ij}^2}{\sum_k w_{kj}^2 + b_j^2}\, R_j

    Args:
        epsilon: stabiliser, in units of z.
        bias: whether b takes its share (``"absorb"``) or is left out (``"ignore"``).

    Raises:
        ValueError: epsilon is no finite number from 0.

    Source: Montavon et al. 2017, eq. 5.
    """

    epsilon: Number | Stabilizer = 1e-6
    bias: Bias = "absorb"

    def __post_init__(self):
        check_bias(self.bias)
        stabilizer(self.epsilon)

    def through(self, site, linear, relevance):
        keep = self.bias == "absorb" and linear.bias is not None
        bias = jnp.square(linear.bias) if keep and linear.bias is not None else None
        return _by_weight(site, linear, relevance, jnp.square(linear.weight), bias, self.epsilon)


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Flat(LinearRule):
    r"""Flat rule: relevance in equal parts to all inputs that an output is connected to.

    .. math:: R_i = \sum_j \frac{1}{\sum_k 1}\, R_j

    Args:
        epsilon: stabiliser, in units of the number of inputs.

    Raises:
        ValueError: epsilon is no finite number from 0.

    Source: Lapuschkin et al. 2019 (Unmasking Clever Hans), supplementary note 1.
    """

    epsilon: Number | Stabilizer = 1e-6

    def __post_init__(self):
        stabilizer(self.epsilon)

    def through(self, site, linear, relevance):
        return _by_weight(site, linear, relevance, jnp.ones_like(linear.weight), None, self.epsilon)


def _by_weight(
    site: Site,
    linear: LinearMap,
    relevance: Relevance,
    weight: Array,
    bias: Array | None,
    epsilon: Number | Stabilizer,
) -> Leaving:
    """Relevance by a non-negative weight alone; in the padding of a convolution is no input."""
    given = relevance.total(site.output)
    ones = [jnp.ones_like(x) for x in site.inputs]
    z = linear.apply(ones, weight)
    if bias is not None:
        bias = jnp.broadcast_to(bias, z.shape)
        z = z + bias
    coefficients = stabilizer(epsilon).divide(given, z)
    if bias is not None:
        site.absorb("bias", lambda: coefficients * bias)
    site.absorb("epsilon", lambda: given - scaled(z, coefficients))
    return shares(linear.transpose(weight, coefficients))


def _bound(given: Any) -> Any:
    """A bound as it is kept: a number, an array that nobody changes, or what is being traced."""
    if isinstance(given, (list, tuple)):
        parts = [_bound(part) for part in given]
        if any(is_array(part) and known(part) is None for part in parts):
            return jnp.stack(parts)
        given = np.asarray(parts)
    array = known(given) if is_array(given) else None
    if array is None or not jnp.issubdtype(array.dtype, jnp.number):
        return given
    if array.ndim == 0:
        return array.item()
    # One type for all, so that equal bounds are equal rules.
    array = array.astype(np.float64)
    array.setflags(write=False)
    return array


def _is_box(low: np.ndarray, high: np.ndarray) -> bool:
    try:
        return bool(np.all(low <= high))
    except ValueError:  # The shapes do not fit.
        return False


def _filled(bound: Any, x: Array) -> Array:
    return jnp.broadcast_to(jnp.asarray(bound, x.dtype), x.shape)


def _absorb_bias(site: Site, linear: LinearMap, coefficients: Array) -> None:
    bias = linear.bias
    assert bias is not None
    shape = coefficients.shape
    site.absorb("bias", lambda: scaled(jnp.broadcast_to(bias, shape), coefficients))
