"""Loops, branches and calls change nothing: the rules hold inside of them as they do outside."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback

import relprop
from relprop.rules import Epsilon, Flat, Gamma, Gradient, ZBox, Zero, ZPlus

from .. import zoo_functions as zoo
from .test_gradient_parity import close

# Parameters are far from their defaults, so that a rule that isn't applied shows.
RULES = {
    "epsilon": Epsilon(0.3),
    "gamma": Gamma(0.7, epsilon=0.01),
    "gamma_ignore": Gamma(0.7, epsilon=0.01, bias="ignore"),
    "z_plus": ZPlus(0.01),
    "flat": Flat(0.01),
    "z_box": ZBox(-3.0, 3.0, epsilon=0.01),
}
FIRST = relprop.Composite().at(structure="dense", position=0).use(RULES["z_box"])
RULES["first_layer"] = FIRST.at(structure="dense").use(RULES["gamma"])

draw = zoo.Draw("control flow")
WS, BS, W, B = draw.dense(4, 4, 3), draw(3, 4), draw.dense(4, 4), draw(4)
X, XS = draw(4), draw(3, 4)


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same function twice: written out, and with something around its parts."""

    name: str
    plain: Callable[..., Any]
    wrapped: Callable[..., Any]
    args: tuple[Any, ...]
    without: tuple[str, ...]

    @property
    def rules(self) -> dict[str, Any]:
        return {name: rule for name, rule in RULES.items() if name not in self.without}


PAIRS: list[Pair] = []


def pair(*args: Any, without: str = ""):
    """Adds a pair: the decorated function returns the plain and the wrapped one.

    In a loop all steps have one rule, so that no first layer can be chosen there. What is constant
    in the first step only is an offset in that step where it is written out, and a summand in a
    loop: rules that ignore biases see the difference.
    """

    def add(make: Callable[[], tuple[Callable[..., Any], Callable[..., Any]]]) -> None:
        PAIRS.append(Pair(make.__name__, *make(), args, tuple(without.split())))

    return add


def by_name(name: str) -> Pair:
    return next(p for p in PAIRS if p.name == name)


def layer(x, w, b):
    return jnp.tanh(x @ w + b)


@pair(X, without="first_layer")
def scan_over_layers():
    def plain(x):
        for w, b in zip(WS, BS, strict=True):
            x = layer(x, w, b)
        return x

    return plain, lambda x: lax.scan(lambda c, wb: (layer(c, *wb), None), x, (WS, BS))[0]


@pair(X, without="first_layer")
def scan_unrolled_twice_as_far():
    return PAIRS[0].plain, lambda x: lax.scan(
        lambda c, wb: (layer(c, *wb), None), x, (WS, BS), unroll=2
    )[0]


@pair(X, without="first_layer")
def scan_reversed():
    def plain(x):
        for w, b in zip(WS[::-1], BS[::-1], strict=True):
            x = layer(x, w, b)
        return x

    return plain, lambda x: lax.scan(
        lambda c, wb: (layer(c, *wb), None), x, (WS, BS), reverse=True
    )[0]


@pair(X, without="first_layer")
def scan_nested():
    def plain(x):
        for w in WS[:2]:
            for b in BS[:2]:
                x = layer(x, w, b)
        return x

    def wrapped(x):
        def outer(x, w):
            return lax.scan(lambda x, b: (layer(x, w, b), None), x, BS[:2])

        return lax.scan(outer, x, WS[:2])[0]

    return plain, wrapped


@pair(X, XS, without="first_layer")
def scan_over_time():
    def step(h, x):
        h = jnp.tanh(h @ W + x @ WS[0] + B)
        return h, h * 2.0

    def plain(h, xs):
        ys = []
        for x in xs:
            h, y = step(h, x)
            ys.append(y)
        return h, jnp.stack(ys)

    return plain, lambda h, xs: lax.scan(step, h, xs)


@pair(X, W, without="first_layer gamma_ignore")
def scan_with_active_constants():
    # Both the input and the weight are explained: a product, and the rules for layers apply to BS.
    def step(h, x, w):
        return jnp.tanh((h + x) @ WS[0] + BS[0]) * jnp.sum(w)

    def plain(x, w):
        h = jnp.ones(4)
        for _ in range(3):
            h = step(h, x, w)
        return h

    return plain, lambda x, w: lax.fori_loop(0, 3, lambda _, h: step(h, x, w), jnp.ones(4))


