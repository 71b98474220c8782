"""Transformer attribution of any function, and what it is compared with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop.attribution import methods, transformer_attribution

from ..uncompiled import evaluated

pytestmark = pytest.mark.usefixtures("by_numpy")
D, H, T, L, B = 8, 2, 5, 3, 2
KEYS = jax.random.split(jax.random.key(0), 8)
X = jax.random.normal(KEYS[0], (B, T, D))
PARAMS = {
    name: jax.random.normal(key, (L, D, D)) / 3
    for name, key in zip(("q", "k", "v", "o", "up", "down"), KEYS[1:], strict=False)
}


def norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def heads(x):
    return x.reshape(*x.shape[:-1], H, D // H).swapaxes(-2, -3)


def block(x, p, keep=None):
    h = norm(x)
    scores = heads(h @ p["q"]) @ heads(h @ p["k"]).swapaxes(-1, -2)
    weights = jax.nn.softmax(scores, -1)
    if keep is not None:
        weights = keep(weights)
    mixed = (weights @ heads(h @ p["v"])).swapaxes(-2, -3).reshape(x.shape)
    x = x + mixed @ p["o"]
    return x + jax.nn.gelu(norm(x) @ p["up"]) @ p["down"]


def layer(params, i):
    return {name: w[i] for name, w in params.items()}


def score(x, params=PARAMS):
    for i in range(L):
        x = block(x, layer(params, i))
    return x[..., 0, 1].sum()


def scanned(x, params=PARAMS):
    return lax.scan(lambda x, p: (block(x, p), None), x, params)[0][..., 0, 1].sum()


def by_hand(x):
    """Attention and its gradient, from a function that takes changes of the maps as arguments."""

    def f(changes):
        x_, maps = x, []
        for i in range(L):

            def keep(weights, i=i):
                maps.append(weights)
                return weights + changes[i]

            x_ = block(x_, layer(PARAMS, i), keep)
        return x_[0, 1], maps

    zeros = [jnp.zeros((H, T, T))] * L
    gradients, maps = jax.grad(f, has_aux=True)(zeros)
    return maps, gradients


def product(maps, normalise=False):
    joint = np.eye(T)
    for a in maps:
        a = a + np.eye(T)
        joint = (a / a.sum(-1, keepdims=True) if normalise else a) @ joint
    return joint[0]


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_maps_and_gradients_are_those_of_the_model():
    details = transformer_attribution(score, details=True)(X[0])
    maps, gradients = evaluated(by_hand, (X[0],))
    for i in range(L):
        close(details.attention[i][0], maps[i])
        close(details.gradient[i][0], gradients[i])
    close(details.tokens, details.joint[:, 0])


def test_every_method_from_its_definition():
    maps, gradients = evaluated(by_hand, (X[0],))
    relevance = [r[0] for r in transformer_attribution(score, details=True)(X[0]).relevance]
    expected = {
        "transformer_attribution": product(
            [np.maximum(g * r, 0).mean(0) for g, r in zip(gradients, relevance, strict=True)]
        ),
        "generic": product(
            [np.maximum(g * a, 0).mean(0) for g, a in zip(gradients, maps, strict=True)]
        ),
        "rollout": product([a.mean(0) for a in maps], normalise=True),
        "attention": maps[-1].mean(0)[0],
        "partial_lrp": np.maximum(relevance[-1], 0).mean(0)[0],
    }
    weights = gradients[-1].mean((1, 2), keepdims=True)
    cam = np.maximum((weights * maps[-1]).mean(0), 0)
    expected["gradcam"] = ((cam - cam.min()) / (cam.max() - cam.min()))[0]
    expected["full_lrp"] = relprop.relevance(score, relprop.presets.chefer())(X[0]).sum(-1)
    assert set(expected) == set(methods())
    for method, tokens in expected.items():
        close(transformer_attribution(score, method=method)(X[0]), tokens)


@pytest.mark.parametrize("seed", ["score", "one"])
def test_the_score_adds_up_where_tokens_are_shares_of_it(seed):
    rules = dataclasses.replace(relprop.presets.attn_lrp(), seed=seed)
    explain = transformer_attribution(score, method="full_lrp", rules=rules, details=True)
    found = explain(X[0])
    value = evaluated(score, (X[0],))
    given = float(value) if seed == "score" else 1.0
    close(found.score, value)
    close(found.explained, found.tokens.sum())
    close(found.explained + found.absorbed, given)
    assert found.line().startswith(f"tokens {float(found.explained):+.4g} absorbed ")
    assert f"= {'score' if seed == 'score' else '1, of a score'} " in found.line()
    both = evaluated(jax.vmap(explain), (X,))
    close(both.explained, both.tokens.sum((1, 2)))
    with pytest.raises(relprop.InputError, match="no one score"):
        both.line()
    assert jax.tree.map(lambda x: x[0], both).line() == found.line()


def test_other_methods_have_a_score_and_no_shares_of_it():
    found = transformer_attribution(score, method="rollout", details=True)(X[0])
    close(found.score, evaluated(score, (X[0],)))
    assert found.explained is None and found.absorbed is None
    assert found.line().endswith("no shares")


def test_relevance_of_maps_is_that_of_the_rules():
    rules = relprop.presets.attn_lrp()
    details = transformer_attribution(score, rules=rules, details=True)(X[0])

    def last(weights, x):
        h = norm(x)
        p = layer(PARAMS, L - 1)
        mixed = (weights @ heads(h @ p["v"])).swapaxes(-2, -3).reshape(x.shape)
        x = x + mixed @ p["o"]
        return (x + jax.nn.gelu(norm(x) @ p["up"]) @ p["down"])[0, 1]

    def hidden(x):
        for i in range(L - 1):
            x = block(x, layer(PARAMS, i))
        return x

    x = evaluated(hidden, (X[0],))
    R, _ = relprop.relevance(last, rules, argnums=(0, 1))(details.attention[-1][0], x)
    close(details.relevance[-1][0], R)


@pytest.mark.parametrize("method", methods())
def test_layers_in_a_scan_and_under_checkpoints(method):
    expected = transformer_attribution(score, method=method)(X[0])
    close(transformer_attribution(scanned, method=method)(X[0]), expected)
    close(transformer_attribution(jax.checkpoint(score), method=method)(X[0]), expected)


def test_batches_vmap_and_jit():
    alone = np.stack([transformer_attribution(score)(x) for x in X])
    close(evaluated(jax.vmap(transformer_attribution(score)), (X,)), alone)
    # Rules that look at one sample at a time give the same for a sum over a batch.
    rules = relprop.presets.attn_lrp()
    alone = np.stack([transformer_attribution(score, rules=rules)(x) for x in X])
    close(jax.jit(transformer_attribution(score, rules=rules))(X), alone)


def test_what_is_chosen():
    details = transformer_attribution(score, details=True)(X[0])
    weighted = [
        np.maximum(g * r, 0)[0] for g, r in zip(details.gradient, details.relevance, strict=True)
    ]
    close(
        transformer_attribution(score, start_layer=1)(X[0]),
        product([w.mean(0) for w in weighted[1:]]),
    )
    close(
        transformer_attribution(score, layers=[0, -1])(X[0]),
        product([weighted[0].mean(0), weighted[2].mean(0)]),
    )
    close(transformer_attribution(score, heads=[1])(X[0]), product([w[1] for w in weighted]))
    close(transformer_attribution(score, query=3)(X[0]), details.joint[0, 3])
    close(transformer_attribution(score, query=np.int64(3))(X[0]), details.joint[0, 3])
    close(transformer_attribution(score, query="mean")(X[0]), details.joint[0].mean(0))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"start_layer": 3}, "start_layer is 3, but there are 3 layers"),
        ({"layers": [5]}, "`layers` is"),
        ({"layers": []}, "`layers` is"),
        ({"heads": [2]}, "there are 2 heads"),
        ({"query": 9}, "there are 5 tokens"),
        ({"query": 1.5}, "there are 5 tokens"),
        ({"query": "cls"}, "there are 5 tokens"),
    ],
)
def test_what_is_not_there(choice, message):
    with pytest.raises(relprop.InputError, match=message):
        transformer_attribution(score, **choice)(X[0])


def test_a_function_without_attention():
    with pytest.raises(relprop.InputError, match="no attention"):
        transformer_attribution(lambda x: jax.nn.softmax(x @ PARAMS["q"][0])[0, 0])(X[0])


def test_windows_of_unequal_size():
    def f(x):
        x = block(x, layer(PARAMS, 0))
        return block(x[:3], layer(PARAMS, 1))[0, 0]

    with pytest.raises(relprop.InputError, match="square and of one size") as error:
        transformer_attribution(f)(X[0])
    assert "2x5x5" in str(error.value) and "2x3x3" in str(error.value)


def test_an_unknown_method():
    with pytest.raises(relprop.UnknownNameError, match="rollout"):
        transformer_attribution(score, method="roll_out")
