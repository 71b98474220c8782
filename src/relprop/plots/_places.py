"""What `relprop.relevance` returns for its places, as arrays in the order of their numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from relprop._errors import InputError
from relprop.plots._scale import numbers


def arrays(places: Mapping[str, Any], part: str = "relevance") -> dict[str, Any]:
    """Name -> relevance or value, from `relprop.places.Inside` or plain arrays.

    Places come sorted by name, 10 before 2: those whose names differ by numbers only are put in the
    order of these, and the others stay where they are.

    >>> list(arrays({"last": 0.0, "layer_1": 1.0, "layer_10": 2.0, "layer_2": 3.0}))
    ['last', 'layer_1', 'layer_2', 'layer_10']
    """
    if not isinstance(places, Mapping) or not places:
        raise InputError(
            "Places must be a dict of names and arrays that is not empty, such as the second "
            f"result of `relprop.relevance(f, rules, places=...)(x)`; got {places!r:.80}."
        )
    return {
        name: numbers(getattr(places[name], part, places[name]), f"{name!r}")
        for name in in_order(list(places))
    }


def in_order(names: list[str]) -> list[str]:
    """Names that differ by numbers only are sorted by them, among the slots that they have."""
    slots: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        slots.setdefault(starred(name), []).append(i)
    out = list(names)
    for places in slots.values():
        for slot, source in zip(
            places, sorted(places, key=lambda i: _counts(names[i])), strict=True
        ):
            out[slot] = names[source]
    return out


def starred(name: str) -> str:
    """The name with each number replaced by a star.

    >>> starred("h/10/mlp2")
    'h/*/mlp*'
    """
    return re.sub(r"\d+", "*", name)


def _counts(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]