@pair(X, without="first_layer gamma_ignore")
def carry_active_from_second_step():
    def step(a, b, x):
        return jnp.tanh(b @ W + B), x + 0.5 * a @ WS[1]

    def plain(x):
        a, b = jnp.ones(4), jnp.full(4, 0.5)
        for _ in range(3):
            a, b = step(a, b, x)
        return a + b

    def wrapped(x):
        (a, b), _ = lax.scan(
            lambda c, _: (step(*c, x), None), (jnp.ones(4), jnp.full(4, 0.5)), None, length=3
        )
        return a + b

    return plain, wrapped


@pair(X, without="first_layer")
def carry_of_integers_and_flags():
    def plain(x):
        for i in range(3):
            x = layer(x, W, B) if i % 2 == 0 else x * (i + 1.0)
        return x

    def wrapped(x):
        def body(carry, _):
            i, even, x = carry
            x = jnp.where(even, layer(x, W, B), x * (i.astype(x.dtype) + 1.0))
            return (i + 1, ~even, x), i

        return lax.scan(body, (jnp.int32(0), jnp.array(True), x), None, length=3)[0][2]

    return plain, wrapped


@pair(X, without="first_layer")
def scan_that_carries_attention():
    # What is carried gets relevance in both forms, so that the loop has to carry both.
    def step(x):
        h = x.reshape(2, 2)
        return (jax.nn.softmax(h @ h.T) @ h).reshape(4) + layer(x, W, B)

    return lambda x: step(step(x)), lambda x: lax.fori_loop(0, 2, lambda _, x: step(x), x)


@pair(X)
def jit():
    def plain(x):
        return layer(layer(x, W, B), WS[0], BS[0])

    def wrapped(x):
        inner = jax.jit(layer)
        return jax.jit(lambda x: inner(inner(x, W, B), WS[0], BS[0]))(x)

    return plain, wrapped


@pair(X)
def remat():
    def wrapped(x):
        policy = jax.checkpoint_policies.everything_saveable
        x = jax.checkpoint(layer)(x, W, B)
        return jax.checkpoint(layer, policy=policy, prevent_cse=False)(x, WS[0], BS[0])

    return by_name("jit").plain, wrapped


@pair(X)
def remat_of_remat():
    @jax.checkpoint
    def wrapped(x):
        return jax.checkpoint(layer)(jax.checkpoint(layer)(x, W, B), WS[0], BS[0])

    return by_name("jit").plain, wrapped


@pair(X, without="first_layer")
def remat_in_scan():
    return PAIRS[0].plain, lambda x: lax.scan(
        jax.checkpoint(lambda c, wb: (layer(c, *wb), None)), x, (WS, BS)
    )[0]


@pair(X, without="first_layer")
def scan_in_remat():
    return PAIRS[0].plain, jax.checkpoint(PAIRS[0].wrapped)


@pair(X)
def cond():
    def wrapped(x):
        x = lax.cond(x[0] > -99.0, lambda x: layer(x, W, B), lambda x: 2.0 * x, x)
        return lax.cond(x[0] > 99.0, lambda x: jnp.ones(4), lambda x: layer(x, WS[0], BS[0]), x)

    return by_name("jit").plain, wrapped


@pair(X)
def switch():
    branches = (
        lambda x, w: (jnp.zeros(4), x),
        lambda x, w: (layer(x, W, B), x @ w),
        lambda x, w: (x @ W, x),
    )

    def plain(x):
        a, b = branches[1](x, WS[1])
        return a * 2.0 + b

    def wrapped(x):
        a, b = lax.switch(jnp.int32(1), branches, x, WS[1])
        return a * 2.0 + b

    return plain, wrapped


@pair(X, without="first_layer")
def cond_in_scan():
    def plain(x):
        for i in range(3):
            x = layer(x, W, B) if i != 1 else x @ WS[0]
        return x

    def wrapped(x):
        def body(x, i):
            return lax.cond(i != 1, lambda x: layer(x, W, B), lambda x: x @ WS[0], x), None

        return lax.scan(body, x, jnp.arange(3))[0]

    return plain, wrapped


