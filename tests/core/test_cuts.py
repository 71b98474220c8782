"""Where the way from the inputs ends is told, with the amount; what is only chosen is not."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop.rules import Epsilon, Gradient, Zero

RULES = Zero()
KEYS = jax.random.split(jax.random.key(3), 4)
W, V = (jax.random.normal(key, (4, 3)) for key in KEYS[:2])
X = jnp.array([1.0, 2.2, -3.3, 0.4])
B = jnp.array([0.5, -1.0, 2.0])


def _one_hot(z):
    return jax.nn.one_hot(jnp.argmax(z), 3)


@jax.custom_jvp
def _staircase(z):
    return jnp.round(z) + jnp.floor(2 * z).sum()


_staircase.defjvps(lambda t, out, z: t)

#: What lets no relevance through, and the primitives where the way ends.
CUTS = {
    "round": (jnp.round, {"round"}),
    "floor": (jnp.floor, {"floor"}),
    "ceil": (jnp.ceil, {"ceil"}),
    "sign": (jnp.sign, {"sign"}),
    "comparison": (lambda z: (z > 0).astype(jnp.float32), {"gt"}),
    "two comparisons": (lambda z: ((z > 0) & (z < 1)).astype(jnp.float32), {"gt", "lt"}),
    "integers": (lambda z: z.astype(jnp.int32).astype(jnp.float32), {"convert_element_type"}),
    "counted": (lambda z: 2.0 * jnp.sum(z > 0).astype(jnp.float32) * B, {"gt"}),
    "stop_gradient": (lambda z: lax.stop_gradient(jnp.tanh(z)), {"stop_gradient"}),
    "argmax": (_one_hot, {"argmax"}),
    "index": (lambda z: jnp.argmin(z).astype(jnp.float32) + B, {"argmin"}),
    "order": (lambda z: jnp.argsort(z).astype(jnp.float32), {"sort"}),
    "then a layer": (lambda z: jnp.round(z) @ W[:3] + B, {"round"}),
    "loop": (
        lambda z: lax.fori_loop(0, 3, lambda i, c: c + jnp.round(z), jnp.zeros(3)),
        {"round"},
    ),
    "while": (
        lambda z: lax.while_loop(lambda c: c.sum() < 9, lambda c: c + 1.0, jnp.round(z)),
        {"round"},
    ),
}


def with_cut(cut):
    """A layer, and beside it something behind a cut; the latter is also an argument."""
    return lambda x: (x @ W + cut(x @ V)).sum(), lambda x, c: (x @ W + c).sum()


def cuts(rows):
    return [row for row in rows if row.structure == "cut"]


def ledger_of(f, *args, rules=RULES):
    book = relprop.ledger(f, rules, on_suspicion="ignore")(*args)
    whole = book.left + book.bias + book.epsilon + book.stopped + book.cut
    np.testing.assert_allclose(whole, book.score, rtol=1e-5, atol=1e-5)
    for row in book:
        assert abs(row.gap) < 1e-4, row
    lost = sum(row.cut for row in book if row.operation.structure == "cut")
    np.testing.assert_allclose(lost, book.cut, rtol=1e-6, atol=1e-6)
    return book


def line_of(function, text):
    lines, start = inspect.getsourcelines(function)
    (found,) = (start + i for i, line in enumerate(lines) if text in line)
    return found


# ------------------------------------------------------------------------ rows and amounts


@pytest.mark.parametrize("name", CUTS)
def test_what_is_added_from_behind_a_cut_has_its_amount_lost_there(name):
    cut, primitives = CUTS[name]
    f, given = with_cut(cut)
    constant = cut(X @ V)
    book = ledger_of(f, X)
    np.testing.assert_allclose(book.cut, float(constant.sum()), rtol=1e-6)
    # As an argument the same numbers are a bias, and relevance is what it is here.
    known = relprop.ledger(given, RULES)(X, constant)
    np.testing.assert_allclose(book.relevance, known.relevance, rtol=1e-6)
    np.testing.assert_allclose(book.cut + book.bias, known.bias, rtol=1e-5, atol=1e-6)
    assert {row.operation.primitive for row in book if row.operation.structure == "cut"} == (
        primitives
    )


def test_a_row_tells_where_and_how_it_is_used():
    def f(x):
        hidden = x @ V
        rounded = jnp.round(hidden)
        return ((x @ W) * jnp.sign(hidden) + rounded).sum()

    plan = relprop.inspect(f, RULES, on_suspicion="ignore")(X)
    rows = {row.primitive: row for row in cuts(plan)}
    assert rows.keys() == {"round", "sign"}
    assert (rows["round"].note, rows["sign"].note) == ("summand", "factor")
    assert f":{line_of(f, 'jnp.round')}:" in rows["round"].source
    assert rows["round"].rule is None and rows["round"].rule_name == "none"
    assert [row.number for row in plan] == list(range(len(plan)))
    assert re.search(r"cut +round +none \(summand\)", str(plan))
    book = ledger_of(f, X)
    amounts = {r.operation.primitive: r.cut for r in book if r.operation.structure == "cut"}
    assert amounts["sign"] == 0  # Its share is that of what it scales.
    np.testing.assert_allclose(amounts["round"], jnp.round(X @ V).sum(), rtol=1e-6)
    assert "cut" in str(book).splitlines()[0] and ", cut " in str(book).splitlines()[-1]


def test_of_several_cuts_behind_one_value_the_last_has_the_amount():
    def f(x):
        return (x @ W + jnp.round(x @ V) * jnp.floor(x[:3])).sum()

    rows = {r.operation.primitive: r for r in ledger_of(f, X) if r.operation.structure == "cut"}
    total = (jnp.round(X @ V) * jnp.floor(X[:3])).sum()
    np.testing.assert_allclose([rows["round"].cut, rows["floor"].cut], [0, total], rtol=1e-6)


def test_a_bias_of_a_layer_may_be_behind_a_cut():
    book = ledger_of(lambda x: (x @ W + (jnp.round(x[:3]) + B)).sum(), X)
    np.testing.assert_allclose(book.cut, (jnp.round(X[:3]) + B).sum(), rtol=1e-6)
    assert book.bias == 0


@pytest.mark.parametrize(
    "join",
    [
        lambda z, c: jnp.concatenate([z, c, B]),
        lambda z, c: jnp.stack([z, c, B]),
        lambda z, c: jnp.concatenate([z, B]).at[3:].set(c) + jnp.pad(B, (3, 0)),
        lambda z, c: lax.select_n(jnp.arange(3), z, c, B),
    ],
    ids=["concatenate", "stack", "set", "select_n"],
)
def test_beside_other_constants_only_its_own_part_is_cut(join):
    def f(x):
        return join(x @ W, jnp.round(x @ V)).sum()

    z, c = X @ W, jnp.round(X @ V)
    book = ledger_of(f, X)
    behind = join(0 * z, c) - join(0 * z, 0 * c)
    np.testing.assert_allclose(book.cut, behind.sum(), rtol=1e-5)
    np.testing.assert_allclose(book.bias, join(0 * z, 0 * c).sum(), rtol=1e-5)


def test_scattered_additions():
    book = ledger_of(lambda x: (x @ W).at[1].add(jnp.round(x[0] + x[1])).sum(), X)
    np.testing.assert_allclose(book.cut, jnp.round(X[0] + X[1]), rtol=1e-6)


def test_rules_that_ignore_biases_lose_nothing():
    f, _ = with_cut(jnp.round)
    assert ledger_of(f, X, rules=Epsilon(1e-9, bias="ignore")).cut == 0


WRAPPERS = {
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "region": relprop.region("part"),
    "cond": lambda f: lambda *a: lax.cond(a[0][0] > 0, f, lambda *a: 0.0 * f(*a), *a),
    "scan": lambda f: lambda *a: lax.scan(lambda c, _: (c, f(*a)), 0.0, None, length=1)[1][0],
    "vmap": lambda f: lambda *a: jax.vmap(f)(*(b[None] for b in a))[0],
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
@pytest.mark.parametrize("part", ["all", "cut", "sum", "value"])
def test_inside_and_outside_of_bodies(wrap, part):
    """The cut in a body, what reads it in a body, both, or the numbers on the way."""
    w_all, w_cut, w_sum, w_value = (wrap if part == p else lambda f: f for p in
                                    ("all", "cut", "sum", "value"))  # fmt: skip

    @w_all
    def f(x):
        c = w_cut(lambda z: jnp.round(z @ V))(x)
        c = w_value(lambda c: 2.0 * c)(c)
        return w_sum(lambda z, c: z @ W + c)(x, c)

    book = ledger_of(lambda x: f(x).sum(), X)
    np.testing.assert_allclose(book.cut, (2 * jnp.round(X @ V)).sum(), rtol=1e-5)
    np.testing.assert_allclose(book.left, (X @ W).sum(), rtol=1e-5)
    rows = [row for row in book if row.operation.structure == "cut"]
    assert {row.operation.primitive for row in rows} == {"round"}


def test_what_a_loop_starts_from_and_adds_each_time():
    def f(x):
        def step(c, w):
            return c + x @ w + jnp.floor(x[:3]), None

        return lax.scan(step, jnp.round(x @ V), jnp.stack([W, V]))[0].sum()

    rows = {r.operation.primitive: r for r in ledger_of(f, X) if r.operation.structure == "cut"}
    np.testing.assert_allclose(rows["round"].cut, jnp.round(X @ V).sum(), rtol=1e-6)
    np.testing.assert_allclose(rows["floor"].cut, 2 * jnp.floor(X[:3]).sum(), rtol=1e-6)
    assert rows["floor"].operation.depth == 1


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_branch_that_returns_what_is_behind_a_cut(sign):
    def f(x):
        return lax.cond(x[0] > 0, lambda x: jnp.round(x @ W), lambda x: x @ W, x).sum()

    lost = float(jnp.round(X @ W).sum()) if sign > 0 else 0.0
    np.testing.assert_allclose(ledger_of(f, sign * X).cut, lost, rtol=1e-6)


def test_what_relevance_does_not_reach_has_no_row():
    def f(x):
        unused = jnp.round(x)
        return (x @ W).sum(), jnp.floor(unused + x)

    assert not cuts(relprop.inspect(f, RULES, has_aux=True, on_suspicion="error")(X))


# ------------------------------------------------------------------------------ no words


CHOICES = {
    "relu": lambda x: jnp.where(x > 0, x, 0.0),
    "relu by a factor": lambda x: x * (x > 0),
    "fraction": lambda x: x - jnp.floor(x),
    "magnitude": lambda x: jnp.sign(x) * x,
    "where": lambda x: jnp.where(x @ V > 0, x @ W, 0.0),
    "where constants": lambda x: x @ W + jnp.where(x @ V > 0, 1.0, B),
    "clip": lambda x: jnp.clip(x, -1.0, 1.0),
    "largest": lambda x: x[jnp.argmax(x)],
    "largest neighbours": lambda x: jnp.take_along_axis(
        x.reshape(2, 2), jnp.argmax(x.reshape(2, 2), 1)[:, None], 1
    ),
    "top-k": lambda x: lax.top_k(x, 2)[0],
    "routing": lambda x: x @ jnp.stack([W, V])[jnp.argmax(x[:2])] + B[jnp.argmax(x[:2])],
    "routing by one-hot": lambda x: jnp.einsum(
        "e,eio,i->o", jax.nn.one_hot(jnp.argmax(x[:2]), 2), jnp.stack([W, V]), x
    ),
    "branch": lambda x: lax.cond(x[0] > 0, lambda x: x @ W, lambda x: x @ V, x),
    "branch of constants": lambda x: x @ W + lax.cond(x[0] > 0, lambda: B, lambda: 2 * B),
    "softmax": lambda x: jax.nn.softmax(x @ W) * B,
    "softmax of a part": lambda x: jax.nn.softmax(x, where=jnp.arange(4) < 3, axis=-1),
    "log-softmax": lambda x: jax.nn.log_softmax(x @ W) * B,
    "logsumexp": lambda x: jax.nn.logsumexp(x @ W),
    "layer norm": lambda x: jax.nn.standardize(x) * X,
    "attention": lambda x: jax.nn.dot_product_attention(*[x[None, :, None, None] * jnp.ones(
        (1, 1, 1, 2))] * 3, is_causal=True),
    "dropped": lambda x: x * (jnp.arange(4) < 2),
    "relu6": jax.nn.relu6,
    "gelu": jax.nn.gelu,
    "sort": lambda x: jnp.sort(x) * X,
}  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("preset", ["attn_lrp", "epsilon_plus"])
def test_what_is_chosen_or_recognised_is_no_matter(name, preset):
    def f(x):
        return jnp.sum(CHOICES[name](x))

    rules = getattr(relprop.presets, preset)()
    with jax.numpy_dtype_promotion("standard"):
        plan = relprop.inspect(f, rules, on_suspicion="error")(X)
    assert {row.note for row in cuts(plan)} <= {"choice"}


def test_a_switch_by_a_condition_is_shown_and_not_told():
    def f(x):
        return ((x @ W) * (x @ V > 0).astype(x.dtype)).sum()

    (row,) = cuts(relprop.inspect(f, RULES, on_suspicion="error")(X))
    assert (row.primitive, row.note) == ("gt", "choice")
    assert ledger_of(f, X).cut == 0


def test_a_straight_through_estimator_is_an_activation():
    @jax.custom_vjp
    def rounded(x):
        return jnp.round(x)

    rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))

    def f(x):
        return (rounded(x) @ W).sum()

    R = relprop.relevance(f, RULES, on_suspicion="error")(X)
    np.testing.assert_allclose(R.sum(), f(X), rtol=1e-5)
    # A cut behind it is the one that is told.
    with pytest.raises(relprop.SuspicionError, match="cut: floor") as caught:
        relprop.relevance(lambda x: f(x) + jnp.floor(rounded(x)).sum(), RULES,
                          on_suspicion="error")(X)  # fmt: skip
    assert "cut: round" not in str(caught.value)


# --------------------------------------------------------------------------- no way is left


@pytest.mark.parametrize("name", CUTS)
def test_where_every_way_is_cut_it_is_an_error(name):
    cut, primitives = CUTS[name]

    def f(x):
        return (cut(x @ V) * B).sum()

    with pytest.raises(relprop.MissingRuleError, match="Every way") as caught:
        relprop.relevance(f, RULES)(X)
    for primitive in primitives:
        assert re.search(rf"\n  {primitive}.*\n      at .*test_cuts.py:\d+", str(caught.value))
    assert "jax.custom_vjp" in str(caught.value)


def test_an_operation_that_changes_nothing_may_be_the_last():
    """The reading leaves it out; the way through it is there nonetheless, or is cut."""
    relprop.relevance(lambda x: (x @ W).sum() - 0, RULES, on_suspicion="error")(X)
    with pytest.raises(relprop.MissingRuleError, match="Every way"):
        relprop.relevance(lambda x: jnp.round(x).sum() - 0, RULES)(X)


def test_a_constant_that_was_chosen_is_no_score_to_be_explained():
    codes = jax.random.normal(KEYS[2], (5, 4))

    def quantised(x):
        return (codes[jnp.argmin(((x[None] - codes) ** 2).sum(-1))] @ W).sum()

    with pytest.raises(relprop.MissingRuleError, match="argmin"):
        relprop.relevance(quantised, RULES)(X)


def every_transform(f, **settings):
    yield lambda: relprop.relevance(f, RULES, **settings)(X)
    yield lambda: relprop.value_and_relevance(f, RULES, **settings)(X)
    yield lambda: relprop.vrp(f, X, rules=RULES, **settings)
    yield lambda: relprop.inspect(f, RULES, **settings)(X)
    yield lambda: relprop.ledger(f, RULES, **settings)(X)
    yield lambda: jax.jit(relprop.relevance(f, RULES, **settings))(X)
    named = {"place": "hidden", **settings}
    yield lambda: relprop.concepts.channels(f, RULES, **named)(X)
    yield lambda: relprop.concepts.relevance_of(f, RULES, index=0, **named)(X)
    yield lambda: relprop.concepts.references(f, RULES, samples=X[None], k=1, **named)


def test_every_transform_refuses_it():
    for explain in every_transform(lambda x: jnp.round(relprop.named(x @ V, "hidden")).sum()):
        with pytest.raises(relprop.MissingRuleError, match="Every way.*\n  round"):
            explain()


def test_a_policy_for_missing_rules_accepts_it():
    def f(x):
        return jnp.round(x @ V).sum()

    with pytest.warns(relprop.SuspicionWarning, match="cut: round"):
        R = relprop.relevance(f, RULES, on_missing="gradient")(X)
    assert not R.any()


def test_of_several_outputs_some_may_be_explained():
    def f(x):
        return x @ W, jnp.round(x @ V)

    with pytest.warns(relprop.SuspicionWarning, match="cut: round"):
        (first, second), back = relprop.vrp(f, X, rules=RULES)
    (R,) = back((first, second))
    np.testing.assert_allclose(R.sum(), first.sum(), rtol=1e-5)


def test_what_does_not_depend_on_the_inputs_at_all_is_zero_and_told():
    def f(x, w):
        return w.sum()

    with pytest.warns(relprop.SuspicionWarning, match="does not depend.*\n.* x"):
        R = relprop.relevance(f, RULES)(X, W)
    assert not R.any()
    assert not relprop.relevance(f, RULES, on_suspicion="ignore")(X, W).any()


# ------------------------------------------------------------------------------- the policy


def several(x):
    hidden = relprop.named(x @ V, "hidden")
    for _ in range(3):
        hidden = jnp.tanh(hidden) + jnp.round(hidden @ W[:3])
    ratio = jnp.exp(hidden) / jnp.square(hidden).sum()
    return ((x @ W) * jnp.sign(x[:3]) + ratio).sum()


def test_all_places_are_told_at_once():
    with pytest.warns(relprop.SuspicionWarning) as found:
        relprop.relevance(several, RULES)(X)
    (warning,) = found
    message = str(warning.message)
    assert message.startswith("3 place(s)")
    for text, line in (
        ("cut: round", "jnp.round"),
        ("cut: sign", "jnp.sign"),
        ("softmax or normalisation?", "ratio ="),
    ):
        assert f"test_cuts.py:{line_of(several, line)}" in message.split(text)[1].split("\n")[1]
    assert "(3 times)" in message and "jax.custom_vjp" in message
    assert warning.filename == __file__


def test_every_transform_has_the_policy():
    for explain in every_transform(several):
        with pytest.warns(relprop.SuspicionWarning, match="cut: round"):
            explain()
    for explain in every_transform(several, on_suspicion="error"):
        with pytest.raises(relprop.SuspicionError, match="cut: round"):
            explain()
    for explain in every_transform(several, on_suspicion="ignore"):
        explain()
    for explain in every_transform(several, on_suspicion="shout"):
        with pytest.raises(relprop.InputError, match="'warn', 'error' or 'ignore', got 'shout'"):
            explain()


_TOLD = """
import jax.numpy as jnp, relprop
X = jnp.arange(3.0)
several = lambda x: (jnp.tanh(x) + jnp.round(x[::-1])).sum()
for x in (X, X, 2 * X):
    relprop.relevance(several, relprop.rules.Epsilon())(x)
