"""Draws the three pictures of the front page and of the README: `python docs/ext/front_page.py`.

They are committed, since a README is read where nothing is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import relprop
from relprop import plots, presets, rules, tokens, truth, zoo

FOLDER = Path(__file__).parent.parent / "front"
TEXT = "the film with that actor was not great and a long scene"


def images() -> plots.Plot:
    """A digit among pieces of others, and what its class is due to."""
    task = truth.load("clutter")
    data = task.data(count=6)
    x, target = data.x[5], data.target[5]

    def score(x):
        return task.fn(task.params, x[None])[0, target]

    R = jax.jit(relprop.relevance(score, rules.Gamma(0.25)))(x)
    return side_by_side(np.clip(x[..., 0], 0, 1), R[..., 0], f"a {target} among pieces", "gamma")


def vit() -> plots.Plot:
    """A digit as a vision transformer sees it."""
    fn, params, preprocess = zoo.load("digits-vit")
    image = preprocess(Image.open(zoo.samples()[0]))

    def score(x):
        return fn(params, x[None])[0, 0]

    R = jax.jit(relprop.relevance(score, presets.attn_lrp()))(image)
    return side_by_side(image[..., 0], R[..., 0], "a 0", "attn_lrp")


def text() -> Figure:
    """What a sentence's verdict is due to."""
    model = truth.load_text("negation")
    found = tokens.explain(model, TEXT, tokens.ClassTarget("blame"), contrast="praise")
    return plots.tokens(found.tokens[1:], found.relevance[1:], width=2.6)


def side_by_side(image: np.ndarray, relevance: np.ndarray, name: str, method: str) -> plots.Plot:
    """An image beside its heatmap."""
    figure = plots.Plot(4.2, 2.2)
    left, right = figure.subplots(1, 2)
    end = float(np.abs(relevance).max())
    left.imshow(image, cmap="gray", vmin=0, vmax=1)
    right.imshow(relevance, cmap=plots.colormap(), vmin=-end, vmax=end)
    for axes, head in ((left, name), (right, method)):
        axes.set_title(head, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


def drawn() -> Iterator[tuple[str, Figure]]:
    """Names of files and figures."""
    yield from (("images", images()), ("vit", vit()), ("text", text()))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, figure in drawn():
        figure.savefig(FOLDER / f"{name}.png", dpi=150, metadata={"Software": None})