@pair(X, without="first_layer")
def scan_in_cond():
    return PAIRS[0].plain, lambda x: lax.cond(x[0] > -99.0, PAIRS[0].wrapped, lambda x: x, x)


def _as_custom_jvp(f):
    g = jax.custom_jvp(f)
    g.defjvp(lambda primals, tangents: jax.jvp(f, primals, tangents))
    return g


def _as_custom_vjp(f):
    # The author's derivative is wrong on purpose: rules go by what the function does.
    g = jax.custom_vjp(f)
    g.defvjp(lambda *args: (f(*args), args), lambda args, _: jax.tree.map(jnp.ones_like, args))
    return g


@pair(X)
def custom_jvp():
    wrapped_layer = _as_custom_jvp(layer)
    return by_name("jit").plain, lambda x: wrapped_layer(wrapped_layer(x, W, B), WS[0], BS[0])


@pair(X)
def custom_vjp():
    wrapped_layer = _as_custom_vjp(layer)
    return by_name("jit").plain, lambda x: wrapped_layer(wrapped_layer(x, W, B), WS[0], BS[0])


@pair(X, without="first_layer")
def custom_jvp_in_scan():
    wrapped_layer = _as_custom_jvp(layer)
    return PAIRS[0].plain, lambda x: lax.scan(
        lambda c, wb: (wrapped_layer(c, *wb), None), x, (WS, BS)
    )[0]


@pair(X, without="first_layer")
def custom_vjp_in_remat_in_cond_in_scan():
    inner = jax.checkpoint(_as_custom_vjp(layer))

    def wrapped(x):
        def body(x, wb):
            return lax.cond(wb[0][0, 0] < 99.0, inner, lambda x, w, b: x, x, *wb), None

        return lax.scan(body, x, (WS, BS))[0]

    return PAIRS[0].plain, wrapped


@pair(XS, without="first_layer")
def vmap():
    return lambda xs: layer(xs, W, B[None]), jax.vmap(lambda x: layer(x, W, B))


def explanations(f, args, rules):
    """Relevance by each rule, from one compilation."""
    numbers = tuple(range(len(args)))

    @jax.jit
    def all_of_them(*args):
        return {
            name: relprop.relevance(zoo.score(f), rule, numbers)(*args)
            for name, rule in rules.items()
        }

    return all_of_them(*args)


@functools.cache
def plain_explanations(plain, args_of, without):
    found = by_name(args_of)
    return explanations(plain, found.args, found.rules)


@pytest.mark.parametrize("each", PAIRS, ids=lambda p: p.name)
def test_wrapped_as_plain(each):
    # Many pairs have their plain function in common; it is explained once.
    owner = next(p for p in PAIRS if (p.plain, p.without) == (each.plain, each.without))
    expected = plain_explanations(each.plain, owner.name, each.without)
    got = explanations(each.wrapped, each.args, each.rules)
    assert set(got) == set(each.rules)
    for name in each.rules:
        close(got[name], expected[name], 3e-5)
    # The comparison would be empty if the rules agreed among themselves.
    flat = {n: np.concatenate([np.ravel(x) for x in jax.tree.leaves(expected[n])]) for n in got}
    for a, b in itertools.combinations(flat, 2):
        assert np.max(np.abs(flat[a] - flat[b])) > 1e-4, f"{a} and {b} do not differ here"


@pytest.mark.parametrize("name", ["scan_over_layers", "cond", "remat", "custom_jvp", "switch"])
def test_wrapped_as_plain_without_jit(name):
    each = by_name(name)
    for rule in (RULES["gamma"], RULES["flat"]):
        explain = [
            relprop.relevance(zoo.score(f), rule)(*each.args) for f in (each.wrapped, each.plain)
        ]
        close(*explain, 3e-5)


@pytest.mark.parametrize(
    "name", ["scan_over_layers", "scan_over_time", "cond_in_scan", "remat_in_scan", "custom_jvp"]
)
def test_relevance_of_wrapped_can_be_differentiated(name):
    each = by_name(name)

    def sensitivity(f):
        def total(x):
            got = relprop.relevance(zoo.score(f), Gamma(0.5, epsilon=0.1))(x, *each.args[1:])
            return jnp.sum(jnp.sin(3.0 * got))

        return jax.jit(jax.grad(total))(each.args[0])

    close(sensitivity(each.wrapped), sensitivity(each.plain), 1e-3)


