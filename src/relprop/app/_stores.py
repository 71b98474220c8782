"""Pages of a store of explained images, and a sample of any store in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from relprop import jobs, plots
from relprop._characters import visible
from relprop._errors import InputError
from relprop.cli.dataset import explanation_of
from relprop.report import Explanation

PER_PAGE = 12


@dataclasses.dataclass(frozen=True, eq=False)
class Page:
    """A part of a store.

    Attributes:
        number: of the page, from 1.
        of: how many there are.
        explanations: of the images on it; empty where the store is not of images.
        rows: per sample: number, name, score, and its explained part by each method, as text.
        methods: their names.
    """

    number: int
    of: int
    explanations: Sequence[Explanation]
    rows: Sequence[Sequence[str]]
    methods: Sequence[str]


def page_of(place: Path, number: int) -> Page:
    """A page of a store, as far as its job has come.

    Raises:
        InputError: there is no store.
    """
    found = jobs.load(place)
    count = max(1, -(-len(found) // PER_PAGE))
    number = min(max(1, number), count)
    numbers = range((number - 1) * PER_PAGE, min(number * PER_PAGE, len(found)))
    methods = [found[name] for name in found.methods]
    rows, good = [], []
    for n in numbers:
        name = visible(str(found.ids[n]))
        if not found.done[n]:
            rows.append([str(n), name, "not explained yet", *[""] * len(methods)])
        elif n in found.errors:
            rows.append([str(n), name, visible(found.errors[n]), *[""] * len(methods)])
        else:
            good.append(n)
            each = [f"{float(one.explained[n]):.4g}" for one in methods]
            rows.append([str(n), name, f"{float(found.score[n]):.4g}", *each])
    explanations = []
    for n in good:
        try:
            explanations.append(explanation_of(found, n))
        except (InputError, TypeError, ValueError):  # of texts, or of several arrays
            explanations = []
            break
    return Page(number, count, explanations, rows, found.methods)


def drawn(page: Page) -> plots.Plot | None:
    """The images of a page with their heatmaps; None where there are none of one shape."""
    shown = page.explanations
    if not shown or len({e.image.shape for e in shown}) > 1:
        return None
    channels = "last" if shown[0].image.ndim == 3 else None
    return plots.gallery(
        np.stack([np.clip(e.image, 0, 1) for e in shown]),
        {name: np.stack([e.rules[name][0] for e in shown]) for name in page.methods},
        channels=channels,
        names=[_short(e.name) for e in shown],
        bad="mark",
    )


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
