"""Colours of signed numbers: the field's colour maps, with zero exactly in their middle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8

from relprop._errors import unknown_name

#: Red, green and blue, from 0 to 255.
Colour = tuple[int, int, int]

_LEVELS = 127  # on either side of zero


@dataclasses.dataclass(frozen=True)
class Diverging:
    """Colours from -1 over 0 to 1, linear between its points.

    Attributes:
        points: position -> red, green and blue in [0, 1]; the first is -1, the last 1.
        bad: the colour of what is no number, which is none of the others.
    """

    points: Mapping[float, tuple[float, float, float]]
    bad: str

    def __call__(self, strength: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n 3"]:
        """The colours of numbers; what is below -1 or above 1 has the colour of that end.

        >>> MAPS["bwr"](np.array([-1.0, 0.0, 0.5])).tolist()
        [[0, 0, 255], [255, 255, 255], [255, 128, 128]]
        """
        places = list(self.points)
        channels = [
            np.interp(strength, places, [255 * colour[i] for colour in self.points.values()])
            for i in range(3)
        ]
        return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)

    def levels(self) -> UInt8[np.ndarray, "levels 3"]:
        """Its colours from -1 to 1 as a table; their number is odd, so that one of them is 0's."""
        return self(np.arange(-_LEVELS, _LEVELS + 1) / _LEVELS)


#: Name -> colours. `bwr` and `seismic` are those of matplotlib. `coldnhot` is black in the middle:
#: "cold" (white, cyan, blue, black) and "hot" (black, red, yellow, white) laid end to end.
MAPS: Mapping[str, Diverging] = {
    "bwr": Diverging({-1.0: (0, 0, 1), 0.0: (1, 1, 1), 1.0: (1, 0, 0)}, bad="#ffd400"),
    "seismic": Diverging(
        {-1.0: (0, 0, 0.3), -0.5: (0, 0, 1), 0.0: (1, 1, 1), 0.5: (1, 0, 0), 1.0: (0.5, 0, 0)},
        bad="#ffd400",
    ),
    "coldnhot": Diverging(
        {
            -1.0: (1, 1, 1),
            -2 / 3: (0, 1, 1),
            -1 / 3: (0, 0, 1),
            0.0: (0, 0, 0),
            1 / 3: (1, 0, 0),
            2 / 3: (1, 1, 0),
            1.0: (1, 1, 1),
        },
        bad="#8c8c8c",
    ),
}


def diverging(name: str) -> Diverging:
    """The colour map of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in MAPS:
        raise unknown_name("colour map", name, MAPS)
    return MAPS[name]


def ink(background: Colour) -> Colour:
    """Black or white: what can be read better on a background (relative luminance of WCAG 2).

    >>> ink((255, 0, 0)), ink((0, 0, 255))
    ((0, 0, 0), (255, 255, 255))
    """
    channels = np.asarray(background) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    # (L + 0.05) / 0.05 against black, 1.05 / (L + 0.05) against white.
    return (0, 0, 0) if (luminance + 0.05) ** 2 >= 0.05 * 1.05 else (255, 255, 255)


def css(colour: Colour) -> str:
    """A colour as HTML and rich write it.

    >>> css((255, 0, 16))
    '#ff0010'
    """
    return "#" + "".join(f"{c:02x}" for c in colour)
