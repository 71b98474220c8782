"""Attention maps by layer and head."""

import numpy as np
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from relprop import InputError, plots
from relprop.places import Inside
from tests.plots.pictures import colour_at, rgb

pytestmark = pytest.mark.frameworks
MAPS = np.random.default_rng(0).dirichlet(np.ones(4), size=(3, 2, 4))  # layers, heads, queries


def canvas(figure):
    return np.ma.getdata(figure.axes[0].images[0].get_array())


def test_rows_are_layers_and_columns_heads():
    figure = plots.attention(MAPS)
    rgb(figure)
    shown = canvas(figure)
    assert shown.shape == (3 * 5 - 1, 2 * 5 - 1)
    for layer in range(3):
        for head in range(2):
            part = shown[5 * layer : 5 * layer + 4, 5 * head : 5 * head + 4]
            np.testing.assert_array_equal(part, MAPS[layer, head])
    assert np.isnan(shown[4]).all() and np.isnan(shown[:, 4]).all()
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["head 0", "head 1"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["layer 0", "layer 1", "layer 2"]
    assert colour_at(figure, axes, 4, 0) == (224, 224, 224)


def test_relevance_and_values_of_places():
    inside = {f"attention {i:03d}": Inside(m[None] - 0.25, m[None]) for i, m in enumerate(MAPS)}
    np.testing.assert_array_equal(canvas(plots.attention(inside)), canvas(plots.attention(MAPS)))
    figure = plots.attention(inside, relevance=True, shared=False)
    shown = canvas(figure)
    for layer in range(3):
        part = shown[5 * layer : 5 * layer + 4, :4]
        assert np.abs(part).max() == 1.0
        np.testing.assert_allclose(part, (r := MAPS[layer, 0] - 0.25) / np.abs(r).max())
    zero = plots.attention(np.zeros((1, 2, 2)), relevance=True)
    assert colour_at(zero, zero.axes[0], 0, 0) == (255, 255, 255)


def test_a_single_map_has_its_tokens():
    figure = plots.attention(MAPS[0, 0], tokens=["a", " b", "c", "漢"])
    rgb(figure)
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b", "c", "□"]
    assert axes.get_ylabel() == "queries"


def test_wrong_inputs_are_named():
    for call, words in (
        (lambda: plots.attention(np.ones(3)), r"\(3,\)"),
        (lambda: plots.attention(-MAPS), "relevance=True"),
        (lambda: plots.attention(MAPS, tokens=["a"]), r"1 tokens.*\(2, 4, 4\)"),
        (lambda: plots.attention({"a": MAPS[0], "b": MAPS[0, :1]}), r"b: \(1, 4, 4\)"),
        (lambda: plots.attention(np.full((2, 2), np.nan)), "NaN"),
    ):
        with pytest.raises(InputError, match=words):
            call()
