"""Features: groups of entries that are present or absent together."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from relprop import _compat
from relprop._errors import InputError
from relprop.baselines._problem import Problem, reference_of


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """The entries of what is explained in groups.

    Attributes:
        count: how many groups there are.
        numbers: the group of each entry, from 0 to count - 1, in trees like x.
        x: what is explained.
        reference: what takes the place of what is absent.
    """

    count: int
    numbers: PyTree[Int[np.ndarray, "..."]]
    x: PyTree[Float[ArrayLike, "..."]]
    reference: PyTree[Float[ArrayLike, "..."]]

    @classmethod
    def of(cls, problem: Problem, mask: PyTree | None, baseline: PyTree | None) -> Features:
        """The features that a mask describes; without a mask every entry is one.

        Raises:
            InputError: the mask does not fit, or is not made of integers known while tracing.
        """
        numbers, count = _numbered(mask, problem.x)
        return cls(count, numbers, problem.x, reference_of(baseline, problem.x))

    def keep(self, present: Bool[Array, " features"]) -> PyTree[Float[ArrayLike, "..."]]:
        """What is explained, with the reference in place of the features that are absent."""
        return jax.tree.map(
            lambda n, a, b: jnp.where(present[n], a, b), self.numbers, self.x, self.reference
        )

    def spread(self, values: Float[Array, " features"]) -> PyTree[Float[ArrayLike, "..."]]:
        """To each entry the value of its feature."""
        return jax.tree.map(lambda n, a: values[n].astype(a.dtype), self.numbers, self.x)


def _numbered(mask: PyTree | None, x: PyTree) -> tuple[PyTree, int]:
    leaves, tree = jax.tree.flatten(x)
    if mask is None:
        ends = np.cumsum([0, *(leaf.size for leaf in leaves)])
        numbers = [
            np.arange(end - leaf.size, end).reshape(leaf.shape)
            for leaf, end in zip(leaves, ends[1:], strict=True)
        ]
        return jax.tree.unflatten(tree, numbers), int(ends[-1])
    groups = _groups(mask, x)
    names = np.unique(np.concatenate([g.ravel() for g in groups]))
    return jax.tree.unflatten(tree, [np.searchsorted(names, g) for g in groups]), len(names)


def _groups(mask: Any, x: PyTree) -> list[Int[np.ndarray, "..."]]:
    if jax.tree.structure(mask) != jax.tree.structure(x):
        raise InputError(
            f"The feature mask must have the structure of what is explained, "
            f"{jax.tree.structure(x)}, but has {jax.tree.structure(mask)}."
        )
    wrong, groups = [], []
    for (path, leaf), given in zip(
        jtu.tree_leaves_with_path(x), jax.tree.leaves(mask), strict=True
    ):
        name = jtu.keystr(path) or "the argument"
        if _compat.is_traced(given):
            raise InputError(
                "The feature mask says how many features there are, so it must be known while "
                f"tracing, but that of {name} is traced. Close over it instead."
            )
        group = np.asarray(given)
        if not np.issubdtype(group.dtype, np.integer):
            wrong.append(f"  {name}: dtype {group.dtype}")
            continue
        try:
            groups.append(np.broadcast_to(group, leaf.shape))
        except ValueError:
            wrong.append(f"  {name}: {group.shape}, explained {leaf.shape}")
    if wrong:
        raise InputError(
            "The feature mask must hold integers, in shapes that can be broadcast to those of what "
            "is explained:\n" + "\n".join(wrong)
        )
    return groups
