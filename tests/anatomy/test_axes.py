"""Axes are followed through operations, and no further than they can be."""

import jax.numpy as jnp
import pytest

import relprop

T, U, D = 6, 4, 8


def applications(f, *shapes):
    argnums = tuple(range(len(shapes)))
    args = [jnp.ones(shape) for shape in shapes]
    flow = relprop.inspect(f, relprop.presets.gradient(), argnums)(*args).flow
    names = [stream.name for stream in flow.streams]
    return [
        (names[application.queries], names[application.keys])
        for application in flow.applications.values()
    ], flow


def softmax(scores):
    e = jnp.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def mix(x, y):
    return softmax(x @ y.swapaxes(-1, -2)) @ y


W = jnp.ones((D, D))


@pytest.mark.parametrize(
    "moved",
    [
        lambda x: x.T.T,
        lambda x: x.reshape(2, T // 2, D).reshape(T, D),
        lambda x: x.reshape(T, 2, D // 2).swapaxes(0, 1).swapaxes(0, 1).reshape(T, D),
        lambda x: x[None][0],
        lambda x: (x - x.mean(-1, keepdims=True)) @ W,
        lambda x: jnp.concatenate([x[:, :3], x[:, 3:]], axis=1),
    ],
)
def test_the_same_tokens(moved):
    found, _ = applications(lambda x: mix(moved(x) @ W, x @ W)[0, 0], (T, D))
    assert found == [("x", "x")]


@pytest.mark.parametrize(
    "moved",
    [
        lambda x: x[::-1],
        lambda x: jnp.sort(x, axis=0),
        lambda x: x.reshape(2, T // 2, D).swapaxes(0, 1).reshape(T, D),
        lambda x: jnp.concatenate([x[1:], x[:1]]),
        lambda x: jnp.ones((T, T)) @ x,
    ],
)
def test_other_tokens(moved):
    found, flow = applications(lambda x: mix(moved(x) @ W, x @ W)[0, 0], (T, D))
    assert len({name for pair in found for name in pair}) == 2
    assert [stream.size for stream in flow.streams] == [T, T]


def test_queries_are_those_whose_axis_comes_first():
    """Whatever the order of the product that compares queries and keys, of equal lengths too."""

    def f(x, y):
        return (softmax(jnp.einsum("kd,qd->kq", y @ W, x @ W).T) @ (y @ W))[0, 0]

    for length in (U, T):
        found, flow = applications(f, (T, D), (length, D))
        assert found == [("x", "y")]
        assert flow.read == (0,)


def test_heads_samples_and_windows():
    def f(x):
        def heads(a):
            return a.reshape(*a.shape[:-1], 2, D // 2).swapaxes(-2, -3)

        h = x @ W
        whole = mix(heads(h), heads(h)).swapaxes(-2, -3).reshape(x.shape)
        parts = (x + whole).reshape(3, 2, T // 2, D)
        return whole[0, 0, 0] + mix(parts @ W, parts @ W)[0, 0, 0, 0]

    _, flow = applications(f, (3, T, D))
    first, second = flow.applications.values()
    assert first.leading == (("batch", 3), ("head", 2)) and not first.windows
    assert second.leading == (("batch", 3), ("window", 2)) and second.windows
