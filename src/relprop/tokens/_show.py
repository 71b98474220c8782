"""Relevance of tokens as text, as coloured text in a terminal, and as HTML."""

from __future__ import annotations

import dataclasses
import html as _html
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from relprop._coloured_text import ColouredText

if TYPE_CHECKING:
    from relprop.tokens._result import TokenRelevance

_STYLE = """
body { font: 16px/1.6 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em;
       color: #000; background: #fff; }
"""


def texts(result: TokenRelevance) -> Iterator[ColouredText]:
    """One per text and target; the targets of a text share one scale."""
    if result.is_batch:
        for number, sample in enumerate(result):
            for text in texts(sample):
                yield dataclasses.replace(text, title=f"sample {number}: {text.title}")
        return
    scale = float(np.abs(result.relevance[..., result.shown]).max(initial=0.0))
    for row in result if result.is_continuation else [result]:
        against = f" rather than {row.contrast_names}" if row.contrast_names else ""
        title = f"{row.target_names}{against}, score {float(row.score):.4g}"
        shown = np.flatnonzero(row.shown)
        yield ColouredText(title, [(row.tokens[i], float(row.relevance[i])) for i in shown], scale)


def text(result: TokenRelevance) -> str:
    """Per text and target a title, and below it each token with its relevance."""
    return "\n".join(map(str, texts(result)))


def rich_text(result: TokenRelevance) -> Any:
    """Coloured text for a terminal, as a renderable of rich."""
    import rich.console

    return rich.console.Group(*texts(result))


def html(result: TokenRelevance) -> str:
    """Coloured text as a piece of HTML; numbers appear when the mouse rests on a token."""
    return "\n".join(text._repr_html_() for text in texts(result))


def page(result: TokenRelevance, title: str) -> str:
    """A page with the coloured text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{_html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_html.escape(title)}</h1>\n{html(result)}\n</body>\n</html>\n"
    )
