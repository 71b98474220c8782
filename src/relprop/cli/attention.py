"""Maps by the methods of `relprop.transformer_attribution`: one number per patch of an image."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from relprop._errors import InputError
from relprop.attribution import methods_by_rules, transformer_attribution
from relprop.composites import Composite
from relprop.plots._pixels import enlarged


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of `relprop.transformer_attribution`.

    Attributes:
        name: of the method.
        rules: those of the relevance in it; None for the usual ones, or if it takes none.
    """

    name: str
    rules: Composite | None = None


def with_rules(names: Sequence[str], rules: Mapping[str, Composite]) -> dict[str, Method]:
    """Each method that goes by rules with each of the rules; the others as they are.

    >>> from relprop import presets
    >>> list(with_rules(["rollout", "full_lrp"], {"attn_lrp": presets.attn_lrp()}))
    ['rollout', 'full_lrp, attn_lrp']
    """
    found = {}
    for name in names:
        if rules and name in methods_by_rules():
            found.update({f"{name}, {of}": Method(name, chosen) for of, chosen in rules.items()})
        else:
            found[name] = Method(name)
    return found


@dataclasses.dataclass(frozen=True)
class Patches:
    """Which tokens of a model are the patches of the image.

    Attributes:
        grid: rows and columns of patches.
        query: the token that the score is read from: 0 for a class token, which comes before the
            patches; "mean" for models without one.
    """

    grid: tuple[int, int]
    query: int | str

    @classmethod
    def of(cls, tokens: int, height: int, width: int) -> Patches:
        """From the number of tokens, for square patches, with a class token or without.

        >>> Patches.of(197, 224, 224)
        Patches(grid=(14, 14), query=0)
        >>> Patches.of(8, 32, 64)
        Patches(grid=(2, 4), query='mean')

        Raises:
            InputError: there are more tokens than that.
        """
        for first, query in ((1, 0), (0, "mean")):
            rows = math.isqrt((tokens - first) * height // width)
            columns = (tokens - first) // rows if rows else 0
            if rows * columns == tokens - first > 0 and rows * width == columns * height:
                return cls((rows, columns), query)
        raise InputError(
            f"It has {tokens} tokens, which are no square patches of {height}x{width} pixels, with "
            "a class token before them or without: call relprop.transformer_attribution, which "
            "gives a number for each token."
        )

    def map(self, tokens: Float[np.ndarray, " t"], height: int, width: int) -> np.ndarray:
        """The numbers of the patches, over the pixels of an image."""
        patches = tokens[1:] if self.query == 0 else tokens
        return enlarged(patches.reshape(self.grid), height, width)


def found(
    score: Callable[..., Any], args: tuple[Any, ...], grid: tuple[int, int] | None
) -> Patches:
    """The patches of a model; nothing is run.

    Args:
        score: parameters, an image ``[h, w, c]`` and a class -> a number.
        args: of the score, for one image.
        grid: rows and columns of patches after a class token; None where that is not known.

    Raises:
        InputError: there is no attention, or there are other tokens than patches and one class.
    """
    if grid is not None:
        return Patches(grid, 0)
    explain = transformer_attribution(score, argnums=1, method="attention")
    shape = jax.eval_shape(explain, *args).shape
    if len(shape) != 1:
        raise InputError(f"Its attention maps are of {shape[0]} parts of the image, not of one.")
    return Patches.of(shape[0], *args[1].shape[:2])
