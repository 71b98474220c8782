"""The generic method for several streams of tokens, against the paper's equations in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop.attribution import transformer_attribution

D, H = 8, 2
NAMES = ("q", "k", "v", "o", "up", "down")


def parameters(count, seed):
    keys = jax.random.split(jax.random.key(seed), len(NAMES))
    pairs = zip(NAMES, keys, strict=True)
    return {name: jax.random.normal(key, (count, D, D)) / 3 for name, key in pairs}


def layer(params, i):
    return {name: w[i] for name, w in params.items()}


def tokens(seed, *shape):
    return jax.random.normal(jax.random.key(seed), (*shape, D))


def norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def heads(x):
    return x.reshape(*x.shape[:-1], H, D // H).swapaxes(-2, -3)


def attend(x, y, p, keep=lambda weights: weights, causal=False):
    """Tokens x look at tokens y."""
    scores = heads(norm(x) @ p["q"]) @ heads(norm(y) @ p["k"]).swapaxes(-1, -2)
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -1e9)
    mixed = keep(jax.nn.softmax(scores, -1)) @ heads(norm(y) @ p["v"])
    return x + mixed.swapaxes(-2, -3).reshape(x.shape) @ p["o"]


def mlp(x, p):
    return x + jax.nn.gelu(norm(x) @ p["up"]) @ p["down"]


class Recorder:
    """Changes and records every map, with the names of the streams that look and are looked at."""

    def __init__(self, changes=None):
        self.changes, self.maps, self.streams = changes, [], []

    def __call__(self, queries, keys):
        def keep(weights):
            number = len(self.maps)
            self.maps.append(weights)
            self.streams.append((queries, keys))
            return weights if self.changes is None else weights + self.changes[number]

        return keep


def maps_of(model, *args):
    """Maps, gradients and streams, by changes of the maps as arguments: no relprop in it."""
    recorder = Recorder()
    jax.eval_shape(lambda *args: model(*args, keep=recorder), *args)

    @jax.jit
    def gradients(changes, *args):
        def f(changes):
            again = Recorder(changes)
            return model(*args, keep=again), again.maps

        return jax.grad(f, has_aux=True)(changes)

    found, maps = gradients([jnp.zeros(a.shape) for a in recorder.maps], *args)
    as_double = [[np.asarray(a, np.float64) for a in arrays] for arrays in (maps, found)]
    return (*as_double, recorder.streams)


class Paper:
    """The relevancy maps of two modalities, as section 3 of the paper updates them."""

    def __init__(self, sizes):
        names = list(sizes)
        self.R = {(s, q): np.zeros((sizes[s], sizes[q])) for s in names for q in names}
        for s in names:
            self.R[s, s] = np.eye(sizes[s])  # eq. 1

    @staticmethod
    def average(attention, gradient):  # eq. 5
        product = attention * gradient
        return np.where(product > 0, product, 0).reshape(-1, *product.shape[-2:]).mean(0)

    @staticmethod
    def normalised(R):  # eq. 8 and 9
        hat = R - np.eye(len(R))
        total = hat.sum(-1, keepdims=True)
        return np.divide(hat, total, out=np.zeros_like(hat), where=total != 0) + np.eye(len(R))

    def added(self, A, s, q):
        R, other = self.R, next(n for n, _ in self.R if n != s)
        if s == q:  # eq. 6 and 7
            return {(s, s): A @ R[s, s], (s, other): A @ R[s, other]}
        inner = A @ self.normalised(R[q, q])
        return {(s, q): self.normalised(R[s, s]).T @ inner, (s, s): A @ R[q, s]}  # 10 and 11

    def update(self, *attention):
        """One or more applications of attention that all see what was there before."""
        for key, change in [pair for a in attention for pair in self.added(*a).items()]:
            self.R[key] = self.R[key] + change


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


ENCODER, DECODER, CROSS = parameters(2, 1), parameters(2, 2), parameters(2, 3)
SOURCE, TARGET = tokens(4, 6), tokens(5, 4)


def no_change(queries, keys):
    del queries, keys
    return lambda weights: weights


def encoder_decoder(source, target, keep=no_change):
    for i in range(2):
        source = mlp(attend(source, source, layer(ENCODER, i), keep("s", "s")), layer(ENCODER, i))
    for i in range(2):
        target = attend(target, target, layer(DECODER, i), keep("t", "t"), causal=True)
        target = attend(target, source, layer(CROSS, i), keep("t", "s"))
        target = mlp(target, layer(DECODER, i))
    return norm(target)[-1, 2]


def explained(f):
    explain = transformer_attribution(f, (0, 1), method="generic", query=-1, details=True)
    return jax.jit(explain)(SOURCE, TARGET)


@pytest.fixture(scope="module")
def found():
    return explained(encoder_decoder)


def test_encoder_and_decoder(found):
    maps, gradients, streams = maps_of(encoder_decoder, SOURCE, TARGET)
    paper = Paper({"s": 6, "t": 4})
    for attention, gradient, (s, q) in zip(maps, gradients, streams, strict=True):
        paper.update((paper.average(attention, gradient), s, q))

    assert set(found.tokens) == {"source", "target"}
    close(found.joint["source"][0], paper.R["t", "s"])
    close(found.joint["target"][0], paper.R["t", "t"])
    close(found.tokens["source"][0], paper.R["t", "s"][-1])
    for ours, attention in zip(found.attention, maps, strict=True):
        close(ours[0], attention)
    for ours, gradient in zip(found.gradient, gradients, strict=True):
        close(ours[0], gradient)


def test_layers_in_loops_and_checkpoints(found):
    def scanned(source, target):
        def encode(x, p):
            return mlp(attend(x, x, p), p), None

        @jax.checkpoint
        def decode(x, p):
            own, cross = p
            x = attend(attend(x, x, own, causal=True), source, cross)
            return mlp(x, own), None

        source, _ = lax.scan(encode, source, ENCODER)
        target, _ = lax.scan(decode, target, (DECODER, CROSS))
        return norm(target)[-1, 2]

    again = explained(scanned)
    close(again.tokens["source"], found.tokens["source"])
    close(again.tokens["target"], found.tokens["target"])
    # Both maps of each round, one after the other.
    shapes = [a.shape[-2:] for a in again.attention]
    assert shapes == [(6, 6), (6, 6), (4, 4), (4, 6), (4, 4), (4, 6)]


TEXT, IMAGE, BOTH = parameters(3, 6), parameters(2, 7), parameters(2, 8)


def co_attention(text, image, keep=no_change):
    """As LXMERT: text and image alone, then both look at each other at once; text is read."""
    text = mlp(attend(text, text, layer(TEXT, 0), keep("t", "t")), layer(TEXT, 0))
    for i in range(2):
        p = layer(BOTH, i)
        text, image = (
            attend(text, image, p, keep("t", "i")),
            attend(image, text, p, keep("i", "t")),
        )
        text = attend(text, text, layer(TEXT, 1 + i), keep("t", "t"))
        image = attend(image, image, layer(IMAGE, i), keep("i", "i"))
        text, image = mlp(text, layer(TEXT, 1 + i)), mlp(image, layer(IMAGE, i))
    return jnp.tanh(norm(text)[0])[3]


def test_co_attention():
    text, image = tokens(9, 1, 5), tokens(10, 1, 7)

    def model(text, image, keep=no_change):
        return co_attention(text[0], image[0], keep)

    maps, gradients, streams = maps_of(model, text, image)
    steps = [
        (Paper.average(a, g), s, q) for a, g, (s, q) in zip(maps, gradients, streams, strict=True)
    ]
    paper = Paper({"t": 5, "i": 7})
    paper.update(steps[0])
    for first in (1, 5):
        paper.update(*steps[first : first + 2])  # both at once
        paper.update(steps[first + 2])
        paper.update(steps[first + 3])
    explain = transformer_attribution(model, (0, 1), method="generic", details=True)
    found = jax.jit(explain)(text, image)
    close(found.joint["text"][0], paper.R["t", "t"])
    close(found.joint["image"][0], paper.R["t", "i"])
    # The last layers of the image, which the score does not depend on, are none.
    assert len(found.attention) == len(maps) - 2


def test_full_lrp_is_the_relevance_of_the_tokens():
    """Of an argument that is tokens, and of patches that a convolution makes tokens of."""
    rules, kernel = relprop.presets.attn_lrp(), jax.random.normal(jax.random.key(1), (D, 3, 2, 2))
    memory, image = tokens(4, 1, 6), jax.random.normal(jax.random.key(2), (1, 3, 4, 6))

    def embedded(image):
        found = lax.conv_general_dilated(image, kernel, (2, 2), "VALID")
        found = found.reshape(1, D, 6).swapaxes(-1, -2)
        return jnp.concatenate([jnp.ones((1, 1, D)), found], axis=-2)

    def of_tokens(memory, x):
        x = mlp(attend(x, x, layer(TEXT, 0)), layer(TEXT, 0))
        return attend(x, memory, layer(TEXT, 1))[..., 0, 1].sum()

    def score(memory, image):
        return of_tokens(memory, embedded(image))

    explain = transformer_attribution(score, (0, 1), method="full_lrp", rules=rules)
    found = jax.jit(explain)(memory, image)
    direct = jax.jit(relprop.relevance(of_tokens, rules, (0, 1)))
    R = direct(memory, embedded(image))
    close(found["memory"], R[0].sum(-1).reshape(6))
    close(found["image"], R[1].sum(-1).reshape(7))


def test_one_query_of_constants():
    """Attention pooling: what is learned takes no relevance, and is no stream to be told of."""
    probe = tokens(3, 1)

    def score(x):
        x = mlp(attend(x, x, layer(TEXT, 0)), layer(TEXT, 0))
        return attend(probe, x, layer(TEXT, 1))[0, 1]

    explain = transformer_attribution(score, method="generic", details=True)
    found = jax.jit(explain)(SOURCE)
    within, pooled = (
        np.maximum(g * a, 0).mean((0, 1))
        for g, a in zip(found.gradient, found.attention, strict=True)
    )
    close(found.tokens[0], (pooled @ Paper.normalised(np.eye(6) + within))[0])


def test_three_streams():
    """What the text has seen of the sound reaches the answer in the way of the last rule."""

    def score(answer, text, sound):
        text = attend(text, sound, layer(TEXT, 0))
        return attend(answer, text, layer(TEXT, 1))[0, 1]

    args = tokens(1, 3), tokens(2, 4), tokens(3, 5)
    explain = transformer_attribution(score, (0, 1, 2), method="generic", details=True)
    found = jax.jit(explain)(*args)
    first, second = (
        np.maximum(g * a, 0).mean((0, 1))
        for g, a in zip(found.gradient, found.attention, strict=True)
    )
    close(found.joint["answer"][0], np.eye(3))
    close(found.joint["text"][0], second)
    close(found.joint["sound"][0], second @ first)


def joined(text, image):
    x = jnp.concatenate([attend(text, text, layer(TEXT, 0)), image])
    return attend(x, x, layer(TEXT, 1))[0, 1]


def without_the_decoder(source):
    return encoder_decoder(source, TARGET)


def two_towers(text, image):
    text, image = attend(text, text, layer(TEXT, 0)), attend(image, image, layer(IMAGE, 0))
    return text.mean(0) @ image.mean(0)


def windows(x):
    parts = x.reshape(2, 3, D)
    x = attend(parts, parts, layer(TEXT, 0)).reshape(6, D)
    return attend(x, x, layer(TEXT, 1))[0, 1]


def pooled(x):
    x = attend(x, x, layer(TEXT, 0))
    return attend(x, x.reshape(3, 2, D).mean(1), layer(TEXT, 1))[0, 1]


@pytest.mark.parametrize(
    ("f", "args", "choice", "message"),
    [
        (encoder_decoder, (SOURCE, TARGET), {"method": "rollout"}, r"source \(6 tokens\), target"),
        (encoder_decoder, (SOURCE, TARGET), {"stream": "text"}, "Known: source, target"),
        (encoder_decoder, (SOURCE, TARGET), {"query": 4}, "there are 4 tokens"),
        (encoder_decoder, (SOURCE, TARGET), {"query": (0, 4)}, "there are 4 tokens"),
        (encoder_decoder, (SOURCE, TARGET), {"layers": [6]}, "there are 6 layers"),
        (encoder_decoder, (SOURCE, TARGET), {"method": "full_lrp", "heads": [0]}, "full_lrp"),
        (without_the_decoder, (SOURCE,), {}, "come from constants"),
        (joined, (SOURCE, TARGET), {}, "joined, taken apart"),
        (pooled, (SOURCE,), {}, "joined, taken apart"),
        (two_towers, (SOURCE, TARGET), {}, "several streams, 'text', 'image'"),
        (two_towers, (SOURCE, TARGET), {"method": "rollout"}, "no attention between them"),
        (windows, (SOURCE,), {}, "windows"),
    ],
)
def test_what_cannot_be_told(f, args, choice, message):
    with pytest.raises(relprop.RelpropError, match=message):
        explain = transformer_attribution(
            f, tuple(range(len(args))), **{"method": "generic", **choice}
        )
        jax.eval_shape(explain, *args)


def test_a_stream_that_the_score_is_not_read_from():
    explain = transformer_attribution(two_towers, (0, 1), method="generic", stream="image")
    found = jax.eval_shape(explain, SOURCE, TARGET)
    assert {name: r.shape for name, r in found.items()} == {"text": (6,), "image": (4,)}
