"""Characters that would act instead of being seen: escapes, and what turns texts around."""

from __future__ import annotations

_VISIBLE = {"\n": "↵", "\t": "⇥", "\r": "␍"}


def visible(part: str) -> str:
    r"""A token without characters that would act: on a terminal, escapes could do anything.

    >>> print(visible("a\n\x1b[0m"))
    a↵\x1b[0m
    """
    if part.isprintable():
        return part
    shown = (_VISIBLE.get(c, c) for c in part)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
