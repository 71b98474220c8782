"""The layer rules of the reference as rules of the transform: see `relprop.chefer.layers`."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import jax.tree_util as jtu

from relprop._core.relevance import scaled, summed_to
from relprop._core.site import Site, shares
from relprop.chefer import contractions, layers
from relprop.chefer.division import finite, safe_divide
from relprop.chefer.layers import Variant
from relprop.rules.base import Arriving, Leaving, Rule, irreversible
from relprop.rules.linear_rule import LinearRule
from relprop.rules.parameters import Number, check_number, number

__all__ = ["Add", "BatchNorm", "Clone", "ConvolutionRule", "DenseRule", "InProportion"]


def check_variant(variant: str) -> None:
    """Refuses what is none of the two sets of rules."""
    if variant not in ("ours", "orig"):
        raise ValueError(f"variant must be 'ours' or 'orig', got {variant!r}.")


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class DenseRule(LinearRule):
    """A linear layer: `relprop.chefer.layers.linear`.

    Args:
        alpha: weight of the contributions that speak for the output; beta is alpha - 1.
        variant: which of the two sets of rules.
    """

    alpha: Number = 1.0
    variant: Variant = "ours"

    def __post_init__(self):
        check_number("alpha", self.alpha)
        check_variant(self.variant)

    def conserves(self, operation, active):
        return False  # What its stabilisers take is not noted.

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        (relevance,) = arriving
        assert relevance is not None
        linear = site.linear
        given = relevance.total(site.output), linear.inputs, linear.weight, linear.apply
        alpha = number(self.alpha, site.output)
        if self.variant == "ours":
            return shares(contractions.joint_alpha_beta(*given, alpha))
        return shares(contractions.alpha_beta(*given, alpha, joint=False))


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class ConvolutionRule(LinearRule):
    """A convolution in any layout: `relprop.chefer.layers.conv2d`.

    Args:
        alpha: weight of the contributions that speak for the output; beta is alpha - 1.
    """

    alpha: Number = 1.0

    def __post_init__(self):
        check_number("alpha", self.alpha)

    def conserves(self, operation, active):
        return False  # What its stabilisers take is not noted.

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        (relevance,) = arriving
        assert relevance is not None
        linear = site.linear
        R, alpha = relevance.total(site.output), number(self.alpha, site.output)
        given = R, linear.inputs, linear.weight, linear.apply, alpha
        return shares(contractions.convolution(*given, linear.layout))


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class InProportion(Rule):
    """Products, poolings and choices: `relprop.chefer.layers.in_proportion`.

    Args:
        part: what each operand gets, as a fraction of the rule's; the reference gives all of the
            relevance of a product to both factors and then halves it.
    """

    part: Number = 1.0

    def __post_init__(self):
        check_number("part", self.part)

    def problem(self, operation, active):
        if len(operation.outputs) > 1:
            return f"InProportion needs one output, and there are {len(operation.outputs)}"
        return irreversible(operation)

    def conserves(self, operation, active):
        return False  # What its stabilisers take is not noted.

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        (relevance,) = arriving
        assert relevance is not None
        R, z = relevance.total(site.output), finite(site.output)
        xs = [finite(x) for x in site.inputs]
        backs = site.vjp([safe_divide(R, z)], at=xs)
        part = number(self.part, z)
        return shares([part * scaled(x, c) for x, c in zip(xs, backs, strict=True)])


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Add(Rule):
    """A sum or difference of two arrays, of which one may be constant: `relprop.chefer.layers.add`.

    Args:
        variant: ``"ours"`` scales the two relevances to conserve their sum.
    """

    variant: Variant = "ours"

    def __post_init__(self):
        check_variant(self.variant)

    def problem(self, operation, active):
        if len(operation.inputs) == 2 and operation.propagator.linear(operation, active):
            return None
        return "Add needs the sum or the difference of two arrays"

    def conserves(self, operation, active):
        return False  # What its stabilisers take is not noted.

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        (relevance,) = arriving
        assert relevance is not None
        R, linear = relevance.total(site.output), site.linear
        part = safe_divide(R, finite(site.output))
        # Both summands with their signs; of a sum with a constant that one has no way to go on.
        if all(site.active):
            terms = [w * x for w, x in zip(linear.weight, site.inputs, strict=True)]
        else:
            (x,) = site.inputs
            terms = [linear.weight * x, jnp.broadcast_to(jnp.asarray(linear.bias), R.shape)]
        given = [scaled(finite(term), summed_to(term.shape, part)) for term in terms]
        if self.variant == "ours":
            given = layers.normalised(R, given[0], given[1])
        return shares(given[: len(site.inputs)])


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Clone(Rule):
    """A region that gives copies of its argument: `relprop.chefer.layers.clone`."""

    def problem(self, operation, active):
        shapes = {tuple(a.shape) for a, on in zip(operation.inputs, active, strict=True) if on}
        if sum(active) == 1 and {tuple(out.shape) for out in operation.outputs} == shapes:
            return None
        return "Clone needs one active operand, and outputs of its shape"

    def conserves(self, operation, active):
        return False  # What its stabilisers take is not noted.

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        (x,) = site.inputs
        totals = [r.total(x) for r in arriving if r is not None]
        return shares([layers.clone(totals, x)])


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class BatchNorm(Rule):
    """The region of `relprop.chefer.functional.batch_norm`: `relprop.chefer.layers.batch_norm`.

    Args:
        eps: what is added to the square of the variance.
    """

    eps: Number = 1e-5

    def __post_init__(self):
        check_number("eps", self.eps)

    def problem(self, operation, active):
        if len(operation.inputs) == 5 and tuple(active) == (True, False, False, False, False):
            return None
        return "BatchNorm needs the operands x, weight, bias, mean and variance; x alone active"

    def conserves(self, operation, active):
        return False  # What its stabilisers take is not noted.

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        (relevance,) = arriving
        assert relevance is not None
        x, weight, _, _, variance = site.values
        R = relevance.total(site.output)
        return shares([layers.batch_norm(R, x, weight, variance, number(self.eps, x))])
