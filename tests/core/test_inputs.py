"""What cannot be explained as it is, is refused with a message that says what to do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import presets
from relprop.rules import Epsilon, Flat, Gamma, Gradient

X = jnp.array([1.0, -2.0, 3.0])
WEIGHT = jnp.ones((3, 2))
RULE = Epsilon()
TRANSFORMS = ["relevance", "value_and_relevance", "ledger"]


def total(x):
    return jnp.sum(x * 2.0)


def refused(*words, error=relprop.InputError):
    """Expects an error whose message holds all of some words."""

    class Refused:
        def __enter__(self):
            self.context = pytest.raises(error)
            self.info = self.context.__enter__()

        def __exit__(self, *details):
            handled = self.context.__exit__(*details)
            for word in words:
                assert word in str(self.info.value), f"{word!r} is not in: {self.info.value}"
            return handled

    return Refused()


# What is explained.


@pytest.mark.parametrize("transform", [*TRANSFORMS, "inspect"])
@pytest.mark.parametrize(
    "ids", [jnp.arange(3), np.arange(3, dtype=np.uint8), 3, True, jnp.array([True])], ids=repr
)
def test_integers_are_refused(transform, ids):
    def f(tokens):
        return jnp.sum(jnp.ones((256, 2))[jnp.asarray(tokens).astype(jnp.int32)])

    with refused("'tokens'", "embeddings", str(jnp.result_type(ids)), "astype"):
        getattr(relprop, transform)(f, RULE)(ids)


def test_integers_in_a_tree_are_named_by_their_path():
    tree = {"image": X, "tokens": [jnp.arange(3)]}
    with refused("'batch/tokens/0'", "int32", "(3,)"):
        relprop.relevance(lambda batch: jnp.sum(batch["image"]), RULE)(tree)


def test_vrp_refuses_integers():
    with refused("'n'"):
        relprop.vrp(lambda x, n: x * n, X, jnp.int32(3), rules=RULE)


def test_random_keys_are_refused():
    with refused("'key'", "key<fry>"):
        relprop.relevance(lambda key: jax.random.normal(key), RULE)(jax.random.key(0))


@pytest.mark.parametrize("leaf", ["text", object(), jnp.tanh], ids=["string", "object", "function"])
def test_what_is_no_array_is_refused(leaf):
    with refused("Only arrays can be explained", "'tree/b'", type(leaf).__name__):
        relprop.relevance(lambda tree: jnp.sum(tree["a"]), RULE)({"a": X, "b": leaf})


@pytest.mark.parametrize("empty", [None, (), {}, [None, {}]], ids=str)
def test_empty_trees_are_refused(empty):
    with refused("Argument 0 ('nothing')", "holds no array", "argnums"):
        relprop.relevance(lambda nothing, x: jnp.sum(x), RULE)(empty, X)


def test_arrays_without_entries_are_fine():
    got = relprop.relevance(lambda x: jnp.sum(x) + 1.0, RULE)(jnp.zeros((0, 3)))
    assert got.shape == (0, 3)


def test_shapes_without_numbers_are_enough_to_inspect():
    shape = jax.ShapeDtypeStruct((4, 3), jnp.float32)
    plan = relprop.inspect(lambda x: jnp.tanh(x @ WEIGHT), RULE)(shape)
    assert [op.structure for op in plan] == ["dense", "activation"]


# argnums.


@pytest.mark.parametrize("argnums", [2, -3, (0, 2)], ids=str)
def test_argnums_out_of_range(argnums):
    with refused("argnums", "2 positional"):
        relprop.relevance(lambda x, y: jnp.sum(x * y), RULE, argnums)(X, X)


def test_argnums_empty_and_twice():
    with refused("`argnums` is empty"):
        relprop.relevance(total, RULE, ())(X)
    with refused("twice"):
        relprop.relevance(lambda x, y: jnp.sum(x * y), RULE, (0, -2))(X, X)


def test_no_arguments_at_all():
    with refused("called with 0"):
        relprop.relevance(lambda: jnp.float32(1.0), RULE)()


@pytest.mark.parametrize("argnums", ["x", 0.0, None, ("x",)], ids=repr)
def test_argnums_of_a_wrong_type(argnums):
    with pytest.raises((relprop.InputError, TypeError), match="argnums"):
        relprop.relevance(total, RULE, argnums)(X)


def test_argnums_as_numpy_integer():
    got = relprop.relevance(total, RULE, np.int64(0))(X)
    assert got.shape == X.shape


def test_the_explained_argument_by_keyword_is_refused_with_a_reason():
    with pytest.raises((relprop.InputError, TypeError), match="[Kk]eyword|positional"):
        relprop.relevance(lambda x, scale: jnp.sum(x) * scale, RULE)(scale=2.0, x=X)


# The score.


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    ("f", "found"),
    [
        (lambda x: x, "float32[3]"),
        (lambda x: x[:1], "float32[1]"),
        (lambda x: (x[0], x[1]), "float32[], float32[]"),
        (lambda x: None, "nothing"),
        (lambda x: jnp.argmax(x), "int32[]"),
        (lambda x: x[0] > 0, "bool[]"),
        (lambda x: lax.complex(x[0], 1.0), "complex64[]"),
    ],
)
def test_scores_that_are_no_real_scalar(transform, f, found):
    with refused("one real scalar", found, "relprop.vrp"):
        getattr(relprop, transform)(f, RULE)(X)


def test_score_beside_aux():
    with refused("one real scalar", "float32[3]", "aux"):
        relprop.relevance(lambda x: (x, x), RULE, has_aux=True)(X)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x[0],
        lambda x: (x[0], x, x),
        lambda x: {"score": x[0], "aux": x},
        lambda x: jnp.stack([x[0], x[1]]),
    ],
    ids=["one", "three", "dict", "array"],
)
def test_has_aux_needs_a_pair(f):
    with refused("has_aux=True", "pair"):
        relprop.relevance(f, RULE, has_aux=True)(X)


def test_scores_that_are_scalars_all_right():
    assert relprop.relevance(lambda x: x[0], RULE)(X).tolist() == [1.0, 0.0, 0.0]
    assert relprop.relevance(lambda x: 3.0, RULE)(X).tolist() == [0.0, 0.0, 0.0]
    half = relprop.relevance(lambda x: x[0].astype(jnp.bfloat16), RULE)(X)
    assert half.tolist() == [1.0, 0.0, 0.0]


# Seeds.


def outputs(x):
    return {"logits": x * 2.0, "hidden": (x[:2],)}


@pytest.mark.parametrize(
    "seed",
    [X, {"logits": X}, {"logits": X, "hidden": [X[:2]]}, {"logits": X, "hidden": (None,)}, None],
    ids=["array", "part", "list", "none-inside", "none"],
)
def test_seeds_of_another_structure(seed):
    _, back = relprop.vrp(outputs, X, rules=RULE)
    with refused("structure of the outputs", "logits"):
        back(seed)


def test_seeds_of_another_shape_are_all_named():
    _, back = relprop.vrp(outputs, X, rules=RULE)
    with refused(
        "shapes of the outputs", "['hidden'][0]: (2,), seed ()", "['logits']: (3,), seed (1,)"
    ):
        back({"logits": X[:1], "hidden": (1.0,)})
    _, back = relprop.vrp(total, X, rules=RULE)
    with refused("the output: (), seed (3,)"):
        back(X)


def test_seeds_may_be_of_another_precision():
    _, back = relprop.vrp(lambda x: x * 2.0, X, rules=RULE)
    (got,) = back(np.array([1.0, 2.0, 3.0]))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, [1.0, 2.0, 3.0], rtol=1e-6)


# Rules.


@pytest.mark.parametrize("transform", ["relevance", "value_and_relevance", "inspect", "ledger"])
@pytest.mark.parametrize("rules", [Epsilon, "epsilon", None, 1e-6, {"dense": RULE}], ids=repr)
def test_what_is_no_rule(transform, rules):
    with refused("must be a rule, a composite", "by_name", error=relprop.RuleError):
        getattr(relprop, transform)(total, rules)


def test_what_is_no_rule_in_vrp():
    with refused("`Epsilon()`, not `Epsilon`", error=relprop.RuleError):
        relprop.vrp(total, X, rules=Epsilon)


def test_a_class_in_a_composite():
    with refused("needs a rule", "Gamma", error=relprop.RuleError):
        relprop.Composite().at(structure="dense").use(Gamma)


def test_rules_that_cannot_be_applied_are_all_listed():
    composite = relprop.Composite().at(primitive="exp").use(RULE).at(primitive="sin").use(Flat())
    with refused(
        "2 operation(s)", "exp: float32[3]", "sin: float32[3]", "Flat", "test_inputs.py:",
        "linear in its active operands", error=relprop.RuleError,
    ):  # fmt: skip
        relprop.relevance(lambda x: jnp.sum(jnp.sin(jnp.exp(x)[::-1])), composite)(X)


def test_pass_needs_one_input_of_the_shape_of_the_output():
    composite = relprop.Composite().at(structure="dense").use(relprop.rules.Pass())
    with refused("Pass needs", "(3,)", "(2,)", error=relprop.RuleError):
        relprop.relevance(lambda x: jnp.sum(x @ WEIGHT), composite)(X)


# Names.


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: presets.by_name("epsilon_pluss"), "epsilon_plus"),
        (lambda: presets.by_name("gama"), "gamma"),
        (lambda: relprop.rules.by_name("epsilom"), "epsilon"),
        (lambda: relprop.Composite().at(structure="dens"), "dense"),
        (lambda: relprop.Composite().at(structure=("dense", "convolutoin")), "convolution"),
        (lambda: relprop.Where(structure="softmaxx"), "softmax"),
    ],
)
def test_unknown_names_have_near_matches(call, near):
    with refused("Did you mean", repr(near), "Known:", error=relprop.UnknownNameError):
        call()


def test_unknown_names_far_from_all():
    with refused("Unknown preset 'zzzz'. Known:", error=relprop.UnknownNameError):
        presets.by_name("zzzz")


def test_every_name_is_known():
    for name in presets.names():
        assert isinstance(presets.by_name(name), relprop.Composite)
        assert presets.by_name(name.replace("_", "-").upper()) == presets.by_name(name)


def test_unknown_selector():
    with pytest.raises(TypeError, match="struktur"):
        relprop.Composite().at(struktur="dense")


# Selections.


def test_selections_that_match_nothing_are_all_listed():
    composite = relprop.Composite().at(structure="convolution").use(Gamma())
    composite = composite.at(scope="*head*").use(Flat()).at(structure="dense").use(RULE)
    with refused(
        "2 selection(s)", "structure='convolution' -> Gamma", "scope='*head*' -> Flat",
        "dense (dot_general)", "sum (reduce_sum)", error=relprop.NothingMatchedError,
    ):  # fmt: skip
        relprop.relevance(lambda x: jnp.sum(x @ WEIGHT), composite)(X)


def test_selections_that_may_match_nothing():
    composite = relprop.Composite().at(structure="convolution", optional=True).use(Gamma())
    got = relprop.relevance(total, composite)(X)
    np.testing.assert_allclose(got, 2.0 * X)


def test_selection_behind_one_that_takes_all():
    composite = relprop.Composite().at(structure="dense").use(Gamma())
    composite = composite.at(structure="dense").use(RULE)
    with refused("structure='dense' -> Epsilon", "earlier", error=relprop.NothingMatchedError):
        relprop.relevance(lambda x: jnp.sum(x @ WEIGHT), composite)(X)


@pytest.mark.parametrize("position", [1, -2, 7])
def test_position_that_is_not_there(position):
    composite = relprop.Composite().at(structure="dense", position=position).use(Gamma())
    with refused(f"position={position}", error=relprop.NothingMatchedError):
        relprop.relevance(lambda x: jnp.sum(x @ WEIGHT), composite)(X)


# Errors as such.


def test_all_errors_are_one_kind_and_show_their_public_name():
    for name in (
        "ForwardError", "InputError", "MissingRuleError", "NothingMatchedError", "RuleError",
        "UnknownNameError",
    ):  # fmt: skip
        error = getattr(relprop, name)
        assert issubclass(error, relprop.RelpropError)
        assert error.__module__ == "relprop"
    assert issubclass(relprop.InputError, (TypeError, ValueError))
    assert issubclass(relprop.UnknownNameError, KeyError)


def test_errors_of_the_function_itself_come_through():
    class Mine(Exception):
        pass

    def f(x):
        raise Mine("of the user")

    with pytest.raises(Mine, match="of the user"):
        relprop.relevance(f, Gradient())(X)


def test_composite_seed_has_two_values():
    with pytest.raises(ValueError, match="'score' or 'one'"):
        relprop.Composite(seed="two")


@pytest.mark.parametrize("transform", ["relevance", "value_and_relevance", "inspect", "ledger"])
@pytest.mark.parametrize("kind", [complex, np.asarray, jnp.asarray])
def test_complex_arguments_are_refused_by_name(transform, kind):
    explain = getattr(relprop, transform)(lambda tree: jnp.real(tree["z"]), relprop.rules.Zero())
    with pytest.raises(relprop.InputError, match="'tree/z' is complex.*real and imaginary"):
        explain({"z": kind(1.0 + 2.0j)})
