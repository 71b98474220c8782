"""How many of each structure a plan has."""

from __future__ import annotations

import collections
from collections.abc import Mapping

import relprop

# What `relprop.inspect` calls the structures that `census.entry.counts` names.
NAMES = {
    "softmax": "attention",
    "statistic": "norm",
    "activation": "activation",
    "gate": "gate",
}


def structures(plan: relprop.Inspection) -> Mapping[str, int]:
    """The structures of a plan, counted."""
    found = collections.Counter(NAMES.get(row.structure, "") for row in plan)
    return {name: found[name] for name in NAMES.values()}
