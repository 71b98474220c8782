"""Nodes: against derivatives and evaluations of a transformer whose parts are laid open by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop.patching import nodes
from relprop.places import Branches, Heads, Input, Stream
from relprop.rules import Flat, Gradient

from . import model

PARAMS = model.parameters()
X, Y = model.inputs()
CLEAN, CORRUPTED = (X, PARAMS), (Y, PARAMS)
PARTS = {"query": "q", "key": "k", "value": "v", "pattern": "a", "output": "z"}
PLACES = [*map(Heads, PARTS), Branches(), Input(path="*/down"), Stream()]


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def by_hand(x, hooked=lambda name, value: value):
    return model.laid_open(x, PARAMS, {}, hooked)[0]


def values_of(x):
    seen = {}

    def note(name, value):
        seen[name] = value
        return value

    by_hand(x, note)
    return seen


OURS, THEIRS = values_of(X), values_of(Y)


@jax.jit
def slopes(x):
    """The derivative of the score by each value that has a hook."""

    def moved(deltas):
        return by_hand(x, lambda name, value: value + deltas[name])

    return jax.grad(moved)(jax.tree.map(jnp.zeros_like, OURS))


def expected(of):
    """By our names: what stands for each node, from a function of the names of the hooks."""
    out = {}
    for i in range(model.LAYERS):
        for part, short in PARTS.items():
            heads = [of(f"a{i}.h{h}.{short}") for h in range(model.HEADS)]
            stacked = jnp.stack(heads)
            # The product takes the keys as columns.
            stacked = stacked.swapaxes(1, 2) if part == "key" else stacked
            out[f"attention {i:03d} {part}"] = stacked
        out[f"mlp {i:03d}"] = of(f"m{i}")
        out[f"params/layers/{i}/down"] = of(f"m{i}.n")
    return out


def found(rules=None, f=model.score, x=X, y=Y, **keywords):
    """Our nodes, compiled."""
    return jax.jit(lambda x, y: nodes(f, (x, PARAMS), (y, PARAMS), rules, **keywords))(x, y)


@pytest.fixture(scope="module")
def by_gradient():
    return found(Gradient(), places=PLACES)


def test_the_model_is_the_one_that_is_laid_open():
    close(model.score(X, PARAMS), by_hand(X))
    close(model.scanned(X, PARAMS), by_hand(X))


def test_attribution_patching(by_gradient):
    slope = slopes(X)
    wanted = expected(lambda name: (THEIRS[name] - OURS[name]) * slope[name])
    for name, value in wanted.items():
        close(by_gradient[name], value)
    assert {*wanted} <= {*by_gradient}
    assert sum(name.startswith("residual") for name in by_gradient) == 2 * model.LAYERS


def test_of_the_stream_what_comes_after_says_the_rest(by_gradient):
    # The last sum of the stream is all that the score is computed from.
    def rest(x):
        return (model.norm(x)[-1] @ PARAMS["head"])[0]

    last = [sum(model.laid_open(x, PARAMS, {})[1].values()) for x in (X, Y)]
    close(by_gradient["residual 003"], (last[1] - last[0]) * jax.grad(rest)(last[0]))


def test_integrated():
    got = found(Gradient(), places=[Branches("mlp"), Heads("output")], steps=3)
    points = [slopes(Y + k / 3 * (X - Y)) for k in (1, 2, 3)]
    mean = jax.tree.map(lambda *s: sum(s) / 3, *points)
    by_name = expected(lambda name: (THEIRS[name] - OURS[name]) * mean[name])
    assert len(got) == 4
    for name, value in got.items():
        close(value, by_name[name])


def test_exact_is_an_evaluation_per_node():
    places = [Heads("query"), Heads("pattern"), Branches("mlp")]
    got = found(places=places, exact=True, axes=(0, 1))
    assert got["attention 001 query"].shape == (model.HEADS, model.TOKENS)
    assert got["mlp 000"].shape == (model.TOKENS, model.WIDTH)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def patched(name, row):
        def hook(own, value):
            return value.at[row].set(THEIRS[own][row]) if own == name else value

        return by_hand(X, hook) - by_hand(X)

    for i, h, t in ((0, 1, 2), (1, 0, 3)):
        close(got[f"attention {i:03d} query"][h, t], patched(f"a{i}.h{h}.q", t), 1e-4)
        close(got[f"attention {i:03d} pattern"][h, t], patched(f"a{i}.h{h}.a", t), 1e-4)
    close(got["mlp 001"][3, 2], patched("m1", (3, 2)), 1e-4)
    whole = found(places=Branches("mlp"), exact=True, axes=())
    assert whole["mlp 000"].shape == ()


def test_in_a_scan_there_is_one_entry_per_layer(by_gradient):
    got = found(Gradient(), model.scanned, places=[Heads("query"), Branches()])
    for part in ("attention {} query", "mlp {}", "attention {}"):
        layers = [by_gradient[part.format(f"{i:03d}")] for i in range(model.LAYERS)]
        close(got[part.format("000")], jnp.stack(layers))
    keywords = {"places": Branches("mlp"), "exact": True}
    unrolled = found(axes=0, **keywords)
    stacked = found(f=model.scanned, axes=(0, 1), **keywords)["mlp 000"]
    close(stacked, jnp.stack([unrolled["mlp 000"], unrolled["mlp 001"]]), 1e-4)


def test_axes_sum_over_all_others_and_any_rules_do():
    relp = relprop.presets.relp()
    every = found(relp, places=[Heads("output"), Heads("query")])
    for name, value in found(relp, places=Heads("output"), axes=(-3, -2)).items():
        close(value, every[name].sum(-1))
    # By RelP attention maps are constants: queries get nothing.
    assert not any(value.any() for name, value in every.items() if name.endswith("query"))


def test_bad_input():
    def refused(kind, words, clean=CLEAN, corrupted=CORRUPTED, rules=None, f=model.score, **more):
        rules = rules or Gradient()
        keywords = {"places": Branches()} | more
        with pytest.raises(kind, match=words):
            nodes(f, clean, corrupted, rules if more.get("steps") != 2 else None, **keywords)

    wrong = relprop.InputError
    refused(wrong, "differ in 1 shape", corrupted=(Y[:3], PARAMS))
    refused(wrong, "one structure", corrupted=(Y, {}))
    refused(wrong, "tuple of the arguments", clean=X)
    refused(wrong, "steps", steps=0)
    refused(wrong, "need rules", steps=2)
    refused(relprop.NothingMatchedError, "nowhere", places="nowhere")
    refused(relprop.NothingMatchedError, "nowhere", places="nowhere", exact=True)
    small = {"f": lambda x: relprop.named(x, "x").sum(), "places": "x"}
    small |= {"clean": (X,), "corrupted": (Y,)}
    refused(wrong, "has 2 axes", axes=2, **small)
    refused(wrong, "has 2 axes", axes=(5,), exact=True, **small)
    by_flat = {"f": lambda x: (relprop.named(x, "x") @ PARAMS["head"]).sum()}
    refused(wrong, "no coefficient", rules=Flat(), **(small | by_flat))
    refused(wrong, "scalar", exact=True, **(small | {"f": lambda x: relprop.named(x, "x")}))
    with pytest.raises(wrong, match="'query'"):
        Heads("head")
    with pytest.raises(wrong, match="branch"):
        Branches("ffn")
