"""Blocks have the names that their authors use, and what looks like one is not taken for one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop.anatomy import Activation, Residual
from relprop.attribution import head_relevance, transformer_attribution

pytestmark = pytest.mark.usefixtures("by_numpy")
KEYS = jax.random.split(jax.random.key(0), 12)
T, D, H = 6, 8, 2
X = jax.random.normal(KEYS[0], (T, D))
W = [0.4 * jax.random.normal(key, (D, D)) for key in KEYS]
MIX = jax.random.normal(KEYS[1], (2, H, H))
MEMORY = jax.random.normal(KEYS[2], (2, 5, D))
LAMBDA = jnp.full((H, 1, 1), 0.3)
softmax = jax.nn.softmax


def heads(y):
    return y.reshape(T, H, D // H).transpose(1, 0, 2)


def joined(y):
    return y.transpose(1, 0, 2).reshape(T, D)


def turned(y):
    return jnp.swapaxes(y, -1, -2)


def scores(x, i=0):
    return heads(x @ W[i]) @ turned(heads(x @ W[i + 1]))


def names(f, x=X):
    found = relprop.inspect(
        lambda x: jnp.sum(f(x)), relprop.presets.attn_lrp(), on_suspicion="ignore"
    )(x).blocks
    return sorted(str(b) for b in found if not isinstance(b, Activation | Residual))


# Maps between their softmax and their use.

SELF = "self-attention (softmax 2x6x6, 2 heads, no mask)"


def difference(x):
    """Differential attention."""
    return x + joined((softmax(scores(x)) - LAMBDA * softmax(scores(x, 2))) @ heads(x @ W[4]))


def applied_one_by_one(x):
    values = heads(x @ W[4])
    return x + joined(softmax(scores(x)) @ values - LAMBDA * (softmax(scores(x, 2)) @ values))


def talking(x):
    before = jnp.einsum("hqk,hg->gqk", scores(x), MIX[0])
    return x + joined(jnp.einsum("gqk,gh->hqk", softmax(before), MIX[1]) @ heads(x @ W[4]))


def talking_by_layers(x):
    """As in PyTorch: the heads are moved to the end, where a layer with a bias mixes them."""
    before = (scores(x).transpose(1, 2, 0) @ MIX[0] + MIX[0, :1, None]).transpose(2, 0, 1)
    after = softmax(before).transpose(1, 2, 0) @ MIX[1] + MIX[1, :1, None]
    return x + joined(after.transpose(2, 0, 1) @ heads(x @ W[4]))


def talking_before(x):
    before = jnp.einsum("hqk,hg->gqk", scores(x), MIX[0])
    return x + joined(softmax(before) @ heads(x @ W[4]))


def multiplied_and_summed(x):
    q, k, v = (heads(x @ w) for w in W[:3])
    a = softmax(jnp.sum(q[:, :, None] * k[:, None], -1))
    return x + joined(jnp.sum(a[..., None] * v[:, None], 2))


@pytest.mark.parametrize(
    ("f", "count"),
    [
        (difference, 2),
        (applied_one_by_one, 2),
        (talking, 1),
        (talking_by_layers, 1),
        (talking_before, 1),
        (multiplied_and_summed, 1),
    ],
)
def test_maps_that_are_subtracted_or_mixed(f, count):
    assert names(f) == [SELF] * count
    R = transformer_attribution(lambda x: f(x)[0].sum())(X)
    assert R.shape == (T,) and jnp.isfinite(R).all()


def test_a_difference_is_two_looks():
    def generic(f):
        return transformer_attribution(lambda x: f(x)[0].sum(), method="generic")(X)

    np.testing.assert_allclose(generic(difference), generic(applied_one_by_one), rtol=1e-4)


def test_a_classifier_after_attention_is_no_attention():
    def f(x):
        x = x + joined(softmax(scores(x)) @ heads(x @ W[4]))
        return softmax(x @ W[5][:, :3])[:, 0]

    assert names(f) == [SELF]


# Other kinds of attention.


def unit(y, axis=-1):
    return y / jnp.sqrt(jnp.sum(y**2, axis, keepdims=True) + 1e-6)


def channels(x):
    """XCiT."""
    q, k, v = (turned(heads(x @ w)) for w in W[:3])
    return x + joined(turned(softmax(unit(q) @ turned(unit(k)) * LAMBDA) @ v))


def channels_fused(x):
    q, k, v = (x @ jnp.concatenate(W[:3], 1)).reshape(T, 3, H, D // H).transpose(1, 2, 3, 0)
    return x + (softmax(unit(q) @ turned(unit(k))) @ v).transpose(2, 0, 1).reshape(T, D)


def memory(x):
    return x + softmax(x @ W[0] @ MEMORY[0].T) @ MEMORY[1]


def memory_in_heads(x):
    keys, values = MEMORY.reshape(2, 5, H, D // H).swapaxes(1, 2)
    return x + joined(softmax(heads(x @ W[0]) @ turned(keys)) @ values)


def additive(x):
    """SwiftFormer."""
    q, k = unit(x @ W[0]), unit(x @ W[1])
    a = unit(q @ W[2][:, :1] * 0.35, 0)
    return x + (jnp.sum(a * q, 0, keepdims=True) * k) @ W[3] + q


def pooled(x):
    return jnp.sum(softmax(x @ W[0][:, :1], axis=0) * (x @ W[1]), 0)


def averaged(x):
    return jnp.mean(jax.nn.sigmoid(x @ W[0][:, :1]) * (x @ W[1]), 0)


def correlated(x):
    """Autoformer."""
    q, k = (jnp.fft.rfft(x @ w, axis=0) for w in W[:2])
    w, delays = lax.top_k(jnp.fft.irfft(q * jnp.conj(k), n=T, axis=0).mean(1), 2)
    later = (jnp.arange(T)[:, None] + delays[None]) % T
    return x + jnp.einsum("k,tkd->td", softmax(w), (x @ W[2])[later])


def parts(y, n=3):
    return y.reshape(n, T // n, *y.shape[1:])


def lightning(x):
    q, k, v = (parts(jax.nn.silu(x @ w)) for w in W[:3])
    state, out = jnp.zeros((D, D)), []
    for i in range(3):
        out.append(jnp.tril(q[i] @ k[i].T) @ v[i] + q[i] @ state)
        state = 0.9 * state + k[i].T @ v[i]
    return x + jnp.concatenate(out)


def lightning_by_scan(x):
    def chunk(state, qkv):
        q, k, v = qkv
        return 0.9 * state + k.T @ v, jnp.tril(q @ k.T) @ v + q @ state

    qkv = tuple(parts(jax.nn.silu(x @ w)) for w in W[:3])
    return x + lax.scan(chunk, jnp.zeros((D, D)), qkv)[1].reshape(T, D)


CHANNELS = "channel attention (softmax 2x4x4, 2 heads, no mask)"
KINDS = [
    (channels, [CHANNELS, "L2 norm", "L2 norm"]),
    (channels_fused, [CHANNELS, "L2 norm", "L2 norm"]),
    (memory, ["attention to a memory (5 slots)"]),
    (memory_in_heads, ["attention to a memory (5 slots)"]),
    (additive, ["L2 norm"] * 3 + ["additive attention (norm 6x1, heads unknown, no mask)"]),
    (pooled, ["attention (softmax 6x1, heads unknown, no mask)"]),
    (averaged, ["additive attention (sigmoid 6x1, heads unknown, no mask)", "gate (sigmoid)"]),
    (correlated, ["auto-correlation (softmax 2, heads unknown, no mask)"]),
]


@pytest.mark.parametrize(("f", "expected"), KINDS)
def test_kinds_of_attention(f, expected):
    assert names(f) == sorted(expected)
    with pytest.raises(relprop.InputError):  # No map between tokens, or one that is of a constant.
        transformer_attribution(lambda x: jnp.sum(f(x)[:1]))(X)


@pytest.mark.parametrize("f", [lightning, lightning_by_scan])
def test_linear_attention_in_chunks_is_one(f):
    (name,) = names(f)
    assert "attention (linear" in name


def test_a_softmax_that_weighs_and_is_no_map_is_suspected():
    def by_slices(x):
        w = softmax(x @ W[0][:, :2])
        return w[:, :1] * jnp.tanh(x @ W[1]) + w[:, 1:] * jnp.sin(x @ W[2])

    assert any("attention?" in name for name in names(by_slices))


# State spaces and linear recurrences.


def state_space_duality(x, quadratic=False):
    """Mamba-2: within chunks by products, between them by a state."""
    dt = jax.nn.softplus(x @ W[4][:, :H])
    decay = jnp.cumsum(parts(dt * -jnp.exp(W[5][:1, :H])), 1)
    values = parts((x @ W[0]).reshape(T, H, D // H) * dt[..., None])
    b, c = parts(x @ W[1][:, :4]), parts(x @ W[2][:, :4])
    causal = jnp.tril(jnp.ones((2, 2), bool))[None, :, :, None]
    inside = jnp.where(causal, jnp.exp(decay[:, :, None] - decay[:, None]), 0)
    y = jnp.einsum("zls,zlsh,zshd->zlhd", jnp.einsum("zln,zsn->zls", c, b), inside, values)
    states = jnp.einsum("zsn,zsh,zshd->zhdn", b, jnp.exp(decay[:, -1:] - decay), values)

    def chunk(state, this):
        added, decay = this
        return state * jnp.exp(decay)[:, None, None] + added, state

    _, before = lax.scan(chunk, jnp.zeros_like(states[0]), (states, decay[:, -1]))
    y = y + jnp.einsum("zln,zhdn,zlh->zlhd", c, before, jnp.exp(decay))
    return x + y.reshape(T, D)


def combined(a, b):
    return a[0] * b[0], b[0] * a[1] + b[1]


def rg_lru(x):
    r, i = jax.nn.sigmoid(x @ W[0]), jax.nn.sigmoid(x @ W[1])
    a = jnp.exp(-8 * r * jax.nn.softplus(W[2][:1]))
    return x + lax.associative_scan(combined, (a, jnp.sqrt(1 - a**2) * (i * (x @ W[3]))))[1]


def lru(x):
    a = jnp.exp(lax.complex(-jnp.exp(W[0][:1]), W[1][:1]))
    u = (x @ W[2]).astype(a.dtype)
    states = lax.associative_scan(combined, (jnp.broadcast_to(a, (T, D)), u))[1]
    return x + jnp.real(states) @ W[3]


def min_gru(x):
    z = jax.nn.sigmoid(x @ W[0])
    return x + lax.associative_scan(combined, (1 - z, z * (x @ W[1])))[1]


def min_gru_in_logarithms(x):
    k, h = x @ W[0], x @ W[1]
    decay = jnp.cumsum(-jax.nn.softplus(k), 0)
    inputs = -jax.nn.softplus(-k) + jnp.log(jax.nn.softplus(h) + 0.5) - decay
    return x + jnp.exp(decay + lax.cumlogsumexp(inputs, axis=0))


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (state_space_duality, "state space (3 steps)"),
        (rg_lru, "state space (6 steps)"),
        (lru, "linear recurrence (6 steps)"),
        (min_gru, "linear recurrence (6 steps)"),
        (min_gru_in_logarithms, "linear recurrence (6 steps)"),
    ],
)
def test_recurrences_without_a_loop(f, expected):
    found = [n for n in names(f) if not n.startswith("gate")]
    assert found == [expected]


def selective(x):
    """Mamba: the time step scales what enters the state, and its exponential what stays."""
    u, dt = jax.nn.silu(x @ W[0]), jax.nn.softplus(x @ W[1])
    decay = jnp.exp(-dt * jnp.exp(W[2][:1]))

    def step(state, this):
        a, b = this
        state = a * state + b
        return state, state

    _, y = lax.scan(step, jnp.zeros(D), (decay, dt * (x @ W[3]) * u))
    return x + jax.nn.silu(x @ W[4]) * y


def unrolled_with_two_gates(x):
    """mLSTM: exponentials of an input's gate and of a decay, under a maximum that is carried."""
    i, f = x @ W[0], jax.nn.log_sigmoid(x @ W[1])
    most, state = i[0], (x @ W[2])[0]
    for t in range(1, T):
        before, most = most, jnp.maximum(f[t] + most, i[t])
        state = jnp.exp(f[t] + before - most) * state + jnp.exp(i[t] - most) * (x @ W[2])[t]
    return jnp.tanh(state @ W[3])