@pytest.mark.parametrize("flag", [True, False])
def test_cond_is_the_branch_that_was_taken(flag):
    def yes(x):
        return layer(x, W, B)

    def no(x):
        return jnp.sin(x) @ WS[1]

    explain = relprop.relevance(zoo.score(lambda x, c: lax.cond(c, yes, no, x)), Gamma(0.5))
    expected = relprop.relevance(zoo.score(yes if flag else no), Gamma(0.5))(X)
    close(explain(X, jnp.array(flag)), expected)
    close(jax.jit(explain)(X, jnp.array(flag)), expected)


def test_cond_under_vmap_takes_each_ones_branch():
    def f(x):
        return lax.cond(x[0] > 0, lambda x: layer(x, W, B), lambda x: x @ WS[1], x)

    explain = jax.jit(relprop.relevance(zoo.score(f), RULES["gamma"]))
    expected = jnp.stack([explain(x) for x in XS])
    assert {bool(x[0] > 0) for x in XS} == {True, False}
    close(jax.vmap(explain)(XS), expected)


def test_relevance_of_each_step():
    """Relevance of the inputs of a recurrent network, step by step."""

    def f(xs):
        return lax.scan(lambda h, x: (jnp.tanh(h @ W + x @ WS[0]), None), jnp.zeros(4), xs)[0][1]

    def unrolled(*xs):
        h = jnp.zeros(4)
        for x in xs:
            h = jnp.tanh(h @ W + x @ WS[0])
        return h[1]

    for rule in (Epsilon(), RULES["gamma"], RULES["flat"]):
        value, got = jax.jit(relprop.value_and_relevance(f, rule))(XS)
        expected = jax.jit(relprop.relevance(unrolled, rule, tuple(range(len(XS)))))(*XS)
        close(got, jnp.stack(expected))
        if rule == Epsilon():
            assert abs(float(got.sum() - value)) < 1e-4
        assert all(float(jnp.abs(r).max()) > 1e-6 for r in got)


def test_scan_of_outputs_only():
    # Relevance enters by the outputs of each step, and none by the last carry.
    def f(x):
        return lax.scan(lambda c, w: (jnp.tanh(c @ w), c * 2.0), x, WS)[1]

    def unrolled(x):
        ys = []
        for w in WS:
            ys.append(x * 2.0)
            x = jnp.tanh(x @ w)
        return jnp.stack(ys)

    rules = {"gamma": RULES["gamma"], "flat": RULES["flat"]}
    got, expected = explanations(f, (X,), rules), explanations(unrolled, (X,), rules)
    close(got, expected)


def test_gradient_rule_on_the_whole_call():
    """A rule for a call as a whole replaces what is inside."""
    inner = _as_custom_vjp(layer)
    composite = relprop.Composite().at(structure="custom_derivative").use(Gradient())
    got = relprop.relevance(zoo.score(lambda x: inner(x, W, B)), composite)(X)
    assert np.ptp(np.asarray(got)) < 1e-6  # what its author says: ones
    plan = relprop.inspect(lambda x: inner(x, W, B), composite)(X)
    assert [op.structure for op in plan] == ["custom_derivative"]


@pytest.mark.parametrize("wrap", [_as_custom_jvp, _as_custom_vjp], ids=["jvp", "vjp"])
def test_the_value_keeps_the_derivative_that_its_author_wrote(wrap):
    """The value beside the relevance is the function's own, also to an outer gradient."""

    def half(primals, tangents):
        return layer(*primals), 0.5 * jax.jvp(layer, primals, tangents)[1]

    inner = wrap(layer)
    if wrap is _as_custom_jvp:
        inner.defjvp(half)

    def f(x):
        return jnp.sum(inner(x, W, B))

    explain = relprop.value_and_relevance(f, Epsilon())
    got = jax.grad(lambda x: explain(x)[0])(X)
    close(got, jax.grad(f)(X))
    assert np.abs(got - jax.grad(lambda x: jnp.sum(layer(x, W, B)))(X)).max() > 1e-2


# What is inside is seen.


def test_inspect_shows_what_is_inside():
    plan = relprop.inspect(PAIRS[0].wrapped, RULES["gamma"])(X)
    assert [(op.structure, op.depth, op.rule) for op in plan] == [
        ("scan", 0, None),
        ("dense", 1, RULES["gamma"]),
        ("activation", 1, relprop.rules.Pass()),
    ]


