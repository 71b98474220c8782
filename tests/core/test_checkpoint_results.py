"""What a checkpoint returns is there, also where it is read as what is only computed again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop

X = jnp.asarray(np.random.default_rng(0).standard_normal((3, 6)), jnp.float32)
W = jnp.asarray(np.random.default_rng(1).standard_normal((6, 6)), jnp.float32)
# Each changes nothing, and is not there in the reading.
IDLE = {
    "a choice": lambda y: jnp.where(True, y, 0 * y),
    "nothing added": lambda y: y + 0.0,
    "two signs": lambda y: jnp.negative(-y),
    "turned twice": lambda y: y[::-1][::-1],
    "transposed twice": lambda y: y.T.T,
    "a part of what is joined": lambda y: jnp.concatenate([y, y])[:3],
    "a part of what is padded": lambda y: jnp.pad(y, ((0, 2), (0, 0)))[:3],
    "entries in order": lambda y: y[jnp.arange(3)],
}


@pytest.mark.parametrize("idle", IDLE.values(), ids=IDLE)
def test_results_that_are_read_as_others(idle):
    def body(x):
        return idle(jax.nn.softmax(jnp.tanh(x @ W) @ W))

    def returned(x):
        result = jax.checkpoint(body)(x)
        return (result @ W).sum(), result

    explain = relprop.relevance(returned, relprop.presets.attn_lrp(), has_aux=True)
    found, result = explain(X)
    plain = relprop.relevance(lambda x: (body(x) @ W).sum(), relprop.presets.attn_lrp())(X)
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-6)
    np.testing.assert_allclose(result, body(X), rtol=0, atol=1e-6)
