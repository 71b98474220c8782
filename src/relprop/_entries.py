"""What the entries of a configuration must be, checked before anything is made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from relprop._errors import InputError

#: Of sizes in configurations: far above what there is, and far below what fills the memory.
MOST_PIXELS, MOST_FEATURES, MOST_LAYERS, MOST_CLASSES, MOST_TOKENS = 4096, 65536, 512, 10**6, 10**7

#: What is wrong with a value; empty if nothing is.
Check = Callable[[Any], str]


def whole(low: int, high: int) -> Check:
    """A whole number."""

    def check(value: Any) -> str:
        good = (
            isinstance(value, int | np.integer)
            and not isinstance(value, bool)
            and low <= value <= high
        )
        return "" if good else f"these must be numbers from {low} to {high}, and whole ones"

    return check


def number(low: float, high: float, excluded: bool = False) -> Check:
    """A finite number; `excluded` leaves out the lower bound."""

    def check(value: Any) -> str:
        good = _is_number(value) and (low < value if excluded else low <= value) and value <= high
        bound = "above" if excluded else "from"
        return "" if good else f"these must be numbers {bound} {low:g} up to {high:g}"

    return check


def flag(value: Any) -> str:
    """True or false, and nothing that Python takes for one of them."""
    return "" if isinstance(value, bool) else "this must be true or false"


def one_or_both(check: Check) -> Check:
    """One value, or a list of two for height and width."""

    def each(value: Any) -> str:
        values = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
        wrong = [what for what in map(check, values) if what]
        return f"{wrong[0]}, or two of those" if wrong else ""

    return each


def several(check: Check, most: int, least: int = 0) -> Check:
    """A list."""

    def each(value: Any) -> str:
        if not isinstance(value, list | tuple) or not least <= len(value) <= most:
            return f"this must be a list of {least} to {most}"
        return next((what for what in map(check, value) if what), "")

    return each


def one_of(*known: Any) -> Check:
    """One of some values."""

    def check(value: Any) -> str:
        good = any(type(value) is type(each) and value == each for each in known)
        return "" if good else f"this must be one of {', '.join(map(repr, known))}"

    return check


def either(*checks: Check) -> Check:
    """What one of some checks lets through."""

    def check(value: Any) -> str:
        wrong = [each(value) for each in checks]
        return " or ".join(wrong) if all(wrong) else ""

    return check


def per_channel(check: Check) -> Check:
    """One value, or a list of one for each channel."""

    def each(value: Any) -> str:
        values = value if isinstance(value, list) and value else [value]
        wrong = [what for what in map(check, values) if what]
        return f"{wrong[0]}, or one for each channel" if wrong else ""

    return each


def sides(most: int) -> Check:
    """A size as Hugging Face writes it: a number, height and width, or the shortest edge."""
    side = whole(1, most)

    def check(value: Any) -> str:
        known = ({"height", "width"}, {"shortest_edge"})
        parts = value.values() if isinstance(value, dict) else [value]
        good = not isinstance(value, dict) or set(value) in known
        if good and not any(map(side, parts)):
            return ""
        return (
            f"a size must be a number from 1 to {most}, or have height and width, or "
            f"shortest_edge; got {_short(value)}"
        )

    return check


def checked(file: Path | str, entries: Mapping[str, Any], checks: Mapping[str, Check]) -> None:
    """Whether all entries of a file, or of what else is named, are what they must be.

    Raises:
        InputError: some are not; lists all of them.
    """
    wrong = [
        f"  {name} {_short(entries[name])}: {what}"
        for name, check in checks.items()
        if (what := check(entries[name]))
    ]
    if wrong:
        raise InputError(f"{len(wrong)} entries of {file} are wrong:\n" + "\n".join(wrong))


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    return isinstance(value, int | np.integer) or math.isfinite(value)


def _short(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"