def decayed_twice(x):
    """The same decay within a chunk and across: one exponential to its author."""
    log = jnp.cumsum(-jax.nn.softplus(x @ W[0]), 0)
    inside = jnp.exp(log[-1:] - log) * (x @ W[1])
    return x + jnp.exp(log) * inside.sum(0, keepdims=True)


@pytest.mark.parametrize(
    ("f", "expected", "exponentials"),
    [
        (selective, ["gate (silu)", "state space (6 steps)"], 1),
        (unrolled_with_two_gates, ["state space"], 1),
        (decayed_twice, ["state space"], 1),
    ],
)
def test_what_belongs_to_a_state_is_no_gate(f, expected, exponentials):
    assert names(f) == expected
    plan = relprop.inspect(lambda x: jnp.sum(f(x)), relprop.presets.attn_lrp())(X)
    assert [b.details for b in plan.blocks if isinstance(b, Activation)].count(
        "exp"
    ) == exponentials


def test_the_stages_of_a_solver_are_no_recurrence():
    """In each stage the field is asked for at another place, but of one beginning."""

    def step(x):
        def stage(k, weight):
            return jnp.tanh((x + weight * k) @ W[0]) @ W[1], None

        return x + 0.5 * lax.scan(stage, jnp.zeros_like(x), jnp.array([0.0, 0.5, 0.5, 1.0]))[0]

    def in_turn(x):
        return lax.fori_loop(0, T, lambda i, h: jnp.tanh(h @ W[0] + x[i] @ W[1]), jnp.zeros(D))

    assert names(step) == ["stacked layers (4 steps)"]
    assert names(in_turn) == ["RNN (6 steps)"]


