"""What a piece is, and how one is written down."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Every piece reads an array of this many tokens and features, as small as tells axes apart.
T, D = 4, 6
HEADS = 2

Function = Callable[[jax.Array], jax.Array]
Drawing = Callable[[np.random.Generator], np.ndarray]


def normal(*shape: int, scale: float = 0.5) -> Drawing:
    """A parameter of either sign."""
    return lambda generator: scale * generator.standard_normal(shape)


def positive(*shape: int, low: float = 0.5, high: float = 1.5) -> Drawing:
    """A parameter such as a variance or the scale of a norm."""
    return lambda generator: generator.uniform(low, high, shape)


@dataclasses.dataclass(frozen=True)
class Piece:
    """One function of tokens of shape (T, D), and the ways of writing it.

    Attributes:
        name: name of the function that writes them down.
        family: the file that it stands in.
        drawings: how each parameter is drawn.
        write: takes the parameters and returns the spellings by name. The first is the reference.
        attention: whether it mixes tokens by attention alone, as `transformer_attribution` wants.
        chains: whether its result has the shape of its input, so that more may follow.
    """

    name: str
    family: str
    drawings: Mapping[str, Drawing]
    write: Callable[..., dict[str, Function]]
    attention: bool
    chains: bool

    def parameters(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Numbers that depend on the name of the piece and the seed only."""
        generator = np.random.default_rng([zlib.crc32(self.name.encode()), seed])
        return {name: draw(generator) for name, draw in self.drawings.items()}

    def spellings(self, parameters: Mapping[str, Any]) -> dict[str, Function]:
        """All ways of writing it, with given parameters."""
        with as_users():
            return self.write(**parameters)

    @functools.cached_property
    def names(self) -> list[str]:
        """The names of its spellings, that of the reference first."""
        return list(self.spellings({k: jnp.asarray(v) for k, v in self.parameters().items()}))

    @property
    def reference(self) -> str:
        return self.names[0]


PIECES: dict[str, Piece] = {}


@contextlib.contextmanager
def as_users() -> Iterator[None]:
    """The tests forbid what users do all day: to add a bias to a batch, to multiply by a mask."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def piece(
    attention: bool = False, chains: bool = True, **drawings: Drawing
) -> Callable[[Callable[..., dict[str, Function]]], Callable[..., dict[str, Function]]]:
    """Adds a piece: the decorated function takes its parameters and returns its spellings."""

    def add(write: Callable[..., dict[str, Function]]) -> Callable[..., dict[str, Function]]:
        module: Any = inspect.getmodule(write)
        family = module.__name__.rsplit(".", 1)[-1]
        if write.__name__ in PIECES:
            raise ValueError(f"There are two pieces called {write.__name__!r}.")
        PIECES[write.__name__] = Piece(write.__name__, family, drawings, write, attention, chains)
        return write

    return add


def each(make: Callable[[Any], Function], ways: Mapping[str, Any]) -> dict[str, Function]:
    """A spelling for each way of doing one step, under the name of the way."""
    return {name: make(way) for name, way in ways.items()}


def before(prepare: Function, spellings: Mapping[str, Function]) -> dict[str, Function]:
    """Spellings of a function of what another one returns."""
    return each(lambda f: lambda x: f(prepare(x)), spellings)


def after(finish: Function, spellings: Mapping[str, Function]) -> dict[str, Function]:
    """Spellings of a function whose result goes on to another one."""
    return each(lambda f: lambda x: finish(f(x)), spellings)
