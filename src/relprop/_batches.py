"""Many evaluations of one function, as many at a time as memory allows, with a progress bar."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, PyTree, Shaped

from relprop._errors import InputError


def check_samples(samples: int) -> None:
    """Refuses a mean over nothing.

    Raises:
        InputError: there is not one sample.
    """
    if samples < 1:
        raise InputError(f"`samples` must be at least 1, got {samples!r}.")


@dataclasses.dataclass(frozen=True)
class Batches:
    """How a function is evaluated at many points.

    Args:
        batch_size: how many points are evaluated at a time, by `jax.vmap` inside of `jax.lax.map`,
            which bounds memory; None: all of them at once.
        progress: whether to show a bar, which needs tqdm (`pip install 'relprop[progress]'`).
        label: what the bar says.
    """

    batch_size: int | None = None
    progress: bool = False
    label: str = ""

    def __post_init__(self):
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size!r}.")
        if self.progress and importlib.util.find_spec("tqdm") is None:
            raise ImportError("progress=True needs tqdm: pip install 'relprop[progress]'")

    def map(
        self, g: Callable[[Any], Any], points: PyTree[Shaped[ArrayLike, "n ..."]]
    ) -> PyTree[Shaped[ArrayLike, "n ..."]]:
        """The values of g at all points, stacked."""
        parts, count = self._parts(points)
        size = jax.tree.leaves(parts)[0].shape[1]
        tick = self._ticker(count, size)

        def batch(numbered):
            number, part = numbered
            out = jax.vmap(g)(part)
            tick(number, out)
            return out

        out = lax.map(batch, (jnp.arange(-(-count // size)), parts))
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], out)

    def sum(self, g: Callable[[Any], Any], points: PyTree[Shaped[ArrayLike, "n ..."]]) -> PyTree:
        """The sum of g over all points, of which no more than a batch is kept.

        Half precision is summed in single: a bfloat16 of 256 stays what it is when 1 is added.
        """
        parts, count = self._parts(points)
        size = jax.tree.leaves(parts)[0].shape[1]
        tick = self._ticker(count, size)

        def batch(sums, numbered):
            number, part = numbered
            real = number * size + jnp.arange(size) < count
            out = jax.tree.map(functools.partial(_sum_where, real), jax.vmap(g)(part))
            tick(number, out)
            return jax.tree.map(jnp.add, sums, out), None

        one = jax.tree.map(lambda a: a[0, 0], parts)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, _summed(s.dtype)), jax.eval_shape(g, one))
        sums, _ = lax.scan(batch, zeros, (jnp.arange(-(-count // size)), parts))
        return sums

    def _parts(self, points: PyTree) -> tuple[PyTree, int]:
        """The points in batches of one size, the last one filled up by copies of a point."""
        count = jax.tree.leaves(points)[0].shape[0]
        rounds = -(-count // min(self.batch_size or count, count))
        size = -(-count // rounds)

        def part(a):
            filled = jnp.concatenate([a, jnp.repeat(a[-1:], rounds * size - count, axis=0)])
            return filled.reshape(rounds, size, *a.shape[1:])

        return jax.tree.map(part, points), count

    def _ticker(self, count: int, size: int) -> Callable[[Any, Any], None]:
        if not self.progress:
            return lambda number, after: None
        bar = _Bar(self.label, count, size)

        def tick(number: Any, after: Any) -> None:
            # Reading a result keeps the call from coming before it.
            jax.debug.callback(bar, number, jax.tree.leaves(after)[0].ravel()[:1])

        return tick


def _sum_where(real: Array, a: Array) -> Array:
    keep = real.reshape(-1, *[1] * (a.ndim - 1))
    return jnp.sum(jnp.where(keep, a, jnp.zeros_like(a)), axis=0, dtype=_summed(a.dtype))


def _summed(dtype: Any) -> Any:
    """The type that sums of numbers of a type are kept in."""
    half = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    return jnp.dtype(jnp.float32) if half else dtype


class _Bar:
    """A progress bar that lives from the first batch of a run to the last.

    Calls come from threads of XLA and, where batches are computed in parallel, in any order.
    """

    def __init__(self, label: str, count: int, size: int):
        self._label, self._count, self._size = label, count, size
        self._lock = threading.Lock()
        self._bar: Any = None

    def __call__(self, number: Any, after: Any) -> None:
        del number, after
        from tqdm.auto import tqdm

        with self._lock:
            if self._bar is None:
                self._bar = tqdm(total=self._count, desc=self._label)
            self._bar.update(min(self._size, self._count - self._bar.n))
            if self._bar.n >= self._count:
                self._bar.close()
                self._bar = None
