"""Attention maps, a row per layer and a column per head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from relprop._coloured_text import visible
from relprop._errors import InputError
from relprop.plots import _pixels, _places
from relprop.plots._figure import describe, drawing, title
from relprop.plots._heatmap import colour_bar, coloured
from relprop.plots._scale import checked, limit, numbers, strength
from relprop.plots._text import drawable

_GAP = "0.88"  # the colour between maps, which none of these has


def attention(
    maps: Any,
    *,
    relevance: bool = False,
    tokens: Sequence[str] = (),
    shared: bool = True,
    colours: str = _pixels.COLOURS,
    quantile: float = 1.0,
    name: str = "",
    axes: Axes | None = None,
) -> Figure:
    """Attention maps or their relevance, by layer and head; a row of a map is a query.

    Args:
        maps: what ``places=AttentionMaps()`` gives, or name -> array, or one array:
            ``[layers, heads, queries, keys]``, ``[heads, queries, keys]`` or ``[queries, keys]``.
            Axes of length 1 in front of the heads, such as that of a batch of one, are ignored.
        relevance: whether to draw the relevance of maps, which has a sign, or their values, from 0
            in yellow and brown.
        tokens: of queries and keys alike; written beside a single map, else only counted.
        shared: one scale for all maps; or one for each, so that each shows its pattern.
        colours: of relevance, as for `relprop.plots.heatmap`.
        quantile: of the absolute values, that has the full colour.
        name: the title.
        axes: to be drawn on, by default those of a new figure.

    Returns:
        The figure; the first layer is on top.

    Raises:
        InputError: maps have several shapes or none that fits, or hold NaN or infinity.

    >>> attention(np.full((2, 4, 3, 3), 1 / 3)).alt
    'Attention maps of 2 layers with 4 heads, 3 queries and 3 keys; values from 0.333 to 0.333.'
    """
    found = _maps(maps, relevance, len(tokens))
    values = np.stack(list(found.values()))
    checked(values, "error")
    layers, heads, queries, keys = values.shape
    if not relevance and values.min() < 0:
        raise InputError(
            f"Values of attention maps are not negative, these go down to {values.min():.4g}: for "
            "their relevance, set relevance=True."
        )
    if shared:
        end = limit(values, quantile)
    else:
        flat = [strength(m, limit(m, quantile)) for row in values for m in row]
        values, end = np.stack(flat).reshape(values.shape), 1.0
    canvas, x, y = _laid_out(values)
    side = min(max(0.9, 0.03 * keys), 2.0) if layers * heads > 1 else 3.4
    wide, tall = side * heads, side * layers * queries / keys
    figure, axes = drawing(axes, wide + 2.2, min(max(tall, 2.0), 40.0) + 0.9)
    if relevance:
        unit = "relevance, in units of the score" if shared else "relevance / largest of the map"
        mappable = coloured(axes, canvas, end, _pixels.colormap(colours).with_extremes(bad=_GAP))
        colour_bar(
            figure, mappable, axes, end, unit if shared else "relevance / largest of the map"
        )
    else:
        chosen = matplotlib.colormaps[_pixels.MAP_COLOURS].with_extremes(bad=_GAP)
        mappable = axes.imshow(canvas, chosen, Normalize(0, end or 1), interpolation="nearest")
        bar = figure.colorbar(mappable, ax=axes, shrink=0.9)
        bar.set_label("attention" if shared else "attention / largest of the map")
    axes.set_frame_on(layers * heads == 1)
    axes.tick_params(length=0, labelsize=8)
    if layers * heads > 1:
        axes.set_xticks(x, [f"head {i}" for i in range(heads)] if heads > 1 else [""])
        axes.set_yticks(y, list(found), parse_math=False)
        axes.xaxis.tick_top()
    else:
        words = [drawable(visible(t).strip() or "␣") for t in tokens]
        axes.set_xticks(np.arange(len(words)), words, rotation=90, parse_math=False)
        axes.set_yticks(np.arange(len(words)), words, parse_math=False)
        axes.set_xlabel("keys")
        axes.set_ylabel("queries")
    title(axes, name)
    kind = "relevance" if relevance else "values"
    describe(
        figure,
        f"Attention maps of {layers} layers with {heads} heads, {queries} queries and {keys} keys; "
        f"{kind} from {values.min():.3g} to {values.max():.3g}.",
    )
    return figure


def _maps(
    maps: Any, relevance: bool, tokens: int
) -> dict[str, Float[np.ndarray, "heads queries keys"]]:
    if isinstance(maps, Mapping):
        given = _places.arrays(maps, "relevance" if relevance else "value")
    else:
        array = numbers(maps, "`maps`")
        layers = array if array.ndim == 4 else array[None]
        given = {f"layer {i}": layer for i, layer in enumerate(layers)}
    found = {name: _heads(name, array) for name, array in given.items()}
    shapes = {array.shape for array in found.values()}
    if len(shapes) != 1:
        listed = "\n".join(f"  {name}: {array.shape}" for name, array in found.items())
        raise InputError(f"All maps must have one shape [heads, queries, keys], got:\n{listed}")
    (shape,) = shapes
    if tokens and shape[1:] != (tokens, tokens):
        raise InputError(f"There are {tokens} tokens, but the maps have the shape {shape}.")
    return found


def _heads(name: str, array: np.ndarray) -> Float[np.ndarray, "heads queries keys"]:
    shape = array.shape
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or not array.size:
        raise InputError(
            f"{name!r} must be [heads, queries, keys], of one sample; its shape is {shape}."
        )
    return array


def _laid_out(
    values: Float[np.ndarray, "layers heads queries keys"],
) -> tuple[Float[np.ndarray, "h w"], list[float], list[float]]:
    """All maps as one, with gaps of NaN, and the middles of columns and rows."""
    layers, heads, queries, keys = values.shape
    gap = max(1, keys // 12)
    padded = np.pad(values, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=np.nan)
    canvas = padded.transpose(0, 2, 1, 3).reshape(layers * (queries + gap), heads * (keys + gap))
    x = [i * (keys + gap) + (keys - 1) / 2 for i in range(heads)]
    y = [i * (queries + gap) + (queries - 1) / 2 for i in range(layers)]
    return canvas[:-gap, :-gap], x, y
