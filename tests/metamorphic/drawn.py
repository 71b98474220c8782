"""Which networks are looked at: a fixed sample, and as many drawn ones as wanted."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from .grammar import PIECES, Piece
from .networks import EXPOSURES, Network
from .positions import LAST, POSITIONS
from .wrappers import WRAPPERS


def positions_of(piece: Piece) -> tuple[str, ...]:
    """Where a piece can stand: where more follows, its result must be tokens again."""
    return tuple(POSITIONS) if piece.chains else LAST


def own_position(piece: Piece) -> str:
    """One position for each piece, so that its reference is explained once.

    Three of four stand alone: what is around takes as much time as the piece.
    """
    number = zlib.crc32(piece.name.encode())
    places = positions_of(piece) if number % 4 == 0 else ("alone",)
    return places[number // 4 % len(places)]


def fixed_sample(pieces: Iterable[Piece] | None = None, most: int | None = None) -> list[Network]:
    """The spellings of every piece, in the position of the piece.

    Args:
        pieces: all by default.
        most: so many spellings of each piece, the first and others from all over its list.
    """
    networks = []
    for piece in pieces or PIECES.values():
        names = piece.names[1:]
        if most is not None and len(names) > most:
            names = [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]
        networks += [Network(piece.name, name, (), own_position(piece)) for name in names]
    return networks


def fits(piece: str, wrapper: str) -> bool:
    """Whether a wrapper takes functions such as the piece: some want its result to be tokens."""
    return PIECES[piece].chains or wrapper != "transposed"


def draw(pieces: Sequence[Piece], count: int, generator: np.random.Generator) -> list[Network]:
    """Networks with any spelling, wrappers, position, exposure and numbers."""
    networks = []
    for _ in range(count):
        piece = pieces[generator.integers(len(pieces))]
        possible = [w for w in WRAPPERS if fits(piece.name, w)]
        wrappers = generator.choice(possible, generator.choice(3, p=(0.4, 0.4, 0.2)))
        networks.append(
            Network(
                piece.name,
                str(generator.choice(piece.names)),
                tuple(map(str, wrappers)),
                str(generator.choice(positions_of(piece))),
                str(generator.choice(EXPOSURES, p=(0.5, 0.25, 0.25))),
                int(generator.integers(3)),
            )
        )
    return networks
