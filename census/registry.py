"""All models of the census."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from census import (
    flax_models,
    keras_models,
    other_models,
    torch_text,
    torch_timm,
    torch_vision,
)
from census.entry import Entry, Tier


def models() -> Iterator[Entry]:
    """Every model once."""
    for family in (torch_text, torch_vision, torch_timm, keras_models, flax_models, other_models):
        yield from family.entries()


def chosen(only: str = "*", tier: Tier = "all") -> list[Entry]:
    """The models whose ``family/name`` matches, and the variants of attention with tier "all"."""
    every = [*models(), *torch_text.variants()]
    fits = [entry for entry in every if tier in ("all", entry.tier)]
    return [entry for entry in fits if fnmatch.fnmatch(entry.label, only)]
