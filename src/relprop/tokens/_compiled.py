"""Compiled programs of one model, of which the last few are kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax

#: As many as the lengths of a long conversation take, with prediction and relevance for each.
_MOST = 32


class Compiled:
    """Runs functions of a model, compiled once per shapes of the arguments and settings.

    Each has a `jax.jit` of its own, so that forgetting that gives its memory back. Those that were
    not used for the longest time are forgotten first.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._programs: dict[Hashable, Callable[..., Any]] = {}

    def __len__(self) -> int:
        return len(self._programs)

    def __call__(
        self, function: Callable[..., Any], model: Any, params: Any, *args: Any, **settings: Any
    ) -> Any:
        shapes = tuple((x.shape, x.dtype) if x is not None else None for x in args)
        key = function.__name__, shapes, tuple(sorted(settings.items()))
        program = self._programs.pop(key, None)
        if program is None:
            program = jax.jit(functools.partial(function, model, **settings))
        self._programs[key] = program  # now the last in order
        while len(self._programs) > self._most:
            del self._programs[next(iter(self._programs))]
        return program(params, *args)

    def clear(self) -> None:
        """Forgets all of them."""
        self._programs.clear()
