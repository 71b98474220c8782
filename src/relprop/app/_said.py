"""What the page says, as HTML: all that comes from outside is escaped."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from relprop._characters import visible
from relprop._errors import RelpropError


def safe(text: Any) -> str:
    """Text without characters that would act, in a terminal or as HTML."""
    return html.escape(visible(str(text)))


def note(text: str) -> str:
    """A line of text."""
    return f'<p class="relprop-note">{safe(text)}</p>'


def problem(text: str) -> str:
    """What went wrong, for the eye and for screen readers."""
    return f'<p class="relprop-problem" role="alert">{safe(text)}</p>'


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; the first column is of names, the others of numbers."""
    head = "".join(f'<th scope="col">{safe(name)}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row">{safe(row[0])}</th>'
        + "".join(f"<td>{safe(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        '<div class="relprop-wide"><table class="relprop-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def telling(where: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For what answers a click: its errors become a line in `where`, and the page stays as it is.

    Args:
        where: the component of HTML in which problems are told.
    """

    def around(function: Callable[..., Iterator[dict]]) -> Callable[..., Iterator[dict]]:
        def answer(*args: Any) -> Iterator[dict]:
            try:
                yield from function(*args)
            except (RelpropError, OSError, ImportError, ValueError) as error:
                yield {where: problem(_lines(error))}
            except MemoryError:
                yield {where: problem("The memory is full: try a smaller image or a shorter text.")}
            except Exception as error:  # a model of the user may raise anything
                yield {where: problem(f"{type(error).__name__}: {_lines(error)}")}

        # Gradio looks at the signature for what an event brings.
        answer.__signature__ = inspect.signature(function, eval_str=True)  # pyright: ignore
        answer.__annotations__ = inspect.get_annotations(function, eval_str=True)
        return answer

    return around


def _lines(error: Exception, most: int = 600) -> str:
    text = re.sub(r"\s*\n\s*", " ", str(error)).strip() or type(error).__name__
    return text if len(text) <= most else text[: most - 1] + "…"
