"""Draws the pictures of `how-to/plots.md` whenever the documentation is built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from sphinx.application import Sphinx

import relprop
from relprop import plots, presets, zoo
from relprop.places import AttentionMaps

FOLDER = Path(__file__).parent.parent / "how-to" / "figures"
WORDS = {"a": 0.0, " truly": 0.4, " great": 2.0, " film,": 0.0, " but": -0.3, " too": -0.9}
WORDS |= {" long": -1.2, " and": 0.1, " not": -0.8, " well": 1.1, " cut": 0.2}


def draw(folder: Path = FOLDER) -> None:
    """Writes all pictures."""
    folder.mkdir(exist_ok=True)
    # Models this small run at once either way: nearly all of the time is the compiler's.
    jax.config.update("jax_disable_most_optimizations", True)
    for name, figure in [*of_the_cnn(), *of_the_vit(), ("tokens", of_words())]:
        (folder / f"{name}.png").write_bytes(figure.png())


def of_the_cnn() -> Iterator[tuple[str, plots.Plot]]:
    """Heatmaps of digits."""
    score, params, images, targets = _model("digits-cnn")
    names = [f"digit {target}" for target in targets]

    def explained(rules):
        explain = jax.jit(jax.vmap(relprop.relevance(score, rules), in_axes=(0, 0, None)))
        return np.asarray(explain(images, targets, params))

    rules = {"epsilon": relprop.rules.Epsilon(), "gamma": relprop.rules.Gamma()}
    by_rules = {name: explained(rule) for name, rule in rules.items()}
    first = by_rules["gamma"]
    yield "heatmap", plots.heatmap(first[0], channels="last", image=images[0], name=names[0])
    yield "heatmaps", plots.heatmaps(first, channels="last", shared=True, names=names)
    notes = {n: [f"sum {r[i].sum():.1f}" for i in range(len(r))] for n, r in by_rules.items()}
    yield "gallery", plots.gallery(images, by_rules, channels="last", names=names, notes=notes)


def of_the_vit() -> Iterator[tuple[str, plots.Plot]]:
    """What is inside of a transformer."""
    score, params, images, targets = _model("digits-vit")
    args, rules = (images[0], targets[0], params), presets.attn_lrp()
    yield "flow", plots.flow(relprop.ledger(score, rules)(*args))
    yield "computation", plots.computation(relprop.inspect(score, rules)(*args))
    explain = relprop.relevance(score, rules, places=["patches", "block*", AttentionMaps()])
    _, inside = jax.jit(explain)(*args)
    maps = {name: place for name, place in inside.items() if name.startswith("attention")}
    yield "attention", plots.attention(maps, relevance=True)
    layers = {name: inside[name] for name in ("patches", "block1", "block2")}
    tokens = ["class", *(f"{i},{j}" for i in range(1, 5) for j in range(1, 5))]
    yield "trace", plots.trace(layers, tokens)


def of_words() -> plots.Plot:
    """A text, explained for a score that adds the weights of words up."""
    weights = jnp.array(list(WORDS.values()))
    relevance = relprop.relevance(lambda x: x @ weights, relprop.rules.Epsilon())(
        jnp.ones(len(WORDS))
    )
    return plots.tokens(list(WORDS), relevance, width=5.0)


def _model(name: str):
    fn, params, preprocess = zoo.load(name)
    images = np.stack([preprocess(Image.open(path)) for path in zoo.samples()[3:9:2]])
    targets = np.asarray(fn(params, images).argmax(-1))
    return lambda x, target, params: fn(params, x[None])[0, target], params, images, targets


def _draw(app: Sphinx) -> None:
    draw()


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", _draw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