def test_composite_reaches_inside_by_position_and_scope():
    def f(x):
        def body(c, w):
            with jax.named_scope("cell"):
                return jnp.tanh(c @ w), None

        return lax.scan(body, x @ W, WS)[0]

    composite = relprop.Composite().at(structure="dense", scope="*cell*").use(Flat())
    plan = relprop.inspect(f, composite.at(structure="dense").use(Epsilon()))(X)
    assert [type(op.rule).__name__ for op in plan if op.structure == "dense"] == ["Epsilon", "Flat"]
    last = relprop.Composite().at(structure="dense", position=-1).use(Flat())
    plan = relprop.inspect(f, last)(X)
    assert [type(op.rule).__name__ for op in plan if op.structure == "dense"] == ["Zero", "Flat"]


@pytest.mark.parametrize("name", ["scan_over_layers", "remat", "cond", "custom_jvp", "scan_nested"])
def test_ledger_adds_up_inside(name):
    each = by_name(name)
    books = [
        relprop.ledger(zoo.score(f), RULES["epsilon"])(*each.args)
        for f in (each.plain, each.wrapped)
    ]
    for plain, wrapped in zip(
        *[(b.left, b.bias, b.epsilon, b.stopped) for b in books], strict=True
    ):
        assert wrapped == pytest.approx(plain, abs=1e-4)
    for book in books:
        assert abs(book.gap) < 1e-4
        for row in book:
            assert abs(row.gap) < 1e-4, str(row)


def _constant_start(x):
    def body(carry, _):
        a, b = carry
        return (a + jnp.sin(b), x + 0.1 * a), None

    return lax.scan(body, (jnp.ones(4), jnp.ones(4)), None, length=3)[0]


def _constant_branch(x):
    return lax.cond(x[0] > 99.0, lambda x: x * 3.0, lambda x: jnp.ones(4), x) + x


@pytest.mark.parametrize("f", [_constant_start, _constant_branch])
def test_ledger_tells_what_constants_inside_took(f):
    """A constant first state, or the constant of a branch, takes relevance as a bias does."""
    book = relprop.ledger(zoo.score(f), Epsilon())(X)
    assert abs(float(book.score) - book.left) > 0.1  # there is something to account for
    assert abs(book.gap) < 1e-4
    assert book.bias + book.stopped == pytest.approx(float(book.score) - book.left, abs=1e-4)


# While loops.


def test_while_loop_on_the_way_is_refused_with_its_line():
    def f(x):
        x = jnp.tanh(x @ W)
        x = lax.while_loop(lambda v: v.sum() > 0.1, lambda v: v * 0.5, x)
        return x.sum()

    for rule in (Epsilon(), Gradient()):
        with pytest.raises(relprop.MissingRuleError) as caught:
            relprop.relevance(f, rule)(X)
        message = str(caught.value)
        line = f.__code__.co_firstlineno + 2
        assert f"test_control_flow.py:{line}" in message
        assert "while" in message
        assert "lax.scan" in message  # what to do about it
        assert "float32[4]" in message


def test_while_loop_in_scan_is_refused():
    def f(x):
        def body(c, _):
            return lax.while_loop(lambda v: v.sum() > 0.1, lambda v: v * 0.5, c), None

        return lax.scan(body, x, None, length=2)[0].sum()

    with pytest.raises(relprop.MissingRuleError, match="test_control_flow.py"):
        relprop.relevance(f, Epsilon())(X)


def test_fori_loop_with_dynamic_bounds_is_refused():
    def f(x, n):
        return lax.fori_loop(0, n, lambda i, c: jnp.tanh(c @ W), x).sum()

    with pytest.raises(relprop.MissingRuleError, match="Python numbers"):
        relprop.relevance(f, Epsilon())(X, jnp.int32(3))


