"""Relevance of tokens: as text, as a figure of text, and layer by layer."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text

from relprop._coloured_text import ColouredText, colours, is_underlined, split, visible
from relprop._errors import InputError
from relprop.plots import _pixels, _places
from relprop.plots._figure import describe, drawing, title
from relprop.plots._heatmap import colour_bar, coloured
from relprop.plots._scale import Bad, checked, limit, numbers

_UNIT = "relevance, in units of the score"
_MISSING = "\N{WHITE SQUARE}"  # for characters that the font lacks
_CHARACTER = 0.0835  # inches, of the font below
_LINE = 0.3  # inches
_SMALL = 0.064  # inches, of a letter of the legend
_FONT = {"family": "monospace", "size": 10}


def token_text(
    tokens: Sequence[str], relevance: Any, *, name: str = "", scale: float | None = None
) -> ColouredText:
    """Text with its relevance: numbers when printed, colours in notebooks and under rich.

    Args:
        tokens: the parts of the text, spaces included.
        relevance: of each part, ``[tokens]``, or ``[tokens, features]``, which is summed up.
        name: the title.
        scale: relevance of the full colour; by default that of the strongest token.

    Returns:
        A value that shows itself; ``_repr_html_`` is its HTML.

    Raises:
        InputError: there are not as many numbers as tokens.

    >>> print(token_text(["a", " cat"], [0.5, -2.0], name="score -1.5"))
    score -1.5
      a    +0.5
      cat  -2
    """
    values = _of_tokens(relevance, len(tokens), "The relevance")
    end = limit(values) if scale is None else scale
    parts = list(zip(tokens, map(float, values), strict=True))
    return ColouredText(name, parts, end)


def tokens(
    tokens: Sequence[str],
    relevance: Any,
    *,
    name: str = "",
    scale: float | None = None,
    width: float = 7.0,
    bad: Bad = "error",
    axes: Axes | None = None,
) -> Figure:
    """A figure of text: red above zero, blue and underlined below; lines break between tokens.

    Args:
        tokens: the parts of the text, spaces included. Characters that the font of the figure
            lacks are drawn as squares; `token_text` has all of them.
        relevance: of each part, ``[tokens]``, or ``[tokens, features]``, which is summed up.
        name: the title.
        scale: relevance of the full colour; by default that of the strongest token.
        width: of the figure in inches; axes that are given must have about that width.
        bad: ``"error"``, or ``"mark"`` to leave tokens with NaN or infinity white and crossed out.
        axes: to be drawn on, by default those of a new figure.

    Returns:
        The figure.

    Raises:
        InputError: there are not as many numbers as tokens, or some are NaN or infinite.

    >>> tokens(["the", " cat"], [0.5, -2.0]).alt
    "Text of 2 tokens with relevance: strongest are ' cat' -2, 'the' 0.5."
    """
    values = _of_tokens(relevance, len(tokens), "The relevance")
    wrong = checked(values, bad)
    end = limit(values) if scale is None else scale
    words = [drawable(visible(token) if token.strip(" ") else token) for token in tokens]
    columns = max(8, int(width / _CHARACTER) - 4)
    places, lines = wrapped([len(w) for w in words], ["\n" in token for token in tokens], columns)
    legend = f"red: positive, blue and underlined: negative, full colour: {end:.3g}"
    # One that is wider than the figure would press the words together.
    legend = textwrap.fill(legend, max(20, int(width / _SMALL)))
    below = 1 + 0.4 * legend.count("\n")
    figure, axes = drawing(axes, width, _LINE * (lines + 0.6 + below) + 0.3)
    axes.set_xlim(0, columns)
    axes.set_ylim(lines + below, 0)
    axes.set_axis_off()
    title(axes, name, loc="left", fontsize=11)
    for word, (line, column), value, no_number in zip(words, places, values, wrong, strict=True):
        _draw_token(axes, word, line, column, 0.0 if no_number else value, end, bool(no_number))
    axes.text(0, lines + 0.45, legend, fontsize=8, color="0.35", va="top")
    order = sorted(range(len(words)), key=lambda i: -abs(values[i]) if not wrong[i] else 0)[:3]
    strongest = ", ".join(f"{tokens[i]!r} {values[i]:.3g}" for i in order)
    rows = [[visible(t), f"{v:.4g}"] for t, v in zip(tokens, values, strict=True)]
    describe(
        figure,
        f"Text of {len(words)} tokens with relevance: strongest are {strongest}.",
        ("token", "relevance"),
        rows,
    )
    return figure


def wrapped(
    lengths: Sequence[int], breaks: Sequence[bool], columns: int
) -> tuple[list[tuple[int, int]], int]:
    """Line and column of each word, and the number of lines.

    A word that does not fit begins a line; one that is longer than a line has one of its own, and
    is drawn beyond its end.

    Args:
        lengths: of the words, in characters.
        breaks: whether a line ends behind the word.
        columns: how many characters fit.

    >>> wrapped([3, 4, 4], [False, False, False], 8)
    ([(0, 0), (0, 3), (1, 0)], 2)
    """
    places, line, column = [], 0, 0
    for length, ends in zip(lengths, breaks, strict=True):
        if column and column + length > columns:
            line, column = line + 1, 0
        places.append((line, column))
        column += length
        if ends:
            line, column = line + 1, 0
    return places, line + (column > 0 or not lengths)


def trace(
    layers: Any,
    tokens: Sequence[str],
    *,
    names: Sequence[str] = (),
    colours: str = _pixels.COLOURS,
    quantile: float = 1.0,
    per_layer: bool = False,
    bad: Bad = "error",
    name: str = "",
    unit: str = _UNIT,
    axes: Axes | None = None,
) -> Figure:
    """Relevance of each token in each layer: how it moves between positions on its way down.

    Args:
        layers: name -> `relprop.places.Inside` or array, as `relprop.relevance` returns for its
            `places`; or an array ``[layers, tokens]``, the first layer first. An array of a layer
            is ``[tokens]``, or ``[..., tokens, features]``, which is summed up over features; what
            stands in front of these, such as the steps of a scan, are layers of their own.
        tokens: the text in parts.
        names: of the layers, where they are not given by name.
        colours: as for `relprop.plots.heatmap`.
        quantile: of the absolute values that has the full colour.
        per_layer: each layer has a scale of its own; by default they share one.
        bad: as for `relprop.plots.heatmap`.
        name: the title.
        unit: what the colour bar says.
        axes: to be drawn on, by default those of a new figure.

    Returns:
        The figure; the first layer is at the bottom, as a network is drawn.

    Raises:
        InputError: shapes don't fit, or numbers are NaN or infinite.

    >>> figure = trace({"layer 0": np.ones((2, 4)), "layer 1": np.ones((2, 4))}, ["a", " cat"])
    >>> figure.alt
    "Relevance of 2 tokens in 2 layers, from 'layer 0' to 'layer 1'; sums per layer: 8, 8."
    """
    rows = _rows(layers, len(tokens), names)
    values = np.stack(list(rows.values()))
    wrong = checked(values, bad)
    sums = [f"{row[~off].sum():.4g}" for row, off in zip(values, wrong, strict=True)]
    ends = [limit(row, quantile) for row in values] if per_layer else [limit(values, quantile)]
    scales = np.array([end or 1.0 for end in ends])[:, None]
    shown = values / scales if per_layer else values
    end = 1.0 if per_layer else ends[0]
    count, width = values.shape
    figure, axes = drawing(axes, 1.8 + max(2.5, 0.34 * width), 1.2 + max(1.7, 0.3 * count))
    mappable = coloured(axes, np.where(wrong, np.nan, shown), end, _pixels.colormap(colours))
    axes.set_aspect("auto")
    axes.invert_yaxis()
    words = [drawable(visible(token).strip() or "␣") for token in tokens]
    axes.set_xticks(np.arange(width), words, rotation=90 if max(map(len, words)) > 3 else 0)
    axes.set_yticks(np.arange(count), list(rows))
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)
        label.set_fontsize(8)
    axes.tick_params(length=0)
    title(axes, name)
    clipped = bool((np.abs(shown[~wrong]) > end).any())
    colour_bar(
        figure,
        mappable,
        axes,
        end,
        "relevance / largest of the layer" if per_layer else unit,
        clipped,
    )
    first, last = next(iter(rows)), next(reversed(rows))
    describe(
        figure,
        f"Relevance of {width} tokens in {count} layers, from {first!r} to {last!r}; sums per "
        f"layer: {', '.join(sums)}.",
        ("layer", *map(visible, tokens)),
        [[n, *(f"{x:.3g}" for x in row)] for n, row in rows.items()] if values.size <= 2000 else [],
    )
    return figure


def _rows(layers: Any, count: int, names: Sequence[str]) -> dict[str, Float[np.ndarray, " t"]]:
    """Name -> relevance of the tokens, one entry per layer."""
    if not isinstance(layers, Mapping):
        array = numbers(layers, "`layers`")
        if array.ndim != 2 or array.shape[1] != count or not array.size:
            raise InputError(
                f"`layers` must be [layers, {count} tokens], or a dict of places; its shape is "
                f"{array.shape}."
            )
        given = list(names) or [f"layer {i}" for i in range(len(array))]
        if len(given) != len(array):
            raise InputError(f"There are {len(array)} layers, but {len(given)} names.")
        if len({*given}) != len(given):
            raise InputError(f"Names of layers must differ, got {given}.")
        return dict(zip(given, array, strict=True))
    rows = {}
    for place, found in _places.arrays(layers).items():
        array = found.sum(-1) if found.ndim > 1 else found
        if array.ndim == 0 or array.shape[-1] != count:
            raise InputError(
                f"{place!r} must be [{count} tokens] or [..., {count} tokens, features]; its shape "
                f"is {found.shape}."
            )
        steps = array.reshape(-1, count)
        rows |= (
            {place: steps[0]}
            if len(steps) == 1
            else {f"{place}[{i}]": step for i, step in enumerate(steps)}
        )
    return rows


def _of_tokens(relevance: Any, count: int, what: str) -> Float[np.ndarray, " t"]:
    array = numbers(relevance, what)
    summed = array.sum(-1) if array.ndim == 2 else array
    if summed.shape != (count,) or not count:
        raise InputError(
            f"{what} must be that of {count} tokens, [tokens] or [tokens, features]; its shape is "
            f"{array.shape}."
        )
    return summed


def _draw_token(
    axes: Axes, word: str, line: int, column: int, value: float, end: float, no_number: bool
) -> None:
    space, shown = split(word)
    back, front = colours(value, end)
    left = column + len(space)
    background = tuple(c / 255 for c in back)
    axes.barh(line + 0.5, len(shown), 0.82, left, color=background, linewidth=0)
    middle = (left + len(shown) / 2, line + 0.52)
    ink = tuple(c / 255 for c in front)
    text: Text = axes.text(
        *middle, shown, color=ink, ha="center", va="center", parse_math=False, **_FONT
    )
    text.set_clip_on(False)
    if is_underlined(value, end) or no_number:
        y = line + (0.5 if no_number else 0.85)
        axes.plot([left, left + len(shown)], [y, y], color=ink, linewidth=1, solid_capstyle="butt")


def drawable(text: str) -> str:
    """The text without characters that the font lacks, which matplotlib would warn about."""
    known = get_font(findfont(FontProperties(**_FONT))).get_char_index
    return "".join(c if known(ord(c)) else _MISSING for c in text)
