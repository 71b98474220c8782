"""Tokens are followed through everything: what mixes them between attentions is named, or harmless.

The model is attention, then something, then attention. Nothing is run: what can be told is told
while the function is traced.
"""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import relprop
from relprop.attribution import methods, transformer_attribution

T, D, H = 6, 8, 2
KEYS = jax.random.split(jax.random.key(0), 8)
Q, K, V, OUT, A, B = (jax.random.normal(key, (D, D)) / 3 for key in KEYS[:6])
TOKENS = jax.random.normal(KEYS[6], (T, T))
EXPERTS = jax.random.normal(KEYS[7], (D, 4, D))
X = jax.ShapeDtypeStruct((T, D), jnp.float32)
SWAPPED = jnp.array([1, 0, 3, 2, 5, 4])


def heads(x):
    return x.reshape(T, H, D // H).swapaxes(0, 1)


def attend(x):
    scores = heads(x @ Q) @ heads(x @ K).swapaxes(1, 2)
    return x + (jax.nn.softmax(scores) @ heads(x @ V)).swapaxes(0, 1).reshape(T, D) @ OUT


def recurrent(x):
    def step(h, t):
        h = jnp.tanh(h @ A + t @ B)
        return h, h

    return lax.scan(step, jnp.zeros(D), x)[1]


def unrolled(x):
    h, states = jnp.zeros(D), []
    for t in range(T):
        h = 0.5 * h + x[t]
        states.append(h)
    return jnp.stack(states)


def linear_recurrence(x):
    def together(a, b):
        return a[0] * b[0], a[1] * b[0] + b[1]

    return lax.associative_scan(together, (jnp.full((T, D), 0.8), x))[1]


def convolved(x, width=3):
    kernel = jnp.ones((width, D, D))
    numbers = ("NWC", "WIO", "NWC")
    return lax.conv_general_dilated(x[None], kernel, (1,), "SAME", dimension_numbers=numbers)[0]


def experts(x):
    found = jnp.einsum("td,deh->teh", x, EXPERTS)
    return jnp.einsum("te,ted->td", jax.nn.softmax(x @ Q[:, :4]), jax.nn.relu(found))


MIXERS = {
    "roll": (lambda x: jnp.roll(x, 1, 0), "concatenate"),
    "permutation": (lambda x: x[SWAPPED], "gather"),
    "reversed": (lambda x: x[::-1], "rev"),
    "shift": (lambda x: jnp.pad(x, ((1, 0), (0, 0)))[:-1], "pad"),
    "shift by concatenation": (lambda x: jnp.concatenate([jnp.zeros((1, D)), x[:-1]]), "slice"),
    "halves swapped": (lambda x: jnp.concatenate([x[3:], x[:3]]), "concatenate"),
    "window permutation": (lambda x: x.reshape(2, 3, D).swapaxes(0, 1).reshape(T, D), "reshape"),
    "overwritten": (lambda x: jnp.zeros((T, D)).at[1:].set(x[:-1]), "slice"),
    "cumsum": (lambda x: jnp.cumsum(x, 0), "cumsum"),
    "fft": (lambda x: jnp.fft.fft(x, axis=0).real, "fft"),
    "convolution": (convolved, "conv_general_dilated"),
    "pooling": (lambda x: lax.reduce_window(x, 0.0, lax.add, (3, 1), (1, 1), "SAME"), "window"),
    "scan": (recurrent, "scan"),
    "vmapped scan": (lambda x: jax.vmap(recurrent)(jnp.stack([x, x]))[0], "scan"),
    "python loop": (unrolled, "test_mixing"),
    "associative scan": (linear_recurrence, "test_mixing"),
    "token MLP": (lambda x: TOKENS @ x, "dot_general"),
    "token MLP by einsum": (lambda x: jnp.einsum("ts,sd->td", TOKENS, x), "dot_general"),
    "attention that is not seen": (lambda x: jnp.cos(x @ x.T) @ x / T + recurrent(x), "scan"),
    "linear attention": (lambda x: (x @ Q) @ ((x @ K).T @ (x @ V)), "dot_general"),
    "attention between channels": (
        lambda x: (x @ V) @ jax.nn.softmax((x @ Q).T @ (x @ K)).T,
        "dot_general",
    ),
    "mean": (lambda x: jnp.broadcast_to(x.mean(0), x.shape), "reduce_sum"),
    "centred": (lambda x: x - x.mean(0, keepdims=True), "reduce_sum"),
    "norm over tokens": (lambda x: x / jnp.sqrt((x * x).mean(0, keepdims=True)), "reduce_sum"),
    "softmax over tokens": (lambda x: jax.nn.softmax(x, axis=0), "reduce_sum"),
    "sorted": (lambda x: jnp.sort(x, axis=0), "sort"),
    "one token to all": (lambda x: jnp.broadcast_to(x[:1], x.shape), "test_mixing"),
    "in a checkpoint": (jax.checkpoint(lambda x: jnp.roll(x, 1, 0)), "concatenate"),
    "in a branch": (lambda x: lax.cond(x[0, 0] > 0, lambda x: x, lambda x: x[::-1], x), "rev"),
    "in a loop": (lambda x: lax.fori_loop(0, 2, lambda _, x: jnp.roll(x, 1, 0), x), "concatenate"),
    "in a map": (lambda x: lax.map(lambda t: t * x.sum(0), x), "reduce_sum"),
}
HARMLESS = {
    "nothing": lambda x: x,
    "layers": lambda x: jax.nn.gelu(x @ A) @ B,
    "norm": lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1),
    "gate": lambda x: jax.nn.sigmoid(x @ A) * (x @ B),
    "constants": lambda x: x * TOKENS[:, :1] + TOKENS[:, 1:2],
    "features mixed": lambda x: jnp.roll(x, 1, 1) + jnp.cumsum(x, 1) + jnp.fft.fft(x).real,
    "pointwise convolution": lambda x: convolved(x, 1),
    "experts": experts,
    "roll and back": lambda x: jnp.roll(jnp.tanh(jnp.roll(x, 1, 0)), -1, 0),
    "permutation and back": lambda x: jnp.tanh(x[SWAPPED])[SWAPPED],
    "windows and back": lambda x: (
        jnp.tanh(x.reshape(2, 3, D).swapaxes(0, 1)).swapaxes(0, 1).reshape(T, D)
    ),
    "class token apart": lambda x: jnp.concatenate([x[:1], jnp.tanh(x[1:])]),
    "overwritten as a whole": lambda x: lax.dynamic_update_slice(jnp.zeros((T, D)), x, (0, 0)),
    "a constant token": lambda x: x.at[0].set(1.0),
    "token by token": lambda x: jnp.stack([jnp.tanh(x[t] @ A) for t in range(T)]),
    "mapped": lambda x: lax.map(lambda t: jnp.tanh(t @ A), x),
    "vmapped": jax.vmap(lambda t: jnp.tanh(t @ A)),
    "layers in a scan": lambda x: lax.scan(
        lambda x, w: (x + jnp.tanh(x @ w), None), x, jnp.stack([A, B])
    )[0],
    "stopped": lambda x: x * lax.stop_gradient(x.mean()),
}


