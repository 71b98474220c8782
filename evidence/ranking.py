"""Who leads and who cannot be told from the leader, from the numbers of `measure`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evidence.measure import BETTER


def signed(row: dict[str, Any], metric: str) -> float:
    """The mean, such that higher is better."""
    mean = row["metrics"][metric]["mean"]
    return mean if BETTER[metric] == "higher" else -mean


def best_first(task: dict[str, Any], metric: str, controls: bool = False) -> list[dict[str, Any]]:
    """The rows of a task, the best first; what is not defined last."""
    rows = [row for row in task["rows"] if controls or not row["control"]]
    return sorted(rows, key=lambda row: -np.nan_to_num(signed(row, metric), nan=-np.inf))


def leaders(task: dict[str, Any], metric: str) -> list[str]:
    """The methods that are no controls, the best first."""
    return [row["method"] for row in best_first(task, metric)]


def best(task: dict[str, Any], metric: str) -> list[str]:
    """The best method that is no control, or all that share its number."""
    found = leaders(task, metric)
    return [name for name in found if ranked(task, metric, name) == ranked(task, metric, found[0])]


def tied(numbers: Mapping[str, float]) -> list[list[str]]:
    """Names by their numbers, the smallest first; those with equal numbers together."""
    groups: dict[float, list[str]] = {}
    for name, number in sorted(numbers.items(), key=lambda pair: pair[1]):
        groups.setdefault(number, []).append(name)
    return list(groups.values())


def bounds(row: dict[str, Any], metric: str) -> tuple[float, float]:
    """The 95 % interval, such that higher is better."""
    found = row["metrics"][metric]
    low, high = found["low"], found["high"]
    return (low, high) if BETTER[metric] == "higher" else (-high, -low)


def behind(task: dict[str, Any], metric: str, method: str) -> bool:
    """Whether the interval of a method lies below that of the best."""
    best = best_first(task, metric)[0]
    (row,) = (row for row in task["rows"] if row["method"] == method)
    return bounds(row, metric)[1] < bounds(best, metric)[0]


def beaten(task: dict[str, Any], metric: str) -> dict[str, str]:
    """Methods whose mean is not above that of some control -> the best such control."""
    controls = [row for row in best_first(task, metric, controls=True) if row["control"]]
    best = controls[0]
    return {
        row["method"]: best["method"]
        for row in task["rows"]
        if not row["control"] and not signed(row, metric) > signed(best, metric)
    }


def mean_ranks(tasks: Sequence[dict[str, Any]], metric: str) -> dict[str, float]:
    """Method -> its rank, averaged over the tasks; of those that are measured on all of them."""
    names = set.intersection(*(set(leaders(task, metric)) for task in tasks))
    ranks = {name: float(np.mean([ranked(task, metric, name) for task in tasks])) for name in names}
    return dict(sorted(ranks.items(), key=lambda pair: (pair[1], pair[0])))


def ranked(task: dict[str, Any], metric: str, method: str) -> float:
    """The rank of a method from 1, equal numbers sharing the mean of theirs."""
    rows = best_first(task, metric)
    values = np.array([np.nan_to_num(signed(row, metric), nan=-np.inf) for row in rows])
    (own,) = (values[i] for i, row in enumerate(rows) if row["method"] == method)
    return float((values > own).sum() + ((values == own).sum() + 1) / 2)
