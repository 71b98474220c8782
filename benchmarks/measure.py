"""Measuring one function: trace, compile, FLOPs and memory as XLA counts them, and wall time."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a compiled function costs.

    XLA counts what it compiled: equal computations once, unused ones not at all. Arguments and
    results are no temporary buffers.

    Attributes:
        trace: seconds to trace and lower it.
        compile: seconds to compile it.
        flops: floating point operations, XLA's count (the body of a loop counts once).
        memory: bytes of temporary buffers, XLA's count.
        wall: seconds of the quickest of several runs; NaN without any.
    """

    trace: float
    compile: float
    flops: float
    memory: float
    wall: float

    def relative_to(self, other: Cost) -> dict[str, float]:
        """The ratios to another one."""
        mine, theirs = self.amounts, other.amounts
        return {name: mine[name] / max(theirs[name], 1e-12) for name in mine}

    @property
    def amounts(self) -> dict[str, float]:
        """All fields, and the time that passes before the first run as ``staging``."""
        return dataclasses.asdict(self) | {"staging": self.trace + self.compile}


def measure(function: Any, *args: Any, runs: int = 7) -> Cost:
    """The cost of a function on given arguments; without runs, on shapes alone."""
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*args)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    walls = []
    if runs:
        jax.block_until_ready(compiled(*args))
    for _ in range(runs):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        walls.append(time.perf_counter() - begin)
    return Cost(
        trace=traced - start,
        compile=done - traced,
        flops=float((compiled.cost_analysis() or {}).get("flops", float("nan"))),
        memory=float(compiled.memory_analysis().temp_size_in_bytes),
        wall=min(walls, default=float("nan")),
    )
