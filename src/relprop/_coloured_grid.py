"""Patches of an image that show themselves: coloured cells beside coloured text."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from relprop._coloured_text import colours
from relprop._colours import css

_WIDTH = 320  # pixels, of the longer side


@dataclasses.dataclass(frozen=True)
class ColouredGrid:
    """Rows and columns with their relevance, in the colours of `ColouredText`.

    Attributes:
        title: what it is.
        values: the relevance of each patch.
        scale: the relevance that has the full colour.
        picture: the image as a data URI, to lie below; empty for none.
    """

    title: str
    values: Float[np.ndarray, "rows columns"]
    scale: float
    picture: str = ""

    def __str__(self) -> str:
        rows = ("  " + " ".join(f"{value:+9.3g}" for value in row) for row in self.values)
        return "\n".join([self.title, *rows])

    def _repr_html_(self) -> str:
        """A piece of HTML; numbers appear when the mouse rests on a patch."""
        side = max(self.values.shape)
        cell = max(_WIDTH // side, 2)
        rows = "\n".join(f"<tr>{''.join(map(self._cell, row))}</tr>" for row in self.values)
        height, width = (n * cell for n in self.values.shape)
        back = f"background:url({self.picture}) 0 0/100% 100%;" if self.picture else ""
        return (
            f"<div><b>{self.title}</b>\n"
            f'<table style="{back}border-collapse:collapse;width:{width}px;height:{height}px">\n'
            f"{rows}\n</table></div>"
        )

    def _cell(self, value: float) -> str:
        back, _ = colours(value, self.scale)
        opacity = 0.65 if self.picture else 1
        style = f"padding:0;background:{css(back)};opacity:{opacity}"
        return f'<td style="{style}" title="{value:+.4g}"></td>'
