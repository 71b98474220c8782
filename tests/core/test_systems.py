"""Relevance through systems of equations, roots of matrices, sparse products, custom batching."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import jax.scipy.sparse.linalg as iterative
import numpy as np
import pytest
from jax import lax
from jax.experimental import sparse
from jax.experimental.ode import odeint

import relprop
from relprop.propagators import Homogeneous
from relprop.rules import Epsilon, Gamma, Gradient, Uniform, Zero

from ..uncompiled import uncompiled
from .test_gradient_parity import close

pytestmark = pytest.mark.usefixtures("by_numpy")

RNG = np.random.default_rng(0)
N = 4
MATRIX = RNG.normal(size=(N, N)) / 3 + 2 * np.eye(N)
RIGHT = RNG.normal(size=(N, 2))
SEED = RNG.normal(size=(N, 2))


def substituted(matrix, right, seed, lower, unit):
    """Relevance of what substitution computes, product by product and quotient by quotient."""
    order = range(N) if lower else range(N - 1, -1, -1)
    x = np.zeros_like(right)
    for i in order:
        rest = right[i] - sum(matrix[i, j] * x[j] for j in range(N) if _beside(i, j, lower))
        x[i] = rest / (1 if unit else matrix[i, i])
    arrived = seed * x
    to_matrix, to_right = np.zeros_like(matrix), np.zeros_like(right)
    for i in reversed(order):
        numerator = x[i] * (1 if unit else matrix[i, i])
        given = arrived[i]
        if not unit:
            given = given / 2  # A quotient: the other half is that of the divisor.
            to_matrix[i, i] = given.sum()
        to_right[i] = right[i] * given / numerator
        for j in range(N):
            if _beside(i, j, lower):
                part = -matrix[i, j] * x[j] * given / numerator / 2
                to_matrix[i, j] = part.sum()
                arrived[j] += part
    return to_matrix, to_right, x


def _beside(i, j, lower):
    return j < i if lower else j > i


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("turned", ["", "transposed", "from the right"])
def test_a_triangular_system_is_the_substitution_that_solves_it(lower, unit, turned, x64):
    to_matrix, to_right, x = substituted(MATRIX, RIGHT, SEED, lower, unit)

    def solve(matrix, right):
        options = {"lower": lower, "unit_diagonal": unit, "left_side": True}
        if turned == "transposed":
            matrix = matrix.T
            options |= {"transpose_a": True, "lower": not lower}
        elif turned:
            matrix, right = matrix.T, right.T
            options |= {"left_side": False, "lower": not lower}
        out = lax.linalg.triangular_solve(matrix, right, **options)
        return out.T if turned == "from the right" else out

    given = jnp.asarray(MATRIX), jnp.asarray(RIGHT)

    @uncompiled
    def explained(seed, *given):
        y, back = relprop.vrp(solve, *given, rules=Epsilon(1e-12))
        return y, back(seed)

    y, found = explained(jnp.asarray(SEED * x), *given)
    np.testing.assert_allclose(y, x, rtol=1e-12)
    np.testing.assert_allclose(found[0], to_matrix, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[1], to_right, rtol=1e-9, atol=1e-12)
    both = uncompiled(jax.grad(lambda *args: jnp.sum(SEED * solve(*args)), (0, 1)))(*given)
    back = uncompiled(lambda *args: relprop.vrp(solve, *args, rules=Gradient())[1](SEED))
    np.testing.assert_allclose(back(*given)[0], both[0], rtol=1e-9, atol=1e-12)


def test_the_matrix_alone_leaves_the_right_hand_side_its_share(x64):
    to_matrix, to_right, x = substituted(MATRIX, RIGHT, SEED, True, True)

    def score(matrix):
        out = lax.linalg.triangular_solve(
            matrix, jnp.asarray(RIGHT), left_side=True, lower=True, unit_diagonal=True
        )
        return jnp.sum(SEED * out)

    book = relprop.ledger(score, Zero())(jnp.asarray(MATRIX))
    np.testing.assert_allclose(book.relevance, to_matrix, rtol=1e-9, atol=1e-12)
    (row,) = (row for row in book if row.operation.primitive == "triangular_solve")
    np.testing.assert_allclose(row.bias, to_right.sum(), rtol=1e-9)
    np.testing.assert_allclose(to_matrix.sum() + to_right.sum(), np.sum(SEED * x), rtol=1e-9)


@pytest.mark.parametrize("under", ["jit", "vmap"])
def test_stacks_of_systems(under):
    stack = jnp.asarray(np.stack([MATRIX, MATRIX.T]), jnp.float32)
    right = jnp.asarray(np.stack([RIGHT, 2 * RIGHT]), jnp.float32)

    def score(matrix, right):
        out = lax.linalg.triangular_solve(matrix, right, left_side=True, lower=True)
        return jnp.sum(out @ jnp.array([1.0, -0.5]))

    explain = relprop.relevance(score, Zero(), (0, 1))
    each = [explain(*pair) for pair in zip(stack, right, strict=True)]
    found = {"jit": jax.jit(explain), "vmap": uncompiled(jax.vmap(explain))}[under](stack, right)
    for one, parts in zip(found, zip(*each, strict=True), strict=True):
        close(one, np.stack(parts), 1e-5)


@pytest.mark.parametrize("solver", ["direct", "conjugate gradients"])
def test_a_solution_is_linear_in_its_right_hand_side_and_of_degree_minus_one(solver):
    matrix = jnp.asarray(MATRIX @ MATRIX.T, jnp.float32)
    right = jnp.asarray(RIGHT[:, 0], jnp.float32)

    def score(matrix, right):
        if solver == "direct":
            return jnp.sum(jnp.linalg.solve(matrix, right))
        return jnp.sum(iterative.cg(lambda v: matrix @ v, right)[0])

    gradients = uncompiled(jax.grad(score, (0, 1)))(matrix, right)
    options = {"on_suspicion": "ignore"}
    only = relprop.relevance(functools.partial(score, matrix), Epsilon(1e-9), **options)(right)
    close(only, right * gradients[1], 1e-4)
    both = relprop.relevance(score, Epsilon(1e-9), (0, 1), **options)(matrix, right)
    close(both[0], -matrix * gradients[0] / 2, 1e-4)
    close(both[1], right * gradients[1] / 2, 1e-4)


def test_a_matrix_that_is_no_single_product_is_refused():
    def score(matrix):
        return jnp.sum(
            lax.custom_linear_solve(
                lambda v: matrix @ v + v,
                jnp.ones(N),
                lambda _, b: jnp.linalg.solve(matrix + jnp.eye(N), b),
                symmetric=True,
            )
        )

    with pytest.raises(relprop.MissingRuleError, match="custom_linear_solve"):
        relprop.relevance(score, Epsilon())(jnp.asarray(MATRIX, jnp.float32))


def test_all_of_a_root_of_a_matrix_is_that_of_the_matrix():
    matrix = jnp.asarray(MATRIX @ MATRIX.T, jnp.float32)

    def score(a):
        return jnp.sum(jnp.linalg.cholesky(a) * jnp.arange(4.0)[None])

    R = relprop.relevance(score, Epsilon(1e-9))(matrix)
    close(R, 2 * matrix * jax.grad(score)(matrix), 1e-4)
    close(R.sum(), score(matrix), 1e-4)
    (step,) = (s for s in relprop.inspect(score, Epsilon())(matrix) if s.primitive == "cholesky")
    assert (step.structure, step.rule) == ("homogeneous", Uniform())
    assert Homogeneous((0.5, 0)).structure(step, (True, True)) is None, "of no known degree"


KEPT = RNG.random((N, N)) < 0.5


@pytest.mark.parametrize("rule", [Zero(), Epsilon(0.1), Gamma(0.5), Gradient()])
@pytest.mark.parametrize("explained", ["dense", "entries", "both"])
def test_a_sparse_layer_is_the_dense_one(rule, explained):
    dense = jnp.asarray(np.where(KEPT, MATRIX, 0), jnp.float32)
    places = np.argwhere(KEPT).astype(np.int32)
    thin = sparse.BCOO((dense[*places.T], jnp.asarray(places)), shape=dense.shape)
    bias = jnp.arange(2.0)[None]
    right = jnp.asarray(RIGHT, jnp.float32)

    def by_entries(entries, x):
        return jnp.sum((sparse.BCOO((entries, thin.indices), shape=dense.shape) @ x + bias) ** 2)

    def by_matrix(matrix, x):
        return jnp.sum((matrix @ x + bias) ** 2)

    numbers = {"dense": (1,), "entries": (0,), "both": (0, 1)}[explained]
    if isinstance(rule, Gamma) and explained == "both":
        pytest.skip("a product of two values has no weight")
    found = relprop.relevance(by_entries, rule, numbers)(thin.data, right)
    expected = relprop.relevance(by_matrix, rule, numbers)(dense, right)
    for number, one, other in zip(numbers, found, expected, strict=True):
        other = other if number else other[*places.T]
        close(one, other, 1e-5)


def test_entries_of_sparse_matrices_are_moved_and_summed():
    dense = jnp.asarray(MATRIX, jnp.float32)
    thin = sparse.BCOO.fromdense(dense)

    def score(entries):
        matrix = sparse.BCOO((entries, thin.indices), shape=dense.shape)
        return jnp.sum(matrix.T.todense() * dense) + matrix.sum(0).todense()[1]

    gradient = uncompiled(jax.grad(score))(thin.data)
    close(relprop.relevance(score, Zero())(thin.data), thin.data * gradient, 1e-5)


def test_a_function_with_batching_of_its_own_is_what_it_computes():
    weight = jnp.asarray(MATRIX, jnp.float32)

    @jax.custom_batching.custom_vmap
    def layer(x):
        return jnp.tanh(weight @ x)

    layer.def_vmap(lambda size, batched, x: (jnp.tanh(x @ weight.T), True))
    x = jnp.asarray(RIGHT.T, jnp.float32)
    plain = relprop.relevance(lambda x: jnp.tanh(weight @ x).sum(), Epsilon())
    explain = relprop.relevance(lambda x: layer(x).sum(), Epsilon())
    close(explain(x[0]), plain(x[0]), 1e-6)
    close(*(uncompiled(jax.vmap(f))(x) for f in (explain, plain)), 1e-6)


def test_a_differential_equation_as_a_whole():
    weight = jnp.asarray(MATRIX / 9, jnp.float32)

    def score(x):
        return odeint(lambda y, t: jnp.tanh(weight @ y), x, jnp.array([0.0, 1.0]))[-1].sum()

    x = jnp.asarray(RIGHT[:, 0], jnp.float32)
    rules = relprop.Composite().at(structure="custom_derivative").use(Zero())
    close(relprop.relevance(score, rules)(x), x * uncompiled(jax.grad(score))(x), 1e-5)
    # Later releases of JAX evaluate a polynomial in it by a primitive of its own.
    loop = relprop.Composite().at(primitive="polynomial", optional=True).use(Gradient())
    for policy in ("error", "gradient"):
        with pytest.raises(relprop.MissingRuleError) as caught:
            relprop.relevance(score, loop, on_missing=policy)(x)
        assert "on_missing" not in str(caught.value), "it would change nothing"
        assert '.at(structure="custom_derivative")' in str(caught.value)
