"""Texts that print themselves: each part with its relevance as a number or as a colour."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from relprop._characters import visible as visible
from relprop._colours import Colour, css, diverging, ink


@dataclasses.dataclass(frozen=True)
class ColouredText:
    """Parts of a text with their relevance: numbers when printed, colours elsewhere.

    Under rich (`rich.print`) and in notebooks the background of a part is white at 0, red above
    and blue below; what is negative is underlined, so that the sign can be told without
    colours; not where the colour is next to white.

    Attributes:
        title: what was explained.
        parts: tokens with their relevance; joined, they are the text.
        scale: the relevance that has the full colour.
    """

    title: str
    parts: Sequence[tuple[str, float]]
    scale: float

    def __str__(self) -> str:
        words = [visible(part).strip() for part, _ in self.parts]
        width = max(map(len, words), default=0)
        lines = [
            f"  {word.ljust(width)}  {value:+.3g}"
            for word, (_, value) in zip(words, self.parts, strict=True)
        ]
        return "\n".join([*([self.title] if self.title else []), *lines])

    def __rich__(self) -> Any:
        import rich.text

        out = rich.text.Text()
        if self.title:
            out.append(f"{self.title}\n", style="bold")
        for space, word, value in self._words():
            back, front = colours(value, self.scale)
            out.append(space)
            underline = "underline " if is_underlined(value, self.scale) else ""
            out.append(word, style=f"{underline}{css(front)} on {css(back)}")
        out.append(f"\n{self._legend()}", style="dim")
        return out

    def _repr_html_(self) -> str:
        """A piece of HTML; numbers appear when the mouse rests on a part."""
        title = f"<b>{html.escape(self.title)}</b>\n" if self.title else ""
        return (
            f"<div>{title}"
            f'<p style="white-space:pre-wrap;margin:0.3em 0">{"".join(self._spans())}</p>\n'
            f"<small>{self._legend()}</small></div>"
        )

    def _spans(self) -> Iterator[str]:
        for space, word, value in self._words():
            back, front = colours(value, self.scale)
            style = f"background:{css(back)};color:{css(front)}"
            if is_underlined(value, self.scale):
                style += ";text-decoration:underline"
            yield f'{space}<span style="{style}" title="{value:+.4g}">{html.escape(word)}</span>'

    def _words(self) -> Iterator[tuple[str, str, float]]:
        for part, value in self.parts:
            yield *split(part), value

    def _legend(self) -> str:
        return f"red: positive, blue and underlined: negative, full colour: {self.scale:.3g}"


_FAINT = 0.02  # of the scale: a colour that nobody tells from white


def is_underlined(value: float, scale: float) -> bool:
    """Whether relevance is negative and strong enough to have a colour.

    >>> is_underlined(-1.0, 2.0), is_underlined(-0.01, 2.0), is_underlined(1.0, 2.0)
    (True, False, False)
    """
    return value < -_FAINT * scale


def colours(value: float, scale: float) -> tuple[Colour, Colour]:
    """Background and foreground: white at 0, red above, blue below, full at the scale.

    >>> colours(2.0, 2.0), colours(-2.0, 2.0)
    (((255, 0, 0), (0, 0, 0)), ((0, 0, 255), (255, 255, 255)))
    """
    strength = value / scale if scale and np.isfinite(value) else 0.0
    red, green, blue = diverging("bwr")(np.asarray(strength)).tolist()
    return (red, green, blue), ink((red, green, blue))


def split(part: str) -> tuple[str, str]:
    """Leading space, which gets no colour, and the rest; a token of spaces is shown as it is.

    >>> split("  cat"), split(" ")
    (('  ', 'cat'), ('', ' '))
    """
    word = part.lstrip(" ")
    return (part[: len(part) - len(word)], visible(word)) if word else ("", visible(part))
