"""Ratios of a contest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from benchmarks.peers.cases import CASES, MINIATURES
from benchmarks.peers.contest import Outcome, contest
from benchmarks.peers.contestants import CONTESTANTS, TORCH, Contestant
from benchmarks.results import Options, Result

OWN, PEER = "flops / own gradient", "wall / PyTorch gradient"
OWN_WALL, MEMORY, AGAINST = "wall / own gradient", "memory / PyTorch gradient", "wall / relprop's"
COLUMNS = (OWN, OWN_WALL, PEER, AGAINST, MEMORY)


def results(options: Options) -> Iterator[Result]:
    """A result per case and contestant."""
    for case in MINIATURES if options.quick else CASES:
        if not options.wants(case.name):
            continue
        invited = [c for c in CONTESTANTS if case.kind in c.kinds]
        outcomes = contest(case, invited, runs=max(options.runs, 2))
        for contestant in invited:
            yield _result(case.name, contestant, outcomes)


def _result(case: str, contestant: Contestant, outcomes: Mapping[str, Outcome | str]) -> Result:
    mine = outcomes[contestant.name]
    if isinstance(mine, str):
        return Result("peers", case, contestant.name, {}, note=mine)
    own, torch = outcomes[contestant.base], outcomes[TORCH]
    twin = outcomes.get(contestant.twin or "")
    ratios, notes = {}, [f"{mine.flops / 1e9:.2f} GFLOP, {mine.wall * 1e3:.0f} ms"]
    if isinstance(own, Outcome):
        ratios |= {OWN: _ratio(mine.flops, own.flops), OWN_WALL: _ratio(mine.wall, own.wall)}
    if isinstance(torch, Outcome):
        ratios |= {PEER: _ratio(mine.wall, torch.wall), MEMORY: _ratio(mine.memory, torch.memory)}
    amounts = {"flops": mine.flops, "wall": mine.wall, "memory": mine.memory}
    if isinstance(twin, Outcome):
        ratios[AGAINST] = _ratio(mine.wall, twin.wall)
        amounts["difference"] = _difference(mine.relevance, twin.relevance)
        notes.append(f"differs by {amounts['difference']:.0e} from {contestant.twin}")
    return Result("peers", case, contestant.name, amounts, ratios, note="; ".join(notes))


def _ratio(mine: float, other: float) -> float:
    return mine / other if other else math.nan


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to the largest entry."""
    return float(np.abs(a - b).max() / np.abs(b).max())
