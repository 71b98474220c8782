"""Edges: against edge attribution patching written out by hand, reader by reader."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop.patching import edges
from relprop.rules import Flat, Gradient

from . import model

PARAMS = model.parameters()
X, Y = model.inputs()


def found(rules, f=model.score, **keywords):
    run = jax.jit(lambda x, y: edges(f, (x, PARAMS), (y, PARAMS), rules, **keywords))
    return run(X, Y)


@pytest.fixture(scope="module")
def by_gradient():
    return found(Gradient())


@jax.jit
def slopes(x):
    """The derivative by what each reader reads, with an input of the stream for it alone."""
    names = [f"a{i}.h{h}<{n}>" for i in range(2) for h in range(2) for n in "qkv"]
    zeros = {name: jnp.zeros_like(X) for name in (*names, "m0", "m1", "logits")}
    return jax.grad(lambda readers: model.laid_open(x, PARAMS, readers)[0])(zeros)


def by_hand(slope):
    ours, theirs = (model.laid_open(x, PARAMS, {})[1] for x in (X, Y))
    return {
        f"{u}->{v}": float(jnp.vdot(theirs[u] - ours[u], slope[v]))
        for u in ours
        for v in slope
        if u == "input" or v == "logits" or _order(u) < _order(v)
    }


def _order(name):
    return 2 * int(name[1]) + (name[0] == "m")


def test_edge_attribution_patching_by_hand(by_gradient):
    expected, got = by_hand(slopes(X)), by_gradient.by_name()
    assert {*got} == {*expected}
    assert len(got) == 6 + 3 + 6 * 4 + 6 + 7
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-6)
    assert max(map(abs, got.values())) > 0.01
    largest = [abs(value) for value in got.values()]
    assert largest == sorted(largest, reverse=True)


def test_all_that_the_last_reader_reads_is_the_change_of_the_stream(by_gradient):
    scores = by_gradient.scores[:, by_gradient.readers.index("logits")]
    places = {"places": relprop.places.Stream(), "axes": ()}
    pairs = (X, PARAMS), (Y, PARAMS)
    nodes = jax.jit(lambda: relprop.patching.nodes(model.score, *pairs, Gradient(), **places))()
    np.testing.assert_allclose(scores.sum(), nodes["residual 003"], rtol=1e-4, atol=1e-6)


def test_of_some_writers_and_readers(by_gradient):
    got = jax.eval_shape(lambda: found(Gradient(), writers="a0.*", readers="*<q>"))
    assert got.writers == ("a0.h0", "a0.h1")
    assert got.readers == ("a0.h0<q>", "a0.h1<q>", "a1.h0<q>", "a1.h1<q>")
    assert got.scores.shape == (2, 4)
    some = by_gradient._between([1, 2], [0, 6])
    np.testing.assert_array_equal(some.scores, by_gradient.scores[1:3][:, jnp.array([0, 6])])


def test_integrated():
    points = [slopes(Y + k / 2 * (X - Y)) for k in (1, 2)]
    expected = by_hand(jax.tree.map(lambda *s: sum(s) / 2, *points))
    got = found(Gradient(), steps=2).by_name()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-6)


def test_by_relp_queries_and_keys_get_nothing(by_gradient):
    got = found(relprop.presets.relp())
    silent = np.array([name.endswith(("<q>", "<k>")) for name in got.readers])
    assert not np.asarray(got.scores)[:, silent].any()
    # Attention patterns and norms are constants: the score is linear in the values of the last
    # layer, and what is read for the logits is what the gradient without the norm would say.
    assert np.abs(np.asarray(got.scores)[:, ~silent]).max() > 0.01


@pytest.mark.parametrize("mlps", [False, True])
def test_a_model_without_attention_or_without_mlps(mlps):
    def f(x):
        for p in PARAMS["layers"]:
            if mlps:
                x = x + jnp.tanh(x @ p["up"]) @ p["down"]
            else:
                q, k, v = (model.split(x @ p[n]) for n in "qkv")
                mixed = jax.nn.softmax(q @ k.swapaxes(1, 2), -1) @ v
                x = x + mixed.swapaxes(0, 1).reshape(4, 8) @ p["o"]
        return x[-1, 0]

    got = jax.eval_shape(lambda x, y: edges(f, (x,), (y,), Gradient()), X, Y)
    assert got.writers == (("input", "m0", "m1") if mlps else
                           ("input", "a0.h0", "a0.h1", "a1.h0", "a1.h1"))  # fmt: skip
    assert got.scores.shape == (3, 3) if mlps else (5, 13)


def grouped(x):
    """Two heads of queries for each head of keys and values, as JAX has them."""
    for p in PARAMS["layers"]:
        q, k, v = (x @ p[n] for n in "qkv")
        q, k, v = q.reshape(1, 4, 4, 2), k[:, :4].reshape(1, 4, 2, 2), v[:, :4].reshape(1, 4, 2, 2)
        heads = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + heads.reshape(4, 8) @ p["o"]
    return x[-1, 0]


def test_grouped_queries():
    got = jax.jit(lambda x, y: edges(grouped, (x,), (y,), Gradient()))(X, Y)
    assert got.writers[1:5] == ("a0.h0", "a0.h1", "a0.h2", "a0.h3")
    assert [n for n in got.readers if n.startswith("a1")] == [
        *(f"a1.h{h}<q>" for h in range(4)), *(f"a1.h{h}<{n}>" for n in "kv" for h in range(2)),
    ]  # fmt: skip
    # All heads of a layer together write what it adds, and read what it reads.
    places = relprop.places.Branches()
    nodes = jax.jit(lambda x, y: relprop.patching.nodes(
        grouped, (x,), (y,), Gradient(), places=places, axes=()))(X, Y)  # fmt: skip
    first = got.scores[1:5].sum()
    np.testing.assert_allclose(first, nodes["attention 000"], rtol=1e-4, atol=1e-6)


def test_bad_input():
    wrong = relprop.InputError

    def refused(words, f=model.score, corrupted=(Y, PARAMS), rules=None, kind=wrong, **more):
        with pytest.raises(kind, match=words):
            edges(f, (X, PARAMS), corrupted, rules or Gradient(), **more)

    refused("differ in 1 shape", corrupted=(Y[:3], PARAMS))
    refused("steps", steps=0)
    refused("in a loop", model.scanned)
    refused("No reader like 'a0", writers="m0", readers="a0.*")

    def post_norm(x, params):
        for p in params["layers"]:
            x = model.norm(x + jnp.tanh(x @ p["up"]) @ p["down"])
        return x.sum()

    refused("changed between 1 layer", post_norm)
    refused("not on the way", lambda x, params: (x @ params["head"]).sum(),
            kind=relprop.NothingMatchedError)  # fmt: skip
    refused("no coefficient", rules=Flat())
