"""Tokens as text, as figures of text, and layer by layer."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from relprop import InputError, plots
from relprop.places import Inside
from relprop.plots._places import in_order
from relprop.plots._text import wrapped
from tests.plots.pictures import Page, colour_at, rgb

pytestmark = pytest.mark.frameworks
WORDS = ["The", " cat", "<b>", "$x$"]


def test_text_in_html():
    text = plots.token_text(WORDS, [[1.0, 1.0], [-2.0, 1.0], [0.0, 0.0], [1.0, -2.0]], name="<i>")
    page = Page(text._repr_html_())
    assert page.text.split("\n")[:2] == ["<i>", "The cat<b>$x$"]
    spans = page.all("span")
    assert [span["title"] for span in spans] == ["+2", "-1", "+0", "-1"]
    assert ["underline" in span["style"] for span in spans] == [False, True, False, True]
    backs = [span["style"].split(";")[0] for span in spans]
    assert backs == [f"background:#{c}" for c in ("ff0000", "8080ff", "ffffff", "8080ff")]
    assert str(text).splitlines() == ["<i>", "  The  +2", "  cat  -1", "  <b>  +0", "  $x$  -1"]


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=30), st.integers(1, 20))
def test_lines_break_between_words(words, columns):
    lengths, breaks = [length for length, _ in words], [ends for _, ends in words]
    places, lines = wrapped(lengths, breaks, columns)
    assert places == sorted(places)
    for (line, column), length in zip(places, lengths, strict=True):
        assert line < max(lines, 1) or length == 0
        assert column == 0 or column + length <= columns
    for i, j in zip(range(len(words)), range(1, len(words)), strict=False):
        (line, column), (below, start) = places[i], places[j]
        together = not breaks[i] and (column + lengths[i] + lengths[j] <= columns)
        assert (below, start) == ((line, column + lengths[i]) if together else (below, 0))


def test_figure_of_text():
    figure = plots.tokens(WORDS * 8, np.linspace(-1, 1, 32), width=3.0, name="$1")
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert texts[:-1] == ["The", "cat", "<b>", "$x$"] * 8 and "full colour: 1" in texts[-1]
    middles = [text.get_position()[1] for text in axes.texts[:-1]]
    assert len(set(middles)) > 3 and middles == sorted(middles)
    assert len(axes.lines) == 16  # what is negative is underlined
    rgb(figure)
    assert len(figure.table[1]) == 32 and figure.alt.startswith("Text of 32 tokens")


def test_characters_that_the_font_lacks_are_squares():
    figure = plots.tokens(["ab", " 漢", "\x1b"], [1.0, np.nan, 0.0], bad="mark")
    rgb(figure)  # matplotlib would warn
    shown = [text.get_text() for text in figure.axes[0].texts[:3]]
    assert shown == ["ab", "□", r"\x1b"]
    assert figure.table[1][1] == ["漢", "nan"] or figure.table[1][1] == [" 漢", "nan"]
    assert len(figure.axes[0].lines) == 1  # crossed out


def test_trace():
    rng = np.random.default_rng(0)
    layers = {f"h/{i}": Inside(rng.normal(size=(1, 3, 4)), None) for i in (0, 1, 10, 2)}
    figure = plots.trace(layers, ["a", " b", "c"])
    axes = figure.axes[0]
    rgb(figure)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["h/0", "h/1", "h/2", "h/10"]
    sums = np.stack([layers[f"h/{i}"].relevance[0].sum(-1) for i in (0, 1, 2, 10)])
    np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), sums)
    assert not axes.yaxis_inverted()  # the first layer is at the bottom
    stacked = plots.trace({"scan": np.ones((5, 3, 2))}, ["a", "b", "c"])
    assert len(stacked.axes[0].get_yticklabels()) == 5
    assert len(stacked.table[1]) == 5 and stacked.table[1][4][0] == "scan[4]"
    each = plots.trace([[1.0, -1.0], [8.0, 0.0]], ["a", "b"], per_layer=True, names=["x", "y"])
    found = [colour_at(each, each.axes[0], 0, i) for i in (0, 1)]
    assert found == [(255, 0, 0)] * 2 and colour_at(each, each.axes[0], 1, 0) == (0, 0, 255)


@given(st.permutations([f"layer_{i}" for i in range(12)] + ["embed", "last"]))
def test_places_are_in_the_order_of_their_numbers(names):
    found = in_order(names)
    assert [n for n in found if n[-1].isdigit()] == [f"layer_{i}" for i in range(12)]
    assert {i: n for i, n in enumerate(found) if not n[-1].isdigit()} == {
        i: n for i, n in enumerate(names) if not n[-1].isdigit()
    }


def test_wrong_inputs_are_named():
    for call, words in (
        (lambda: plots.token_text(["a"], [1.0, 2.0]), r"1 tokens.*\(2,\)"),
        (lambda: plots.tokens(["a"], [np.nan]), "NaN"),
        (lambda: plots.trace({}, ["a"]), "not empty"),
        (lambda: plots.trace({"x": np.ones((2, 3))}, ["a"]), r"'x'.*\(2, 3\)"),
        (lambda: plots.trace(np.ones((2, 3)), ["a"]), r"\(2, 3\)"),
        (lambda: plots.trace(np.ones((2, 1)), ["a"], names=["b"]), "2 layers, but 1 names"),
        (lambda: plots.trace(np.ones((2, 1)), ["a"], names=["b", "b"]), "must differ"),
        (lambda: plots.trace({"x": np.array([np.inf])}, ["a"]), "infinite"),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_the_legend_of_a_narrow_text_stays_within():
    figure = plots.tokens(["a", " b"], [1.0, -1.0], width=2.0)
    rgb(figure)
    (axes,) = figure.axes
    ends = [text.get_window_extent() for text in axes.texts]
    assert max(end.x1 for end in ends) <= figure.bbox.width and min(end.y0 for end in ends) >= 0
    assert axes.get_window_extent().width > 0.8 * figure.bbox.width  # words are not pressed
