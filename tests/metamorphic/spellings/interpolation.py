"""Resizing: sums with weights that nobody learnt, which are no layer."""

import jax
import jax.numpy as jnp

from ..grammar import D, T, normal, piece


def _image(x):
    return x.reshape(1, T, D, 1)


@piece(chains=False, w=normal(T * D * 4, 3))
def nearest(w):
    """Each number twice, in both directions, and a layer of the result."""

    def then(resize):
        return lambda x: resize(_image(x)).reshape(-1) @ w

    return {
        "repeat": then(lambda h: jnp.repeat(jnp.repeat(h, 2, 1), 2, 2)),
        "resize": then(lambda h: jax.image.resize(h, (1, 2 * T, 2 * D, 1), "nearest")),
        "broadcast": then(
            lambda h: jnp.broadcast_to(h[:, :, None, :, None], (1, T, 2, D, 2, 1)).reshape(
                1, 2 * T, 2 * D, 1
            )
        ),
        "gather": then(lambda h: h[:, jnp.arange(2 * T) // 2][:, :, jnp.arange(2 * D) // 2]),
        "one-hot product": then(
            lambda h: jnp.einsum(
                "it,ntdc,jd->nijc",
                jax.nn.one_hot(jnp.arange(2 * T) // 2, T),
                h,
                jax.nn.one_hot(jnp.arange(2 * D) // 2, D),
            )
        ),
        "kron": then(lambda h: jnp.kron(h[0, :, :, 0], jnp.ones((2, 2)))[None, :, :, None]),
    }


@piece(chains=False, w=normal(2 * T * D, 3))
def linear_interpolation(w):
    """Twice as many tokens, with weights of 3/4 and 1/4 between neighbours."""

    def neighbours(x):
        return jnp.concatenate([x[:1], x[:-1]]), jnp.concatenate([x[1:], x[-1:]])

    def by_hand(x):
        before, behind = neighbours(x)
        return jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * behind], 1)

    def by_gather(x):
        place = jnp.clip((jnp.arange(2 * T) + 0.5) / 2 - 0.5, 0, T - 1)
        low = jnp.floor(place).astype(int)
        part = (place - low)[:, None]
        return x[low] * (1 - part) + x[jnp.minimum(low + 1, T - 1)] * part

    def by_matrix(x):
        place = jnp.clip((jnp.arange(2 * T) + 0.5) / 2 - 0.5, 0, T - 1)
        return jnp.maximum(0, 1 - jnp.abs(place[:, None] - jnp.arange(T))) @ x

    def then(resize):
        return lambda x: jax.nn.relu(resize(x).reshape(-1) @ w)

    return {
        "by gather": then(by_gather),
        "resize": then(lambda x: jax.image.resize(x, (2 * T, D), "linear")),
        "resize, transposed": then(lambda x: jax.image.resize(x.T, (D, 2 * T), "linear").T),
        "by a matrix of places": then(by_matrix),
        "sums of slices": then(by_hand),
    }


@piece(chains=False, k=normal(2, 2, 1, 3))
def resized_image(k):
    """What the first convolution reads has been resized by the function itself."""

    def then(resize):
        def f(x):
            return jax.lax.conv_general_dilated(
                resize(_image(x)), k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        return f

    return {
        "repeat": then(lambda h: jnp.repeat(jnp.repeat(h, 2, 1), 2, 2)),
        "resize": then(lambda h: jax.image.resize(h, (1, 2 * T, 2 * D, 1), "nearest")),
        "one-hot product": then(
            lambda h: jnp.einsum(
                "it,ntdc,jd->nijc",
                jax.nn.one_hot(jnp.arange(2 * T) // 2, T),
                h,
                jax.nn.one_hot(jnp.arange(2 * D) // 2, D),
            )
        ),
    }
