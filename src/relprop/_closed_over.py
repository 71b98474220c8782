"""Arrays that a function closes over, which `jax.jit` writes into the program: who is told."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from relprop import _compat
from relprop._core.graph import Graph
from relprop._errors import ClosedOverWarning
from relprop._growth import outside

#: Bytes; smaller constants cost nothing that anybody would notice.
A_LOT = 64 * 2**20
_SHOWN = 3


def warn_of_constants(graph: Graph) -> None:
    """Warns the caller, if a function that is being compiled closes over large arrays.

    They become constants of the program: there several times while it is compiled, and
    kept as long as it is. Arguments are neither. What is traced is an argument of somebody already.
    """
    if not _compat.is_staged():
        return
    arrays = {id(array): array for array in _constants(graph) if not _compat.is_traced(array)}
    largest = sorted(arrays.values(), key=_bytes, reverse=True)
    total = sum(map(_bytes, largest))
    if total < A_LOT:
        return
    shapes = ", ".join(f"{array.dtype}{list(array.shape)}" for array in largest[:_SHOWN])
    more = f" and {len(largest) - _SHOWN} more" if len(largest) > _SHOWN else ""
    warnings.warn(
        f"The function closes over {len(largest)} arrays of {total / 2**20:,.0f} MiB ({shapes}"
        f"{more}), which `jax.jit` writes into the compiled program: they are there several times, "
        "and compiling takes longer. Hand them over: `relprop.relevance(f, rules, argnums=1)` of "
        "`f(params, x)`, called with the parameters as an argument of what is jitted, too.",
        ClosedOverWarning,
        stacklevel=outside(),
    )


def _constants(graph: Graph) -> Iterator[Any]:
    yield from graph.constants.values()
    for equation in graph.equations:
        for body in equation.bodies:
            yield from _constants(body)


def _bytes(array: Any) -> int:
    return getattr(array, "nbytes", 0)