relprop.relevance(lambda x: jnp.floor(x).sum() + x.sum(), relprop.rules.Epsilon())(X)
"""


def test_a_place_is_told_once():
    # In a process of its own: what checks annotations in tests makes Python forget what it told.
    command = [sys.executable, "-W", "default", "-c", _TOLD]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert told.count("cut: round") == 1 and told.count("cut: floor") == 1


def test_compiled_it_is_told_when_traced():
    explain = jax.jit(relprop.relevance(several, RULES))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        explain(X)
        explain(2 * X)
    assert len(found) == 1


def test_the_gradient_is_what_it_is():
    for rules in (Gradient(), relprop.presets.gradient(), relprop.presets.guided_backprop()):
        R = relprop.relevance(several, rules, on_suspicion="error")(X)
        assert R.shape == X.shape
        assert not relprop.relevance(lambda x: jnp.round(x).sum(), rules)(X).any()


def test_language_models_have_the_policy():
    model = relprop.tokens.LanguageModel(
        embed=lambda params, ids: params[ids],
        logits=lambda params, embeds, ids, mask: jnp.round(embeds) @ params.T + embeds @ params.T,
        params=jax.random.normal(KEYS[3], (4, 3)),
    )
    with pytest.warns(relprop.SuspicionWarning, match="cut: round"):
        relprop.tokens.explain(model, [0, 1, 2])
    relprop.tokens.explain(model, [0, 1, 2], on_suspicion="ignore")


@pytest.mark.parametrize(
    ("f", "text"),
    [
        (lambda x: (jnp.exp(x) / jnp.square(x).sum()).sum(), "softmax or normalisation?"),
        (
            lambda x: (x / jnp.sqrt((x * x).sum())).sum() + jnp.sqrt((x * x).sum()),
            "normalisation?",
        ),
        (lambda x: (jnp.tanh(x @ W) * jnp.tanh(x @ V)).sum(), "gate?"),
        (
            lambda x: jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, (4,)), x, 0.0).sum(),
            "dropout?",
        ),
    ],
)
def test_what_resembles_a_structure_is_told(f, text):
    with pytest.raises(relprop.SuspicionError, match=re.escape(text)):
        relprop.relevance(f, RULES, on_suspicion="error")(X)
    kinds = {block.kind for block in relprop.inspect(f, RULES, on_suspicion="ignore")(X).blocks}
    assert text in kinds
