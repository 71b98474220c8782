"""Networks: a piece in a spelling, in a wrapper, at a position."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import spellings as spellings  # fills PIECES
from .grammar import PIECES, D, T, as_users
from .positions import DRAWINGS, POSITIONS
from .rewritten import with_intermediates
from .wrappers import WRAPPERS

EXPOSURES = ("plain", "parameters as arguments", "intermediates as aux")


@dataclasses.dataclass(frozen=True)
class Network:
    """One way of writing one network.

    Attributes:
        piece: name of the piece.
        spelling: name of the spelling.
        wrappers: names of what stands around the piece, the outermost first.
        position: name of the position.
        exposure: whether parameters are constants or arguments, and what is returned beside the
            score.
        seed: of the parameters and of the input.
    """

    piece: str
    spelling: str
    wrappers: tuple[str, ...] = ()
    position: str = "alone"
    exposure: str = "plain"
    seed: int = 0

    def __str__(self) -> str:
        around = "".join(f"{name}(" for name in self.wrappers)
        text = f"{self.piece}: {around}{self.spelling}{')' * len(self.wrappers)}"
        extra = [name for name in (self.position, self.exposure) if name not in ("alone", "plain")]
        return ", ".join([text, *extra]) + (f", seed {self.seed}" if self.seed else "")

    @property
    def reference(self) -> Network:
        """The same network in the spelling that all others are compared with."""
        return Network(
            self.piece, PIECES[self.piece].reference, (), self.position, "plain", self.seed
        )

    @functools.cached_property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the piece, of the network around it, and of the score."""
        generator = np.random.default_rng([zlib.crc32(self.position.encode()), self.seed])
        around = {name: draw(generator) for name, draw in DRAWINGS.items()}
        drawn = {"piece": PIECES[self.piece].parameters(self.seed), "around": around}
        return jax.tree.map(jnp.asarray, drawn)

    @property
    def x(self) -> jax.Array:
        """The input. No two entries of it are near each other, so that nothing ties."""
        generator = np.random.default_rng([17, self.seed])
        order = generator.permutation(T * D) - (T * D - 1) / 2 + 0.3
        return jnp.asarray(order.reshape(T, D) / 8)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What `function` is called with: the input, and the parameters if they are arguments."""
        given = self.exposure == "parameters as arguments"
        return (self.x, self.parameters) if given else (self.x,)

    def function(self) -> Callable[..., tuple[jax.Array, Any]]:
        """A function of the arguments that returns the score, and what the exposure says."""
        if self.exposure == "parameters as arguments":
            return lambda x, parameters: (self._score(parameters, x), None)
        score = self._closed_over()
        if self.exposure == "intermediates as aux":
            return with_intermediates(score, self.x)
        return lambda x: (score(x), None)

    def _closed_over(self) -> Callable[[jax.Array], jax.Array]:
        # Written outside of the trace, so that what is computed of parameters is a constant.
        written = PIECES[self.piece].spellings(self.parameters["piece"])
        return lambda x: self._score(self.parameters, x, written)

    def _score(self, parameters: Any, x: jax.Array, written: Any = None) -> jax.Array:
        written = written or PIECES[self.piece].spellings(parameters["piece"])
        f = written[self.spelling]
        with as_users():
            for name in reversed(self.wrappers):
                f = WRAPPERS[name](f)
            y = POSITIONS[self.position](f, parameters["around"], x)
            weights = np.cos(1.0 + 1.7 * np.arange(y.size)).reshape(y.shape)
            return jnp.sum(y * weights)
