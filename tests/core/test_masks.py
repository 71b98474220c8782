"""Masks and seeds: relevance that is changed at places inside a function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import relprop
from relprop.places import AttentionMaps, Input, Masked, Named, Seeded
from relprop.rules import Constant, Epsilon, Stop, Zero

RULES = relprop.presets.attn_lrp()
KEYS = jax.random.split(jax.random.key(0), 8)
W = 0.5 * jax.random.normal(KEYS[0], (3, 4, 4))
X = jax.random.normal(KEYS[1], (2, 4))
MASK = jnp.array([1.0, 0.0, 0.5, 0.0])


def layer(x, w):
    with jax.named_scope("layer"):
        return x + jnp.tanh(x @ w + 0.1)


def unrolled(x):
    for i in range(3):
        with jax.named_scope(str(i)):
            x = layer(x, W[i])
    return x.sum()


def scanned(x, reverse=False):
    weights = W[::-1] if reverse else W
    return lax.scan(lambda x, w: (layer(x, w), None), x, weights, reverse=reverse)[0].sum()


def explained_inside(f, places, rules=RULES):
    """Relevance of the inputs and the places."""
    return jax.jit(relprop.relevance(f, rules, places=places))(X)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------- an oracle


def network(x, weights, masks, seeds, epsilon):
    """Epsilon rule in float64, layer by layer; masks, then seeds, at the output of each layer."""
    values = [np.asarray(x, np.float64)]
    sums = []
    for w in weights:
        sums.append(values[-1] @ w)
        values.append(np.maximum(sums[-1], 0))
    R = values[-1]
    for i in reversed(range(len(weights))):
        R = R * masks[i] + seeds[i]
        z = sums[i]
        R = values[i] * (weights[i] @ (R / (z + epsilon * np.where(z < 0, -1, 1))))
    return R


@jax.jit
def explained(x, weights, masks, seeds):
    def score(x):
        for i, w in enumerate(weights):
            x = relprop.named(jax.nn.relu(x @ w), f"layer {i}")
        return x.sum()

    places = [Masked(f"layer {i}", m) for i, m in enumerate(masks)]
    places += [Seeded(f"layer {i}", s, besides=True) for i, s in enumerate(seeds)]
    R, _ = relprop.relevance(score, Epsilon(0.1), places=places)(x)
    return R


@given(st.integers(0, 2**31))
def test_a_network_equals_its_definition(seed):
    rng = np.random.default_rng(seed)
    x, weights = rng.normal(size=3), [rng.normal(size=(3, 4)), rng.normal(size=(4, 4))]
    masks = [rng.integers(0, 2, 4) * rng.normal(), rng.integers(0, 2, 4)]
    seeds = rng.normal(size=(2, 4)) * rng.integers(0, 2, (2, 1))
    expected = network(x, weights, masks, seeds, 0.1)
    with jax.enable_x64(True):
        found = explained(x, weights, [np.asarray(m, np.float64) for m in masks], list(seeds))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


# ----------------------------------------------------------------------------------- masks


def test_the_channels_of_a_layer_share_out_the_relevance():
    def part(mask):
        return explained_inside(unrolled, Masked("1/layer", mask))[0]

    # The relevance through each channel, all of them at once; together they are the whole.
    parts = jax.jit(jax.vmap(part))(jnp.eye(4))
    assert parts.shape == (4, 2, 4)
    close(parts.sum(0), relprop.relevance(unrolled, RULES)(X))
    close(part(MASK), jnp.tensordot(MASK, parts, 1))


def test_what_is_shown_is_what_goes_on():
    _, inside = explained_inside(unrolled, "1/layer")
    _, masked = explained_inside(unrolled, Masked("1/layer", MASK))
    close(masked["1/layer"].relevance, inside["1/layer"].relevance * MASK[None])
    close(masked["1/layer"].value, inside["1/layer"].value)


@pytest.mark.parametrize("reverse", [False, True])
def test_in_a_scan_a_mask_has_an_axis_for_the_steps(reverse):
    masks = jnp.stack([MASK, jnp.ones(4), jnp.flip(MASK)])
    expected = relprop.relevance(
        unrolled, RULES, places=[Masked(f"{i}/layer", m) for i, m in enumerate(masks)]
    )(X)[0]
    stacked = (masks[::-1] if reverse else masks)[:, None, :]

    def explain(x, stacked):
        f = lambda x: scanned(x, reverse)  # noqa: E731
        return relprop.relevance(f, RULES, places=Masked("layer", stacked))(x)[0]

    close(jax.jit(explain)(X, stacked), expected)


def test_one_mask_for_all_steps_and_a_function_of_one_step():
    expected = explained_inside(unrolled, Masked("*/layer", MASK))[0]
    close(explained_inside(scanned, Masked("layer", MASK))[0], expected)

    def positive(relevance, value):
        assert relevance.shape == value.shape == (2, 4)
        return relevance > 0

    each = explained_inside(unrolled, Masked("*/layer", positive))[0]
    close(explained_inside(scanned, Masked("layer", positive))[0], each)


def test_in_checkpoints_branches_and_nested_loops():
    def f(x, deep):
        def step(x, w):
            x = lax.scan(lambda x, _: (relprop.named(x @ w, "inner"), None), x, length=2)[0]
            return x, None

        x = lax.scan(step, x, W)[0] if deep else x @ W[0]
        x = jax.checkpoint(lambda x: relprop.named(x @ W[1], "again") * 2.0)(x)
        return lax.cond(x.sum() > 0, lambda x: x, lambda x: relprop.named(-x, "flipped"), x).sum()

    masks = jax.random.uniform(KEYS[2], (3, 2, 2, 4))
    explain = relprop.relevance(
        lambda x: f(x, True),
        Zero(),
        places=[Masked("inner", masks), Masked("again", MASK), Masked("flipped", 3.0)],
    )
    weights = jnp.repeat(W, 2, axis=0)
    x = X
    for w in weights:
        x = x @ w
    # All of it is linear, so that relevance is x times a gradient, masked on its way.
    factor = 2.0 if (x @ W[1]).sum() > 0 else -6.0
    m = factor * jnp.broadcast_to(MASK, (2, 4)) @ W[1].T
    for mask, w in zip(masks.reshape(6, 2, 4)[::-1], weights[::-1], strict=True):
        m = (m * mask) @ w.T
    close(explain(X)[0], X * m)


def test_heads_of_attention():
    def f(x):
        q, k, v = (x @ w for w in W)
        heads = [h.reshape(2, 2, 2).transpose(1, 0, 2) for h in (q, k, v)]
        weights = jax.nn.softmax(heads[0] @ heads[1].swapaxes(1, 2), axis=-1)
        return (weights @ heads[2]).sum()

    @jax.jit
    @jax.vmap
    def through(heads):
        mask = heads[:, None, None]
        R, inside = explained_inside(f, Masked(AttentionMaps(), mask))
        return R, inside["attention 000"].relevance

    R, maps = through(jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    both, first, second, none = R
    close(maps[1, 0], maps[0, 0])
    close(maps[1, 1], jnp.zeros((2, 2)))
    # What goes through the map of one head and that of the other are all that goes through maps.
    close(both, relprop.relevance(f, RULES)(X))
    close(first - none + second - none, both - none)
    assert jnp.abs(both - none).max() > 1e-3


# ----------------------------------------------------------------------------------- seeds


def test_a_seed_in_place_of_the_score():
    _, inside = explained_inside(unrolled, "1/layer")
    R = inside["1/layer"].relevance
    # What a layer was given leads to the same inputs, whether it comes from the score or not.
    again = explained_inside(unrolled, Seeded("1/layer", R))[0]
    close(again, relprop.relevance(unrolled, RULES)(X))
    # The value itself: the explanation of a hidden neuron.
    neuron = Seeded("0/layer", lambda R, value: value.at[:, 1:].set(0.0))
    first = relprop.relevance(lambda x: layer(x, W[0])[:, 0].sum(), RULES)(X)
    close(explained_inside(unrolled, neuron)[0], first)


def test_seeds_in_the_steps_of_a_scan_and_in_vrp():
    seeds = jax.random.normal(KEYS[3], (3, 2, 4))
    places = [Seeded(f"{i}/layer", s, besides=True) for i, s in enumerate(seeds)]
    expected = explained_inside(unrolled, places)[0]
    stacked = Seeded("layer", seeds)
    y, back = relprop.vrp(scanned, X, rules=RULES, places=stacked)
    close(back(y)[0][0], expected)
    alone = explained_inside(scanned, stacked)[0]
    close(back(jnp.zeros(()))[0][0], alone)
    close(alone + relprop.relevance(scanned, RULES)(X), expected)


def test_a_seed_where_nothing_arrives():
    def f(x):
        h = relprop.named(x @ W[0], "hidden")
        return (h @ W[1]).sum()

    rules = relprop.Composite().at(structure="dense", position=-1).use(Stop())
    seeded = Seeded("hidden", lambda R, value: value, besides=True)
    close(relprop.relevance(f, rules, places=seeded)(X)[0], X * W[0].sum(1)[None])


def test_a_mask_and_a_seed_are_taken_in_the_order_they_are_named():
    h = jnp.ones((2, 4))
    both = Masked(Seeded("0/layer", h, besides=True), 0.0)
    close(explained_inside(unrolled, both)[0], jnp.zeros((2, 4)))
    _, inside = relprop.relevance(
        unrolled, RULES, places=[Masked("0/layer", 0.0), Seeded("0/layer", h)]
    )(X)
    close(inside["0/layer"].relevance, h)


# ---------------------------------------------------------------------- the ledger, the plan


@pytest.mark.parametrize("f", [unrolled, scanned])
def test_the_ledger_tells_what_was_stopped_and_what_came_in(f):
    name = "1/layer" if f is unrolled else "layer"
    shape = (2, 4) if f is unrolled else (3, 2, 4)
    _, inside = explained_inside(f, [Masked(name, MASK)])
    kept = inside[name].relevance.sum()
    seed = jax.random.normal(KEYS[4], shape)
    places = [Masked(name, MASK), Seeded(name, seed, besides=True)]
    book = relprop.ledger(f, RULES, places=places)(X)
    assert abs(book.gap) < 1e-4
    assert all(abs(row.gap) < 1e-4 for row in book)
    close(book.entered, seed.sum())
    R, inside = explained_inside(f, places)
    close(book.relevance, R)
    if f is unrolled:
        close(inside[name].relevance.sum(), kept + seed.sum())
        _, plain = explained_inside(f, name)
        close(book.stopped, plain[name].relevance.sum() - kept)
    assert f"inside {book.entered:.6g}" in str(book)
    alone = relprop.ledger(f, RULES, places=Seeded(name, seed))(X)
    assert alone.seed == 0 and abs(alone.gap) < 1e-4


def test_half_precision_and_gradients():
    x = X.astype(jnp.bfloat16)

    def f(x):
        return relprop.named(x @ W[0].astype(x.dtype), "h").sum()

    R, inside = relprop.relevance(f, RULES, places=Masked("h", MASK.astype(jnp.bfloat16)))(x)
    assert R.dtype == inside["h"].relevance.dtype == jnp.float32

    def of_mask(mask):
        return explained_inside(unrolled, Masked("1/layer", mask))[0].sum()

    # Relevance is linear in the mask, so its gradient is the relevance of the channels.
    gradient = jax.grad(of_mask)(MASK)
    close(gradient @ MASK, of_mask(MASK))


def test_plans_do_not_change():
    plain = relprop.inspect(unrolled, RULES)(X)
    masked = relprop.inspect(unrolled, RULES, places=Masked("1/layer", MASK))(X)
    assert str(plain) == str(masked)


# ---------------------------------------------------------------------------------- errors


def test_what_does_not_fit_is_told_at_once():
    places = [Masked("layer", jnp.ones((2, 4, 4))), Seeded(Named("w*"), jnp.ones(3))]

    def f(x):
        return scanned(relprop.named(x @ W[0], "wide"))

    with pytest.raises(relprop.InputError) as error:
        explained_inside(f, places)
    assert "2 change(s)" in str(error.value)
    assert "layer: mask (2, 4, 4), relevance (3, 2, 4)" in str(error.value)
    assert "wide: seed (3,), relevance (2, 4)" in str(error.value)


@pytest.mark.parametrize(
    "place, message",
    [
        (Masked("nowhere", MASK), "not on the way"),
        (Masked("0/layer", lambda R, x: jnp.ones(3)), "computed for '0/layer' has shape"),
        (Masked("0/layer", "all of it"), "A mask must be numbers or a function"),
        (Seeded("0/layer", None), "A seed must be numbers or a function"),
    ],
)
def test_masks_that_are_none(place, message):
    with pytest.raises((relprop.InputError, relprop.NothingMatchedError), match=message):
        explained_inside(unrolled, place)


def test_relevance_of_a_constant_leads_nowhere():
    def f(x):
        weights = jax.nn.softmax(x @ W[0] @ x.T, axis=-1)
        return (weights @ (x @ W[1])).sum()

    rules = relprop.Composite().at(structure="softmax").use(Constant())
    with pytest.raises(relprop.InputError, match="the rules take the value as a constant"):
        relprop.relevance(f, rules, places=Seeded(AttentionMaps(), 1.0))(X)


def test_neurons_by_the_layer_that_reads_them():
    params = {"up": W[0], "down": W[1]}
    f = lambda x, p: (jax.nn.relu(x @ p["up"]) @ p["down"]).sum()  # noqa: E731
    R, _ = relprop.relevance(f, RULES, places=Masked(Input(path="*down"), MASK))(X, params)
    neurons = {"up": W[0], "down": MASK[:, None] * W[1]}
    close(R, relprop.relevance(f, RULES)(X, neurons))
