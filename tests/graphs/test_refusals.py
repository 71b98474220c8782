"""What no graph can be made of, and what is said about it."""

import jax
import jax.numpy as jnp
import pytest

import relprop
from relprop import InputError, NothingMatchedError
from relprop.graphs import attribution_graph
from relprop.places import Heads, Masked
from relprop.rules import Flat

from . import model

RELP = relprop.presets.relp()
X = jnp.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.5]])


def f(x):
    relprop.named(x @ jnp.ones((2, 2)), "aside")
    return relprop.named(x @ jnp.array([[1.0, 2.0], [-1.0, 1.0]]), "hidden").sum(0)


def spliced(decode):
    return relprop.splice(f, "hidden", jax.nn.relu, decode)


def looped(x):
    return jax.lax.scan(lambda x, _: (relprop.named(2 * x, "turn"), None), x, None, 3)[0].sum(0)


CASES = {
    "all features are 0": (lambda x: relprop.named(0 * x, "hidden").sum(0), {}, "are 0"),
    "no such axes": (f, {"places": {"hidden": (0, 5)}}, "has 2 axes"),
    "axes are no numbers": (f, {"places": {"hidden": "ab"}}, "not those of 'ab'"),
    "no such mass": (f, {"logit_mass": float("nan")}, "from 0 to 1"),
    "no places": (f, {"places": ()}, "is empty"),
    "changes relevance": (f, {"places": Masked("hidden", 0.0)}, "change relevance"),
    "in a loop": (looped, {"places": "turn"}, "Python loop"),
    "several positions": (lambda x: relprop.named(x, "hidden"), {}, "Select a position"),
    "NaN features": (spliced(lambda a: a * jnp.nan), {"places": "hidden features"}, "NaN"),
    "tokens": (f, {"tokens": ["a"]}, "1 tokens, but 3 positions"),
    "vocabulary": (f, {"vocabulary": ["a"], "logit_mass": 1.0}, "none for"),
    "no such logit": (f, {"logits": [0, 2]}, "from 0 to 1"),
    "a logit that is no number": (f, {"logits": [True]}, r"got \[True\]"),
    "axes of one value differ": (f, {"places": {"hidden": None, "hid*": 0}}, "both axes"),
    "as many features as positions": (
        lambda x: relprop.named(x @ jnp.ones((2, 3)), "hidden").sum(0),
        {},
        r"hidden of shape \(3, 3\) has nodes along axes \(0, 1\), 2 of which .* the text, 3",
    ),
    "of no position": (
        lambda x: relprop.named(x.sum(0), "hidden") @ jnp.ones((2, 2)),
        {},
        r"\(2,\) .* none of",
    ),
    "positions are no nodes": (
        f,
        {"places": {"hidden": 1}, "position_axis": {"hid*": 0}},
        "0 is none of these",
    ),
    "positions of a place that is none": (f, {"position_axis": {"hiden": 0}}, "'hiden' is no"),
    "no such position": (f, {"position": 3}, "one of the 3 positions, got 3"),
    "no array": (lambda x: {"a": relprop.named(x, "hidden"), "b": "text"}, {}, "returned|array"),
    "no features": (f, {"max_features": 0}, "at least 1"),
    "not connected": (
        lambda x: relprop.named(jax.lax.stop_gradient(x), "hidden").sum(0) + x.sum(0),
        {"on_suspicion": "ignore"},
        "does not depend|connected",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case):
    function, keywords, message = CASES[case]
    with pytest.raises(InputError, match=message):
        attribution_graph(function, (X,), RELP, **{"places": "hidden"} | keywords)


def test_a_place_that_is_not_there():
    with pytest.raises(NothingMatchedError, match="hiden"):
        attribution_graph(f, (X,), RELP, places="hiden")


def test_a_place_that_nothing_reads():
    with pytest.raises((InputError, NothingMatchedError), match="aside"):
        attribution_graph(f, (X,), RELP, places="aside")


def test_parameters_are_no_nodes():
    with pytest.raises(InputError, match="mean no values"):
        attribution_graph(
            lambda x, w: (x @ w).sum(0), (X, X[:2]), RELP, places=relprop.places.Parameter("w")
        )


def test_arguments_are_a_tuple():
    with pytest.raises(InputError, match="tuple"):
        attribution_graph(f, X, RELP, places="hidden")


def test_not_inside_of_jit():
    with pytest.raises(InputError, match="inside of"):
        jax.jit(lambda x: attribution_graph(f, (x,), RELP, places="hidden").edges)(X)


def test_heads_by_rules_without_coefficients():
    rules = relprop.Composite().at(structure="dense").use(Flat())
    with pytest.raises(InputError, match="no coefficient"):
        attribution_graph(
            model.plain, (model.X, model.PARAMS), rules, places={Heads("output"): (0, 1)}
        )
