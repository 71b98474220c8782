"""Samples whose evidence is known, because it was planted."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from relprop._errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Planted:
    """Samples, their classes, and where the evidence for them is; `relprop.evaluate` takes it.

    Attributes:
        x: the samples.
        target: per sample, the class to be explained.
        mask: per sample, of the shape of x: the entries that made the class.
        features: integer labels of what belongs together, of the shape of one sample: pixels,
            patches or tokens.
        fill: what a feature that is gone is filled with: a number, or an array that can be
            broadcast to a sample.
        words: per sample, the words of a text; None for anything else.

    Raises:
        InputError: the parts do not fit each other; names them all.

    >>> x = np.ones((2, 3), np.float32)
    >>> data = Planted(x, np.array([0, 1]), x > 0, np.arange(3))
    >>> len(data), len(data.part([1]))
    (2, 1)
    """

    x: Float[np.ndarray, "n ..."]
    target: Int[np.ndarray, " n"]
    mask: Bool[np.ndarray, "n ..."]
    features: Int[np.ndarray, "..."]
    fill: Any = 0.0
    words: Shaped[np.ndarray, "n tokens"] | None = None

    def __post_init__(self):
        faults = [
            f"{name} has the shape {found}, not {wanted}"
            for name, found, wanted in (
                ("target", np.shape(self.target), (len(self.x),)),
                ("mask", np.shape(self.mask), self.x.shape),
                ("features", np.shape(self.features), self.x.shape[1:]),
            )
            if found != wanted
        ]
        if faults:
            raise InputError(f"Planted samples do not fit: {'; '.join(faults)}.")

    def __len__(self) -> int:
        return len(self.x)

    def part(self, chosen: Any) -> Planted:
        """Some of the samples, by their numbers or by booleans."""
        words = None if self.words is None else self.words[chosen]
        return dataclasses.replace(
            self,
            x=self.x[chosen],
            target=self.target[chosen],
            mask=self.mask[chosen],
            words=words,
        )


def at_least_one(count: int) -> None:
    """Refuses to draw no samples.

    Raises:
        InputError: `count` is less than 1.
    """
    if count < 1:
        raise InputError(f"`count` must be at least 1, got {count!r}.")
