"""Relevance of tokens as text, as coloured text in a terminal, and as HTML."""

from __future__ import annotations

import dataclasses
import html as _html
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from relprop.tokens._result import TokenRelevance

_VISIBLE = {"\n": "↵", "\t": "⇥", "\r": "␍"}
_STYLE = """
body { font: 16px/1.6 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em;
       color: #000; background: #fff; }
"""


@dataclasses.dataclass(frozen=True)
class Block:
    """One text for one target.

    Attributes:
        title: what was explained.
        parts: tokens with their relevance; joined, they are the text.
        scale: the relevance that has the full colour: the largest of the text, over all targets.
    """

    title: str
    parts: Sequence[tuple[str, float]]
    scale: float


def blocks(result: TokenRelevance) -> Iterator[Block]:
    """One block per text and target."""
    if result.is_batch:
        for number, sample in enumerate(result):
            for block in blocks(sample):
                yield dataclasses.replace(block, title=f"sample {number}: {block.title}")
        return
    scale = float(np.abs(result.relevance[..., result.shown]).max(initial=0.0))
    for row in result if result.is_continuation else [result]:
        against = f" rather than {row.contrast_names}" if row.contrast_names else ""
        title = f"{row.target_names}{against}, score {float(row.score):.4g}"
        shown = np.flatnonzero(row.shown)
        yield Block(title, [(row.tokens[i], float(row.relevance[i])) for i in shown], scale)


def text(result: TokenRelevance) -> str:
    """Per text and target a title, and below it each token with its relevance."""
    lines = []
    for block in blocks(result):
        words = [visible(part).strip() for part, _ in block.parts]
        width = max(map(len, words), default=0)
        lines.append(block.title)
        lines += [
            f"  {word.ljust(width)}  {value:+.3g}"
            for word, (_, value) in zip(words, block.parts, strict=True)
        ]
    return "\n".join(lines)


def rich_text(result: TokenRelevance) -> Any:
    """Coloured text for a terminal, as a renderable of rich."""
    import rich.text

    out = rich.text.Text()
    for block in blocks(result):
        out.append(f"{block.title}\n", style="bold")
        for part, value in block.parts:
            back, front = colours(value, block.scale)
            space, word = _split(part)
            out.append(space)
            out.append(word, style=f"{_hex(front)} on {_hex(back)}")
        out.append(f"\n{_legend(block.scale)}\n", style="dim")
    out.rstrip()
    return out


def html(result: TokenRelevance) -> str:
    """Coloured text as a piece of HTML; numbers appear when the mouse rests on a token."""
    return "\n".join(map(_html_block, blocks(result)))


def page(result: TokenRelevance, title: str) -> str:
    """A page with the coloured text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{_html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_html.escape(title)}</h1>\n{html(result)}\n</body>\n</html>\n"
    )


def colours(value: float, scale: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Background and foreground: white at 0, red above, blue below, full at the scale.

    >>> colours(2.0, 2.0), colours(-2.0, 2.0)
    (((255, 0, 0), (0, 0, 0)), ((0, 0, 255), (255, 255, 255)))
    """
    strength = value / scale if scale and np.isfinite(value) else 0.0
    rest = round(255 * (1 - min(abs(strength), 1.0)))
    back = (255, rest, rest) if strength >= 0 else (rest, rest, 255)
    dark = strength < -0.5  # only blue is so dark that black can't be read on it
    return back, (255, 255, 255) if dark else (0, 0, 0)


def visible(part: str) -> str:
    r"""A token without characters that would act: on a terminal, escapes could do anything.

    >>> print(visible("a\n\x1b[0m"))
    a↵\x1b[0m
    """
    shown = (_VISIBLE.get(c, c) for c in part)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def _legend(scale: float) -> str:
    return f"red: positive, blue: negative, full colour: {scale:.3g}"


def _html_block(block: Block) -> str:
    spans = []
    for part, value in block.parts:
        back, front = colours(value, block.scale)
        space, word = _split(part)
        spans.append(
            f'{space}<span style="background:{_hex(back)};color:{_hex(front)}" '
            f'title="{value:+.4g}">{_html.escape(word)}</span>'
        )
    return (
        f"<div><b>{_html.escape(block.title)}</b>\n"
        f'<p style="white-space:pre-wrap;margin:0.3em 0">{"".join(spans)}</p>\n'
        f"<small>{_legend(block.scale)}</small></div>"
    )


def _split(part: str) -> tuple[str, str]:
    """Leading space, which gets no colour, and the rest; a token of spaces is shown as it is."""
    word = part.lstrip(" ")
    return (part[: len(part) - len(word)], visible(word)) if word else ("", visible(part))


def _hex(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{c:02x}" for c in colour)