def test_while_loop_off_the_way_is_no_matter():
    def f(x):
        n = lax.while_loop(lambda n: n < 5, lambda n: n + 2, jnp.int32(0))
        unused = lax.while_loop(lambda v: v.sum() > 0.1, lambda v: v * 0.5, x)
        size = lax.while_loop(lambda v: v > 1.0, lambda v: v / 2.0, lax.stop_gradient(x[0]) + 9.0)
        del unused
        return jnp.sum(x @ W) * n.astype(x.dtype) * size

    n, size = 6, float(X[0]) + 9.0
    while size > 1.0:
        size /= 2.0
    value, got = relprop.value_and_relevance(f, Epsilon(), on_suspicion="ignore")(X)
    close(got, relprop.relevance(lambda x: jnp.sum(x @ W) * n * size, Epsilon())(X))
    assert float(value) == pytest.approx(float(got.sum()), rel=1e-4)


# Effects happen once.


def _counting():
    seen: list[float] = []
    return seen, lambda x: jax.debug.callback(lambda v: seen.append(float(v)), x.sum())


def _noisy(note):
    """Functions that note something, by what is around the note; and how often they do."""

    def noisy_layer(x):
        note(x)
        return jnp.tanh(x @ W)

    def quiet_loop(x):
        # A loop that no relevance passes, with a note inside.
        out = lax.scan(lambda c, _: (note(x), (c + 1.0, None))[1], 0.0, None, length=2)[0]
        return jnp.tanh(x @ W) * out

    def scanned(x):
        return lax.scan(lambda c, _: (noisy_layer(c), None), x, None, length=3)[0]

    def branched(x):
        return lax.cond(x[0] < 99.0, noisy_layer, lambda x: x, x)

    return {
        "plain": (noisy_layer, 1),
        "jit": (jax.jit(noisy_layer), 1),
        "scan": (scanned, 3),
        "cond": (branched, 1),
        "remat": (jax.checkpoint(noisy_layer), 1),
        "remat_of_jit": (jax.checkpoint(jax.jit(noisy_layer)), 1),
        "remat_of_remat": (jax.checkpoint(jax.checkpoint(noisy_layer)), 1),
        "remat_of_scan": (jax.checkpoint(scanned), 3),
        "remat_of_cond": (jax.checkpoint(branched), 1),
        "remat_of_quiet_loop": (jax.checkpoint(quiet_loop), 2),
        "remat_of_custom_jvp": (jax.checkpoint(_as_custom_jvp(noisy_layer)), 1),
        "custom_jvp": (_as_custom_jvp(noisy_layer), 1),
        "scan_of_remat": (
            lambda x: lax.scan(
                lambda c, _: (jax.checkpoint(noisy_layer)(c), None), x, None, length=3
            )[0],
            3,
        ),
        "scan_of_cond": (
            lambda x: lax.scan(lambda c, _: (branched(c), None), x, None, length=3)[0],
            3,
        ),
        "cond_of_scan": (lambda x: lax.cond(x[0] < 99.0, scanned, lambda x: x, x), 3),
        "cond_of_cond": (lambda x: lax.cond(x[0] < 99.0, branched, lambda x: x, x), 1),
        "quiet_loop": (quiet_loop, 2),
    }


NOISY = [(name, True) for name in _noisy(lambda x: None)]
NOISY += [(name, False) for name in ("plain", "scan", "cond", "remat", "custom_jvp")]


@pytest.mark.parametrize(("name", "jit"), NOISY)
def test_effects_happen_once(name, jit):
    seen, note = _counting()
    f, expected = _noisy(note)[name]
    explain = relprop.value_and_relevance(zoo.score(f), Epsilon())
    jax.block_until_ready((jax.jit(explain) if jit else explain)(X))
    jax.effects_barrier()
    assert len(seen) == expected


def _drawing():
    """A callback that gives another number each time, and what it has given."""
    given: list[float] = []

    def draw_on_host(x):
        given.append(float(x))
        return np.float32(1 + len(given))

    return given, draw_on_host


def _calling_back(number):
    """Functions of a scalar x with f(x) = x f(1) that use numbers from outside."""
    constant = jnp.float32(0.25)

    def leaf(x):
        return x * number(lax.stop_gradient(x)) + x * number(constant)

    def scanned(f):
        return lambda x: lax.scan(lambda c, k: (c + f(k * x), None), 0.0 * x, jnp.arange(3.0))[0]

    def in_while(f):
        def looped(x):
            known = lax.stop_gradient(x)
            start = (0, 0.0)
            return (
                x
                * lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1] + f(known)), start)[
                    1
                ]
            )

        return looped

    wrappers = {
        "scan": scanned,
        "remat": jax.checkpoint,
        "cond": lambda f: lambda x: lax.cond(x > 0, f, lambda x: -x, x),
        "while": in_while,
        "custom_jvp": _as_custom_jvp,
        "region": relprop.region("marked"),
    }
    found = {"plain": leaf} | {name: wrap(leaf) for name, wrap in wrappers.items()}
    for outer, inner in itertools.product(("scan", "remat", "cond", "custom_jvp"), wrappers):
        found[f"{outer} of {inner}"] = wrappers[outer](wrappers[inner](leaf))
    return found


