"""Rules that need no weights: they pass, split, stop or differentiate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array

from relprop._core.relevance import Relevance, scaled, summed_to
from relprop._core.site import Site, multipliers, shares
from relprop.rules.base import (
    Arriving,
    Leaving,
    Rule,
    Stabilizer,
    complex_problem,
    irreversible,
    is_complex,
    stabilizer,
)
from relprop.rules.parameters import Number, check_number


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Pass(Rule):
    r"""Relevance passes unchanged, as through an activation function.

    .. math:: R_i = R_j

    For operations with one active operand, of the shape of the output. For a softmax that is
    computed in blocks, which reads all of them, that is its own block.

    >>> import jax.numpy as jnp, relprop
    >>> print(relprop.relevance(lambda x: jnp.exp(x), relprop.rules.Pass())(0.0))
    1.0

    Source: Bach et al. 2015, section 2.5; in AttnLRP the identity rule.
    """

    def problem(self, operation, active):
        operands = [a for a, on in zip(operation.inputs, active, strict=True) if on]
        (out, *more) = operation.outputs
        own = len(operands) == 1 or (operation.propagator.of_first and active[0])
        if own and not more and operands[0].shape == out.shape:
            return None
        shapes = " and ".join(str(tuple(a.shape)) for a in operands)
        return (
            "Pass needs one active operand, of the shape of the one output, but this operation "
            f"has {shapes} and gives {' and '.join(str(tuple(o.shape)) for o in operation.outputs)}"
        )

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        (relevance,) = arriving
        assert relevance is not None
        multiplier, y = relevance.multiplier, site.output
        if multiplier is not None and site.operation.propagator.rectifies(site.operation):
            # As y is x where it isn't zero, nothing needs to be multiplied and divided again.
            return [Relevance(relevance.share, jnp.where(y == 0, 0, multiplier))]
        return [Relevance(share=relevance.total(y)), *[None] * (len(site.inputs) - 1)]


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Route(Rule):
    r"""Relevance follows the values: to where each was copied from, to the winner of a maximum.

    .. math:: R = J^\top R_{out}, \qquad J_{ij} \in \{0, 1\}

    Where several inputs tie for a maximum it goes as in the gradient of JAX: in equal parts, in a
    max pooling to the first.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.max(x)
    >>> relprop.relevance(f, relprop.rules.Route())(jnp.array([1.0, 3.0, 2.0])).tolist()
    [0.0, 3.0, 0.0]

    Source: Bach et al. 2015, section 2.5 (max pooling, "winner takes all").
    """

    like_inputs: ClassVar[bool] = True

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        site.absorb("bias", lambda: _from_constants(site, arriving))
        share, multiplier = _parts(arriving)
        shares_in = None if share is None else site.vjp(share)
        multipliers_in = None if multiplier is None else site.vjp(multiplier)
        count = len(site.inputs)
        return [
            Relevance(share=s, multiplier=m)
            for s, m in zip(
                shares_in or [None] * count, multipliers_in or [None] * count, strict=True
            )
        ]


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Uniform(Rule):
    r"""Relevance of a product in equal parts to its n factors.

    .. math:: R_i = \frac{1}{n} x_i \sum_j \frac{\partial z_j}{\partial x_i} \frac{R_j}{z_j}

    For element-wise products and quotients that is :math:`R / n` to each; for a product of two
    matrices each gets half of LRP-0 with the other one as the weight. In what has the degree k and
    not 1 in a factor (`relprop.propagators.Homogeneous`), that is divided by k, too; a triangular
    system of equations is taken as the products and quotients by which it is solved.

    >>> import relprop
    >>> f = lambda x, y: x * y
    >>> R = relprop.relevance(f, relprop.rules.Uniform(), argnums=(0, 1))(2.0, 3.0)
    >>> [r.item() for r in R]
    [3.0, 3.0]

    Source: Achtibat et al. 2024, proposition 3.3; half rule of Jafari et al. 2024 (MambaLRP).
    """

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        (relevance,) = arriving
        assert relevance is not None
        kind = site.operation.propagator
        if kind.elementwise:
            part = relevance.total(site.output) / kind.factors(site)
            return shares([summed_to(x.shape, part) for x in site.inputs])
        site.absorb_zeros(relevance, site.output)
        coefficients = relevance.over(site.output)
        parts = kind.by_factors(site, coefficients)
        if kind.factored:
            # What is left is that of constants: the right-hand side of a system, a unit diagonal.
            site.absorb("bias", lambda: _rest(site, coefficients, parts))
        return multipliers(parts)

    def problem(self, operation, active):
        kind = operation.propagator
        if kind.multiplies or kind.elementwise or kind.factored:
            return None
        return "Uniform needs a product: an operation linear in each of its active operands"


def _rest(site: Site, coefficients: Array, parts: Sequence[Array]) -> Array:
    """What has arrived and was not given to the inputs."""
    given = sum(jnp.sum(scaled(x, m)) for x, m in zip(site.inputs, parts, strict=True))
    return jnp.sum(scaled(site.output, coefficients)) - given


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class SignalTakesAll(Rule):
    r"""Relevance of a gated signal goes to the signal; the gate gets nothing.

    .. math:: R_{signal} = R, \qquad R_{gate} = 0

    >>> import jax, relprop
    >>> f = lambda gate, signal: jax.nn.sigmoid(gate) * signal
    >>> rules = relprop.presets.lstm()
    >>> R = relprop.relevance(f, rules, argnums=(0, 1))(0.0, 4.0)
    >>> [r.item() for r in R]
    [0.0, 2.0]

    Source: Arras et al. 2017, section 3 (LSTM); Ali et al. 2022 (gates as constants).
    """

    def problem(self, operation, active):
        if operation.propagator.structure(operation, active) == "gate":
            return None
        return "SignalTakesAll needs a gate: the product of an activation and something else"

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        (relevance,) = arriving
        assert relevance is not None
        if not site.active[1]:
            # What the gate opens for is a constant, and takes its relevance with it.
            site.absorb("bias", lambda: relevance.total(site.output))
            return [None]
        gate, signal = site.inputs
        share, multiplier = relevance.share, relevance.multiplier
        if share is not None:
            share = summed_to(signal.shape, share)
        if multiplier is not None:
            multiplier = summed_to(signal.shape, scaled(gate, multiplier))
        return [None, Relevance(share, multiplier)]


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Proportional(Rule):
    r"""Relevance of a product to its two factors, in proportion to their values.

    .. math:: R_a = \frac{a}{a + b} R, \qquad
              \text{or with absolute values}\quad R_a = \frac{|a|}{|a| + |b|} R

    For element-wise products; not one of the rules that go on well, but one that papers compare
    with.

    Args:
        absolute: whether the proportions are those of the absolute values.
        epsilon: stabiliser of the denominator, in units of the factors.

    Raises:
        ValueError: epsilon is no finite number from 0.

    >>> import relprop
    >>> f = lambda x, y: x * y
    >>> rule = relprop.rules.Proportional(epsilon=0)
    >>> rules = relprop.Composite().at(structure="product").use(rule)
    >>> x, y = relprop.relevance(f, rules, argnums=(0, 1))(1.0, 3.0)
    >>> print(x, y)
    0.75 2.25

    Source: Arras et al. 2019, section 11.2.2 (LRP-prop and LRP-abs).
    """

    absolute: bool = False
    epsilon: Number = 1e-6

    def __post_init__(self):
        check_number("epsilon", self.epsilon)

    def problem(self, operation, active):
        kind = operation.propagator
        if is_complex(operation):
            return complex_problem("Proportional")
        if kind.multiplies and kind.elementwise and sum(active) == 2:
            return None
        return "Proportional needs an element-wise product of two active values"

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        (relevance,) = arriving
        assert relevance is not None
        total = relevance.total(site.output)
        a, b = (jnp.abs(x) if self.absolute else x for x in site.inputs)
        part = Stabilizer(self.epsilon).divide(total, a + b)
        site.absorb("epsilon", lambda: total - scaled(a + b, part))
        return shares([summed_to(x.shape, jnp.asarray(scaled(x, part))) for x in (a, b)])


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Stop(Rule):
    r"""Relevance ends here.

    .. math:: R_i = 0

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -2.0, 4.0])
    >>> print(relprop.relevance(f, relprop.rules.Stop())(jnp.ones(4)))
    [0. 0. 0. 0.]
    """

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        for relevance, out in zip(arriving, site.outputs, strict=True):
            if relevance is not None:
                # Bound as a default: the loop variable would have changed when it is called.
                site.absorb("stopped", lambda r=relevance, y=out: r.total(y))
        return [None] * len(site.inputs)


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Constant(Rule):
    """The result is taken as a constant, so that relevance goes to what it is combined with.

    As a gradient stopped at the denominator of a normalisation: the product of an input with a
    constant is a scale. Unlike `Stop`, which takes relevance that has arrived, this one keeps it
    from arriving.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x[0] / jnp.sqrt(jnp.mean(x**2))
    >>> rules = relprop.presets.cp_lrp()  # gives it to the denominator
    >>> print(relprop.relevance(f, rules)(jnp.array([1.0, 7.0])))
    [0.2 0. ]

    Source: Ali et al. 2022, eq. 8 (layer normalisation) and eq. 7 (attention).
    """

    detaches: ClassVar[bool] = True

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        raise AssertionError("relevance arrived at a constant")


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Gradient(Rule):
    r"""The plain vector-Jacobian product, as in back-propagation.

    .. math:: R_i = \sum_j \frac{\partial z_j}{\partial x_i} R_j

    Given as the only rule it applies to every operation, and the seed is 1: then
    ``relevance(f, Gradient())`` is ``jax.grad(f)``.

    >>> import relprop
    >>> relprop.relevance(lambda x: x**3, relprop.rules.Gradient())(2.0).item()
    12.0

    Source: Simonyan et al. 2014 (sensitivity maps).
    """

    everywhere: ClassVar[bool] = True
    like_inputs: ClassVar[bool] = True

    def problem(self, operation, active):
        return irreversible(operation)

    def conserves(self, operation, active):
        return operation.propagator.structural

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        cotangents = [
            None if relevance is None else relevance.share
            if relevance.multiplier is None else relevance.total(y)
            for relevance, y in zip(arriving, site.outputs, strict=True)
        ]  # fmt: skip
        return shares(site.vjp(cotangents))


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Linearised(Rule):
    r"""The epsilon rule of any operation, linear or not, with its derivative for a weight.

    .. math:: R_i = x_i \sum_j \frac{\partial z_j}{\partial x_i}
                    \frac{R_j}{z_j + \epsilon\,\mathrm{sign}(z_j)}

    It conserves relevance where the operation is homogeneous: linear, a maximum, ReLU.

    Args:
        epsilon: stabiliser, in units of z.

    Raises:
        ValueError: epsilon is no finite number from 0.

    >>> import jax.numpy as jnp, relprop
    >>> rules = relprop.Composite().at(structure="maximum").use(Linearised())
    >>> relprop.relevance(jnp.max, rules)(jnp.array([1.0, 3.0])).tolist()
    [0.0, 3.0]

    Source: Kokhlikyan et al. 2020 (Captum), ``EpsilonRule``.
    """

    epsilon: Number | Stabilizer = 1e-9

    def __post_init__(self):
        stabilizer(self.epsilon)

    def problem(self, operation, active):
        if len(operation.outputs) > 1:
            return f"Linearised needs one output, and there are {len(operation.outputs)}"
        if is_complex(operation):
            return complex_problem("Linearised")
        return irreversible(operation)

    def conserves(self, operation, active):
        kind = operation.propagator
        homogeneous = kind.linear(operation, active) or kind.extreme or kind.rectifies(operation)
        return kind.structural or bool(homogeneous)

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        (relevance,) = arriving
        assert relevance is not None
        given, z = relevance.total(site.output), site.output
        coefficients = stabilizer(self.epsilon).divide(given, z)
        site.absorb("epsilon", lambda: given - scaled(z, coefficients))
        return multipliers(site.vjp([coefficients]))


def _from_constants(site: Site, arriving: Arriving) -> Array:
    """Relevance of outputs that are no copy of an active operand: padding, other constants."""
    ones = [jnp.ones_like(x) for x in site.inputs]
    _, copied = jax.jvp(site.function, site.inputs, tuple(ones))
    lost = [
        jnp.sum(scaled(1 - jnp.real(fraction), relevance.total(output)))
        for relevance, output, fraction in zip(arriving, site.outputs, copied, strict=True)
        if relevance is not None
    ]
    return jnp.stack(lost)


def _parts(arriving: Arriving):
    """Shares and multipliers apart; None where no output has any."""
    share = [None if r is None else r.share for r in arriving]
    multiplier = [None if r is None else r.multiplier for r in arriving]
    return (
        None if all(s is None for s in share) else share,
        None if all(m is None for m in multiplier) else multiplier,
    )
