"""Convolutions: layouts, paddings, groups and biases."""

import jax
import jax.numpy as jnp
from jax import lax

from ..grammar import D, T, each, normal, piece, positive
from ..wrappers import bodies

NHWC = ("NHWC", "HWIO", "NHWC")
NCHW = ("NCHW", "OIHW", "NCHW")
BODIES = ("jit", "checkpoint", "custom_jvp", "custom_vjp", "cond", "map_over_batch")


def _convolve(x, kernel, padding="VALID", layout=NHWC, strides=(1, 1), groups=1):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=layout, feature_group_count=groups
    )


def _to_nchw(x):
    return x.transpose(0, 3, 1, 2)


def _to_oihw(kernel):
    return kernel.transpose(3, 2, 0, 1)


def _layouts(k, b, image):
    """The same convolution in every layout, with its bias in every place."""

    def nchw(x):
        out = _convolve(_to_nchw(image(x)), _to_oihw(k), "SAME", NCHW)
        return (out + b[None, :, None, None]).transpose(0, 2, 3, 1)

    def hwcn(x):
        out = _convolve(image(x).transpose(1, 2, 3, 0), k, "SAME", ("HWCN", "HWIO", "HWCN"))
        return out.transpose(3, 0, 1, 2) + b

    def explicit(pad):
        def f(x):
            padded = pad(image(x))
            return _convolve(padded, k) + b

        return f

    def inside(wrap):
        product = wrap(lambda x: _convolve(x, k, "SAME"))
        return lambda x: product(image(x)) + b

    return {
        "NHWC": lambda x: _convolve(image(x), k, "SAME") + b,
        "b first": lambda x: b + _convolve(image(x), k, "SAME"),
        "- (-b)": lambda x: _convolve(image(x), k, "SAME") - (-b),
        "-(conv(-k) - b)": lambda x: -(_convolve(image(x), -k, "SAME") - b),
        "b/2 twice": lambda x: _convolve(image(x), k, "SAME") + b / 2 + b / 2,
        "NCHW": nchw,
        "HWCN": hwcn,
        "padding as numbers": lambda x: _convolve(image(x), k, [(1, 1), (1, 1)]) + b,
        "jnp.pad": explicit(lambda z: jnp.pad(z, ((0, 0), (1, 1), (1, 1), (0, 0)))),
        "lax.pad": explicit(
            lambda z: lax.pad(z, 0.0, ((0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)))
        ),
        "zeros, at[].set": explicit(
            lambda z: (
                jnp.zeros((1, z.shape[1] + 2, z.shape[2] + 2, z.shape[3]), z.dtype)
                .at[:, 1:-1, 1:-1]
                .set(z)
            )
        ),
        "zeros, concatenated": explicit(
            lambda z: (
                lambda y: jnp.concatenate(
                    [jnp.zeros_like(y[:, :1]), y, jnp.zeros_like(y[:, :1])], 1
                )
            )(jnp.concatenate([jnp.zeros_like(z[:, :, :1]), z, jnp.zeros_like(z[:, :, :1])], 2))
        ),
        "vmap over images": lambda x: jax.vmap(lambda z: _convolve(z[None], k, "SAME")[0] + b)(
            image(x)
        ),
        "map over images": lambda x: lax.map(
            lambda z: _convolve(z[None], k, "SAME")[0] + b, image(x)
        ),
        "kernel flipped twice": lambda x: (
            _convolve(image(x), jnp.flip(jnp.flip(k, 0), 0), "SAME") + b
        ),
        "image transposed": lambda x: (
            _convolve(image(x).swapaxes(1, 2), k.swapaxes(0, 1), "SAME").swapaxes(1, 2) + b
        ),
        "one group": lambda x: _convolve(image(x), k, "SAME", groups=1) + b,
        "outputs apart": lambda x: (
            jnp.concatenate(
                [_convolve(image(x), k[..., :2], "SAME"), _convolve(image(x), k[..., 2:], "SAME")],
                -1,
            )
            + b
        ),
        **each(inside, bodies("convolution", *BODIES)),
    }


@piece(chains=False, k=normal(3, 3, 3, 4), b=normal(4))
def convolution_of_three_channels(k, b):
    return _layouts(k, b, lambda x: x.reshape(1, 2, 4, 3))


@piece(chains=False, k=normal(3, 3, 2, 4), b=normal(4))
def convolution_of_height_three(k, b):
    """The number 3 is here the height of the image."""
    return _layouts(k, b, lambda x: x.reshape(1, 3, 4, 2))


@piece(chains=False, k=normal(3, 3, 2, 4), l=normal(3, 3, 4, 2), b=normal(4))
def two_convolutions(k, l, b):  # noqa: E741
    def image(x):
        return x.reshape(1, 3, 4, 2)

    def nchw(x):
        h = _convolve(_to_nchw(image(x)), _to_oihw(k), "SAME", NCHW) + b[None, :, None, None]
        return _convolve(jax.nn.relu(h), _to_oihw(l), "SAME", NCHW).transpose(0, 2, 3, 1)

    def padded(x):
        return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    return {
        "NHWC": lambda x: _convolve(jax.nn.relu(_convolve(image(x), k, "SAME") + b), l, "SAME"),
        "NCHW": nchw,
        "padded": lambda x: _convolve(padded(jax.nn.relu(_convolve(padded(image(x)), k) + b)), l),
        "checkpoint": lambda x: _convolve(
            jax.checkpoint(lambda z: jax.nn.relu(_convolve(z, k, "SAME") + b))(image(x)), l, "SAME"
        ),
        "where": lambda x: _convolve(
            (lambda h: jnp.where(h > 0, h, 0.0))(_convolve(image(x), k, "SAME") + b), l, "SAME"
        ),
    }


