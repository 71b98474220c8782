"""Tables of methods and metrics, on a linear model whose right explanation is known."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import evaluation, metrics
from relprop.evaluation import Metric
from relprop.rules import Epsilon, Zero

RNG = np.random.default_rng(0)
W = RNG.normal(size=(16, 3)).astype(np.float32)
X = RNG.normal(size=(7, 4, 4)).astype(np.float32)
SHORT = functools.partial(metrics.abpc, steps=4)


def model(x):
    return x.ravel() @ jnp.asarray(W)


def batched(params, x):
    return x.reshape(len(x), -1) @ params


def upside_down(f):
    return lambda x: -x * jax.grad(f)(x)


@pytest.fixture(scope="module")
def table():
    mask = X * W[:, 0].reshape(4, 4) > 0
    target = np.array([0, 0, 0, 1, 1, 2, 2])
    methods = {"right": Zero(), "wrong": upside_down, "random": "random", "edges": "edges"}
    asked = {"abpc": SHORT, "mass": metrics.relevance_mass, "sparseness": "sparseness"}
    asked |= {"mprt": functools.partial(metrics.mprt, order="independent")}
    asked |= {"logit": "random_logit"}
    data = {"x": X, "target": target, "mask": mask}
    models = {"linear": (batched, jnp.asarray(W))}
    return relprop.evaluate(models, methods, data, asked, curves={"steps": 4}, batch_size=3)


def test_numbers_are_those_of_the_metrics(table):
    target = [0, 0, 0, 1, 1, 2, 2]
    for i in (0, 3, 6):  # in every batch
        f = lambda x, i=i: model(x)[target[i]]  # noqa: E731
        R = X[i] * W[:, target[i]].reshape(4, 4)
        np.testing.assert_allclose(table["right", "abpc"][i], SHORT(f, X[i], R), rtol=1e-4)
        np.testing.assert_allclose(table["wrong", "abpc"][i], SHORT(f, X[i], -R), rtol=1e-4)
        found = table["linear", "right", "sparseness"][i]
        np.testing.assert_allclose(found, metrics.sparseness(R), rtol=1e-4)
        curve = metrics.perturbation_curve(f, X[i], R, steps=4)
        np.testing.assert_allclose(table[0].curves["most"][i], curve, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(table["right", "mass"][:3], 1)
    assert not np.allclose(table["random", "sparseness"][0], table["random", "sparseness"][1])


def test_ranks_controls_and_what_they_beat(table):
    right, wrong, random, _ = table
    assert (table.rank(right, "abpc"), table.rank(wrong, "abpc")) == (1, 2)
    assert table.rank(random, "abpc") is None and random.control
    assert table.beaten_by(wrong, "abpc") == ["random", "edges"]
    assert table.beaten_by(right, "abpc") == []
    low, high = table.interval(right, "abpc")
    assert low < table.mean(right, "abpc") < high
    printed = str(table)
    assert "7 samples" in printed and "random (control)" in printed
    assert "explained for a class that the model does not predict" in printed
    cell = next(row for row in table.cells() if row[1] == "wrong")[2]
    assert cell.endswith("2!")
    # an edge detector looks neither at the class nor at the weights
    np.testing.assert_allclose(table["edges", "logit"], 1, rtol=1e-5)
    np.testing.assert_allclose(table["edges", "mprt"], 1, rtol=1e-5)


def test_files(table, tmp_path):
    table.write_json(tmp_path / "t.json")
    found = json.loads((tmp_path / "t.json").read_text())
    assert [row["method"] for row in found["rows"]] == ["right", "wrong", "random", "edges"]
    first = found["rows"][0]["metrics"]["abpc"]
    assert first["rank"] == 1 and len(first["values"]) == 7
    table.write_csv(tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 * 5 and lines[0].startswith("model,method,control,metric")
    pytest.importorskip("matplotlib")
    table.write_html(tmp_path / "t.html", "A <title>")
    page = (tmp_path / "t.html").read_text()
    assert "A &lt;title&gt;" in page and page.count("data:image/png") == 2
    assert "right: mean" in table.figure().alt


def test_what_is_not_defined_is_left_out_and_said():
    strange = Metric(lambda R: jnp.where(R[0, 0] > 0, R[0, 0], jnp.nan), "higher", "relevance")
    table = relprop.evaluate(model, [Zero()], X, {"strange": strange})
    values = table[0].values["strange"]
    gone = int(np.isnan(values).sum())
    assert 0 < gone < 7 and f"not defined for {gone} explanations" in str(table)
    np.testing.assert_allclose(table.mean(table[0], "strange"), np.nanmean(values))
    assert None in table.to_dict()["rows"][0]["metrics"]["strange"]["values"]


def test_scores_and_flat_relevance():
    flat = lambda f: lambda x: jnp.ones_like(x)  # noqa: E731
    table = relprop.evaluate(lambda x: x.sum(), {"flat": flat}, X[:2], [SHORT])
    assert "relevance is the same everywhere in 2 of 2 samples" in table.footer()


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("need masks, and the data has none", {"metrics": ["pointing_game", "auc"]}),
        ("Unknown metric 'abcp'. Did you mean 'abpc'", {"metrics": ["abcp"]}),
        ("Unknown method 'epsilom'", {"methods": ["epsilom"]}),
        ("There is no method", {"methods": []}),
        ("Several methods are called", {"methods": [Epsilon(), Epsilon()]}),
        ("is a int: give a rule", {"methods": {"a": 3}}),
        ("not known what it is called with", {"metrics": [lambda f, x, R: 0.0]}),
        (r"masks of the samples \[1\] have no positive", {"data": "empty"}),
        ("'target' must name classes from 0 to 2", {"data": {"x": X, "target": np.full(7, 3)}}),
        ("real numbers", {"data": np.arange(6).reshape(2, 3)}),
        (r"not \['y'\]", {"data": {"x": X, "y": X}}),
        ("17 steps", {"metrics": [functools.partial(metrics.abpc, steps=17)]}),
        ("Relevance must have the shape", {"methods": {"sum": lambda f: lambda x: x.sum(0)}}),
        ("several classes", {"models": lambda x: x.sum(), "metrics": ["random_logit"]}),
        ("must be a function of one sample", {"models": {"a": 3}}),
    ],
)
def test_bad_input(message, change):
    given = {"models": model, "methods": ["epsilon"], "data": X, "metrics": [SHORT], **change}
    if isinstance(given["data"], str):
        mask = np.ones_like(X)
        mask[1] = 0
        given["data"] = {"x": X, "mask": mask}
    with pytest.raises(relprop.RelpropError, match=message):
        relprop.evaluate(**given)


def test_not_a_number_is_traced_to_its_operation():
    def broken(x):
        return jnp.sum(jnp.log(x)) + x[0, 0]

    with pytest.raises(relprop.InputError, match=r"(?s)epsilon of broken.*First NaN.*\(log\)"):
        relprop.evaluate({"broken": broken}, ["epsilon"], X, [SHORT])
    with pytest.raises(ValueError, match="'higher' or 'lower'"):
        Metric(lambda R: 0.0, better="more")
    assert "abpc" in evaluation.names()
