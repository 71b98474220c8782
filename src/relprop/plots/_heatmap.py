"""Heatmaps: relevance of the pixels of one image, or of each image of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from relprop._errors import InputError
from relprop.plots import _pixels
from relprop.plots._figure import Plot, describe, drawing, title
from relprop.plots._scale import (
    Bad,
    Channels,
    checked,
    limit,
    reduced,
    single,
)

_UNIT = "relevance, in units of the score"


def heatmap(
    relevance: Any,
    *,
    channels: Channels = None,
    reduce: str = "sum",
    image: Any = None,
    colours: str = _pixels.COLOURS,
    limit: float | None = None,
    quantile: float = 1.0,
    bad: Bad = "error",
    name: str = "",
    unit: str = _UNIT,
    axes: Axes | None = None,
) -> Figure:
    r"""Relevance of the pixels of one image, as colours with zero in the middle.

    The colour of a pixel is that of

    .. math:: s = \max(-1, \min(1, R / l)), \qquad l = Q_q(|R|),

    so zero has exactly the neutral colour of the map, and relevance of the same size has colours
    of the same strength, whatever its sign. Where all is zero, all is neutral. Over an image
    weak relevance is clear.

    Args:
        relevance: ``[h, w]``, or with `channels` ``[c, h, w]`` or ``[h, w, c]``.
        channels: ``"first"``, ``"last"`` or None, of the relevance and of the image.
        reduce: of channels: ``"sum"``, which conserves relevance, ``"absolute"`` or ``"largest"``.
        image: values in [0, 1], shown below the relevance in grey; ``[h, w]``, or with channels.
        colours: ``"bwr"`` or ``"seismic"``, whose ends differ for those who cannot tell red from
            green too; or ``"coldnhot"``, whose ends are both white, so that only paler colours
            tell the sign.
        limit: relevance of the full colour, to share it between figures; by default it is found.
        quantile: of the absolute values, that becomes the limit: 0.99 keeps single pixels from
            making all else pale.
        bad: what to do about NaN and infinity: ``"error"``, or ``"mark"`` for a colour of its own
            (yellow; grey in coldnhot).
        name: the title.
        unit: what the colour bar says.
        axes: to be drawn on, with a colour bar beside; by default those of a new figure.

    Returns:
        The figure, a `Plot` if it is new. It is not shown, and pyplot does not know of it.

    Raises:
        InputError: shapes don't fit, or numbers are NaN or infinite; the shape is named.
        UnknownNameError: there are no such colours, or no such reduction.

    >>> heatmap(np.array([[0.0, 2.0], [-1.0, 0.5]])).alt
    'Heatmap, 2 x 2, relevance from -1 to 2: strongest at row 1, column 2 (2).'
    """
    values = single(relevance, channels, reduce)
    wrong = checked(values, bad)
    end = _limit(values, limit, quantile)
    height, width = values.shape
    figure, axes = drawing(axes, 5.0, 0.7 + 3.9 * min(max(height / width, 0.3), 2.5))
    mappable = _draw(axes, values, end, colours, _checked_image(image, channels, (height, width)))
    title(axes, name)
    colour_bar(figure, mappable, axes, end, unit, clipped=bool(np.abs(values[~wrong] > end).any()))
    describe(figure, _described(values, wrong, name), *_table(values))
    return figure


def heatmaps(
    relevance: Any,
    *,
    shared: bool = False,
    channels: Channels = None,
    reduce: str = "sum",
    images: Any = None,
    colours: str = _pixels.COLOURS,
    quantile: float = 1.0,
    bad: Bad = "error",
    names: Any = (),
    columns: int = 4,
    unit: str = _UNIT,
) -> Plot:
    """Heatmaps of a batch, side by side.

    Args:
        relevance: ``[n, h, w]``, or with channels ``[n, c, h, w]`` or ``[n, h, w, c]``.
        shared: one scale for all, so that strengths can be compared between samples; or one for
            each, written below it, so that each shows its own pattern.
        channels: as for `heatmap`.
        reduce: as for `heatmap`.
        images: as for `heatmap`, with the axis of the samples in front.
        colours: as for `heatmap`.
        quantile: as for `heatmap`; of the whole batch if the scale is shared.
        bad: as for `heatmap`.
        names: of the samples.
        columns: how many stand in a row.
        unit: what the colour bar says.

    Returns:
        A figure.

    Raises:
        InputError, UnknownNameError: as for `heatmap`.

    >>> len(heatmaps(np.ones((3, 2, 2)), shared=True).axes)  # with a colour bar
    4
    """
    values = reduced(relevance, channels, reduce)
    if values.ndim != 3:
        raise InputError(
            f"The relevance must be that of a batch, its shape is {np.shape(relevance)} with "
            f"channels={channels!r}: [n, h, w], or [n, c, h, w] or [n, h, w, c] with channels."
        )
    if columns < 1:
        raise InputError(f"`columns` must be at least 1, got {columns!r}.")
    wrong = checked(values, bad)
    count, height, width = values.shape
    names = _of_each(names, count, "names")
    below = [None] * count if images is None else _of_each(images, count, "images")
    ends = [limit(values, quantile)] * count if shared else [limit(v, quantile) for v in values]
    columns = min(columns, count)
    rows = -(-count // columns)
    side = 2.2
    tall = side * min(max(height / width, 0.3), 2.5) + 0.5
    figure = Plot(side * columns + 1.1, tall * rows + 0.2)
    grid = figure.subplots(rows, columns, squeeze=False)
    mappable = None
    for i, axes in enumerate(grid.flat):
        if i >= count:
            axes.set_axis_off()
            continue
        image = _checked_image(below[i], channels, (height, width))
        mappable = _draw(axes, values[i], ends[i], colours, image)
        title(axes, names[i] if names else "", fontsize=9)
        if not shared:
            axes.set_xlabel(f"full colour: ±{ends[i]:.3g}", fontsize=8)
        describe(figure, _described(values[i], wrong[i], names[i] if names else f"sample {i}"))
    assert mappable is not None
    if shared:
        clipped = bool((np.abs(values[~wrong]) > ends[0]).any())
        colour_bar(figure, mappable, list(grid.flat), ends[0], unit, clipped)
    else:
        bar = ScalarMappable(Normalize(-1, 1), mappable.cmap)
        colour_bar(figure, bar, list(grid.flat), 1.0, "relevance / full colour of the sample")
    return figure


def _limit(values: Float[np.ndarray, "h w"], given: float | None, quantile: float) -> float:
    if given is None:
        return limit(values, quantile)
    if not np.isfinite(given) or given <= 0:
        raise InputError(f"`limit` must be positive and finite, got {given!r}.")
    return float(given)


def _draw(
    axes: Axes,
    values: Float[np.ndarray, "h w"],
    end: float,
    colours: str,
    image: Float[np.ndarray, "h w *c"] | None,
) -> ScalarMappable:
    if image is None:
        chosen = _pixels.colormap(colours)
    else:
        chosen = _pixels.overlay_colormap(colours)
        axes.imshow(_pixels.background(image), cmap="gray", vmin=0, vmax=255)
    return coloured(axes, np.where(np.isfinite(values), values, np.nan), end, chosen)


def coloured(
    axes: Axes, values: Float[np.ndarray, "h w"], end: float, colours: Colormap
) -> ScalarMappable:
    """Draws numbers as colours, zero in the middle, and no ticks; NaN has the colour for that."""
    # Where all is zero any scale will do.
    norm = Normalize(-(end or 1), end or 1)
    mappable = axes.imshow(values, colours, norm, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    return mappable


def colour_bar(
    figure: Figure,
    mappable: ScalarMappable,
    axes: Any,
    end: float,
    unit: str,
    clipped: bool = False,
    **place: Any,
) -> None:
    """A colour bar with zero in its middle; arrows at its ends if some numbers lie beyond."""
    extend = "both" if clipped else "neither"
    bar = figure.colorbar(mappable, ax=axes, extend=extend, **{"shrink": 0.9, **place})
    end = end or 1
    bar.set_ticks([-end, -end / 2, 0, end / 2, end])
    bar.ax.set_yticklabels([f"{t:.3g}" for t in (-end, -end / 2, 0, end / 2, end)])
    bar.set_label(unit)
    bar.ax.set_facecolor("0.6")  # below colours that are clear over an image


def _described(values: Float[np.ndarray, "h w"], wrong: np.ndarray, name: str) -> str:
    size = f"{values.shape[0]} x {values.shape[1]}"
    what = f"Heatmap{f' of {name}' if name else ''}, {size}"
    finite = values[~wrong]
    if not finite.size:
        return f"{what}, no finite relevance."
    text = f"{what}, relevance from {finite.min():.3g} to {finite.max():.3g}"
    if finite.any():
        strongest = np.where(wrong, 0.0, np.abs(values)).argmax()
        row, column = np.unravel_index(strongest, values.shape)
        text += f": strongest at row {row + 1}, column {column + 1} ({values[row, column]:.3g})"
    marked = f" {int(wrong.sum())} numbers are NaN or infinite." if wrong.any() else ""
    return f"{text}.{marked}"


def _table(values: Float[np.ndarray, "h w"]) -> tuple[list[str], list[list[str]]]:
    """The numbers, where a reader could take them in."""
    if values.size > 400:
        return [], []
    columns = ["row", *(f"column {j + 1}" for j in range(values.shape[1]))]
    return columns, [[str(i + 1), *(f"{x:.3g}" for x in row)] for i, row in enumerate(values)]


def _checked_image(image: Any, channels: Channels, size: tuple[int, int]) -> np.ndarray | None:
    if image is None:
        return None
    found = _pixels.image_of(image, channels)
    if found.shape[:2] != size:
        raise InputError(
            f"The image has the shape {np.shape(image)}, the relevance {size[0]} x {size[1]} "
            "pixels: they must be of the same height and width."
        )
    return _pixels.in_range(found)


def _of_each(given: Any, count: int, what: str) -> Any:
    """As given, if there is one for each sample or none at all."""
    if len(given) not in (0, count):
        raise InputError(f"There are {count} samples, but {len(given)} {what}.")
    return given
