"""What is saved comes back: every kind of result, and nothing that comes with files is run."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytest.importorskip("safetensors", reason="saving is an extra")

import relprop
from relprop import presets, saving
from relprop.rules import AlphaBeta, Epsilon, Zero
from relprop.tokens import LanguageModel, NextToken

pytestmark = pytest.mark.frameworks


def same(a, b):
    """Whether two values are equal to the last bit, arrays of JAX and numpy alike."""
    if isinstance(a, (jax.Array, np.ndarray, np.generic)):
        a, b = np.asarray(a), np.asarray(b)
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return repr(a) == repr(b)
    if dataclasses.is_dataclass(a):
        names = [f.name for f in dataclasses.fields(a) if f.repr and f.name != "predicate"]
        return all(same(getattr(a, n), getattr(b, n)) for n in names)
    return a == b


ARRAYS = hnp.arrays(
    st.sampled_from(
        [np.float32, np.float64, np.float16, np.int32, np.uint8, np.bool_, np.complex64]
    ),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
) | st.sampled_from([np.zeros(3, jnp.bfloat16), np.ones((2, 2), jnp.float8_e4m3fn)])
LEAVES = (
    ARRAYS
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=5)
    | st.sampled_from([Epsilon(0.1), AlphaBeta(2, 1), "\udcff", "</script>", ...])
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(TREES)
def test_trees(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("trees") / "a"
    relprop.save(tree, path)
    assert same(tree, relprop.load(path))


W = jnp.array([[1.0, -1.0], [2.0, 0.5]])


def score(x):
    return jnp.sum(relprop.named(jax.nn.relu(x @ W + 0.5), "hidden"))


X = jnp.array([1.0, 2.0])
MODEL = LanguageModel(
    embed=lambda params, ids: params[ids],
    logits=lambda params, embeds, ids, mask: jnp.cumsum(embeds, 1) @ params.T,
    params=jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]),
)


def attention(x):
    weights = jax.nn.softmax(x @ x.T, axis=-1)
    return jnp.sum((weights @ x)[0])


def evaluated():
    return relprop.evaluate(
        {"m": lambda x: x @ W}, {"zero": Zero()}, np.ones((3, 2), np.float32), ["sparseness"]
    )


RESULTS = {
    "relevance": lambda: relprop.relevance(score, Zero())(X),
    "inside": lambda: relprop.relevance(score, Zero(), places="hidden")(X),
    "ledger": lambda: relprop.ledger(score, Epsilon(0.1))(X),
    "plan": lambda: relprop.inspect(score, presets.epsilon_plus())(X),
    "plan of attention": lambda: relprop.inspect(attention, Zero())(jnp.ones((3, 2))),
    "tokens": lambda: relprop.tokens.explain(MODEL, [0, 1, 2], NextToken(1), contrast=0),
    "texts": lambda: relprop.tokens.explain(MODEL, [[0, 1, 2], [1, 2]], per_dimension=True),
    "attribution": lambda: relprop.transformer_attribution(attention, details=True)(
        jnp.eye(3, 2),
    ),
    "composite": lambda: presets.epsilon_gamma_box(low=-1.0, high=np.ones(3)),
    "references": lambda: relprop.concepts.References(jnp.ones((2, 3), int), jnp.ones((2, 3))),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results(tmp_path, name):
    result = RESULTS[name]()
    relprop.save(result, tmp_path / "r", model="m", rules=Zero(), seed=3, command="relprop x")
    found = relprop.load(tmp_path / "r")
    assert type(found) is type(result) or isinstance(result, jax.Array)
    assert same(result, found) or str(result) == str(found)
    told = saving.about(tmp_path / "r.json")
    assert told["seed"] == 3 and told["rules"] == "Zero(bias='absorb')" and told["model"] == "m"
    relprop.save(found, tmp_path / "again")
    assert saving.about(tmp_path / "again")["value"] == told["value"]


def test_an_evaluation(tmp_path):
    table = evaluated()
    relprop.save(table, tmp_path / "table")
    found = relprop.load(tmp_path / "table")
    assert str(found) == str(table)
    np.testing.assert_array_equal(found["zero", "sparseness"], table["zero", "sparseness"])


@pytest.mark.parametrize("name", ["ledger", "plan", "plan of attention", "tokens", "composite"])
def test_results_pickle(name):
    result = RESULTS[name]()
    assert str(pickle.loads(pickle.dumps(result))) == str(result)


class Trap:
    def __reduce__(self):
        return (os.system, ("touch /tmp/relprop-was-here",))


@pytest.mark.parametrize(
    "value", [Trap(), jax.random.key(0), np.array([None]), {"a": [object()]}, np.array(["text"])]
)
def test_what_cannot_be_saved(tmp_path, value):
    with pytest.raises(relprop.InputError, match="1 part.s. cannot be saved:\n  result"):
        relprop.save(value, tmp_path / "r")
    assert not list(tmp_path.iterdir())


def test_functions_are_text(tmp_path):
    composite = relprop.Composite().at(predicate=lambda step: True).use(Zero())
    relprop.save(composite, tmp_path / "r")
    assert "<lambda>" in str(relprop.load(tmp_path / "r").entries[0].where.predicate)


def test_files_are_not_overwritten_without_a_word(tmp_path):
    relprop.save(1, tmp_path / "r")
    with pytest.raises(relprop.InputError, match="overwrite=True"):
        relprop.save(2, tmp_path / "r.json")
    relprop.save(2, tmp_path / "r.safetensors", overwrite=True)
    assert relprop.load(tmp_path / "r") == 2


def test_links_are_not_followed(tmp_path):
    (tmp_path / "thesis").write_text("years of work")
    (tmp_path / "r.json").symlink_to("thesis")
    with pytest.raises(FileExistsError, match="link"):
        relprop.save(1, tmp_path / "r", overwrite=True)
    assert (tmp_path / "thesis").read_text() == "years of work"


def edited(path, **entries):
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | entries))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"version": [2, 0]}, r"version 2\.0"),
        ({"version": None}, "damaged"),
        ({"format": "other"}, "no result"),
        ({"value": {"kind": "os.system", "fields": {}}}, "knows no 'os.system'"),
        ({"value": {"kind": "Ledger"}}, "damaged"),
        ({"value": {"kind": "Where", "fields": {"nonsense": 1}}}, "has no nonsense"),
        ({"value": {"array": "7:none"}}, "damaged"),
        ({"value": {}}, "damaged"),
        ({"value": {"pickle": "gASV"}}, "no kind of value"),
        ({"arrays": "0"}, "does not belong"),
    ],
)
def test_damage(tmp_path, entries, message):
    relprop.save({"x": np.ones(3)}, tmp_path / "r")
    edited(tmp_path / "r.json", **entries)
    with pytest.raises(relprop.InputError, match=message):
        relprop.load(tmp_path / "r")


@pytest.mark.parametrize("name", ["r.json", "r.safetensors"])
def test_files_that_are_cut_or_gone(tmp_path, name):
    relprop.save({"x": np.ones(3)}, tmp_path / "r")
    file = tmp_path / name
    data = file.read_bytes()
    for size in range(0, len(data), 7):
        file.write_bytes(data[:size])
        with pytest.raises(relprop.InputError):
            relprop.load(tmp_path / "r")
    file.unlink()
    with pytest.raises(relprop.InputError, match=name):
        relprop.load(tmp_path / "r")


@pytest.mark.parametrize("name", ["ledger", "plan", "tokens", "composite"])
def test_results_show_themselves_in_notebooks(name):
    result = RESULTS[name]()
    assert result._repr_html_().startswith(("<div>", "<table>"))


def test_characters_of_others_do_not_act():
    hostile = "\x1b[31m\u202eevil</td><script>"
    composite = relprop.Composite(name=hostile).at(path=hostile).use(Zero())
    for text in (str(composite.cells()), composite._repr_html_(), str(composite)[60:]):
        assert "\x1b" not in text and "\u202e" not in text
    assert "<script>" not in composite._repr_html_()


def test_results_know_where_the_score_went():
    book = RESULTS["ledger"]()
    parts = book.bias + book.epsilon + book.stopped + book.cut + book.not_conserved + book.gap
    assert book.absorbed == pytest.approx(parts) and book.explained == book.left
    texts = RESULTS["texts"]()
    total = texts.explained + texts.special + texts.absorbed
    np.testing.assert_allclose(total, texts.score, rtol=1e-6)
    page = RESULTS["tokens"]().html(details={"model": "<m>"})
    assert "= score 4" in page and "&lt;m&gt;" in page and "<td>+4</td>" in page