@piece(chains=False, k=normal(2, 2, 1, 5), b=normal(5))
def patches(k, b):
    """A convolution whose stride is its size, and the dense layer of patches that it equals."""

    def image(x):
        return x.reshape(1, T, D, 1)

    def cut(x):
        return image(x).reshape(T // 2, 2, D // 2, 2).transpose(0, 2, 1, 3).reshape(-1, 4)

    def gathered(x):
        z = image(x)[0, :, :, 0]
        rows = [z[i : i + 2, j : j + 2].reshape(4) for i in range(0, T, 2) for j in range(0, D, 2)]
        return jnp.stack(rows) @ k.reshape(4, 5) + b

    def of_patches(x):
        found = lax.conv_general_dilated_patches(
            image(x), (2, 2), (2, 2), "VALID", dimension_numbers=NHWC
        )
        return (found @ k.reshape(4, 5) + b).reshape(-1, 5)

    return {
        "dense of patches": lambda x: cut(x) @ k.reshape(4, 5) + b,
        "einsum": lambda x: jnp.einsum(
            "hawb,abo->hwo", image(x).reshape(T // 2, 2, D // 2, 2), k[:, :, 0]
        ).reshape(-1, 5) + b,
        "gathered": gathered,
        "patches by convolution": of_patches,
        "convolution": lambda x: (
            _convolve(image(x), k, strides=(2, 2)) + b
        ).reshape(-1, 5),
        "convolution, NCHW": lambda x: (
            _convolve(_to_nchw(image(x)), _to_oihw(k), layout=NCHW, strides=(2, 2))
            + b[None, :, None, None]
        ).transpose(0, 2, 3, 1).reshape(-1, 5),
    }  # fmt: skip


@piece(chains=False, k=normal(2, 2, 1, 4), b=normal(4))
def depthwise(k, b):
    def image(x):
        return x.reshape(1, 3, 4, 2)

    def nchw(x):
        out = _convolve(_to_nchw(image(x)), _to_oihw(k), "VALID", NCHW, groups=2)
        return out.transpose(0, 2, 3, 1) + b

    def channel(x, i):
        return _convolve(image(x)[..., i : i + 1], k[..., 2 * i : 2 * i + 2])

    return {
        "groups": lambda x: _convolve(image(x), k, groups=2) + b,
        "groups, NCHW": nchw,
        "channel by channel": lambda x: jnp.concatenate([channel(x, 0), channel(x, 1)], -1) + b,
        "bias by channel": lambda x: jnp.concatenate(
            [channel(x, 0) + b[:2], channel(x, 1) + b[2:]], -1
        ),
        "checkpoint": lambda x: jax.checkpoint(lambda z: _convolve(z, k, groups=2))(image(x)) + b,
    }


@piece(chains=False, k=normal(3, D), b=normal(D))
def causal_depthwise(k, b):
    """Zeros before the first token, put there before the tokens are moved."""
    layout = ("NWC", "WIO", "NWC")

    def convolve(x, padding="VALID"):
        return lax.conv_general_dilated(
            x, k[:, None], (1,), padding, dimension_numbers=layout, feature_group_count=D
        )[0]

    def channels_first(x):
        rows = jnp.pad(x, ((2, 0), (0, 0))).T[None]
        numbers = ("NCW", "OIW", "NCW")
        return lax.conv_general_dilated(
            rows, k.T[:, None], (1,), "VALID", dimension_numbers=numbers, feature_group_count=D
        )[0].T

    return {
        "own padding": lambda x: convolve(x[None], [(2, 0)]) + b,
        "pad, [None]": lambda x: convolve(jnp.pad(x, ((2, 0), (0, 0)))[None]) + b,
        "joined, [None]": lambda x: convolve(jnp.concatenate([jnp.zeros((2, D)), x])[None]) + b,
        "pad, transposed": lambda x: channels_first(x) + b,
    }


@piece(
    chains=False, k=normal(3, 3, 2, 4), b=normal(4), m=normal(4), v=positive(4), g=positive(4),
    c=normal(4),
)  # fmt: skip
def convolution_and_batch_norm(k, b, m, v, g, c):
    scale = g / jnp.sqrt(v + 1e-5)

    def image(x):
        return x.reshape(1, 3, 4, 2)

    def behind(norm):
        return lambda x: jax.nn.relu(norm(_convolve(image(x), k, "SAME") + b))

    def nchw(x):
        def channels(a):
            return a[None, :, None, None]

        h = _convolve(_to_nchw(image(x)), _to_oihw(k), "SAME", NCHW) + channels(b)
        h = (h - channels(m)) / jnp.sqrt(channels(v) + 1e-5) * channels(g) + channels(c)
        return jax.nn.relu(h).transpose(0, 2, 3, 1)

    return {
        "(h - m)/sqrt(v)*g + c": behind(lambda h: (h - m) / jnp.sqrt(v + 1e-5) * g + c),
        "(h - m)*(rsqrt(v)*g) + c": behind(lambda h: (h - m) * (lax.rsqrt(v + 1e-5) * g) + c),
        "h*s + t": behind(lambda h: h * scale + (c - m * scale)),
        "c - (m - h)*s": behind(lambda h: c - (m - h) * scale),
        "merged by hand": lambda x: jax.nn.relu(
            _convolve(image(x), k * scale, "SAME") + ((b - m) * scale + c)
        ),
        "NCHW": nchw,
        "flattened": behind(lambda h: ((h.reshape(-1, 4) - m) * scale + c).reshape(h.shape)),
        "checkpoint": behind(jax.checkpoint(lambda h: (h - m) * scale + c)),
    }
