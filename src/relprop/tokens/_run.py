"""What is computed with a language model, by programs that are compiled once per kind of texts."""

from __future__ import annotations

from typing import Any

import numpy as np

from relprop.tokens import _compute, _passes
from relprop.tokens._model import LanguageModel


def shape_of_logits(model: LanguageModel, batch: int, length: int) -> tuple[int, ...]:
    """The shape of the logits of so many texts of a length; the model is traced once for each."""
    key = ("shape of logits", batch, length)
    if key not in model._memory:
        model._memory[key] = _compute.shape_of_logits(model, batch, length)
    return model._memory[key]


def logits_at(model: LanguageModel, *args: Any) -> Any:
    """As `_compute.logits_at`, compiled."""
    return model._compiled(_compute.logits_at, model, model.params, *args)


def relevance(model: LanguageModel, *args: Any, **settings: Any) -> Any:
    """As `_compute.relevance`, compiled."""
    return model._compiled(_compute.relevance, model, model.params, *args, **settings)


def relevance_of_hops(model: LanguageModel, *args: Any, **settings: Any) -> Any:
    """As `_passes.relevance_of_hops`, compiled; arrays of NumPy."""
    found = model._compiled(_passes.relevance_of_hops, model, model.params, *args, **settings)
    return tuple(map(np.asarray, found))
