"""The figure that every plot is: matplotlib's, with words for those who cannot see it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

_DPI = 100


class Plot(Figure):
    """A matplotlib figure that pyplot does not know of, so that nothing has to be closed.

    In a notebook it shows itself as the last value of a cell; ``savefig`` writes it to a file.

    Args:
        width: in inches.
        height: in inches.

    Attributes:
        alt: what can be seen, in words.
        table: the names of columns and the rows of numbers that are drawn; empty where there are
            too many.
    """

    def __init__(self, width: float, height: float):
        super().__init__(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")
        FigureCanvasAgg(self)
        self.alt = ""
        self.table: tuple[Sequence[str], Sequence[Sequence[str]]] = ((), ())

    def png(self) -> bytes:
        """The picture; nothing in it depends on the time."""
        file = io.BytesIO()
        self.savefig(file, format="png", metadata={"Software": None})
        return file.getvalue()

    def html(self) -> str:
        """A piece of HTML that needs nothing else: the picture, its words and its numbers."""
        uri = "data:image/png;base64," + base64.b64encode(self.png()).decode()
        columns, rows = self.table
        return template("plot.html.jinja").render(
            uri=uri, alt=self.alt, columns=columns, rows=rows, width=round(self.bbox.width)
        )

    def _repr_html_(self) -> str:
        return self.html()


def template(
    name: str, folder: Path = Path(__file__).parent, **filters: Callable[..., Any]
) -> jinja2.Template:
    """A template, of this package or of another folder; whatever is put into it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= filters
    return environment.get_template(name)


def picture_of(figure: Figure) -> Image.Image:
    """A figure as an image."""
    assert isinstance(figure, Plot)
    return Image.open(io.BytesIO(figure.png())).convert("RGB")


def drawing(axes: Axes | None, width: float, height: float) -> tuple[Figure, Axes]:
    """The axes to draw on: the given ones, or the only ones of a new figure of that size."""
    if axes is None:
        figure = Plot(width, height)
        return figure, figure.add_subplot()
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure, axes


def describe(
    figure: Figure,
    alt: str,
    columns: Sequence[str] = (),
    rows: Sequence[Sequence[str]] = (),
) -> None:
    """Adds words and numbers to a figure of ours; another one has no place for them."""
    if isinstance(figure, Plot):
        # One table of several would be taken for that of all.
        figure.table = ((), ()) if figure.alt else (columns, rows)
        figure.alt = f"{figure.alt} {alt}".strip()


def title(axes: Axes, text: str, **options: Any) -> None:
    """Sets a title, in which a dollar starts no formula."""
    if text:
        axes.set_title(text, parse_math=False, **options)
