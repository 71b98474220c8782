"""The papers that rules and presets are from, as BibTeX."""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Mapping, Sequence


def bibtex(keys: Sequence[str]) -> str:
    """The entries of some papers; of one that is not known, only its key."""
    return "\n\n".join(_entries().get(key, f"@misc{{{key},\n}}") for key in keys)


@functools.cache
def _entries() -> Mapping[str, str]:
    text = importlib.resources.files("relprop").joinpath("references.bib").read_text("utf-8")
    entries = re.split(r"\n(?=@)", text.strip())
    return {re.split(r"[{,]", entry, maxsplit=2)[1]: entry.strip() for entry in entries}