# Gates by products of every kind.


def test_a_gate_by_an_einsum():
    """Scalars open for vectors; neither has an axis that the other lacks, but one of one entry."""

    def opened(x):
        vectors = jnp.stack([x @ W[1], x @ W[2], x @ W[3]], -1)
        return jnp.einsum("tci,tcj->tcij", jax.nn.sigmoid(x @ W[0])[..., None], vectors)

    assert names(opened) == ["gate (sigmoid)"]


# Norms, degrees, routers.


def group_norm(x, groups=2):
    """As PyTorch has it: groups are split from the channels, weighted when they are joined."""
    y = x.T.reshape(1, groups, -1)
    y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-5)
    return y.reshape(1, D, T) * W[0][:1, :, None] + W[1][:1, :, None]


def test_groups_that_are_joined_before_their_weights():
    assert names(group_norm) == ["group norm"]
    assert names(lambda x: group_norm(x, D)) == ["instance norm"]


def test_degrees_of_a_graph_are_no_batch_norm():
    senders, receivers = jnp.array([0, 1, 2, 3, 4, 5, 0]), jnp.array([1, 2, 3, 4, 5, 0, 3])

    def convolved(x):
        degree = jnp.maximum(jax.ops.segment_sum(jnp.ones(7), receivers, T), 1.0)
        summed = jax.ops.segment_sum((x @ W[0])[senders], receivers, T)
        return jax.nn.relu(summed * lax.rsqrt(degree)[:, None]) @ W[1]

    assert names(convolved) == []


