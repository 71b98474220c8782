"""What a model is made of is told from its data flow, however it is spelled."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop.anatomy import (
    Activation,
    Attention,
    Gate,
    Norm,
    Recurrence,
    Router,
    Stack,
    Suspicion,
)

pytestmark = pytest.mark.usefixtures("by_numpy")
KEYS = jax.random.split(jax.random.key(0), 12)
B, T, D, H = 2, 5, 8, 4
X = jax.random.normal(KEYS[0], (B, T, D))
W = [0.4 * jax.random.normal(key, (D, D)) for key in KEYS]


RULES = relprop.presets.attn_lrp()


def blocks(f, *args, kind=None, rules=RULES):
    found = relprop.inspect(f, rules, on_suspicion="ignore")(*args).blocks
    return [b for b in found if kind is None or isinstance(b, kind)]


def kinds(f, *args):
    return collections.Counter(block.kind for block in blocks(f, *args))


# Activations: by their values, in any spelling.

ACTIVATIONS = {
    "relu": [jax.nn.relu, lambda x: jnp.maximum(x, 0), lambda x: jnp.where(x > 0, x, 0)],
    "gelu (tanh)": [
        jax.nn.gelu,
        lambda x: 0.5 * x * (1 + jnp.tanh(0.7978845608 * (x + 0.044715 * x**3))),
    ],
    "gelu": [
        lambda x: jax.nn.gelu(x, approximate=False),
        lambda x: x * jax.scipy.stats.norm.cdf(x),
    ],
    "quick gelu": [lambda x: x * jax.nn.sigmoid(1.702 * x)],
    "silu": [jax.nn.silu, lambda x: x / (1 + jnp.exp(-x))],
    "softplus": [jax.nn.softplus, lambda x: jnp.log1p(jnp.exp(x))],
    "mish": [jax.nn.mish, lambda x: x * jnp.tanh(jnp.log1p(jnp.exp(x)))],
    "hard swish": [jax.nn.hard_silu, lambda x: x * jnp.clip(x + 3, 0, 6) / 6],
    "hard sigmoid": [jax.nn.hard_sigmoid],
    "elu": [jax.nn.elu, lambda x: jnp.where(x > 0, x, jnp.expm1(x))],
    "relu6": [jax.nn.relu6],
    "tanh": [jnp.tanh],
    "sigmoid": [jax.nn.sigmoid],
    "leaky relu": [jax.nn.leaky_relu],
    "squared relu": [lambda x: jax.nn.relu(x) ** 2],
    "": [lambda x: x * jnp.sin(x) + jnp.cos(3 * x)],
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(3, 40), (2,)])
def test_names_of_activations(name, shape):
    for function in ACTIVATIONS[name]:
        x = jnp.ones(shape)
        (*_, block) = blocks(lambda x, f=function: f(x).sum(), x, kind=Activation)
        assert block.function == name


def test_a_function_nobody_has_named_is_still_an_activation():
    (block,) = blocks(lambda x: (x * jnp.sin(x)).sum(), X, kind=Activation)
    assert str(block) == "activation"


def test_an_activation_with_a_learned_slope():
    def prelu(x, slope):
        return jnp.where(x > 0, x, slope * x).sum()

    (block,) = blocks(prelu, X, jnp.float32(0.1), kind=Activation)
    assert block.function == ""  # its values depend on a parameter
    (block,) = jax.make_jaxpr(lambda x: x)(X) and blocks(
        jax.jit(lambda x: prelu(x, 0.01)), X, kind=Activation
    )
    assert block.function == "leaky relu"


# Norms in all spellings.


def two_pass(x, axes):
    mean = x.mean(axes, keepdims=True)
    return (x - mean) * lax.rsqrt(((x - mean) ** 2).mean(axes, keepdims=True) + 1e-6)


def moments(x, axes):
    mean = x.mean(axes, keepdims=True)
    variance = jnp.maximum((x * x).mean(axes, keepdims=True) - mean**2, 0)
    return (x - mean) / jnp.sqrt(variance + 1e-6)


def jnp_var(x, axes):
    inverse = lax.rsqrt(jnp.var(x, axes, keepdims=True) + 1e-6)
    return x * inverse - x.mean(axes, keepdims=True) * inverse


def rms(x, axes):
    return x * (jnp.square(x).mean(axes, keepdims=True) + 1e-6) ** -0.5


def reciprocal(x, axes):
    return x * jnp.reciprocal(jnp.sqrt((x * x).mean(axes, keepdims=True) + 1e-6))


SCALE = jnp.arange(1.0, D + 1)[None, None]


@pytest.mark.parametrize("spelling", [two_pass, moments, jnp_var])
def test_layer_norm(spelling):
    def f(x, params):
        return (spelling(x, -1) * params["scale"] + 1).sum()

    (block,) = blocks(f, X, {"scale": SCALE}, kind=Norm)
    assert (block.kind, block.path) == ("layer norm", "params/scale")


def test_rms_norm_and_l2_norm():
    for spelling in (rms, reciprocal):
        (block,) = blocks(lambda x, norm=spelling: (norm(x, -1) * SCALE).sum(), X, kind=Norm)
        assert block.kind == "RMS norm"
    (block,) = blocks(
        lambda x: (x / jnp.linalg.norm(x, axis=-1, keepdims=True)).sum(), X, kind=Norm
    )
    assert block.kind == "L2 norm"


@pytest.mark.parametrize("spelling", [two_pass, moments, jnp_var])
def test_group_and_instance_norm(spelling):
    image = jax.random.normal(KEYS[1], (2, 6, 6, D))
    scale = jnp.arange(1.0, D + 1)[None, None, None]

    def group(x):
        grouped = spelling(x.reshape(2, 6, 6, 4, 2), (1, 2, 4)).reshape(x.shape)
        return (grouped * scale).sum()

    def instance(x):
        return (spelling(x, (1, 2)) * scale).sum()

    assert [b.kind for b in blocks(group, image, kind=Norm)] == ["group norm"]
    assert [b.kind for b in blocks(instance, image, kind=Norm)] == ["instance norm"]


@pytest.mark.parametrize("form", ["plain", "folded"])
def test_batch_norm_in_inference(form):
    def f(x, params):
        inverse = lax.rsqrt(params["var"] + 1e-5)
        if form == "plain":
            out = (x - params["mean"]) * (inverse * params["scale"]) + params["bias"]
        else:
            inverse = inverse * params["scale"]
            out = x * inverse + (params["bias"] - params["mean"] * inverse)
        return jax.nn.relu(out).sum()

    params = {name: jnp.abs(SCALE) for name in ("mean", "var", "scale", "bias")}
    (block,) = blocks(f, X, params, kind=Norm)
    assert block.kind == "batch norm"
    # A scale by the root of a number is no norm.
    assert not blocks(lambda x: (x / jnp.sqrt(jnp.float32(D))).sum(), X, kind=Norm)


def test_weight_norm():
    def f(x, p):
        w = p["v"] * (p["g"] / jnp.sqrt((p["v"] ** 2).sum(0)))[None]
        return (x @ w + x @ p["v"]).sum()

    (block,) = blocks(f, X, {"v": W[0], "g": W[1][0]}, kind=Norm)
    assert (block.kind, block.path) == ("weight norm", "p/v")


def test_the_norm_of_a_post_norm_model_is_not_confused_by_the_one_before():
    def f(x):
        x = two_pass(x + x @ W[0], -1)
        return rms(x + jnp.tanh(x @ W[1]), -1).sum()

    assert [b.kind for b in blocks(f, X, kind=Norm)] == ["layer norm", "RMS norm"]


# Attention.


def split(x, heads=H):
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def attend(q, k, v, mask=None, cap=None):
    scores = q @ k.swapaxes(-1, -2) / jnp.sqrt(q.shape[-1])
    if cap:
        scores = cap * jnp.tanh(scores / cap)
    if mask is not None:
        scores = mask(scores)
    return (jax.nn.softmax(scores, -1) @ v).transpose(0, 2, 1, 3).reshape(B, T, -1)


PARAMS = {"q": W[0], "k": W[1], "v": W[2], "o": W[3]}


def test_self_attention():
    def f(x, p):
        return (attend(split(x @ p["q"]), split(x @ p["k"]), split(x @ p["v"])) @ p["o"]).sum()

    for rules in (relprop.presets.attn_lrp(), relprop.presets.cp_lrp()):
        (block,) = blocks(f, X, PARAMS, kind=Attention, rules=rules)
        assert block.kind == "self-attention"
        assert (block.heads, block.key_heads, block.shape) == (H, H, (B, H, T, T))
        assert (block.query, block.key, block.values) == ("p/q", "p/k", "p/v")
        assert (block.mask, block.normaliser) == ("", "softmax")


@pytest.mark.parametrize("kind", ["added", "selected"])
def test_masks(kind):
    allowed = jnp.tril(jnp.ones((T, T), bool))[None, None]

    def mask(scores):
        if kind == "added":
            return scores + jnp.where(allowed, 0, -1e9)
        return jnp.where(allowed, scores, -jnp.inf)

    def f(x):
        q, k, v = (split(x @ w) for w in W[:3])
        return attend(q, k, v, mask, cap=30.0).sum()

    (block,) = blocks(f, X, kind=Attention)
    assert block.mask == kind


@pytest.mark.parametrize("groups", [2, 1])
def test_grouped_and_multi_query_attention(groups):
    def f(x):
        q = split(x @ W[0])
        k, v = (split(x @ w[:, : D * groups // H], groups) for w in W[1:3])
        k, v = (jnp.repeat(a, H // groups, axis=1) for a in (k, v))
        return attend(q, k, v).sum()

    (block,) = blocks(f, X, kind=Attention)
    assert (block.heads, block.key_heads) == (H, groups)
    assert f"{groups} of keys" in str(block)


def test_attention_of_jax():
    def f(x):
        q, k, v = ((x @ w).reshape(B, T, H, -1) for w in W[:3])
        return jax.nn.dot_product_attention(q, k, v, is_causal=True).sum()

    (block,) = blocks(f, X, kind=Attention)
    assert (block.kind, block.heads, block.mask) == ("self-attention", H, "selected")


def test_one_projection_for_all():
    def f(x):
        q, k, v = map(split, jnp.split(x @ jnp.concatenate(W[:3], 1), 3, axis=-1))
        return attend(q, k, v).sum()

    (block,) = blocks(f, X, kind=Attention)
    assert (block.kind, block.heads, block.key_heads) == ("self-attention", H, H)


def test_cross_attention():
    def f(x):
        memory = jnp.tanh(x @ W[4])
        queries = two_pass(x @ W[5], -1)
        return attend(split(queries @ W[0]), split(memory @ W[1]), split(memory @ W[2])).sum()

    (block,) = blocks(f, X, kind=Attention)
    assert block.kind == "cross-attention"


def test_attention_without_softmax():
    def f(x):
        q, k, v = (split(x @ w) for w in W[:3])
        scores = q @ k.swapaxes(-1, -2)
        return (jax.nn.sigmoid(scores - jnp.log(T)) @ v).sum()

    (block,) = blocks(f, X, kind=Attention)
    assert (block.normaliser, block.heads) == ("logistic", H)


@pytest.mark.parametrize("order", ["scores first", "state first"])
def test_linear_attention(order):
    def f(x):
        q, k, v = (split(jax.nn.elu(x @ w) + 1) for w in W[:3])
        if order == "scores first":
            return ((q @ k.swapaxes(-1, -2)) @ v).sum()
        return (q @ (k.swapaxes(-1, -2) @ v)).sum()

    (block,) = blocks(f, X, kind=Attention)
    assert block.normaliser == "linear"


def by_edges(scatter):
    """Two heads of attention among the neighbours of a node."""
    sender, receiver = np.array([0, 1, 2, 3, 4, 0]), np.array([1, 2, 3, 4, 0, 2])

    def f(x):
        h = (x[0] @ W[0]).reshape(T, 2, 4)
        e = jax.nn.leaky_relu((h * W[1][None, :1, :4]).sum(-1)[sender] + h.sum(-1)[receiver])
        e = jnp.exp(e - jax.ops.segment_max(e, receiver, T)[receiver])
        weights = e / scatter(e, receiver)[receiver]
        return scatter(weights[..., None] * h[sender], receiver).sum()

    return f


def entry_by_entry(x, rows):
    places = [lax.broadcasted_iota(jnp.int32, x.shape, axis) for axis in range(x.ndim)]
    places[0] = jnp.asarray(rows)[places[0]]
    return jnp.zeros((T, *x.shape[1:])).at[tuple(places)].add(x)


@pytest.mark.parametrize(
    "scatter", [lambda x, rows: jax.ops.segment_sum(x, rows, T), entry_by_entry]
)
def test_attention_among_neighbours(scatter):
    (block,) = blocks(by_edges(scatter), X, kind=Attention)
    assert block.kind == "attention among neighbours"
    assert (block.shape, block.heads) == ((6, 2), 2)
    assert not blocks(by_edges(scatter), X, kind=Suspicion)


def test_what_only_resembles_attention():
    def pooled(x):
        return (jax.nn.softmax(x @ W[0], -1) @ W[1]).sum()  # a layer after a softmax

    def kernel(x):
        return (jax.nn.relu(x @ x.swapaxes(-1, -2)) @ jnp.ones((T, 2))).sum()

    assert not blocks(pooled, X, kind=Attention)
    assert not blocks(kernel, X, kind=Attention)


def test_norms_by_their_axes():
    image = jax.random.normal(KEYS[1], (3, 6, 6, D))
    scale = jnp.arange(1.0, D + 1)

    def kind(axes, x=image, scale=scale[None, None, None]):
        (block,) = blocks(lambda x: (two_pass(x, axes) * scale).sum(), x, kind=Norm)
        return block.kind

    assert kind((0, 1, 2)) == "batch norm"
    assert kind((0,), image[:, 0, 0], scale[None]) == "batch norm"
    assert kind((1, 2)) == "instance norm"
    assert kind((1, 2), scale=1.0) == "instance norm"
    assert kind((1,), image[:, 0], scale[None, None]) == "instance norm"
    assert kind((2,), image[:, 0], scale[None, None]) == "layer norm"
    assert kind((1, 2, 3)) == "layer norm"


def test_a_product_of_two_activations_is_suspicious():
    (block,) = blocks(lambda x: (jnp.tanh(x) * jnp.tanh(x @ W[0])).sum(), X, kind=Suspicion)
    assert block.kind == "gate?"


def test_classifiers_and_mlps_have_no_attention():
    def f(x):
        return jax.nn.softmax(jax.nn.gelu(x @ W[0]) @ W[1], -1)[0, 0, 0]

    assert not blocks(f, X, kind=Attention)


# Positions, routers, recurrences, residuals, gates.


def rotate_half(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + jnp.concatenate([-x[..., half:], x[..., :half]], -1) * sin


def rotate_pairs(x, cos, sin):
    a, b = x[..., ::2], x[..., 1::2]
    cos, sin = cos[..., ::2], sin[..., ::2]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)


def rotate_complex(x, cos, sin):
    turned = lax.complex(x[..., ::2], x[..., 1::2]) * lax.complex(cos, sin)[..., ::2]
    return jnp.stack([turned.real, turned.imag], -1).reshape(x.shape)


@pytest.mark.parametrize("rotate", [rotate_half, rotate_pairs, rotate_complex])
def test_rotary_embeddings(rotate):
    angles = jnp.arange(float(T))[:, None] / jnp.array([1.0, 10.0])[None]
    angles = jnp.concatenate([angles, angles], 1)[None, :, None]

    def f(x, angles):
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        q, k = (rotate((x @ w).reshape(B, T, 2, 4), cos, sin) for w in W[:2])
        return (q * jax.nn.softmax(k, -1)).sum()

    assert kinds(f, X, angles)["rotary embedding"] == 2


@pytest.mark.parametrize("score", [jax.nn.softmax, jax.nn.sigmoid, lambda x: x])
def test_routers(score):
    def f(x):
        scores, chosen = lax.top_k(score(x @ W[0][:, :6]), 2)
        scores = scores / scores.sum(-1, keepdims=True)
        experts = jnp.stack(W[:6])[chosen]
        return (jnp.einsum("btd,btkde->btke", x, experts) * scores[..., None]).sum()

    (block,) = blocks(f, X, kind=Router)
    assert block.experts == 6


@pytest.mark.parametrize(
    "pooled",
    [
        lambda h: jnp.take_along_axis(h, jnp.argmax(h, 1, keepdims=True), 1),
        lambda h: lax.top_k(jnp.swapaxes(h, 1, 2), 1)[0],
        lambda h: jnp.sort(h, 1)[:, h.shape[1] // 2],
    ],
    ids=["argmax", "top_k", "median"],
)
def test_the_largest_over_positions_is_no_router(pooled):
    def f(x):
        return (pooled(jax.nn.relu(x @ W[0][:, :6])) ** 2).sum()

    assert not blocks(f, X, kind=Router)


EXPERTS = jnp.stack(W[:6])


def _all_experts(x):
    return jax.nn.relu(jnp.einsum("btd,edf->btef", x, EXPERTS))


def _only_the_best(gates):
    return gates * jax.nn.one_hot(jnp.argmax(gates, -1), gates.shape[-1])


@pytest.mark.parametrize("kept", [lambda g: g, _only_the_best], ids=["dense", "one_hot"])
@pytest.mark.parametrize(
    "mixed",
    [
        lambda g, e: jnp.einsum("bte,btef->btf", g, e),
        lambda g, e: (g[..., None] * e).sum(2),
        lambda g, e: jnp.einsum("ebtf,ebt->btf", jnp.moveaxis(e, 2, 0), jnp.moveaxis(g, 2, 0)),
    ],
    ids=["einsum", "multiply and sum", "experts first"],
)
def test_experts_that_are_weighed_are_routed_and_not_attended_to(mixed, kept):
    def f(x):
        gates = kept(jax.nn.softmax(x @ W[7][:, :6] + 0.1, -1))
        return (mixed(gates, _all_experts(x)) ** 2).sum()

    (block,) = blocks(f, X, kind=Router)
    assert block.experts == 6
    assert not blocks(f, X, kind=Attention)


def _pooled(x):
    weights = jax.nn.softmax(x @ W[0][:, :1], 1)[..., 0]
    return jnp.einsum("bt,btd->bd", weights, x * x)


def _made_by_a_layer(x):
    """Synthesizer."""
    weights = jax.nn.softmax(x @ W[0][:, :T], -1)
    return jnp.einsum("bts,bsd->btd", weights, x * x)


def _by_location(x):
    """Luong et al. 2015."""
    weights = jax.nn.softmax(x[:, -1] @ W[0][:, :T], -1)
    return jnp.einsum("bs,bsd->bd", weights, x @ W[1])


def _of_neighbours(x):
    """Local attention, dynamic convolution."""
    weights = jax.nn.softmax(x @ W[0][:, :3], -1)
    near = jnp.stack([jnp.roll(x, shift, 1) for shift in (-1, 0, 1)], 2)
    return jnp.einsum("btk,btkd->btd", weights, near)


def _of_the_whole_text(x):
    weights = jax.nn.softmax(x.reshape(B, T * D) @ jnp.tile(W[0][:, :T], (T, 1)), -1)
    return jnp.einsum("bt,btd->bd", weights, jnp.tanh(x @ W[2]))


def _learned_queries(x):
    """As many heads as tokens."""
    queries = W[3][:T]
    weights = jax.nn.softmax(jnp.einsum("hd,btd->hbt", queries, x), -1)
    return jnp.einsum("hbt,hbte->hbe", weights, jnp.stack([x * x] * T))


@pytest.mark.parametrize(
    "mixed",
    [_pooled, _made_by_a_layer, _by_location, _of_neighbours, _of_the_whole_text, _learned_queries],
)
def test_weights_of_tokens_are_attention(mixed):
    def f(x):
        return (mixed(x) ** 2).sum()

    assert len(blocks(f, X, kind=Attention)) == 1
    assert not blocks(f, X, kind=Router)


def test_an_expected_class_is_neither():
    def f(x):
        return (jax.nn.softmax(x @ W[0][:, :4]) @ jnp.arange(4.0)) ** 2

    assert not blocks(f, X[0, 0], kind=Router) and not blocks(f, X[0, 0], kind=Attention)


def test_attribution_around_experts():
    def f(x):
        attention = jax.nn.softmax(x @ W[1] @ jnp.swapaxes(x @ W[2], 1, 2), -1)
        x = x + attention @ (x @ W[3])
        gates = jax.nn.softmax(x @ W[7][:, :6], -1)
        return (x + jnp.einsum("bte,btef->btf", gates, _all_experts(x)))[:, 0].sum(-1)

    found = relprop.transformer_attribution(lambda x: f(x)[0])(X[:1])
    assert np.isfinite(found).all() and found.shape[-1] == T


def test_a_router_whose_scores_are_shifted_for_the_choice_only():
    experts = jnp.stack(W[:6])

    def f(x):
        scores = jax.nn.sigmoid(x @ W[0][:, :6])
        _, chosen = lax.top_k(scores + 0.1, 2)
        weights = jnp.take_along_axis(scores, chosen, axis=-1)
        return (jnp.einsum("btd,btkde->btke", x, experts[chosen]) * weights[..., None]).sum()

    (block,) = blocks(f, X, kind=Router)
    assert block.experts == 6


def lstm(x):
    def cell(carry, x):
        h, c = carry
        i, f, g, o = jnp.split(jnp.concatenate([x, h], -1) @ jnp.tile(W[0], (2, 4)), 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((B, D))
    return lax.scan(cell, (zeros, zeros), x.swapaxes(0, 1))[1].sum()


def gru(x):
    def cell(h, x):
        r, z = jnp.split(jax.nn.sigmoid(x @ jnp.tile(W[0], (1, 2)) + h @ jnp.tile(W[1], 2)), 2, -1)
        n = jnp.tanh(x @ W[2] + r * (h @ W[3]))
        h = (1 - z) * n + z * h
        return h, h

    return lax.scan(cell, jnp.zeros((B, D)), x.swapaxes(0, 1))[1].sum()


def simple(x):
    def cell(h, x):
        h = jnp.tanh(x @ W[0] + h @ W[1])
        return h, h

    return lax.scan(cell, jnp.zeros((B, D)), x.swapaxes(0, 1))[1].sum()


def state_space(x):
    def cell(h, x):
        h = 0.9 * h + x @ W[0]
        return h, h @ W[1]

    return lax.scan(cell, jnp.zeros((B, D)), x.swapaxes(0, 1))[1].sum()


def stacked(x):
    return lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, jnp.stack(W[:3]))[0].sum()


@pytest.mark.parametrize(
    ("f", "kind", "steps"),
    [
        (lstm, "LSTM", T),
        (gru, "GRU", T),
        (simple, "RNN", T),
        (state_space, "state space", T),
    ],
)
def test_recurrences(f, kind, steps):
    (block,) = blocks(f, X, kind=Recurrence)
    assert (block.kind, block.steps) == (kind, steps)


def test_a_loop_over_layers_is_no_recurrence():
    (block,) = blocks(stacked, X, kind=Stack)
    assert (block.kind, block.steps) == ("stacked layers", 3)
    assert not blocks(stacked, X, kind=Recurrence)


def unrolled(cell, states=1):
    """The same without a loop: as Haiku unrolls it where it is told so."""

    def f(x):
        carry = (jnp.zeros((B, D)),) * states
        for t in range(T):
            carry = cell(carry, x[:, t])
        return carry[0].sum()

    return f


def lstm_cell(carry, x):
    h, c = carry
    i, f, g, o = jnp.split(jnp.concatenate([x, h], -1) @ jnp.tile(W[0], (2, 4)), 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru_cell(carry, x):
    (h,) = carry
    r, z = jax.nn.sigmoid(x @ W[0] + h @ W[1].T), jax.nn.sigmoid(x @ W[2] + h @ W[3])
    return ((1 - z) * jnp.tanh(x @ W[4] + (r * h) @ W[5]) + z * h,)


def rnn_cells(carry, x):
    g, h = carry
    h = jnp.tanh(x @ W[0] + h @ W[1])
    return jnp.tanh(h @ W[2] + g @ W[3]), h


@pytest.mark.parametrize(
    ("f", "kinds"),
    [
        (unrolled(lstm_cell, 2), ["LSTM"]),
        (unrolled(gru_cell), ["GRU"]),
        (unrolled(rnn_cells, 2), ["RNN", "RNN"]),
    ],
)
def test_recurrences_without_a_loop(f, kinds):
    assert [block.kind for block in blocks(f, X, kind=Recurrence)] == kinds


def test_layers_that_share_weights_are_no_recurrence():
    def f(x):
        for _ in range(4):
            q, k, v = jnp.split(x @ jnp.concatenate(W[:3], 1), 3, -1)
            x = x + jax.nn.softmax(q @ k.mT) @ v @ W[3]
            x = x + jnp.tanh(x @ W[4]) @ W[5]
        return x.sum()

    assert not blocks(f, X, kind=Recurrence)


def test_a_selective_state_space_without_a_scan():
    def f(x):
        delta = jax.nn.softplus(x @ W[0])
        decay, state, out = jnp.exp(-delta), jnp.zeros((B, D)), []
        for t in range(T):
            state = decay[:, t] * state + (delta * x)[:, t]
            out.append(state)
        return jnp.stack(out).sum()

    (block,) = blocks(f, X, kind=Recurrence)
    assert block.kind == "state space"


def test_residuals_and_gates():
    def f(x):
        x = x + jax.nn.silu(x @ W[0]) * (x @ W[1]) @ W[2]
        x = x @ W[3] + x  # also the other way round
        shifted = x - x.mean(-1, keepdims=True)  # a mean that is subtracted is no residual
        return (shifted @ W[4] + shifted @ W[5]).sum()  # two branches: no residual

    assert kinds(f, X)["residual"] == 2
    (gate,) = blocks(f, X, kind=Gate)
    assert gate.function == "silu"


@pytest.mark.parametrize(
    ("f", "count"),
    [
        (lambda a, b: jax.nn.silu(a) * b, 1),
        (lambda a, b: (1 - jax.nn.sigmoid(a)) * jnp.tanh(b), 1),
        (lambda a, b: jax.nn.relu(a) * b, 1),
        (lambda a, b: jnp.maximum(a, 0) * b, 1),
        (lambda a, b: jax.nn.hard_sigmoid(a) * b, 1),
        (lambda a, b: (jnp.clip(a + 3, 0, 6) / 6) * b, 1),
        (lambda a, b: (jnp.clip(b, -7, 7) + 1) * jax.nn.silu(jnp.minimum(a, 7)), 1),
        (lambda a, b: a * b, 0),
        (lambda a, b: jnp.clip(a, -7, 7) * b, 0),
        (lambda a, b: jnp.exp(a) * b, 0),
        (lambda a, b: jnp.tanh(a) * jnp.tanh(b), 0),
    ],
)
def test_what_is_a_gate(f, count):
    assert len(blocks(lambda x: f(x @ W[0], x @ W[1]).sum(), X, kind=Gate)) == count


def test_wider_contexts_are_gates_as_well():
    """Focal modulation: contexts that are activations of one another, each times a factor."""

    def f(x):
        context, opening, total = x @ W[0], x @ W[1], 0
        for level in range(3):
            context = jax.nn.gelu(context @ W[2 + level])
            total = total + context * opening[..., level : level + 1]
        return total.sum()

    assert len(blocks(f, X, kind=Gate)) == 3


@pytest.mark.parametrize("chosen_first", [True, False])
def test_weights_of_chosen_experts_are_those_of_a_router(chosen_first):
    def weights(scores):
        if chosen_first:
            largest, places = lax.top_k(scores, 2)
            return jax.nn.softmax(largest), places
        largest, places = lax.top_k(jax.nn.softmax(scores), 2)
        return largest / largest.sum(-1, keepdims=True), places

    def f(x):
        largest, places = weights(x @ W[0][:, :3])
        experts = jnp.tanh(jnp.einsum("btd,kde->btke", x, jnp.stack(W[1:4])))
        picked = jnp.take_along_axis(experts, places[..., None], 2)
        return (picked * largest[..., None]).sum()

    found = blocks(f, X)
    assert [block.experts for block in found if isinstance(block, Router)] == [3]
    assert not [b for b in found if isinstance(b, (Suspicion, Gate, Attention))]


def test_a_softmax_over_features_is_a_gate():
    def gated(x, y):
        return (y * jax.nn.softmax(x @ W[0], -1)).sum()

    (gate,) = blocks(lambda x: gated(x, x), X, kind=Gate)
    assert gate.function == "softmax"
    assert not blocks(lambda x: gated(x, x), X, kind=Suspicion)
    # Over tokens, it is something that has no name.
    assert blocks(lambda x: (x * jax.nn.softmax(x @ W[0], 1)).sum(), X, kind=Suspicion)


def test_the_complement_of_a_gate_is_no_activation_of_its_own():
    def f(x):
        z = jax.nn.sigmoid(x @ W[0])
        return ((1 - z) * jnp.tanh(x @ W[1]) + z * x).sum()

    names = [block.function for block in blocks(f, X, kind=Activation)]
    assert sorted(names) == ["sigmoid", "tanh"]


def test_a_limit_that_nothing_reaches_is_no_activation():
    def f(x):
        return jnp.maximum(x @ W[0], jnp.finfo(jnp.float32).min).sum()

    assert not blocks(f, X, kind=Activation)

    def begun(x):
        """A running maximum, as RWKV begins it."""
        start = jnp.zeros((B, T, D)) - 1e38
        return jnp.maximum(jnp.maximum(start - jnp.exp(W[1][None, :1]), x @ W[0]), -1e38).sum()

    assert not blocks(begun, X, kind=Activation)
    assert blocks(lambda x: jnp.maximum(x @ W[0], -1.0).sum(), X, kind=Activation)


def test_a_limit_behind_many_constants_is_found_in_linear_time():
    def f(x, c):
        for _ in range(64):
            c = c + c
        return jnp.maximum(x, c[None, None]).sum()

    assert not blocks(f, X, jnp.zeros(D), kind=Suspicion)


# What is not recognised is told.


def test_suspicions():
    def almost_softmax(x):
        e = jnp.exp(x @ W[0])
        return (e / (1 + jnp.abs(e).sum(-1, keepdims=True)) ** 2).sum()

    (block,) = blocks(almost_softmax, X, kind=Suspicion)
    assert block.kind == "softmax or normalisation?"
    assert "made of:" in str(
        relprop.inspect(almost_softmax, relprop.presets.attn_lrp(), on_suspicion="ignore")(X)
    )

    def divides_and_counts(x):
        size = jnp.sqrt((x * x).sum(-1, keepdims=True))
        return (x / size).sum() + size.sum()

    norm = blocks(divides_and_counts, X, kind=Suspicion)
    assert "normalisation?" in {b.kind for b in norm}
    # A length that is a feature is no normalisation, and nothing reminds of one.
    assert not blocks(lambda x: jnp.sqrt((x * x).sum(-1)).sum() + x.sum(), X, kind=Suspicion)


def test_dropout_in_training_mode_is_suspicious():
    def f(x, key):
        keep = jax.random.bernoulli(key, 0.9, x.shape)
        return (jnp.where(keep, x / 0.9, 0) @ W[0]).sum()

    (block,) = blocks(f, X, jax.random.key(0), kind=Suspicion)
    assert block.kind == "dropout?"


def test_a_root_that_scales_back_is_a_norm():
    def series(x, back):
        scale = jnp.sqrt(x.var(1, keepdims=True) + 1e-5)
        mean = x.mean(1, keepdims=True)
        return (back(jnp.tanh((x - mean) / scale @ W[0]) @ W[1], scale) + mean).sum()

    scaled = [
        lambda y, s: y * s,
        lambda y, s: y * (s + 1e-6),
        lambda y, s: y / (1 / s),
        lambda y, s: y * jnp.clip(s, 1e-5, 1e5),
    ]
    for back in scaled:
        f = lambda x, back=back: series(x, back)  # noqa: E731
        assert [len(blocks(f, X, kind=kind)) for kind in (Norm, Suspicion)] == [1, 0]
    # What has another way to the input is not in units of the root, nor is what is moved.
    for f in (
        lambda x: series(x, lambda y, s: (y + x @ W[1]) * s),
        lambda x: series(x, lambda y, s: y * s[..., ::-1]),
        lambda x: series(x, lambda y, s: y * s[..., :1]),
    ):
        assert not blocks(f, X, kind=Norm)
    # Something else that is made of the root says how large it was; so does a large limit.
    for back in (lambda y, s: y * jnp.exp(s), lambda y, s: y * jnp.maximum(s, 3.0)):
        f = lambda x, back=back: series(x, back)  # noqa: E731
        assert not blocks(f, X, kind=Norm)
        assert blocks(f, X, kind=Suspicion)


def test_a_response_norm_is_a_norm():
    def f(x, divisor):
        h = jnp.tanh(x @ W[0])
        length = jnp.sqrt((h * h).sum(1, keepdims=True))
        return (h * (length / divisor(length)) @ W[1]).sum()

    mean = lambda n: n.mean(-1, keepdims=True)  # noqa: E731
    assert len(blocks(lambda x: f(x, mean), X, kind=Norm)) == 1
    assert not blocks(lambda x: f(x, mean), X, kind=Suspicion)
    assert not blocks(lambda x: f(x, lambda n: jnp.exp(mean(n))), X, kind=Norm)


def test_what_is_recognised_raises_no_suspicion():
    def f(x):
        q, k, v = (split(two_pass(x, -1) @ w) for w in W[:3])
        return rms(attend(q, k, v), -1).sum()

    assert not blocks(f, X, kind=Suspicion)


def test_the_summary_counts_blocks():
    def f(x):
        normed = two_pass(x, -1)
        q, k, v = (split(normed @ w) for w in W[:3])
        return attend(q, k, v).sum()

    text = str(relprop.inspect(f, relprop.presets.attn_lrp())(X))
    assert "1 x self-attention (softmax 2x4x5x5, 4 heads, no mask)" in text
    assert "1 x layer norm" in text


def test_it_works_on_shapes_and_inside_of_a_trace():
    def f(x):
        return jax.nn.gelu(x @ W[0]).sum()

    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    (block,) = blocks(f, shape, kind=Activation)
    assert block.function == "gelu (tanh)"
    seen = []

    def inside(x):
        seen.extend(blocks(f, x, kind=Activation))
        return x

    jax.jit(inside)(X)
    assert [block.function for block in seen] == ["gelu (tanh)"]
    assert np.isfinite(f(X))
