"""Globs: what users write for names of scopes, parameters, primitives and regions."""

from __future__ import annotations

import fnmatch


def glob(text: str, pattern: str | None) -> bool:
    """Whether a text matches a glob, or is what the glob says literally; None matches everything.

    A name such as ``layers[0]`` is a glob as well, which does not match itself.

    >>> glob("encoder/layer_3", "encoder/layer_*"), glob("layers[0]", "layers[0]")
    (True, True)
    """
    return pattern is None or text == pattern or fnmatch.fnmatchcase(text, pattern)