def largest_by_argmax(h, axis):
    best = jnp.expand_dims(jnp.argmax(h, axis), axis)
    return jnp.take_along_axis(h, best, axis)


@pytest.mark.parametrize(
    "chosen",
    [
        lambda h: largest_by_argmax(h, 0)[0] @ W[1],
        lambda h: largest_by_argmax(h.T, 1)[:, 0] @ W[1],
        lambda h: largest_by_argmax(h.reshape(T, 4, 2), 2)[..., 0],
        lambda h: jnp.median(h, axis=1),
        lambda h: jnp.sort(h, 0)[:2] @ W[1],
        lambda h: jnp.where(h >= lax.top_k(h, 3)[0][:, -1:], h, 0) @ W[1],
    ],
    ids=["points", "channels first", "maxout", "median", "sorted", "sparse code"],
)
def test_features_that_are_chosen_for_their_own_sake_are_no_router(chosen):
    assert names(lambda x: chosen(x @ W[0])) == []


def test_chosen_experts_are_a_router_and_no_attention():
    def mixture(x):
        w, chosen = lax.top_k(softmax(x @ W[0][:, :4]), 2)
        made = jnp.einsum("td,edf->tef", x, jnp.stack(W[1:5]))
        made = jnp.take_along_axis(made, chosen[..., None], 1)
        return x + jnp.sum(w[..., None] * made, 1)

    assert names(mixture) == ["router (4 experts)"]