CALLBACKS = [(name, "ordered") for name in _calling_back(lambda x: x)]
CALLBACKS += [(name, kind) for name, _ in CALLBACKS if " " not in name for kind in ("io", "pure")]


@pytest.mark.parametrize(("name", "kind"), CALLBACKS)
def test_callbacks_with_results_run_once(name, kind):
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    call = {
        "io": functools.partial(io_callback, ordered=False),
        "ordered": functools.partial(io_callback, ordered=True),
        "pure": jax.pure_callback,
    }[kind]

    def run(transform):
        given, on_host = _drawing()
        f = _calling_back(lambda x: call(on_host, shape, x))[name]
        results = jax.block_until_ready(jax.jit(transform(f))(jnp.float32(1.5)))
        jax.effects_barrier()
        return results, given

    expected, calls = run(lambda f: f)
    (value, relevance), given = run(
        lambda f: relprop.value_and_relevance(f, Zero(), on_suspicion="ignore")
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(relevance, value, rtol=1e-6)
    if kind == "ordered":
        assert given == calls
    else:
        assert sorted(given) == sorted(calls)


def test_debug_print_prints_once(capfd):
    @jax.checkpoint
    def f(x):
        jax.debug.print("value {}", x[0])
        return jnp.sum(jnp.tanh(x @ W))

    jax.block_until_ready(relprop.relevance(f, Epsilon())(X))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("value") == 1


# Rematerialisation still saves memory.


def _temporary_bytes(f, x):
    explain = jax.jit(relprop.relevance(f, RULES["gamma"]))
    analysis = explain.lower(x).compile().memory_analysis()
    if analysis is None:
        pytest.skip("this backend does not report the memory of a program")
    return analysis.temp_size_in_bytes


def test_remat_is_not_undone_in_scan(optimised):
    depth, width = 32, 16
    weights = draw.dense(width, width, depth)
    x = draw(32, width)

    def block(x, w):
        for _ in range(4):
            x = jnp.tanh(x @ w)
        return x, None

    def model(body):
        return lambda x: jnp.sum(lax.scan(body, x, weights)[0])

    without = _temporary_bytes(model(block), x)
    with_remat = _temporary_bytes(model(jax.checkpoint(block, prevent_cse=False)), x)
    assert with_remat < 0.5 * without


def test_remat_is_kept_from_being_undone_by_the_compiler():
    # On CPU the compiler ignores the barrier, also in `jax.grad`; so it is looked for before.
    def lowered(body):
        explain = relprop.relevance(lambda x: jnp.sum(body(body(x, W, B), WS[0], BS[0])), Epsilon())
        return jax.jit(explain).lower(X).as_text()

    plain, kept = lowered(layer), lowered(jax.checkpoint(layer))
    assert plain.count("optimization_barrier") == 0
    assert kept.count("optimization_barrier") == 2
    # Evaluated again; what the call returns is there.
    assert kept.count("stablehlo.dot_general") > plain.count("stablehlo.dot_general")
    free = lowered(jax.checkpoint(layer, prevent_cse=False))
    assert free.count("optimization_barrier") == 0


def test_a_branch_may_keep_random_keys():
    def noisy(x):
        def step(x, key):
            return x * jax.random.normal(key, x.shape), None

        return lax.scan(step, x, jax.random.split(jax.random.key(0), 3))[0]

    def f(x, index):
        return jnp.sum(lax.switch(index, [noisy, lambda x: 2 * x], x))

    x = jnp.array([1.0, 2.0])
    for index, branch in enumerate([noisy, lambda x: 2 * x]):
        found = relprop.relevance(f, Zero(), on_suspicion="ignore")(x, index)
        np.testing.assert_allclose(found, branch(x), rtol=1e-6)