def between(f, residual):
    def score(x):
        x = attend(x)
        return attend(x + f(x) if residual else f(x))[0, 1]

    return score


def explained(score, **choices):
    return jax.eval_shape(transformer_attribution(score, **choices), X)


@pytest.mark.parametrize("residual", [False, True], ids=["alone", "added"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_what_mixes_tokens_is_named(mixer, residual):
    f, named = MIXERS[mixer]
    with pytest.raises(relprop.InputError, match="mixed by") as error:
        explained(between(f, residual))
    where = str(error.value).split("mixed by")[1]
    assert named in where and "test_mixing.py" in where
    assert "relprop.relevance" in where and "generic" not in where


# One of them stops a gradient, which is told.
@pytest.mark.filterwarnings("ignore::relprop.SuspicionWarning")
@pytest.mark.parametrize("residual", [False, True], ids=["alone", "added"])
@pytest.mark.parametrize("what", HARMLESS)
def test_what_leaves_tokens_what_they_are(what, residual):
    assert explained(between(HARMLESS[what], residual)).shape == (T,)


@pytest.mark.parametrize("method", methods())
def test_whatever_the_method(method):
    with pytest.raises(relprop.InputError, match="mixed by"):
        explained(between(recurrent, True), method=method)


def test_values_that_were_mixed():
    """Keys may be what they like: what the map is taken with counts."""

    def score(x, mix):
        x = attend(x)
        map_ = jax.nn.softmax((x @ Q) @ (x @ K).T)
        return (x + map_ @ mix(x @ V))[0, 1]

    assert explained(lambda x: score(x, jnp.tanh)).shape == (T,)
    with pytest.raises(relprop.InputError, match="conv_general_dilated"):
        explained(lambda x: score(x, convolved))


@pytest.mark.parametrize(
    "score",
    [
        lambda x: attend(x + recurrent(x))[-1, 1],
        lambda x: recurrent(attend(x))[-1, 1],
        lambda x: (attend(x) + recurrent(x))[-1, 1],
    ],
    ids=["before", "after", "beside"],
)
def test_one_attention_and_a_recurrence(score):
    with pytest.raises(relprop.InputError, match="(?s)outside of attention.*scan"):
        explained(score, query=-1)


@pytest.mark.parametrize(
    "head",
    [
        lambda x: x.mean(0)[1],
        lambda x: x.max(0)[1],
        lambda x: x.reshape(-1) @ jnp.ones(T * D),
        lambda x: x.reshape(3, 2, D).mean(1)[0, 0],
        lambda x: TOKENS[0] @ x @ A[0],
        lambda x: jnp.concatenate([x[0], x[1:].mean(0)])[1],
    ],
)
def test_pooling_in_the_end(head):
    assert explained(lambda x: head(attend(attend(x))), query="mean").shape == (T,)


def test_patches_begin_where_an_image_is_cut():
    kernel = jnp.ones((3, 3, D, D))

    def score(image):
        numbers = ("NHWC", "HWIO", "NHWC")
        kinds = {"dimension_numbers": numbers}
        image = lax.conv_general_dilated(image, kernel, (1, 1), "SAME", **kinds)
        x = lax.conv_general_dilated(image, kernel, (2, 2), "SAME", **kinds).reshape(T, D)
        x = attend(x + x.mean(0, keepdims=True))  # Before anybody looks, it is how tokens are made.
        return attend(x)[0, 1]

    image = jax.ShapeDtypeStruct((1, 4, 6, D), jnp.float32)
    assert jax.eval_shape(transformer_attribution(score), image).shape == (T,)
