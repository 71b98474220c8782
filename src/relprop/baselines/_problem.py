"""What is to be explained, the same for all methods: a score as a function of some arguments."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from relprop._arguments import argument_numbers, check_score, explained_outputs
from relprop._errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A score and the arguments that it is to be explained by.

    Attributes:
        x: the explained arguments, structured as the result is: one tree, or a tuple of trees.
        function: what was to be explained, as a function of x alone; its result is the score, or
            a pair of it and aux.
        has_aux: whether it is the pair.
    """

    x: PyTree[Float[ArrayLike, "..."]]
    function: Callable[[Any], Any]
    has_aux: bool

    def score(self, x: PyTree[Float[ArrayLike, "..."]]) -> Float[Array, ""]:
        out = self.function(x)
        return out[0] if self.has_aux else out

    def aux(self) -> Any:
        return self.function(self.x)[1]


def explaining(
    f: Callable[..., Any],
    argnums: int | Sequence[int],
    has_aux: bool,
    method: Callable[[Problem], Any],
) -> Callable[..., Any]:
    """A function with the arguments of f that returns what a method makes of them.

    Args:
        f: a function that returns a real scalar, or with `has_aux` a pair of it and anything.
        argnums: which arguments are explained.
        has_aux: whether f returns a pair; then so does the result.
        method: from the problem to its explanation.
    """

    @functools.wraps(f)
    def explain(*args: Any, **kwargs: Any) -> Any:
        problem = _problem(f, args, kwargs, argnums, has_aux)
        result = method(problem)
        return (result, problem.aux()) if has_aux else result

    return explain


def _problem(f, args, kwargs, argnums, has_aux) -> Problem:
    numbers = argument_numbers(argnums, len(args))
    several = isinstance(argnums, Sequence)
    explained = tuple(args[n] for n in numbers) if several else args[numbers[0]]
    x = jtu.tree_map_with_path(_real_array, explained)
    if not jtu.tree_leaves(x):
        raise InputError(
            f"What is to be explained holds no array: its tree is {jtu.tree_structure(x)}. Choose "
            "another argument with `argnums`."
        )

    def function(x: Any) -> Any:
        whole = list(args)
        for number, part in zip(numbers, x if several else (x,), strict=True):
            whole[number] = part
        return f(*whole, **kwargs)

    problem = Problem(x, function, has_aux)
    _check(jax.eval_shape(lambda x: jax.tree.map(_shown_to_jax, function(x)), x), has_aux)
    return problem


def _shown_to_jax(leaf: Any) -> Any:
    """A leaf, or no numbers at all in the place of what is no array and may be part of aux."""
    arrays = jax.Array, np.ndarray, np.generic, int, float, complex
    return leaf if isinstance(leaf, arrays) or hasattr(leaf, "__jax_array__") else np.zeros(0)


def _check(shapes: Any, has_aux: bool) -> None:
    leaves, tree = jtu.tree_flatten(shapes)
    count = explained_outputs(tree, has_aux)
    check_score(leaves[:count], " beside aux" if has_aux else "")


def _real_array(path: Any, leaf: Any) -> Array:
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(
            f"Only real numbers can be explained, but the leaf {jtu.keystr(path) or '(all)'} has "
            f"dtype {dtype} and shape {np.shape(leaf)}. Token ids and other integers: look up "
            "their embeddings first and explain those."
        )
    return jnp.asarray(leaf)


def reference_of(
    baseline: PyTree[Float[ArrayLike, "..."]] | None, x: PyTree[Float[ArrayLike, "..."]]
) -> PyTree[Float[ArrayLike, "..."]]:
    """The point of comparison, a tree like x.

    Args:
        baseline: None for zeros; a number for all entries; or a tree like x, or the beginning of
            one, whose leaves can be broadcast to those of x.
        x: what is explained.

    Raises:
        InputError: a leaf has another shape, or the tree another structure.
    """
    if baseline is None:
        return jax.tree.map(jnp.zeros_like, x)
    try:
        whole = jax.tree.broadcast(baseline, x)
    except ValueError as error:
        raise InputError(
            "The baseline must have the structure of what is explained, "
            f"{jax.tree.structure(x)}, but has {jax.tree.structure(baseline)}."
        ) from error
    wrong = [
        f"  {jtu.keystr(path) or 'the argument'}: {np.shape(b)}, explained {leaf.shape}"
        for (path, leaf), b in zip(
            jtu.tree_leaves_with_path(x), jax.tree.leaves(whole), strict=True
        )
        if not _fits(np.shape(b), leaf.shape)
    ]
    if wrong:
        raise InputError(
            "The baseline must have the shapes of what is explained, or ones that can be "
            "broadcast to them:\n" + "\n".join(wrong)
        )
    return jax.tree.map(
        lambda b, leaf: jnp.broadcast_to(jnp.asarray(b, leaf.dtype), leaf.shape), whole, x
    )


def _fits(given: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(given, shape) == shape
    except ValueError:
        return False


def total(tree: PyTree[Float[ArrayLike, "..."]]) -> Float[Array, ""]:
    """The sum of all entries of all leaves."""
    return sum(map(jnp.sum, jax.tree.leaves(tree)), jnp.zeros(()))


def difference(a: PyTree[Float[ArrayLike, "..."]], b: PyTree[Float[ArrayLike, "..."]]) -> PyTree:
    """The difference, leaf by leaf."""
    return jax.tree.map(jnp.subtract, a, b)


def product(a: PyTree[Float[ArrayLike, "..."]], b: PyTree[Float[ArrayLike, "..."]]) -> PyTree:
    """The product, leaf by leaf."""
    return jax.tree.map(jnp.multiply, a, b)


def with_delta(
    attribution: PyTree[Float[ArrayLike, "..."]],
    problem: Problem,
    reference: PyTree[Float[ArrayLike, "..."]],
) -> tuple[Any, Float[Array, ""]]:
    r"""The attribution and how far it is from complete: its sum minus :math:`f(x) - f(x')`."""
    change = problem.score(problem.x) - problem.score(reference)
    return attribution, total(attribution) - change
