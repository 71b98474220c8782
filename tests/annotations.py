"""What jaxtyping's import hook checks the annotations of relprop with: see conftest."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

# An integer may be a float, and numbers of NumPy are numbers.
CONF = BeartypeConf(
    is_pep484_tower=True,
    hint_overrides=FrozenDict({int: int | np.integer}),
)


def checked(signature: Callable[..., Any]) -> Callable[..., Any]:
    """Checks arguments together with the result, once a function has returned.

    jaxtyping calls two functions that stand for one of relprop: before it, one that has its
    arguments, and after it, one that has the result as well. With the latter alone, what is
    refused by an error of relprop's own needs not be what the annotations say: tests ask for that.
    """
    parameters = inspect.signature(signature).parameters.values()
    has_result = any(p.name.startswith("ret") and p.kind is p.KEYWORD_ONLY for p in parameters)
    return beartype(conf=CONF)(signature) if has_result else signature
