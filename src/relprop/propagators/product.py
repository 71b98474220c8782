"""Propagators for products and soft maxima along axes."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from relprop._core.operation import Propagator
from relprop.propagators.general import back_over


@dataclasses.dataclass(frozen=True)
class Product(Propagator):
    """The product of the entries along axes."""

    native: ClassVar[bool] = False
    multiplies: ClassVar[bool] = True

    def structure(self, operation, active):
        return "product"

    def unread(self, operation, position, arriving):
        return back_over(operation, position, arriving == 0)

    def factors(self, site):
        (x,) = site.inputs
        return max(x.size, 1) / max(site.output.size, 1)


@dataclasses.dataclass(frozen=True)
class RunningProduct(Product):
    """The products of the first one, two, three and more entries along an axis."""

    def unread(self, operation, position, arriving):
        return None

    def factors(self, site):
        params = site.operation.last.params
        axis, shape = params["axis"], site.output.shape
        count = jnp.arange(1, shape[axis] + 1, dtype=site.output.dtype)
        if params["reverse"]:
            count = count[::-1]
        around = [1] * len(shape)
        around[axis] = shape[axis]
        return jnp.broadcast_to(count.reshape(around), shape)


@dataclasses.dataclass(frozen=True)
class RunningLogSumExp(Propagator):
    """The logarithm of running sums of exponentials: a logsumexp."""

    def structure(self, operation, active):
        return "logsumexp"
