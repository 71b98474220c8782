"""Selections: each keyword alone, all of them together, and what a mistake says."""

import jax
import jax.numpy as jnp
import pytest

import relprop
from relprop import Composite, Where
from relprop.rules import Epsilon, Flat, Gamma, Zero

X = jnp.ones((2, 4, 4, 3))
PARAMS = {
    "first": {"kernel": jnp.ones((3, 3, 3, 5))},
    "second": {"kernel": jnp.ones((3, 3, 5, 6))},
    "head": {"kernel": jnp.ones((6, 7))},
    "out": {"kernel": jnp.ones((7, 10))},
}


def convolution(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def f(x, params):
    with jax.named_scope("features"):
        x = jax.nn.relu(convolution(x, params["first"]["kernel"]))
        x = jax.nn.relu(convolution(x, params["second"]["kernel"]))
    x = jax.nn.relu(x.mean((1, 2)) @ params["head"]["kernel"])
    return x @ params["out"]["kernel"]


def selected(where):
    """What a selection means, as path or structure of each operation."""
    composite = Composite().at(**where).use(Zero(bias="ignore"))
    plan = relprop.inspect(f, composite)(X, PARAMS)
    return [
        op.path.split("/")[1] if op.path else op.structure
        for op in plan
        if op.rule == Zero(bias="ignore")
    ]


LAYERS = ["first", "second", "head", "out"]
SELECTIONS = {
    "structure": ({"structure": "convolution"}, ["first", "second"]),
    "structures": ({"structure": ("average", "dense")}, ["average", "head", "out"]),
    "a group": ({"structure": "layer"}, LAYERS),
    "another group": ({"structure": "pooling"}, ["average"]),
    "primitive": ({"primitive": "conv_general_*"}, ["first", "second"]),
    "path": ({"path": "*/h*/kernel"}, ["head"]),
    "scope": ({"scope": "*features*", "structure": "layer"}, ["first", "second"]),
    "the first": ({"structure": "layer", "position": 0}, ["first"]),
    "the last": ({"structure": "layer", "position": -1}, ["out"]),
    "the second": ({"structure": "layer", "position": 1}, ["second"]),
    "from the second": ({"structure": "layer", "position": (1, None)}, LAYERS[1:]),
    "but the last two": ({"structure": "layer", "position": (None, -2)}, LAYERS[:2]),
    "from to": ({"structure": "layer", "position": (1, 3)}, LAYERS[1:3]),
    "shape": ({"structure": "layer", "shape": (2, 7)}, ["head"]),
    "any rank": ({"structure": "layer", "shape": (..., 6)}, ["second"]),
    "any size": ({"structure": "layer", "shape": (2, None)}, ["head", "out"]),
    "predicate": (
        {"structure": "layer", "predicate": lambda step: step.operation.outputs[0].shape[-1] > 6},
        ["head", "out"],
    ),
    "all at once": (
        {"structure": "layer", "scope": "", "shape": (2, None), "position": -1},
        ["out"],
    ),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_selection(name):
    where, expected = SELECTIONS[name]
    assert selected(where) == expected


def test_the_first_match_wins():
    rules = Composite().at(path="*first*").use(Flat()).at(structure="layer").use(Gamma())
    rules = rules.at(structure="dense", optional=True).use(Epsilon())
    plan = relprop.inspect(f, rules)(X, PARAMS)
    assert [type(op.rule) for op in plan if op.path] == [Flat, Gamma, Gamma, Gamma]


@pytest.mark.parametrize("where", [{"position": 9}, {"position": (9, None)}, {"shape": (1,)}])
def test_nothing_matches(where):
    with pytest.raises(relprop.NothingMatchedError, match="1 selection"):
        relprop.inspect(f, Composite().at(structure="layer", **where).use(Flat()))(X, PARAMS)


def named(step):
    return bool(step.path)


def test_composites_are_values_and_print():
    def make():
        rules = Composite(name="c").at(structure="layer", position=(1, None)).use(Flat())
        return rules.at(shape=(..., 10), predicate=named).use(Epsilon())

    assert make() == make() and hash(make()) == hash(make())
    assert make() != make().canonized()
    lines = str(make()).splitlines()
    assert lines[3].startswith("layer, position=(1, None) ")
    assert lines[4].startswith("shape=(..., 10), predicate=named ")
    assert lines[-1].split("  ")[-1].strip() == "merged into layers"


@pytest.mark.parametrize("wrong", [{"position": (1, 2, 3)}, {"shape": (..., 1, ...)}])
def test_what_is_no_selection(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Where(**wrong)


def test_unknown_names_have_near_matches():
    with pytest.raises(relprop.UnknownNameError, match="convolution"):
        Where(structure="convolutoin")
