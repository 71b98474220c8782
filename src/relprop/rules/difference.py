r"""The rules of DeepLIFT: contributions to the difference from a reference.

They carry multipliers :math:`m`, the contribution per unit of :math:`\Delta x = x - x'`, from the
score to the inputs. Whatever is linear needs no rule of its own here: its multiplier is the
vector-Jacobian product, which is that of `Zero`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax import lax
from jaxtyping import Array

from relprop._core.relevance import safe_divide, scaled
from relprop._core.site import LinearMap, Site, multipliers
from relprop._errors import RuleError
from relprop.rules.base import (
    Arriving,
    Leaving,
    Rule,
    complex_problem,
    irreversible,
    is_complex,
)
from relprop.rules.parameters import Number, check_number, number
from relprop.rules.parts import negative, positive


class _Changes(NamedTuple):
    """What an operation did to a difference from the reference.

    Attributes:
        reference: the operation in the other run.
        inputs: the differences of its active operands.
        outputs: those of its results.
        arriving: per result, its multiplier, if any arrives.
    """

    reference: Site
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    arriving: tuple[Array | None, ...]


@dataclasses.dataclass(frozen=True)
class DifferenceRule(Rule):
    """Base of the rules that compare with a reference, and get along with nothing else."""

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        reference = site.reference
        if reference is None:
            raise RuleError(
                f"{self} compares with a reference, which `relprop.baselines.deeplift` gives it, "
                f"but there is none at {site.operation.primitive}, {site.operation.last.source}."
            )
        inputs = tuple(x - r for x, r in zip(site.inputs, reference.inputs, strict=True))
        outputs = tuple(
            y - r if jnp.issubdtype(y.dtype, jnp.inexact) else y
            for y, r in zip(site.outputs, reference.outputs, strict=True)
        )
        carried = tuple(
            None if r is None else r.over(dy) for r, dy in zip(arriving, outputs, strict=True)
        )
        return multipliers(self.compare(site, _Changes(reference, inputs, outputs, carried)))

    def compare(self, site: Site, changes: _Changes) -> Sequence[Array]:
        """The multiplier of each active operand."""
        raise NotImplementedError


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Rescale(DifferenceRule):
    r"""Rescale rule: the slope of a function between reference and input.

    .. math:: m_i = m_j \frac{f(x) - f(x')}{x - x'},
              \qquad m_i = m_j f'(x) \quad\text{where}\quad |x - x'| < \epsilon

    For functions of each entry of one operand.

    Args:
        epsilon: below which difference the slope at x is taken, in units of x.

    Source: Shrikumar et al. 2017, section 3.5.2.
    """

    epsilon: Number = 1e-10

    def __post_init__(self):
        check_number("epsilon", self.epsilon)

    def problem(self, operation, active):
        operands = [a for a, on in zip(operation.inputs, active, strict=True) if on]
        if len(operands) == 1 and all(o.shape == operands[0].shape for o in operation.outputs):
            return irreversible(operation)
        return "Rescale needs a function of each entry of one operand"

    def compare(self, site, changes):
        return [_rescaled(site, changes, self.epsilon)]


def _rescaled(site: Site, changes: _Changes, epsilon: Number) -> Array:
    """What arrives, times the slope between reference and input, entry by entry."""
    (dx,), (dy,), (m,) = changes.inputs, changes.outputs, changes.arriving
    assert m is not None
    near = jnp.abs(dx) < number(epsilon, dx)
    (slope,) = site.vjp([m])
    return jnp.where(near, slope, safe_divide(scaled(dy, m), jnp.where(near, 1, dx)))


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class RescaleMaximum(DifferenceRule):
    r"""The difference of a maximum, to the winners of input and reference.

    .. math:: C_w = m_j \big(\max(y, y') - y'\big), \qquad
              C_{w'} = m_j \big(y - \max(y, y')\big), \qquad m_i = \frac{C_i}{x_i - x'_i}

    where w is the winner in the input and w' that in the reference. For a minimum, with it.

    Args:
        epsilon: as in `Rescale`.

    As in Captum; compare Lundberg and Lee 2017, section 4.2 (max SHAP).
    """

    epsilon: Number = 1e-10

    def __post_init__(self):
        check_number("epsilon", self.epsilon)

    def problem(self, operation, active):
        if operation.propagator.extreme:
            return None
        return "RescaleMaximum needs a maximum or a minimum"

    def compare(self, site, changes):
        larger = jnp.maximum if site.operation.propagator.extreme > 0 else jnp.minimum
        ours, theirs = [], []
        for m, y, r in zip(changes.arriving, site.outputs, changes.reference.outputs, strict=True):
            most = larger(y, r)
            ours.append(None if m is None else scaled(most - r, m))
            theirs.append(None if m is None else scaled(y - most, m))
        slopes = site.vjp(list(changes.arriving))
        shares = zip(site.vjp(ours), changes.reference.vjp(theirs), strict=True)
        return [
            jnp.where(jnp.abs(dx) < number(self.epsilon, dx), slope, safe_divide(a + b, dx))
            for (a, b), dx, slope in zip(shares, changes.inputs, slopes, strict=True)
        ]


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class RescaleSoftmax(DifferenceRule):
    r"""The rescale rule entry by entry, and then no multiplier in the mean.

    .. math:: \hat m_i = m_i \frac{y_i - y'_i}{x_i - x'_i}, \qquad
              m_i \leftarrow \hat m_i - \frac{1}{n} \sum_k \hat m_k

    over the n entries of a softmax. What it hands on is not what arrives: `MeanGradient` is the
    rule that is complete.

    Args:
        epsilon: as in `Rescale`.

    As in Captum; compare Shrikumar et al. 2017, section 3.6.
    """

    epsilon: Number = 1e-10

    def __post_init__(self):
        check_number("epsilon", self.epsilon)

    def problem(self, operation, active):
        if operation.propagator.structure(operation, active) == "softmax":
            return None
        return "RescaleSoftmax needs a softmax"

    def compare(self, site, changes):
        rescaled, zeros = _rescaled(site, changes, self.epsilon), jnp.zeros_like(site.inputs[0])
        # At zero a softmax is 1 / n, and its derivative takes the mean away and divides by n: so
        # nobody needs to know over which axes it goes.
        (part,) = site.function(zeros)
        (centred,) = site.vjp([rescaled], at=[zeros])
        return [safe_divide(centred, part)]


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class RevealCancel(DifferenceRule):
    r"""RevealCancel rule: what raises and what lowers the argument of a function, apart.

    With contributions :math:`w_{ij} \Delta x_i` to a layer's results z, positive ones of the sum
    :math:`\Delta z^+` and negative ones of the sum :math:`\Delta z^-`, and their effects on
    :math:`y = f(z)` averaged over both orders of coming in,

    .. math:: \Delta y^+ &= \tfrac12 \big(f(z' + \Delta z^+) - f(z')\big)
              + \tfrac12 \big(f(z' + \Delta z^- + \Delta z^+) - f(z' + \Delta z^-)\big) \\
              \Delta y^- &= \tfrac12 \big(f(z' + \Delta z^-) - f(z')\big)
              + \tfrac12 \big(f(z' + \Delta z^+ + \Delta z^-) - f(z' + \Delta z^+)\big),

    each kind of contribution has a multiplier of its own:

    .. math:: m_i = \sum_j w_{ij} m_j
              \begin{cases} \Delta y_j^+ / \Delta z_j^+ & w_{ij} \Delta x_i > 0 \\
              \Delta y_j^- / \Delta z_j^- & w_{ij} \Delta x_i < 0 \end{cases}

    and the mean of both where :math:`\Delta x_i = 0`. For layers with the activation that follows:
    the structure ``"neuron"``. Activations of anything else have one kind of contribution and so
    the rule `Rescale`.

    Args:
        epsilon: below which sum of contributions slopes are taken, in units of z.

    Source: Shrikumar et al. 2017, sections 3.5.1 (linear rule) and 3.5.3 (RevealCancel rule).
    """

    epsilon: Number = 1e-10

    def __post_init__(self):
        check_number("epsilon", self.epsilon)

    def problem(self, operation, active):
        if is_complex(operation):
            return complex_problem("RevealCancel")
        if operation.propagator.structure(operation, active) == "neuron":
            return None
        return 'RevealCancel needs a layer with its activation: the structure "neuron"'

    def compare(self, site, changes):
        (dx,), (m,) = changes.inputs, changes.arriving
        assert m is not None
        kind: Any = site.operation.propagator  # a `Neuron`
        layer, before = kind.before(site), kind.before(changes.reference).output
        up, down = positive(layer.weight), negative(layer.weight)
        rise = layer.apply([positive(dx)], up) + layer.apply([negative(dx)], down)
        fall = layer.apply([positive(dx)], down) + layer.apply([negative(dx)], up)

        def effect(change: Array, other: Array) -> Array:
            """The multiplier of one kind of contribution, in the presence of the other."""

            def mean(at: Array) -> Array:
                return (kind.activate(site, at) + kind.activate(site, at + other)) / 2

            near = jnp.abs(change) < number(self.epsilon, change)
            start, slope = jax.jvp(mean, (before,), (jnp.ones_like(before),))
            grown = mean(before + change) - start
            return scaled(jnp.where(near, slope, grown / jnp.where(near, 1, change)), m)

        of_rise, of_fall = effect(rise, fall), effect(fall, rise)
        above = _pulled(layer, up, of_rise) + _pulled(layer, down, of_fall)
        below = _pulled(layer, up, of_fall) + _pulled(layer, down, of_rise)
        return [jnp.where(dx > 0, above, jnp.where(dx < 0, below, (above + below) / 2))]


def _pulled(layer: LinearMap, weight: Array, multiplier: Array) -> Array:
    (out,) = layer.transpose(weight, multiplier)
    return out


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class MeanGradient(DifferenceRule):
    r"""The gradient of one operation averaged over the line from reference to input.

    .. math:: m_i = \sum_j m_j \int_0^1
              \frac{\partial f_j}{\partial x_i}\big(x' + \alpha \Delta x\big)\, d\alpha

    Integrated gradients of the operation by itself: complete for whatever has a derivative, up to
    the error of the integral. It is exact for products of up to 2 n factors at n points; of two
    factors each gets its difference times the mean of the other one.

    Args:
        steps: points of the Gauss-Legendre integral.

    Source: Sundararajan et al. 2017, eq. 1, for each operation (Aumann-Shapley values).
    """

    steps: int = 8

    def __post_init__(self):
        if not isinstance(self.steps, (int, np.integer)) or self.steps < 1:
            raise ValueError(f"steps must be an integer from 1, got {self.steps!r}.")

    def problem(self, operation, active):
        return irreversible(operation)

    def compare(self, site, changes):
        # The mean over a line of what is linear in each of two operands is that in its middle.
        bilinear = site.operation.propagator.multiplies and len(site.inputs) == 2
        positions, weights = np.polynomial.legendre.leggauss(1 if bilinear else self.steps)

        def add(sums, point):
            position, weight = point
            at = [
                r + position.astype(dx.dtype) * dx
                for r, dx in zip(changes.reference.inputs, changes.inputs, strict=True)
            ]
            slopes = site.vjp(list(changes.arriving), at)
            pairs = zip(sums, slopes, strict=True)
            return [a + weight.astype(a.dtype) * b for a, b in pairs], None

        points = jnp.asarray((positions + 1) / 2), jnp.asarray(weights / 2)
        sums, _ = lax.scan(add, [jnp.zeros_like(x) for x in site.inputs], points)
        return sums
