"""Propagators for functions of matrices: solutions of linear systems, and roots of matrices."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from relprop import _compat
from relprop._core.linear_map import LinearMap
from relprop._core.operation import Operation, Propagator
from relprop.propagators.sums import Linear


@dataclasses.dataclass(frozen=True)
class Homogeneous(Propagator):
    r"""Homogeneous in each operand: :math:`f(t x) = t^k f(x)`, of a degree k that is not zero.

    By Euler's theorem :math:`\sum_i x_i \partial f / \partial x_i = k f`, so that gradient times
    input over k is all of the result. A product has the degree 1 in each factor, a quotient -1 in
    what divides; the Cholesky factor of a matrix has 1/2.

    Args:
        degrees: k per operand, 0 for what is never active.

    >>> import jax, jax.numpy as jnp, relprop
    >>> relprop.propagators.register("cholesky", relprop.propagators.Homogeneous((0.5,)))
    >>> score = lambda a: jnp.linalg.cholesky(a).sum()
    >>> R = relprop.relevance(score, relprop.rules.Epsilon())(jnp.diag(jnp.array([4.0, 9.0])))
    >>> R.sum().round(4).tolist()
    5.0
    """

    degrees: tuple[float, ...]
    factored: ClassVar[bool] = True

    def structure(self, operation, active):
        known = all(k for k, on in zip(self.degrees, active, strict=True) if on)
        return "homogeneous" if known else None

    def by_factors(self, site, coefficients):
        degrees = [k for k, on in zip(self.degrees, site.active, strict=True) if on]
        found = site.vjp([coefficients / len(degrees)])
        return tuple(m / k for m, k in zip(found, degrees, strict=True))


@dataclasses.dataclass(frozen=True)
class Solve(Linear):
    r"""The solution of a linear system, :math:`A x = b`: linear in b.

    Where A depends on the inputs, too, x is :math:`A^{-1} b`, of the degrees -1 and 1. That is so
    if the product with A that the user gave is one product with what he closed over; of any other
    function nobody can say what is to be shared out.
    """

    factored: ClassVar[bool] = True
    transposable: ClassVar[bool] = False  # Together with what the solver starts from.

    def structure(self, operation, active):
        if len(operation.outputs) > 1:
            return None
        if self.linear(operation, active):
            return self.name
        return "homogeneous" if _is_one_product(operation) else None

    def linear(self, operation, active):
        # How the solver gets there, and from where, is no matter for what the solution is.
        return not any(active[: self._matrix(operation)])

    def linear_map(self, site):
        right = len(site.values) - 1

        def apply(xs, w):
            # What the solver reads beside them stays as it is.
            (x,) = self.evaluate(site.operation, [*site.values[:right], xs[-1]])
            return w * x

        return LinearMap(site.inputs, site.output, apply, jnp.ones((), site.output.dtype))

    def by_factors(self, site, coefficients):
        matrix, operands = self._matrix(site.operation), len(site.active)
        on = site.active
        count = any(on[:matrix]) + on[-1]
        found = site.vjp([coefficients / count])
        positions = [i for i in range(operands) if on[i]]
        return tuple(-m if i < matrix else m for i, m in zip(positions, found, strict=True))

    @staticmethod
    def _matrix(operation: Operation) -> int:
        """How many of the first operands the products with the matrix, and its transpose, read."""
        lengths = operation.last.params["const_lengths"]
        return lengths.matvec + lengths.vecmat


def _is_one_product(operation: Operation) -> bool:
    """Whether the product with the matrix is one `dot_general`, and moves."""
    jaxpr, _ = _compat.open_jaxpr(operation.last.params["jaxprs"].matvec)
    names = [eqn.primitive.name for eqn in jaxpr.eqns]
    moves = {"transpose", "reshape", "squeeze", "broadcast_in_dim", "convert_element_type", "copy"}
    return names.count("dot_general") == 1 and set(names) <= {"dot_general", *moves}


@dataclasses.dataclass(frozen=True)
class TriangularSolve(Linear):
    r"""The solution of a triangular system, which is linear in its right-hand side.

    Where the matrix depends on the inputs, too, it is what substitution computes,

    .. math:: x_i = \Big(b_i - \sum_{j \ne i} a_{ij} x_j\Big) / a_{ii},

    of products, whose factors have equal parts in it, and of quotients, likewise: as if it had been
    written as a loop. With D the diagonal and N the rest of A, the multipliers of b are
    :math:`c = (2 D + N / 2)^{-\top} m`, for m those of x, those of N are :math:`-c x^\top / 2`, and
    those of D are :math:`c x^\top`. A diagonal of ones that is not looked at takes part in nothing:
    then :math:`c = (I + N / 2)^{-\top} m`.
    """

    operands: tuple[int, ...] | None = (1,)
    factored: ClassVar[bool] = True

    def structure(self, operation, active):
        if self.linear(operation, active):
            return self.name
        real = all(jnp.issubdtype(atom.dtype, jnp.floating) for atom in operation.inputs)
        return "homogeneous" if real else None

    def by_factors(self, site, coefficients):
        if site.is_linear:
            return site.vjp([coefficients])
        params = site.operation.last.params
        matrix, right = site.values
        size = matrix.shape[-1]
        lower, upper = jnp.tril(jnp.ones((size, size)), -1), jnp.triu(jnp.ones((size, size)), 1)
        beside = (lower if params["lower"] else upper).astype(matrix.dtype)
        diagonal = (0 if params["unit_diagonal"] else 1) * jnp.eye(size, dtype=matrix.dtype)
        solve = functools.partial(
            lax.linalg.triangular_solve, matrix * _over(2 * diagonal + beside / 2, matrix), **params
        )
        (to_right,) = jax.linear_transpose(solve, right)(coefficients)
        weights = _over(diagonal - beside / 2, matrix)
        (to_matrix,) = jax.linear_transpose(
            lambda a: _product(a * weights, site.output, params), matrix
        )(to_right)
        both = zip((to_matrix, to_right), site.active, strict=True)
        return tuple(m for m, on in both if on)


def _over(square: Array, matrix: Array) -> Array:
    """One square for all of a stack of them."""
    return jnp.broadcast_to(square, matrix.shape)


def _product(matrix: Array, x: Array, params: Any) -> Array:
    """What the system says the product of the matrix and the solution is."""
    matrix = matrix.mT if params["transpose_a"] else matrix
    return matrix @ x if params["left_side"] else x @ matrix
