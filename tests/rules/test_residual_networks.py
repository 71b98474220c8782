"""Residual networks with batch norms, against a naive computation with merged matrices.

What zennit does with its canonizer for residual networks: each batch norm is merged into the
convolution before it, and the residual sum is an operation with a rule of its own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import presets
from tests import oracles
from tests.oracles import Layer

pytestmark = pytest.mark.usefixtures("x64")
EPS = 1e-6
SIZE = 4


def parameters(blocks):
    """A kernel and a batch norm for each convolution by its name, and a dense layer."""
    rng = np.random.default_rng(0)
    found = {}
    for name, (features, channels, size, _) in blocks.items():
        kernel = rng.normal(size=(features, channels, size, size)) / size
        norm = (
            rng.normal(size=features),
            rng.uniform(0.5, 2, features),
            *rng.normal(size=(2, features)),
        )
        found[name] = (kernel, *norm)
    return found


BASIC = {  # name: features, channels, size of the kernel, stride
    "stem": (3, 2, 3, 1),
    "a1": (3, 3, 3, 1),
    "a2": (3, 3, 3, 1),
    "b1": (4, 3, 3, 2),
    "b2": (4, 4, 3, 1),
    "b_down": (4, 3, 1, 2),
}
BOTTLENECK = {
    "stem": (3, 2, 3, 1),
    "a1": (2, 3, 1, 1),
    "a2": (2, 2, 3, 1),
    "a3": (4, 2, 1, 1),
    "a_down": (4, 3, 1, 1),
    "b1": (2, 4, 1, 1),
    "b2": (2, 2, 3, 1),
    "b3": (4, 2, 1, 1),
}
HEAD = np.random.default_rng(5).normal(size=(4, 3))
HEAD_BIAS = np.random.default_rng(6).normal(size=3)


def network(x, params, strides, block_names):
    """As in torchvision: convolution, batch norm, ReLU; the ReLU of a block after its sum."""

    def conv_norm(x, name):
        kernel, mean, variance, weight, bias = params[name]
        pad = kernel.shape[-1] // 2
        x = lax.conv_general_dilated(x, kernel, (strides[name],) * 2, [(pad, pad)] * 2)
        channel = (None, slice(None), None, None)
        x = (x - mean[channel]) / jnp.sqrt(variance[channel] + 1e-5)
        return x * weight[channel] + bias[channel]

    x = jax.nn.relu(conv_norm(x, "stem"))
    for names, down in block_names:
        h = x
        for name in names[:-1]:
            h = jax.nn.relu(conv_norm(h, name))
        h = conv_norm(h, names[-1])
        x = jax.nn.relu(h + (conv_norm(x, down) if down else x))
    return x.mean((2, 3)) @ HEAD + HEAD_BIAS[None]


# The same without JAX: matrices of merged convolutions, found entry by entry.


def matrix(kernel, shape, stride):
    """A convolution as a matrix, with which of its entries there are, and the result's shape."""
    features, channels, size, _ = kernel.shape
    pad, (_, height, width) = size // 2, shape
    out = (features, -(-height // stride), -(-width // stride))
    weight = np.zeros((*shape, *out))
    connected = np.zeros((*shape, *out), bool)
    for f, i, j in np.ndindex(*out):
        for c, u, v in np.ndindex(channels, size, size):
            row, column = i * stride + u - pad, j * stride + v - pad
            if 0 <= row < height and 0 <= column < width:
                weight[c, row, column, f, i, j] = kernel[f, c, u, v]
                connected[c, row, column, f, i, j] = True
    flat = (int(np.prod(shape)), int(np.prod(out)))
    return weight.reshape(flat), connected.reshape(flat), out


def merged(params, name, shape, stride):
    kernel, mean, variance, weight, bias = params[name]
    factor = weight / np.sqrt(variance + 1e-5)
    w, connected, out = matrix(kernel * factor[:, None, None, None], shape, stride)
    own = np.repeat(bias - mean * factor, out[1] * out[2])
    return Layer(w, own, connected), out


def sum_of(count):
    eye = np.eye(count)
    return Layer(np.concatenate([eye, eye]), None, np.concatenate([eye, eye]) > 0)


def explained(x, params, strides, block_names, first, rule, target):
    """Relevance of one sample, layer by layer, and the output."""
    shape = x.shape
    flat = x.reshape(-1)

    def forward(flat, shape, names):
        passed = []
        for n, name in enumerate(names):
            layer, shape = merged(params, name, shape, strides[name])
            passed.append((flat, layer))
            flat = flat @ layer.weight + layer.bias
            flat = np.maximum(flat, 0) if n < len(names) - 1 else flat
        return flat, shape, passed

    out, shape, stem = forward(flat, shape, ["stem"])
    stream, kept = np.maximum(out, 0), []
    for names, down in block_names:
        branch, after, passed = forward(stream, shape, names)
        skip, _, skipped = forward(stream, shape, [down] if down else [])
        kept.append((branch, skip, passed, skipped))
        stream, shape = np.maximum(branch + skip, 0), after
    area = shape[1] * shape[2]
    pool = np.kron(np.eye(shape[0]), np.full((area, 1), 1 / area))
    pooled = stream @ pool
    y = pooled @ HEAD + HEAD_BIAS

    relevance = np.eye(len(y))[target]
    relevance = oracles.epsilon(
        pooled, Layer(HEAD, HEAD_BIAS, HEAD != 0), relevance, eps=EPS
    ).inputs
    # Contributions to a mean are the entries; their number is a matter of the stabiliser alone.
    relevance = oracles.norm(stream, Layer(pool, None, pool > 0), relevance, eps=EPS).inputs
    for branch, skip, passed, skipped in reversed(kept):
        both = np.concatenate([branch, skip])
        relevance = oracles.norm(both, sum_of(len(branch)), relevance, eps=EPS).inputs
        to_branch, to_skip = np.split(relevance, 2)
        for x, layer in reversed(passed):
            to_branch = rule(x, layer, to_branch)
        for x, layer in skipped:
            to_skip = rule(x, layer, to_skip)
        relevance = to_branch + to_skip
    ((x, layer),) = stem
    return first(x, layer, relevance), y


def z_plus(x, layer, relevance):
    return oracles.z_plus(x, layer, relevance, eps=EPS).inputs


def gamma(x, layer, relevance):
    return oracles.gamma(x, layer, relevance, gamma=0.25, eps=EPS).inputs


def z_box(x, layer, relevance):
    return oracles.z_box(x, layer, relevance, low=-3.0, high=3.0, eps=EPS).inputs


def flat(x, layer, relevance):
    return oracles.flat(x, layer, relevance, eps=EPS).inputs


PRESETS = {
    "epsilon_plus": (presets.epsilon_plus(EPS), z_plus, z_plus),
    "epsilon_plus_flat": (presets.epsilon_plus_flat(EPS), flat, z_plus),
    "epsilon_gamma_box": (presets.epsilon_gamma_box(-3.0, 3.0, EPS), z_box, gamma),
}
NETWORKS = {
    "basic": (BASIC, [(("a1", "a2"), None), (("b1", "b2"), "b_down")]),
    "bottleneck": (BOTTLENECK, [(("a1", "a2", "a3"), "a_down"), (("b1", "b2", "b3"), None)]),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_residual_network(kind):
    sizes, block_names = NETWORKS[kind]
    params = parameters(sizes)
    strides = {name: size[3] for name, size in sizes.items()}
    x = np.random.default_rng(1).normal(size=(2, 2, SIZE, SIZE))

    @jax.jit
    def explain(x, params):
        def f(x):
            return network(x, params, strides, block_names)

        found = {}
        for name, (rules, _, _) in PRESETS.items():
            y, back = relprop.vrp(f, x, rules=rules)
            found[name] = y, back(jax.nn.one_hot(jnp.array([0, 2]), 3))[0]
        return found

    for name, (y, relevance) in explain(jnp.asarray(x), jax.tree.map(jnp.asarray, params)).items():
        _, first, rule = PRESETS[name]
        for n, target in enumerate((0, 2)):
            expected, out = explained(x[n], params, strides, block_names, first, rule, target)
            np.testing.assert_allclose(y[n], out, rtol=1e-10)
            scale = np.abs(expected).max()
            np.testing.assert_allclose(
                np.asarray(relevance[n]).reshape(-1), expected, atol=1e-9 * scale, err_msg=name
            )


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_batch_norm_is_merged(kind):
    sizes, block_names = NETWORKS[kind]
    params = parameters(sizes)
    strides = {name: size[3] for name, size in sizes.items()}
    plan = relprop.inspect(
        lambda x: network(x, params, strides, block_names), presets.epsilon_plus()
    )(jnp.ones((1, 2, SIZE, SIZE)))
    convolutions = [op for op in plan if op.structure == "convolution"]
    assert [op.note for op in convolutions] == ["batch_norm merged"] * len(sizes)
    assert [op.structure for op in plan].count("sum") == len(block_names)
    assert not {"scale", "offset"} & {op.structure for op in plan}
