"""`relprop.intervene` is the function that one would write by hand with the edit in it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import edits
from relprop.places import AtStep, AttentionMaps, Input, Masked, Output, Parameter

from .. import zoo_functions as zoo

KEYS = jax.random.split(jax.random.key(0), 8)
W = 0.5 * jax.random.normal(KEYS[0], (3, 4, 4))
X = jax.random.normal(KEYS[1], (5, 4))


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def same(value):
    return value


def place(value, edit):
    """A place named "here", which by hand is edited."""
    return edit(relprop.named(value, "here"))


# Ten functions, each with the place in another surrounding.


def plain(x, edit=same):
    return (jax.nn.relu(place(x @ W[0], edit)) @ W[1]).sum()


def scan(x, edit=same):
    return lax.scan(lambda x, w: (x + jnp.tanh(place(x @ w, edit)), None), x, W)[0].sum()


def scan_of_outputs_backwards(x, edit=same):
    def body(carry, x):
        return carry * 0.5 + x, place(carry * x, edit)

    return (lax.scan(body, jnp.ones(4), x, reverse=True)[1] @ jnp.arange(4.0)).sum()


def scan_in_scan(x, edit=same):
    def inner(x, w):
        return x + jnp.sin(place(x * w[None], edit)), None

    return lax.scan(lambda x, w: (lax.scan(inner, x, w)[0], None), x, W)[0].sum()


def while_loop(x, edit=same):
    def step(state):
        i, x = state
        return i + 1, jnp.cos(place(x @ W[0], edit))

    return lax.while_loop(lambda state: state[0] < 3, step, (0, x))[1].sum()


def cond(x, edit=same):
    def first(x):
        return jnp.sin(place(2 * x, edit))

    return lax.cond(x[0, 0] > -9, first, lambda x: x, x).sum()


def switch(x, edit=same):
    branches = [lambda x: x, lambda x: place(x @ W[0], edit) ** 2, lambda x: -x]
    return lax.switch(jnp.argmax(x[0] * 0) + 1, branches, x).sum()


def remat(x, edit=same):
    return jax.checkpoint(lambda x: jnp.tanh(place(x @ W[0], edit)))(x).sum() ** 2


def jitted_and_mapped(x, edit=same):
    one = jax.jit(lambda x: place(x @ W[0], edit) * x)
    return jax.vmap(one)(x).sum()


def custom_derivative(x, edit=same):
    @jax.custom_vjp
    def f(x):
        return jnp.exp(place(x, edit)) * 2

    f.defvjp(lambda x: (f(x), x), lambda x, g: (g * x,))
    return f(x).sum()


def region(x, edit=same):
    return relprop.region("part")(lambda x: jnp.cos(place(x @ W[0], edit)))(x).sum()


FUNCTIONS = [
    plain, scan, scan_of_outputs_backwards, scan_in_scan, while_loop, cond, switch, remat,
    jitted_and_mapped, custom_derivative, region,
]  # fmt: skip
ROW = jax.random.normal(KEYS[2], (4,))
EDITS = {
    "zero": edits.zero,
    "scale": edits.scale(0.5),
    "neuron": edits.at(np.s_[..., 1], 7.0),
    "square": jnp.square,
}


@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_as_if_the_source_were_edited(f):
    @jax.jit
    def both(x):
        by_us = [relprop.intervene(f, {"here": edit})(x) for edit in EDITS.values()]
        by_hand = [f(x, edit) for edit in EDITS.values()]
        return jnp.stack(by_us), jnp.stack(by_hand)

    by_us, by_hand = both(X)
    close(by_us, by_hand)
    assert (jnp.abs(by_hand - f(X)) > 1e-3).all()


@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_the_value_itself_changes_nothing_and_an_array_is_an_edit(f):
    close(relprop.intervene(f, {"here": same})(X), f(X))
    close(relprop.intervene(f, {"here": ROW})(X), f(X, lambda v: jnp.broadcast_to(ROW, v.shape)))


def test_one_step_of_a_loop():
    def by_hand(x):
        for i, w in enumerate(W):
            x = x + jnp.tanh(x @ w if i != 1 else 0 * x)
        return x.sum()

    for step in (1, -2):
        close(relprop.intervene(scan, {AtStep("here", step): 0.0})(X), by_hand(X))
    entry = AtStep("here", (2, 0))
    changed = relprop.intervene(scan_in_scan, {entry: lambda v: v + 1.0})(X)
    assert abs(changed - scan_in_scan(X)) > 1e-3
    close(relprop.intervene(while_loop, {AtStep("here", 5): 0.0})(X), while_loop(X))


def test_an_array_with_an_axis_for_the_steps():
    rows = jax.random.normal(KEYS[3], (3, 1, 4))

    def by_hand(x):
        for row in rows:
            x = x + jnp.tanh(jnp.broadcast_to(row, x.shape))
        return x.sum()

    close(relprop.intervene(scan, {"here": rows})(X), by_hand(X))


def test_patching_with_the_values_of_another_run():
    values = relprop.values_at(scan, "here")(2 * X)
    assert values["here"].shape == (3, 5, 4)
    patched = relprop.intervene(scan, {"here": values["here"]})
    close(patched(X), X.sum() + jnp.tanh(values["here"]).sum())
    assert set(relprop.values_at(cond, "here")(X)) == {"here"}
    close(relprop.values_at(cond, "here")(X - 20)["here"], 0 * X)


def attention(x, params, edit=same):
    heads = [(x @ w).reshape(5, 2, 2).swapaxes(0, 1) for w in params["qkv"]]
    q, k, v = heads
    mixed = edit(jax.nn.softmax(q @ k.swapaxes(1, 2))) @ v
    return (x + mixed.swapaxes(0, 1).reshape(5, 4) @ params["o"]).sum(1)


PARAMS = {"qkv": W, "o": jax.random.normal(KEYS[4], (4, 4))}


def test_attention_maps_heads_inputs_of_layers_and_parameters():
    head = edits.at(1, edits.zero)
    close(
        relprop.intervene(attention, {AttentionMaps(): head})(X, PARAMS),
        attention(X, PARAMS, lambda a: a.at[1].set(0)),
    )
    without = attention(X, PARAMS | {"o": 0 * PARAMS["o"]})
    for spot in (Input(path="*/o"), Output(path="*/o"), Parameter("*/o")):
        close(relprop.intervene(attention, {spot: edits.zero})(X, PARAMS), without)


def test_of_token_ids():
    table = jax.random.normal(KEYS[5], (7, 4))

    def f(ids, params):
        with jax.named_scope("embed"):
            x = params["table"][ids]
        return attention(x, params).sum()

    ids, params = jnp.array([1, 2, 3, 4, 1]), PARAMS | {"table": table}
    close(relprop.intervene(f, {"embed": 0.0})(ids, params), 0.0)
    maps = relprop.values_at(f, AttentionMaps())(ids, params)
    assert maps["attention 000"].shape == (2, 5, 5)


def test_where_only_the_normal_form_has_the_value():
    # The bias belongs to the layer, though it is added to the sum.
    def f(x, params):
        return (x + x @ params["w"] + params["b"][None]).sum()

    params = {"w": W[0], "b": ROW}
    layer = Output(structure="dense")
    close(relprop.values_at(f, layer)(X, params)["params/w"], X @ W[0] + ROW[None])
    close(relprop.intervene(f, {layer: edits.scale(3.0)})(X, params), f(X, jax.tree.map(
        lambda p: 3 * p, params
    )))  # fmt: skip


def test_transformations():
    def scaled(a):
        return relprop.intervene(scan, {"here": lambda v: a * v})(X)

    def by_hand(a):
        return scan(X, lambda v: a * v)

    many = jnp.linspace(0.0, 2.0, 5)
    close(jax.jit(jax.vmap(scaled))(many), jnp.stack([by_hand(a) for a in many]))
    close(jax.jit(jax.grad(scaled))(0.7), jax.jit(jax.grad(by_hand))(0.7))
    gradient = jax.grad(relprop.intervene(custom_derivative, {"here": same}))
    assert jnp.isfinite(gradient(X)).all()


def test_the_edits():
    batch = relprop.intervene(plain, {"here": edits.mean()})(X)
    close(batch, plain(X, lambda v: jnp.broadcast_to(v.mean(0), v.shape)))
    key = jax.random.key(1)
    close(
        relprop.intervene(plain, {"here": edits.resample(key)})(X),
        plain(X, lambda v: jax.random.permutation(key, v)),
    )
    close(
        relprop.intervene(plain, {"here": edits.at(2, edits.patch(ROW))})(X),
        plain(X, lambda v: v.at[2].set(ROW)),
    )
    both = {"here": edits.zero, Output(primitive="dot_general", position=1): lambda v: v + 1}
    close(relprop.intervene(plain, both)(X), 20.0)


def test_several_places_and_auxiliary_results():
    def f(x):
        hidden = relprop.named(x @ W[0], "a")
        return relprop.named(hidden + 1, "b").sum(), {"hidden": hidden, "kind": "a word"}

    out, aux = relprop.intervene(f, {"a": 0.0, "b": edits.scale(2.0)}, has_aux=True)(X)
    close(out, 40.0)
    close(aux["hidden"], 0 * X)
    assert aux["kind"] == "a word"


@pytest.mark.parametrize(
    ("place", "edit", "kind", "words"),
    [
        ("nowhere", 0.0, relprop.NothingMatchedError, "nowhere"),
        ("here", jnp.ones(3), relprop.InputError, r"shape \(3,\), the value \(5, 4\)"),
        ("here", lambda v: v[:2], relprop.InputError, r"shape \(2, 4\)"),
        ("here", lambda v: v.astype(complex), relprop.InputError, "complex64"),
        ("here", "zero", relprop.InputError, "'zero'"),
        ("here", None, relprop.InputError, "None"),
        ("here", edits.at((0, 4), 0.0), relprop.InputError, "no entry 4"),
        ("here", edits.at(0, jnp.ones(3)), relprop.InputError, r"does not fit the part 0"),
        (Masked("here", 1.0), 0.0, relprop.InputError, "change relevance"),
        (AtStep("here", 0), 0.0, relprop.InputError, "0 loop"),
    ],
)
def test_bad_edits(place, edit, kind, words):
    with pytest.raises(kind, match=words):
        relprop.intervene(plain, {place: edit})(X)


def test_more_bad_input():
    with pytest.raises(relprop.InputError, match="no step 3 in a loop of 3"):
        relprop.intervene(scan, {AtStep("here", 3): 0.0})(X)
    with pytest.raises(relprop.InputError, match="a dict"):
        relprop.intervene(plain, ["here"])
    with pytest.raises(relprop.InputError, match="integer"):
        AtStep("here", 1.5)
    with pytest.raises(relprop.InputError, match="while_loop"):
        relprop.values_at(while_loop, "here")(X)


# By interventions: what the coefficient of a place is.

PRODUCTS = functools.partial(Output, primitive="dot_general")


@pytest.mark.parametrize(
    "case", zoo.named("mlp residual_block causal_attention scan_over_layers remat_in_scan")
)
def test_coefficients_of_the_gradient_rule_are_derivatives(case):
    f, args = case.explained()
    numbers = tuple(range(len(args)))
    score = zoo.score(f)
    explain = relprop.relevance(score, relprop.rules.Gradient(), numbers, places=PRODUCTS())
    (*shapes,) = jax.eval_shape(explain, *args)[1].values()

    @jax.jit
    def everything(*args):
        pairs = []
        for i in range(len(shapes)):
            spot = PRODUCTS(position=i)
            _, inside = relprop.relevance(score, relprop.rules.Gradient(), numbers, places=spot)(
                *args
            )
            (found,) = inside.values()
            looped = "scan" in case.name
            spots = [AtStep(spot, n) for n in range(len(found.value))] if looped else [spot]
            zeros = jnp.zeros_like(found.value[0] if looped else found.value)
            derivatives = [jax.grad(moved)(zeros, spot) for spot in spots]
            pairs.append((found.coefficient, jnp.stack(derivatives) if looped else derivatives[0]))
        return pairs

    def moved(delta, spot):
        return relprop.intervene(score, {spot: lambda v: v + delta}, numbers)(*args)

    for coefficient, derivative in everything(*args):
        zoo_close(coefficient, derivative)


def zoo_close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1e-3, float(jnp.abs(b).max())))


def layered(x, params):
    def layer(x, w):
        with jax.named_scope("layer"):
            return x + jnp.tanh(relprop.named(x @ w, "before"))

    x, _ = lax.scan(lambda x, w: (layer(x, w), None), x, params["stack"])
    with jax.named_scope("outer"), jax.named_scope("last"):
        return (jax.checkpoint(layer)(x, params["last"]) ** 2).sum()


def test_names_scopes_and_paths_are_there_afterwards():
    params = {"stack": W[:2], "last": W[2]}
    edited = relprop.intervene(layered, {"before": same})
    places = ["**/layer", "before", Input(path="params/last")]
    plain, again = (
        jax.jit(relprop.relevance(f, relprop.presets.attn_lrp(), places=places))(X, params)
        for f in (layered, edited)
    )
    assert {*plain[1]} == {*again[1]}
    jax.tree.map(close, again, plain)
    twice = relprop.intervene(edited, {"layer": 1.0, "outer/last/layer": edits.scale(2.0)})
    ones = jnp.ones_like(X)
    close(twice(X, params), 4 * ((ones + jnp.tanh(ones @ W[2])) ** 2).sum())
