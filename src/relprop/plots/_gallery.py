"""Galleries: a row per image, a column per method."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from PIL import Image

from relprop._errors import InputError
from relprop.plots import _pixels
from relprop.plots._figure import Plot, describe, title
from relprop.plots._heatmap import colour_bar
from relprop.plots._scale import Bad, Channels, checked, limit, reduced, strength

#: Up to so many tiles -> their pixels: smaller images are enlarged to about this, larger ones
#: shrunk to twice it.
_TILES = ((8, 224), (24, 144))
_TILE = 96  # of more
_SPACE = 8  # pixels between tiles
_NOTE = 16  # more pixels, for a note below a tile
_FRAME = 212  # the grey around a tile: white pixels have an edge, too
_LETTER = 7  # pixels of a letter above a column
_INCH = 100  # pixels
_NONE: Mapping = {}


def gallery(
    images: Any,
    relevances: Mapping[str, Any],
    *,
    channels: Channels = None,
    maps: Mapping[str, Any] = _NONE,
    names: Sequence[str] = (),
    notes: Mapping[str, Sequence[str]] = _NONE,
    shared: bool = False,
    quantile: float = 1.0,
    bad: Bad = "error",
    colours: str = _pixels.COLOURS,
    style: str = "plain",
    page: int = 1,
    per_page: int = 24,
    name: str = "",
) -> Plot:
    """Images with their heatmaps by several methods, side by side.

    Of many images each page is a figure of its own: as many as `pages` says.

    Args:
        images: values in [0, 1]: ``[n, h, w]``, or with channels ``[n, c, h, w]`` or
            ``[n, h, w, c]``.
        relevances: name of a method -> relevance of all images, of the same height and width.
        channels: of images and relevances.
        maps: name of a method -> ``[n, h, w]``, how much each pixel counts: what has no sign, and
            is drawn from its least to its greatest value in yellow and brown.
        names: what is written beside each row, such as the image and its score.
        notes: name of a method -> what is written below each tile, such as a share.
        shared: one scale for each method; by default one for each tile.
        quantile: of the absolute relevance, that has the full colour.
        bad: ``"error"``, or ``"mark"`` to draw NaN and infinity in yellow.
        colours: as for `relprop.plots.heatmap`.
        style: how relevance is drawn: ``"plain"``, the heatmap alone, beside the image;
            ``"overlay"``, over the image in grey; ``"opacity"``, likewise, but one red and one blue
            whose opacity is the strength; ``"contours"``, lines around what is strong.
        page: which part of the images, from 1.
        per_page: how many images are in a part.
        name: the title.

    Returns:
        A figure, with a colour bar and what it is in units of.

    Raises:
        InputError: shapes don't fit, numbers are NaN or infinite, where the method is named, or
            there is no such page.
        UnknownNameError: there is no such style.

    >>> images = np.zeros((2, 4, 4))
    >>> figure = gallery(images, {"epsilon": images, "gamma": images}, names=["a", "b"])
    >>> figure.alt
    'Gallery of 2 images (a, b) by epsilon, gamma.'
    """
    shown = _images(images, channels)
    size = shown[0].shape[:2]
    if twice := [method for method in maps if method in relevances]:
        raise InputError(f"A method is a column, but there are relevances and maps of {twice}.")
    if "image" in (*relevances, *maps):
        raise InputError(
            "The column of the images is called 'image': give the method another name."
        )
    part = _part(len(shown), page, per_page)
    side = tile_side(len(range(len(shown))[part]) * (1 + len(relevances) + len(maps)))
    columns = {"image": [np.asarray(_pixels.plain(image)) for image in shown[part]]}
    for method, given in relevances.items():
        values = _values(method, given, channels, len(shown), size)
        wrong = checked(values, bad)
        values = np.where(wrong, np.nan, values)
        common = limit(values, quantile)
        strengths = [strength(v, common if shared else limit(v, quantile)) for v in values[part]]
        columns[method] = [
            np.asarray(_pixels.drawn(image, s, style, colours, side))
            for image, s in zip(shown[part], strengths, strict=True)
        ]
    for method, given in maps.items():
        values = _values(method, given, None, len(shown), size)
        checked(values, bad)
        columns[method] = [
            np.asarray(_pixels.map_picture(image, v))
            for image, v in zip(shown[part], values[part], strict=True)
        ]
    _check_counts(len(shown), names, notes)
    on_page = {method: texts[part] for method, texts in notes.items()}
    tiles = Tiles.of(columns, names[part], {"image": (), **on_page}, side)
    beside = 60 + 6 * max(map(len, names[part]), default=0)
    figure = Plot((tiles.width + beside + 110) / _INCH, (tiles.height + 90) / _INCH)
    axes = figure.add_subplot()
    tiles.draw(axes, name)
    if relevances:
        _scale(figure, axes, style, colours, shared)
    which = f" ({', '.join(names[part])})" if names else ""
    methods = ", ".join([*relevances, *maps])
    count = pages(len(shown), per_page)
    of = f", page {page} of {count}" if count > 1 else ""
    describe(figure, f"Gallery of {len(shown)} images{which} by {methods}{of}.")
    return figure


def pages(images: int, per_page: int = 24) -> int:
    """How many pages the gallery of so many images has.

    >>> pages(200), pages(24), pages(0)
    (9, 1, 1)
    """
    if per_page < 1:
        raise InputError(f"`per_page` must be at least 1, got {per_page!r}.")
    return max(1, -(-images // per_page))


def _part(images: int, page: int, per_page: int) -> slice:
    count = pages(images, per_page)
    if not 1 <= page <= count:
        raise InputError(f"There are pages 1 to {count} of {per_page} images, no {page!r}.")
    return slice((page - 1) * per_page, page * per_page)


def tile_side(tiles: int) -> int:
    """The pixels of a tile of so many: the fewer, the larger.

    >>> tile_side(4), tile_side(100)
    (224, 96)
    """
    return next((side for most, side in _TILES if tiles <= most), _TILE)


def _scale(figure: Figure, axes: Axes, style: str, colours: str, shared: bool) -> None:
    """A colour bar in the colours of the tiles, and what it is in units of."""
    table = _pixels.scale_of(style, colours, 255)
    bar = ScalarMappable(Normalize(-1, 1), ListedColormap(table / 255))
    what = "the method" if shared else "the tile"
    shrink = min(0.9, 3.0 / figure.get_figheight())  # no taller than can be seen at once
    colour_bar(
        figure, bar, axes, 1.0, f"relevance / full colour of {what}", shrink=shrink, anchor=(0, 1)
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Tiles:
    """Pictures in rows and columns, as one picture.

    Attributes:
        canvas: the pixels.
        columns: the names above the columns.
        rows: what is written beside the rows.
        notes: per column, what is written below its tiles; empty for none.
        tile: height and width of one of them, in pixels.
    """

    canvas: UInt8[np.ndarray, "h w 3"]
    columns: Sequence[str]
    rows: Sequence[str]
    notes: Sequence[Sequence[str]]
    tile: tuple[int, int]

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Sequence[UInt8[np.ndarray, "h w 3"]]],
        rows: Sequence[str],
        notes: Mapping[str, Sequence[str]] = _NONE,
        side: int = _TILE,
    ) -> Tiles:
        """Lays pictures of one size out.

        Args:
            columns: name -> pictures, one per row.
            rows: what is written beside the rows; empty for nothing.
            notes: name of a column -> what is written below its tiles.
            side: pixels that smaller pictures are enlarged to.

        Raises:
            InputError: there are not as many names or notes as rows, or columns of other names.
        """
        _check_counts(len(next(iter(columns.values()))), rows, notes, columns)
        tiles = [[_tile(picture, side) for picture in column] for column in columns.values()]
        space = ((0, cls.below(notes)), (0, _SPACE), (0, 0))
        canvas = np.concatenate(
            [
                np.concatenate([np.pad(t, space, constant_values=255) for t in column])
                for column in tiles
            ],
            axis=1,
        )
        return cls(
            canvas,
            tuple(columns),
            tuple(rows),
            tuple(tuple(notes.get(column, ())) for column in columns),
            tiles[0][0].shape[:2],
        )

    @staticmethod
    def below(notes: Mapping[str, Sequence[str]]) -> int:
        """The pixels below each tile."""
        return _SPACE + _NOTE * any(any(texts) for texts in notes.values())

    @property
    def height(self) -> int:
        """In pixels."""
        return self.canvas.shape[0]

    @property
    def width(self) -> int:
        """In pixels."""
        return self.canvas.shape[1]

    def draw(self, axes: Axes, name: str = "") -> None:
        """Draws all tiles, their names around them and the notes below them."""
        axes.imshow(self.canvas, interpolation="nearest", aspect="equal")
        height, width = self.tile
        x = np.arange(len(self.columns)) * (width + _SPACE) + width / 2
        step = height + self.below(dict(zip(self.columns, self.notes, strict=True)))
        y = np.arange(self.height // step) * step + height / 2
        heads = [broken(column, width // _LETTER) for column in self.columns]
        axes.set_xticks(x, heads, parse_math=False)
        axes.set_yticks(y, self.rows or [""] * len(y), parse_math=False)
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelsize=8.5)
        axes.set_frame_on(False)
        title(axes, name, loc="left", fontsize=12, fontweight="bold", pad=8)
        style: dict[str, Any] = {"fontsize": 7, "color": "0.25", "va": "top", "parse_math": False}
        for j, notes in enumerate(self.notes):
            for i, text in enumerate(notes):
                if text:
                    axes.annotate(text, (x[j] - width / 2, y[i] + height / 2 + 3), **style)


def broken(name: str, most: int) -> str:
    r"""A name in lines of at most so many letters where that can be; they end after underscores.

    >>> broken("attn_lrp", 20), broken("epsilon_gamma_box", 14)
    ('attn_lrp', 'epsilon_gamma_\nbox')
    """
    lines = [""]
    for part in re.findall("[^_]*_|[^_]+", name):
        if lines[-1] and len(lines[-1] + part) > most:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _check_counts(
    count: int,
    rows: Sequence[str],
    notes: Mapping[str, Sequence[str]],
    columns: Collection[str] | None = None,
) -> None:
    wrong = [f"  {len(rows)} names of rows"] if len(rows) not in (0, count) else []
    wrong += [
        f"  {len(texts)} notes of {column!r}"
        for column, texts in notes.items()
        if len(texts) not in (0, count)
    ]
    if columns is not None:
        wrong += [f"  notes of {column!r}, no column" for column in notes if column not in columns]
    if wrong:
        raise InputError(f"There are {count} rows, but:\n" + "\n".join(wrong))


def _tile(picture: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "h w 3"]:
    image = _pixels.fitted(Image.fromarray(picture), 2 * side)
    factor = max(1, side // max(image.size))
    large = np.asarray(image).repeat(factor, axis=0).repeat(factor, axis=1)
    return np.pad(large, ((1, 1), (1, 1), (0, 0)), constant_values=_FRAME)


def _images(images: Any, channels: Channels) -> list[np.ndarray]:
    if not len(images):
        raise InputError("A gallery needs at least one image, got none.")
    shown = [_pixels.in_range(_pixels.image_of(image, channels)) for image in images]
    shapes = {image.shape for image in shown}
    if len(shapes) > 1:
        raise InputError(f"All images must have one shape, got {sorted(shapes)}.")
    return shown


def _values(
    method: str, given: Any, channels: Channels, count: int, size: tuple[int, int]
) -> np.ndarray:
    values = reduced(given, channels, what=f"{method!r}")
    if values.shape != (count, *size):
        raise InputError(
            f"{method!r} must be of {count} images of {size[0]} x {size[1]} pixels, "
            f"channels={channels!r}; its shape is {np.shape(given)}."
        )
    return values
