"""Measuring models in processes of their own."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import warnings
from collections.abc import Iterator, Sequence

import jax

from census.measure import Row, measure
from census.registry import chosen


def measured(labels: Sequence[str], workers: int) -> Iterator[Row]:
    """The rows of models, in order; no library can disturb the caller."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _prepare) as pool:
        yield from pool.map(_row, labels)


def _prepare() -> None:
    # Spares XLA the trouble: every program is compiled once and runs once.
    jax.config.update("jax_disable_most_optimizations", True)
    warnings.simplefilter("ignore")  # Those of the other libraries about each other.


def _row(label: str) -> Row:
    (entry,) = chosen(label)
    return measure(entry)
