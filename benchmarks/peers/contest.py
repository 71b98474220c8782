"""Contestants in processes of their own that run in turns."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import math
import multiprocessing
import pathlib
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.peers.cases import Case
from benchmarks.peers.contestants import Contestant
from benchmarks.peers.imports import importable_torchvision


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a contestant needed.

    Attributes:
        relevance: its result.
        flops: as its side counts.
        wall: seconds of the quickest run.
        memory: bytes by which a run raised the process's resident memory at its peak; NaN where
            the system does not tell.
    """

    relevance: np.ndarray
    flops: float
    wall: float
    memory: float


def contest(case: Case, contestants: Sequence[Contestant], runs: int) -> dict[str, Outcome | str]:
    """The outcome of each contestant by name, or why it has none.

    All are prepared first, one after the other; then each runs once per round.
    """
    with contextlib.ExitStack() as stack:
        workers, ready, outcomes = {}, {}, {}
        for contestant in contestants:
            name = contestant.name
            workers[name] = stack.enter_context(_worker(contestant, case))
            answer = _received(workers[name])
            if isinstance(answer, str):
                outcomes[name] = answer
            else:
                ready[name] = answer
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in ready}
        for _ in range(runs):
            for name in ready:
                workers[name].send("run")
                rounds[name].append(workers[name].recv())
    for name, (relevance, flops) in ready.items():
        walls, peaks = zip(*rounds[name], strict=True)
        outcomes[name] = Outcome(relevance, flops, min(walls), max(peaks))
    return outcomes


@contextlib.contextmanager
def _worker(contestant: Contestant, case: Case):
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_work, args=(there, contestant, case), daemon=True)
    process.start()
    there.close()  # so that the death of the worker is noticed
    try:
        yield here
        with contextlib.suppress(OSError):
            here.send("stop")
    finally:
        process.join(10)
        process.kill()


def _received(pipe: Any) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        return "fails: its process ended"


def _work(pipe: Any, contestant: Contestant, case: Case) -> None:
    warnings.simplefilter("ignore")
    importable_torchvision()
    try:
        prepared = contestant.prepare(case, contestant.option)
        relevance = np.array(prepared.run())
    except ImportError as error:
        pipe.send(f"left out: {error}")
        pipe.recv()
        return
    except Exception as error:  # a peer that fails is a finding, not the end of the run
        pipe.send(f"fails: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
        pipe.recv()
        return
    pipe.send((relevance, prepared.flops))
    while pipe.recv() == "run":
        before = _reset_peak()
        start = time.perf_counter()
        prepared.run()
        wall = time.perf_counter() - start
        pipe.send((wall, _resident("VmHWM") - before))


def _reset_peak() -> float:
    """Returns free memory to the system and forgets the peak (Linux); the bytes that are left."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError):
        return math.nan
    return _resident("VmRSS")


def _resident(field: str) -> float:
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return float(found[0]) * 1024 if found else math.nan
