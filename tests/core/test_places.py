"""Relevance at places inside a function, in the same call as that of its inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import Where
from relprop.places import Input, Named, Output, Parameter, Phases, Scope

RULES = relprop.presets.attn_lrp()
KEYS = jax.random.split(jax.random.key(0), 6)
W = 0.5 * jax.random.normal(KEYS[0], (3, 4, 4))
X = jax.random.normal(KEYS[1], (2, 4))


def layer(x, w):
    with jax.named_scope("layer"):
        return x + jax.nn.gelu(x @ w)


def unrolled(x, weights=W):
    for i in range(3):
        with jax.named_scope(str(i)):
            x = layer(x, weights[i])
    return x.sum()


def scanned(x, weights=W):
    return lax.scan(lambda x, w: (layer(x, w), None), x, weights)[0].sum()


def after(count):
    """The relevance of the output of some layers, from the rest of the function alone."""
    x = X
    for i in range(count):
        x = layer(x, W[i])

    def rest(x):
        for i in range(count, 3):
            x = layer(x, W[i])
        return x.sum()

    return relprop.relevance(rest, RULES)(x), x


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_outputs_of_layers_equal_those_of_the_rest_of_the_function():
    R, inside = relprop.relevance(unrolled, RULES, places="*/layer")(X)
    close(R, relprop.relevance(unrolled, RULES)(X))
    assert list(inside) == ["0/layer", "1/layer", "2/layer"]
    for i, place in enumerate(inside.values()):
        relevance, value = after(i + 1)
        close(place.relevance, relevance)
        close(place.value, value)


def test_in_a_scan_there_is_one_entry_per_step():
    _, inside = jax.jit(relprop.relevance(scanned, RULES, places="layer"))(X)
    close(inside["layer"].relevance, jnp.stack([after(i + 1)[0] for i in range(3)]))
    close(inside["layer"].value, jnp.stack([after(i + 1)[1] for i in range(3)]))


@pytest.mark.parametrize("reverse", [False, True])
def test_entries_of_a_scan_are_in_the_order_of_its_inputs(reverse):
    def f(x):
        def body(carry, x):
            return carry, relprop.named(3 * x, "tripled")

        return (lax.scan(body, 0.0, x, reverse=reverse)[1] * jnp.arange(4.0)).sum()

    _, inside = relprop.relevance(f, RULES, places=Named("tripled"))(jnp.ones(4))
    close(inside["tripled"].relevance, 3 * jnp.arange(4.0))


def test_in_a_checkpoint_and_a_region():
    def f(x):
        x = jax.checkpoint(layer)(x, W[0])
        return relprop.region("second")(layer)(x, W[1]).sum()

    _, inside = relprop.relevance(f, RULES, places="layer")(X)
    plain = relprop.relevance(lambda x: layer(layer(x, W[0]), W[1]).sum(), RULES, places=())
    assert set(inside) == {"layer", "layer#1"}
    close(inside["layer"].relevance.sum(), plain(X).sum())
    _, first = relprop.relevance(lambda x: layer(x, W[1]).sum(), RULES, places="layer")(
        layer(X, W[0])
    )
    close(inside["layer#1"].relevance, first["layer"].relevance)


def test_in_a_branch_that_was_not_taken_it_is_zero():
    def f(x, which):
        return lax.cond(which, lambda x: relprop.named(x * 2, "twice"), lambda x: x, x).sum()

    for which in (True, False):
        _, inside = relprop.relevance(f, RULES, places="twice")(X, which)
        close(inside["twice"].relevance, 2 * X if which else 0 * X)


def test_outputs_and_inputs_of_operations():
    def f(x, params):
        hidden = jax.nn.relu(x @ params["up"])
        return (hidden @ params["down"]).sum()

    params = {"up": W[0], "down": W[1]}
    explain = relprop.relevance(f, RULES, places=[Input(path="*down"), Where(path="*down")])
    _, inside = explain(X, params)
    hidden = jax.nn.relu(X @ W[0])
    close(inside["params/down"].relevance, hidden * W[1].sum(1)[None])
    close(inside["params/down"].value, hidden)
    close(inside["params/down#1"].relevance, hidden @ W[1])
    _, again = relprop.relevance(f, RULES, places=Output(structure="dense", position=-1))(X, params)
    close(again["params/down"].relevance, hidden @ W[1])


def test_attention_maps():
    def f(x):
        weights = jax.nn.softmax(x @ W[0] @ x.T, axis=-1)
        return (weights @ (x @ W[1])).sum()

    _, inside = relprop.relevance(f, RULES, places=Output(structure="softmax"))(X)
    weights = jax.nn.softmax(X @ W[0] @ X.T, axis=-1)
    close(inside["softmax"].value, weights)
    close(inside["softmax"].relevance, weights * (X @ W[1]).sum(1)[None] / 2)
    # In conservative propagation the maps are constants: nothing arrives there.
    _, inside = relprop.relevance(f, relprop.presets.cp_lrp(), places=Output(structure="softmax"))(
        X
    )
    close(inside["softmax"].relevance, jnp.zeros((2, 2)))


def test_parameters_that_are_added_take_their_share():
    def f(x, params):
        return ((x + params["position"]) @ W[0]).sum()

    position = jax.random.normal(KEYS[2], (2, 4))
    R, inside = relprop.relevance(f, RULES, places=Parameter("*position"))(
        X, {"position": position}
    )
    per_unit = W[0].sum(1)[None]
    close(R, X * per_unit)
    close(inside["params/position"].relevance, position * per_unit)


def test_rotary_phases_take_half_of_each_product():
    angles = jnp.arange(2.0)[:, None] * jnp.ones((2, 4))

    def f(x):
        half = jnp.concatenate([-x[:, 2:], x[:, :2]], axis=1)
        return ((x * jnp.cos(angles) + half * jnp.sin(angles)) @ W[0]).sum()

    R, inside = relprop.relevance(f, RULES, places=Phases())(X)
    close(R.sum() * 2, f(X))
    close(inside["cos"].relevance, X * jnp.cos(angles) * W[0].sum(1)[None] / 2)
    close(R.sum(), inside["cos"].relevance.sum() + inside["sin"].relevance.sum())


def test_with_vrp_aux_jit_vmap_and_gradients():
    def f(x):
        return unrolled(x), x.max()

    (R, inside), aux = relprop.relevance(f, RULES, has_aux=True, places="0/layer")(X)
    (value, _), (again, _) = relprop.value_and_relevance(f, RULES, has_aux=True, places="0/layer")(
        X
    )
    close(aux, X.max())
    close(value, unrolled(X))
    close(R, again)
    y, back = relprop.vrp(unrolled, X, rules=RULES, places="0/layer")
    (from_vrp,), same = back(y)
    close(from_vrp, R)
    close(same["0/layer"].relevance, inside["0/layer"].relevance)
    batched = jax.jit(jax.vmap(relprop.relevance(unrolled, RULES, places="0/layer")))
    _, batch = batched(jnp.stack([X, 2 * X]))
    close(batch["0/layer"].relevance[0], inside["0/layer"].relevance)

    def at_first_layer(x):
        _, inside = relprop.relevance(unrolled, RULES, places="0/layer")(x)
        return inside["0/layer"].relevance.sum()

    assert jnp.isfinite(jax.grad(at_first_layer)(X)).all()


def test_scopes_are_matched_part_by_part():
    def names(*places):
        return list(relprop.relevance(unrolled, RULES, places=places)(X)[1])

    assert names(Scope("**/layer")) == names("*/layer")
    assert names("1/*") == ["1/layer"]
    assert names("0") == ["0"]


def test_a_layer_with_two_outputs():
    def f(x):
        with jax.named_scope("pair"):
            a, b = x @ W[0], x @ W[1]
        return (a * 2 + b).sum()

    _, inside = relprop.relevance(f, RULES, places="pair")(X)
    close(inside["pair[0]"].relevance, 2 * X @ W[0])
    close(inside["pair[1]"].relevance, X @ W[1])


def test_a_place_that_is_not_there():
    with pytest.raises(relprop.NothingMatchedError) as error:
        relprop.relevance(unrolled, RULES, places=["nowhere", Where(structure="softmax")])(X)
    assert "2 place(s)" in str(error.value)
    assert "'nowhere'" in str(error.value)
    assert "0/layer" in str(error.value)


@pytest.mark.parametrize("function", [jax.nn.relu, jnp.tanh, jax.nn.gelu, jax.nn.softplus])
def test_what_goes_into_an_activation_can_be_looked_at(function):
    def f(x):
        with jax.named_scope("half"):
            half = relprop.named(x @ W[0] + 1.0, "pre") * 0.5
        return (function(half) * 2 + 1).sum()

    plain = relprop.relevance(f, RULES)(X)
    R, inside = relprop.relevance(f, RULES, places=["pre", "half"])(X)
    close(R, plain)
    close(inside["half"].relevance, inside["pre"].relevance)


def test_between_two_functions():
    def f(x):
        return jnp.sqrt(relprop.named(jnp.exp(x @ W[0]), "between")).sum()

    R, inside = relprop.relevance(f, RULES, places="between")(X)
    close(R, relprop.relevance(f, RULES)(X))
    close(inside["between"].relevance, jnp.sqrt(jnp.exp(X @ W[0])))


def test_naming_changes_nothing():
    def plain(x):
        return (jax.nn.silu(x @ W[0]) * jax.nn.softmax(x, -1)).sum()

    def full_of_names(x):
        x = relprop.named(x, "a")
        h = relprop.named(x @ W[0], "b")
        gate = relprop.named(h * relprop.named(jax.nn.sigmoid(h), "c"), "d")
        return relprop.named((gate * relprop.named(jax.nn.softmax(x, -1), "e")).sum(), "f")

    for rules in (RULES, relprop.presets.cp_lrp(), relprop.presets.gradient()):
        close(relprop.relevance(full_of_names, rules)(X), relprop.relevance(plain, rules)(X))
    spectrum = relprop.relevance(
        lambda x: jnp.fft.ifft(relprop.named(jnp.fft.fft(x), "spectrum")).real.sum(), RULES
    )(X)
    close(spectrum, X)


def test_where_no_relevance_arrives_there_is_zero():
    def f(x):
        inner = jax.checkpoint(lambda x: relprop.named(jnp.tanh(x @ W[0]), "inner"))(x)
        loop = lax.scan(lambda c, x: (c, relprop.named(2 * x, "step")), 0.0, inner)[1]
        return (loop @ W[1]).sum() + x.sum()

    rules = relprop.Composite().at(structure="dense", position=-1).use(relprop.rules.Stop())
    _, inside = relprop.relevance(f, rules, places=["inner", "step"])(X)
    close(inside["inner"].relevance, jnp.zeros((2, 4)))
    close(inside["step"].relevance, jnp.zeros((2, 4)))
    close(inside["inner"].value, jnp.tanh(X @ W[0]))


def test_the_same_value_at_two_places_and_names_that_are_taken():
    def f(x):
        with jax.named_scope("block"), jax.named_scope("last"):
            x = x @ W[0]
        a = relprop.named(x, "a")
        b = relprop.named(a @ W[1], "a")
        return (a + relprop.named(b @ W[2], "a#1")).sum()

    _, inside = relprop.relevance(f, RULES, places=["block", "block/last", "a", "a#1"])(X)
    close(inside["block"].relevance, inside["block/last"].relevance)
    assert len([name for name in inside if name.startswith("a")]) == 3


def test_names_with_brackets_and_scopes_under_vmap():
    def f(x):
        x = relprop.named(x @ W[0], "h[0]")
        return jax.vmap(lambda x: layer(x, W[1]))(x).sum()

    _, inside = relprop.relevance(f, RULES, places=["h[0]", "layer"])(X)
    assert "h[0]" in inside and len(inside) == 2


def test_phases_made_in_a_call_of_their_own_and_functions_that_are_no_phases():
    angles = jnp.arange(2.0)[:, None] * jnp.ones((2, 4))

    def f(x):
        cos = jax.checkpoint(jnp.cos)(angles)
        x = x + jnp.sin(x) ** 2  # an activation
        return ((x * cos) @ W[0]).sum()

    R, inside = relprop.relevance(f, RULES, places=Phases())(X)
    assert list(inside) == ["cos"]
    close(R.sum(), inside["cos"].relevance.sum())


def test_plans_with_places():
    def f(x, angles):
        return ((x * jnp.cos(angles)) @ W[0]).sum()

    plain = relprop.inspect(f, RULES)(X, X)
    shared = relprop.inspect(f, RULES, places=Phases())(X, X)
    assert [plain[0].structure, shared[0].structure] == ["scale", "product"]


def test_a_place_inside_of_an_activation():
    def f(x):
        return (x * relprop.named(jax.nn.sigmoid(x), "inner")).sum()

    with pytest.raises(relprop.InputError, match="inner: inside of activation"):
        relprop.relevance(f, RULES, places="inner")(X)


def test_no_place_at_all():
    with pytest.raises(relprop.InputError, match="A place must be a string"):
        relprop.relevance(unrolled, RULES, places=[3])


def test_parameters_that_start_a_way_of_their_own():
    def f(x, params):
        return (jnp.concatenate([params["queries"], x]) @ W[0]).sum()

    params = {"queries": 2 * X[:1]}
    _, inside = relprop.relevance(f, RULES, places=relprop.places.Start("*queries"))(X, params)
    close(inside["params/queries"].relevance, 2 * X[:1] * W[0].sum(1)[None])


# Coefficients: relevance per unit of a value.


@pytest.mark.parametrize("function", [unrolled, scanned])
def test_coefficients_are_there_where_the_value_is_zero(function):
    zero = jnp.zeros_like(X)
    for rules in (RULES, relprop.rules.Gradient()):
        _, inside = relprop.relevance(function, rules, places="**/layer")(zero)
        at_last = [*inside.values()][-1].coefficient
        last = at_last[-1] if function is scanned else at_last
        close(last, jnp.ones_like(X))
        assert all(jnp.abs(place.coefficient).min() > 0 for place in inside.values())
        assert not any(place.value.any() for place in inside.values())


def test_coefficients_times_values_are_relevance():
    explain = jax.jit(
        relprop.relevance(unrolled, RULES, places=["*/layer", Input(structure="dense")])
    )
    for place in explain(X)[1].values():
        close(place.coefficient * place.value, place.relevance)


@pytest.mark.parametrize("rule", [relprop.rules.Flat(), relprop.rules.WSquare()])
def test_what_receives_shares_has_no_coefficient(rule):
    _, inside = relprop.relevance(unrolled, rule, places="0/layer")(X)
    assert inside["0/layer"].coefficient is None
    assert jnp.abs(inside["0/layer"].relevance).min() > 0


def test_what_an_activation_reads_has_no_coefficient():
    def f(x):
        return jax.nn.gelu(relprop.named(x @ W[0], "before")).sum()

    _, inside = relprop.relevance(f, RULES, places="before")(X)
    assert inside["before"].coefficient is None
    _, inside = relprop.relevance(f, relprop.rules.Gradient(), places="before")(X)
    close(inside["before"].coefficient, jax.vmap(jax.vmap(jax.grad(jax.nn.gelu)))(X @ W[0]))


def test_coefficients_are_zero_in_a_branch_that_was_not_taken_and_where_nothing_arrives():
    def f(x, which):
        def twice(x):
            return relprop.named(x * 2, "twice")

        relprop.named(x * 3, "unused")
        return lax.cond(which, twice, lambda x: x, x).sum()

    for which in (True, False):
        _, inside = relprop.relevance(f, RULES, places="twice")(X, which)
        close(inside["twice"].coefficient, jnp.full_like(X, which))
