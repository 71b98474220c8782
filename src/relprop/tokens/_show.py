"""Relevance of tokens as text, as coloured text in a terminal, and as HTML."""

from __future__ import annotations

import html as _html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relprop._characters import visible
from relprop._coloured_text import ColouredText

_STYLE = """
body { font: 16px/1.6 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em;
       color: #000; background: #fff; }
"""


def text(texts: Iterable[ColouredText]) -> str:
    """Per text and target a title, and below it each token with its relevance."""
    return "\n".join(map(str, texts))


def rich_text(texts: Iterable[ColouredText]) -> Any:
    """Coloured text for a terminal, as a renderable of rich."""
    import rich.console

    return rich.console.Group(*texts)


def html(texts: Iterable[ColouredText]) -> str:
    """Coloured text as a piece of HTML; numbers appear when the mouse rests on a token."""
    return "\n".join(text._repr_html_() for text in texts)


def page(
    texts: Iterable[ColouredText],
    title: str,
    details: Mapping[str, str],
    numbers: Sequence[tuple[str, Sequence[tuple[str, ...]]]],
) -> str:
    """A page with the coloured text, what is to be told of it, and tables of the numbers."""
    told = "".join(
        f"<dt>{_safe(name)}</dt><dd>{_safe(text)}</dd>" for name, text in details.items()
    )
    tables = "\n".join(_table(line, rows) for line, rows in numbers)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{_safe(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_safe(title)}</h1>\n<dl>{told}</dl>\n{html(texts)}\n{tables}\n</body>\n</html>\n"
    )


def _table(line: str, rows: Sequence[tuple[str, ...]]) -> str:
    cells = "\n".join(
        f"<tr>{''.join(f'<td>{_safe(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    head = "<tr><th>position</th><th>token</th><th>relevance</th></tr>"
    return f"<details><summary>{_safe(line)}</summary>\n<table>{head}\n{cells}\n</table></details>"


def _safe(text: str) -> str:
    return _html.escape(visible(text))