@pytest.mark.parametrize("first", [False, True])
def test_experts_that_are_weighed_by_a_sigmoid_have_a_router_and_no_gate(first):
    """Each by itself, of what it gives or of what it gets."""

    def mixture(x):
        w, chosen = lax.top_k(jax.nn.sigmoid(x @ W[0][:, :4]), 2)
        given = (w if first else jnp.ones_like(w))[..., None] * x[:, None]
        made = jnp.einsum("tkd,tkdf->tkf", given, jnp.stack(W[1:5])[chosen])
        return x + jnp.sum(made if first else w[..., None] * made, 1)

    assert names(mixture) == ["router (4 experts)"]


def test_a_limit_below_a_quotient_is_no_activation():
    """It keeps the sum of the weights that were chosen from being zero."""

    def mixture(x):
        w, chosen = lax.top_k(softmax(x @ W[0][:, :4]), 2)
        w = w / jnp.maximum(jnp.sum(w, -1, keepdims=True), 1e-9)
        made = jnp.einsum("td,tkdf->tkf", x, jnp.stack(W[1:5])[chosen])
        return x + jnp.sum(w[..., None] * made, 1)

    plan = relprop.inspect(
        lambda x: jnp.sum(mixture(x)), relprop.presets.attn_lrp(), on_suspicion="ignore"
    )(X)
    assert not [block for block in plan.blocks if isinstance(block, Activation)]
    assert "router (4 experts)" in map(str, plan.blocks)


# Heads by their layer.


def test_heads_by_layer():
    def score(x):
        for i in (0, 3):
            x = x + joined(softmax(scores(x, i)) @ heads(x @ W[i + 2]))
        return x[0].sum()

    rules = relprop.presets.attn_lrp()
    found = head_relevance(score, rules)(X)
    assert list(found) == [f"layer {i} head {h}" for i in (0, 1) for h in (0, 1)]
    _, inside = relprop.relevance(score, rules, places=(relprop.places.AttentionMaps(),))(X)
    for layer, (_, map_) in enumerate(inside.items()):
        own = [found[f"layer {layer} head {h}"] for h in range(H)]
        np.testing.assert_allclose(own, map_.relevance.sum((1, 2)), rtol=1e-5)
    with pytest.raises(relprop.InputError, match="no attention"):
        head_relevance(lambda x: (x @ W[0]).sum(), rules)(X)
