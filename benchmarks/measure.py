"""Measuring functions: trace, compile, FLOPs and memory as XLA counts them, and wall time."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

import relprop
from benchmarks import models
from relprop.rules import Gamma


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a compiled function costs.

    XLA counts what it compiled: equal computations once, unused ones not at all. Arguments and
    results are no temporary buffers.

    Attributes:
        trace: seconds to trace and lower it, with nothing cached.
        compile: seconds to compile it.
        flops: floating point operations, XLA's count (the body of a loop counts once).
        memory: bytes of temporary buffers, XLA's count.
        wall: seconds of the quickest of several runs; NaN without any.
    """

    trace: float
    compile: float
    flops: float
    memory: float
    wall: float = float("nan")

    def relative_to(self, other: Cost) -> dict[str, float]:
        """The ratios to another one."""
        mine, theirs = self.amounts, other.amounts
        return {name: mine[name] / max(theirs[name], 1e-12) for name in mine}

    @property
    def amounts(self) -> dict[str, float]:
        """All fields, and the time that passes before the first run as ``staging``."""
        return dataclasses.asdict(self) | {"staging": self.trace + self.compile}


def measure(function: Callable[..., Any], *args: Any, runs: int = 0) -> Cost:
    """The cost of a function on given arguments; without runs, on shapes alone."""
    return compare({"": function}, *args, runs=runs)[""]


def compare(
    functions: Mapping[str, Callable[..., Any]], *args: Any, runs: int = 0, stagings: int = 1
) -> dict[str, Cost]:
    """The costs of several functions of the same arguments.

    Functions take turns, so that whatever else the machine is doing meets them alike, and the
    quickest turn counts.

    Args:
        functions: by name.
        *args: arrays or, without runs, shapes.
        runs: how often each is run, beside a first time that does not count.
        stagings: how often each is traced and compiled.
    """
    _warm_up()
    staged = [{name: _stage(f, args) for name, f in functions.items()} for _ in range(stagings)]
    costs = {name: _quickest([turn[name][0] for turn in staged]) for name in functions}
    if not runs:
        return costs
    walls: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(runs + 1):
        for name, (_, compiled) in staged[-1].items():
            start = time.perf_counter()
            jax.block_until_ready(compiled(*args))
            walls[name].append(time.perf_counter() - start)
    return {n: dataclasses.replace(c, wall=min(walls[n][1:])) for n, c in costs.items()}


@functools.cache
def _warm_up() -> None:
    """Compiles something of each kind once: whatever is first in a process takes longer."""
    for model in (models.transformer(width=48, depth=1), models.cnn(size=16, channels=4)):
        score, *args = model
        _stage(jax.value_and_grad(score), args)
        _stage(relprop.value_and_relevance(score, Gamma()), args)


def _stage(function: Callable[..., Any], args: Any) -> tuple[Cost, Any]:
    jax.clear_caches()  # else whoever comes second finds the parts of the first one traced
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*args)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    flops = float((compiled.cost_analysis() or {}).get("flops", float("nan")))
    memory = float(compiled.memory_analysis().temp_size_in_bytes)
    return Cost(traced - start, done - traced, flops, memory), compiled


def _quickest(costs: list[Cost]) -> Cost:
    trace, compile = min(c.trace for c in costs), min(c.compile for c in costs)
    return dataclasses.replace(costs[0], trace=trace, compile=compile)


def absolute(cost: Cost) -> str:
    """A cost in words."""
    parts = [f"{cost.flops / 1e9:.2f} GFLOP", f"{cost.memory / 2**20:.0f} MiB"]
    if cost.wall == cost.wall:
        parts.append(f"{cost.wall * 1e3:.0f} ms")
    return ", ".join([*parts, f"trace {cost.trace:.2f} s, compile {cost.compile:.2f} s"])
