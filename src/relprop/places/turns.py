"""A place in a loop, in one of its steps."""

from __future__ import annotations

import dataclasses

from relprop._errors import InputError
from relprop.places.kinds import Around


@dataclasses.dataclass(frozen=True)
class AtStep(Around):
    """A place inside of a loop, in one step of it, for `relprop.intervene`.

    In `places=` it is the place itself: what is returned has an entry for each step anyway.

    Args:
        place: where, as in `places=`.
        step: which step, from 0; of a scan negative numbers count from the end. In loops inside of
            loops a tuple with one number per loop, the outermost first.

    >>> import jax, jax.numpy as jnp, relprop
    >>> def f(x):
    ...     body = lambda x, _: (relprop.named(2 * x, "doubled"), None)
    ...     return jax.lax.scan(body, x, length=3)[0]
    >>> relprop.intervene(f, {AtStep("doubled", 1): 10.0})(1.0)
    Array(20., dtype=float32)
    """

    step: int | tuple[int, ...]

    def __post_init__(self):
        super().__post_init__()
        whole = [isinstance(n, int) and not isinstance(n, bool) for n in self.steps]
        if not whole or not all(whole):
            raise InputError(f"A step is an integer or a tuple of integers, got {self.step!r}.")

    @property
    def steps(self) -> tuple[int, ...]:
        """The step of each loop around, the outermost first."""
        return self.step if isinstance(self.step, tuple) else (self.step,)

    def edits(self, name):
        return self.place.edits(name)
