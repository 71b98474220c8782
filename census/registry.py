"""All models of the census."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from census import (
    flax_models,
    keras_models,
    other_models,
    own_models,
    science_models,
    torch_decoders,
    torch_dense,
    torch_diffusers,
    torch_series,
    torch_text,
    torch_timm,
    torch_vision,
    tunix_models,
)
from census.entry import Entry, Tier

FAMILIES = (
    torch_text,
    torch_decoders,
    torch_vision,
    torch_dense,
    torch_series,
    torch_diffusers,
    torch_timm,
    keras_models,
    flax_models,
    tunix_models,
    other_models,
    own_models,
    science_models,
)


def models() -> Iterator[Entry]:
    """Every model once."""
    for family in FAMILIES:
        yield from family.entries()


def chosen(only: str = "*", tier: Tier = "all") -> list[Entry]:
    """The models whose ``family/name`` matches, and the variants of attention with tier "all"."""
    every = [*models(), *torch_text.variants()]
    fits = [entry for entry in every if tier in ("all", entry.tier)]
    return [entry for entry in fits if fnmatch.fnmatch(entry.label, only)]
