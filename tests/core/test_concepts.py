"""Concept relevance, from its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import concepts
from relprop.places import Masked

RULES = relprop.rules.Epsilon(1e-3)
KEYS = jax.random.split(jax.random.key(0), 4)
W1, W2 = jax.random.normal(KEYS[0], (4, 5)), jax.random.normal(KEYS[1], (5, 3))
IMAGES = jax.random.normal(KEYS[2], (6, 2, 4))


def score(x):
    hidden = relprop.named(jax.nn.relu(x @ W1), "hidden")
    return jax.nn.relu(relprop.named(hidden @ W2, "last")).sum()


def by_hand(x, channel=slice(None), last=slice(None)):
    """Epsilon rule in float64 through one channel of each layer; and the relevance of channels."""
    x, w1, w2 = (np.asarray(a, np.float64) for a in (x, W1, W2))
    stab = lambda z: z + 1e-3 * np.where(z < 0, -1, 1)  # noqa: E731
    z1 = x @ w1
    hidden = np.maximum(z1, 0)
    z2 = hidden @ w2
    R = np.zeros_like(z2)
    R[:, last] = np.maximum(z2, 0)[:, last]
    R = hidden * ((R / stab(z2)) @ w2.T)
    kept = np.zeros_like(R)
    kept[:, channel] = R[:, channel]
    return x * ((kept / stab(z1)) @ w1.T), R


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_relevance_through_channels():
    x = IMAGES[0]
    all_of_them = jax.jit(concepts.relevance_of(score, RULES, "hidden", range(5)))(x)
    assert all_of_them.shape == (5, 2, 4)
    for channel, R in enumerate(all_of_them):
        close(R, by_hand(x, channel)[0])
    close(all_of_them.sum(0), by_hand(x)[0])
    close(concepts.relevance_of(score, RULES, "hidden", -1)(x), all_of_them[-1])


def test_conditions_in_several_layers():
    places = [Masked("hidden", concepts.Only(3)), Masked("last", concepts.Only(1))]
    R, _ = relprop.relevance(score, RULES, places=places)(IMAGES[0])
    close(R, by_hand(IMAGES[0], 3, 1)[0])


def test_channels_and_their_reference_samples():
    arriving = np.stack([by_hand(x)[1] for x in IMAGES])
    close(concepts.channels(score, RULES, "hidden")(IMAGES[1]), arriving[1].sum(0))
    second = concepts.channels(lambda _, x: score(x), RULES, "hidden", argnums=1)
    close(second(jnp.arange(3), IMAGES[1]), arriving[1].sum(0))
    for statistic, per_image in {"sum": arriving.sum(1), "max": arriving.max(1)}.items():
        found = jax.jit(
            lambda images, s=statistic: concepts.references(
                score, RULES, "hidden", images, k=2, statistic=s, batch_size=3
            )
        )(IMAGES)
        expected = np.argsort(-per_image, axis=0)[:2].T
        for channel in range(5):
            best = per_image[expected[channel], channel]
            close(found.relevance[channel], best)
            close(per_image[found.samples[channel], channel], best)


def test_channels_of_an_axis_in_the_middle_and_of_steps_of_a_scan():
    def f(x):
        step = lambda x, w: (relprop.named(x * w, "step"), None)  # noqa: E731
        return lax.scan(step, x, jnp.array([2.0, 3.0]))[0].sum()

    x = IMAGES[0]
    R = concepts.relevance_of(f, RULES, "step", 1, axis=0)(x)
    close(R, np.stack([np.zeros(4), 6 * x[1]]))
    # For both steps, one after the other.
    close(concepts.channels(f, RULES, "step", axis=1)(x), 2 * 6 * x.sum(1))


def test_what_is_no_concept():
    with pytest.raises(relprop.InputError, match="an index or a sequence"):
        concepts.relevance_of(score, RULES, "hidden", 0.5)
    with pytest.raises(relprop.InputError, match="must mean one value, but there are 2"):
        concepts.channels(score, RULES, ["hidden", "last"])(IMAGES[0])
    with pytest.raises(relprop.InputError, match="no axis 2 of channels"):
        concepts.relevance_of(score, RULES, "hidden", 0, axis=2)(IMAGES[0])
    with pytest.raises(relprop.InputError, match="5 channels, but none of the index 5"):
        concepts.relevance_of(score, RULES, "hidden", [0, 5])(IMAGES[0])
    with pytest.raises(relprop.InputError, match="5 channels, but none of the index -6"):
        places = Masked("hidden", concepts.Only(-6))
        relprop.relevance(score, RULES, places=places)(IMAGES[0])
    with pytest.raises(relprop.InputError, match="one axis of samples in front"):
        concepts.references(score, RULES, "hidden", (IMAGES, IMAGES[0]), k=1)
    with pytest.raises(relprop.InputError, match="from 1 to that of the samples, 6"):
        concepts.references(score, RULES, "hidden", IMAGES, k=7)
    with pytest.raises(relprop.InputError, match="'sum' or 'max'"):
        concepts.channels(score, RULES, "hidden", statistic="mean")
