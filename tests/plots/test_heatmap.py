"""Heatmaps and galleries, looked at as arrays of pixels."""

import io

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from relprop import InputError, UnknownNameError, plots
from tests.plots.pictures import Page, colour_at, rgb

pytestmark = pytest.mark.frameworks
WHITE, RED, BLUE = (255, 255, 255), (255, 0, 0), (0, 0, 255)


def test_zero_is_neutral_and_the_largest_have_the_ends():
    relevance = np.array([[0.0, 2.0, -2.0], [0.0, 1.0, -0.01]])
    figure = plots.heatmap(relevance)
    axes = figure.axes[0]
    assert [colour_at(figure, axes, j, 0) for j in range(3)] == [WHITE, RED, BLUE]
    assert colour_at(figure, axes, 0, 1) == WHITE != colour_at(figure, axes, 2, 1)
    assert "from -2 to 2" in figure.alt and "row 1, column 2" in figure.alt
    assert [row[1:] for row in figure.table[1]] == [["0", "2", "-2"], ["0", "1", "-0.01"]]
    jax_figure = plots.heatmap(jnp.asarray(relevance))
    np.testing.assert_array_equal(rgb(plots.heatmap(relevance)), rgb(jax_figure))


def test_channels_are_summed():
    relevance = np.array([[[1.0, -1.0], [2.0, 2.0]]])
    for given, channels in ((relevance, "last"), (np.moveaxis(relevance, -1, 0), "first")):
        figure = plots.heatmap(given, channels=channels)
        assert [colour_at(figure, figure.axes[0], j, 0) for j in (0, 1)] == [WHITE, RED]


def test_nothing_is_flat_and_neutral():
    for image in (None, np.full((2, 2), 0.5)):
        figure = plots.heatmap(np.zeros((2, 2)), image=image)
        grey = WHITE if image is None else (142, 142, 142)
        found = {colour_at(figure, figure.axes[0], j, i) for i in (0, 1) for j in (0, 1)}
        assert found == {grey}
        assert "from 0 to 0." in figure.alt


def test_quantiles_and_limits_clip():
    relevance = np.array([[1.0, 1.0, 1.0, 100.0]])
    found = [
        colour_at(f, f.axes[0], 0, 0)
        for f in (plots.heatmap(relevance, quantile=0.5), plots.heatmap(relevance, limit=1.0))
    ]
    assert found == [RED, RED]
    assert colour_at(f := plots.heatmap(relevance), f.axes[0], 0, 0)[1] > 245


def test_one_scale_or_one_for_each():
    relevance = np.stack([np.full((2, 2), 1.0), np.full((2, 2), 4.0)])
    each = plots.heatmaps(relevance)
    assert [colour_at(each, axes, 0, 0) for axes in each.axes[:2]] == [RED, RED]
    assert [axes.get_xlabel() for axes in each.axes[:2]] == ["full colour: ±1", "full colour: ±4"]
    shared = plots.heatmaps(relevance, shared=True, names=["a", "b"])
    weak, strong = (colour_at(shared, axes, 0, 0) for axes in shared.axes[:2])
    assert strong == RED and 180 < weak[1] < 200
    assert [axes.get_title() for axes in shared.axes[:2]] == ["a", "b"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_an_error_or_has_a_colour_of_its_own(bad):
    relevance = np.array([[1.0, bad], [0.0, -1.0]])
    with pytest.raises(InputError, match=r"1 of 4 .*\(0, 1\) of shape \(2, 2\).*ledger"):
        plots.heatmap(relevance)
    figure = plots.heatmap(relevance, bad="mark")
    assert colour_at(figure, figure.axes[0], 1, 0) == (255, 212, 0)
    assert colour_at(figure, figure.axes[0], 0, 0) == RED
    assert "1 numbers are NaN or infinite" in figure.alt
    over = plots.heatmap(relevance, bad="mark", image=np.zeros((2, 2)))
    assert colour_at(over, over.axes[0], 1, 0) == (255, 212, 0)
    assert "no finite relevance" in plots.heatmap(np.full((2, 2), bad), bad="mark").alt


def test_over_an_image_weak_relevance_is_clear():
    image = np.array([[0.0, 1.0, 0.5]])
    figure = plots.heatmap(np.array([[0.0, 0.0, 1.0]]), image=image)
    dark, bright, strong = (colour_at(figure, figure.axes[0], j, 0) for j in range(3))
    assert dark == (65, 65, 65) and bright == (218, 218, 218)
    assert strong[0] > 220 and strong[2] < 30


def test_given_axes_are_drawn_on():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plots.heatmap(np.eye(2), axes=left, name="$x_1") is figure
    assert left.images and not right.images and left.get_title() == "$x_1"
    figure.savefig(io.BytesIO())  # the dollar is no formula


def test_wrong_inputs_are_named():
    image = np.zeros((3, 3))
    for call, words in (
        (lambda: plots.heatmap(np.ones((2, 2)), image=image), r"\(3, 3\).*2 x 2"),
        (lambda: plots.heatmap(image, image=image + 2), r"\[0, 1\].*2 to 2"),
        (lambda: plots.heatmap(image, image=np.zeros((1, 3, 3))), r"\(1, 3, 3\)"),
        (lambda: plots.heatmap(image, limit=-1.0), "limit"),
        (lambda: plots.heatmap(image, bad="ignore"), "'mark'"),
        (lambda: plots.heatmaps(image), r"batch.*\(3, 3\)"),
        (lambda: plots.heatmaps(image[None], names=["a", "b"]), "1 samples, but 2 names"),
        (lambda: plots.gallery([], {}), "at least one"),
        (lambda: plots.gallery([image, image[:2]], {}), "one shape"),
        (lambda: plots.gallery([image], {"eps": image}), r"'eps'.*\(3, 3\)"),
        (lambda: plots.heatmaps([image], columns=0), "`columns` must be"),
        (lambda: plots.gallery([image], {"image": [image]}), "another name"),
        (lambda: plots.gallery([image], {"a": [image]}, maps={"a": [image]}), "is a column"),
        (lambda: plots.gallery([image], {}, names=["a", "b"]), "2 names"),
        (lambda: plots.gallery([image], {}, notes={"x": ["a"]}), "no column"),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_gallery():
    images = np.linspace(0, 1, 2 * 16).reshape(2, 4, 4)
    relevance = np.zeros((2, 4, 4))
    relevance[0, 0, 0], relevance[1, 0, 0] = 1.0, 4.0
    options = {"names": ["a_$1", "b"], "notes": {"eps": ["5 %", ""]}, "maps": {"map": images}}
    figure = plots.gallery(images, {"eps": relevance, "plain": 0 * relevance}, **options)
    axes, bar = figure.axes
    assert bar.get_ylabel() == "relevance / full colour of the tile"
    rgb(figure)
    heads = [label.get_text() for label in axes.get_xticklabels()]
    assert heads == ["image", "eps", "plain", "map"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a_$1", "b"]
    assert [text.get_text() for text in axes.texts] == ["5 %"]
    canvas = np.asarray(axes.images[0].get_array())
    side = 224  # of few tiles
    tile = side + 2 + 8  # in a frame, with a space behind
    assert canvas.shape == (2 * (tile + 16), 4 * tile, 3)  # and a line for the note
    first, second = canvas[1, tile + 1], canvas[tile + 17, tile + 1]
    assert first.tolist() == second.tolist() == [255, 0, 0]
    assert (canvas[: side + 2, tile + side + 2 : 2 * tile] == 255).all()
    assert len({*map(tuple, canvas[: side + 2, tile])}) == 1 and canvas[0, tile].max() < 255
    shared = plots.gallery(images, {"eps": relevance}, shared=True)
    weak = np.asarray(shared.axes[0].images[0].get_array())[1, tile + 1]
    assert 0 < int(weak[0]) - int(weak[2]) < 150
    assert figure.alt == "Gallery of 2 images (a_$1, b) by eps, plain, map."


def test_a_gallery_of_many_has_pages():
    images = np.zeros((50, 2, 2))
    images[48] = 1.0
    names = [str(n) for n in range(50)]
    assert plots.pages(50) == 3
    figure = plots.gallery(images, {"eps": images}, names=names, page=3)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["48", "49"]
    canvas = np.asarray(axes.images[0].get_array())
    assert canvas[1, 1].tolist() == [255] * 3 and canvas[-20, 1].tolist() == [0] * 3
    assert figure.alt.endswith("by eps, page 3 of 3.")
    first = plots.gallery(images, {"eps": images})
    assert first.get_figheight() < 30
    for page in (0, 4):
        with pytest.raises(InputError, match="pages 1 to 3"):
            plots.gallery(images, {"eps": images}, page=page)


def test_styles_of_a_gallery():
    image = np.array([[[1.0, 0.0], [0.5, 0.5]]])
    relevance = np.array([[[0.1, 0.1], [-1.0, 0.0]]])
    tiles = {}
    for style in ("plain", "overlay", "opacity", "contours"):
        figure = plots.gallery(image, {"eps": relevance}, style=style)
        canvas = np.asarray(figure.axes[0].images[0].get_array()).astype(int)
        tiles[style] = canvas[1:225, 235:459]
    plain, opacity, contours = tiles["plain"], tiles["opacity"], tiles["contours"]
    assert plain[150, 50].tolist() == [0, 0, 255] and plain[150, 150].tolist() == [255] * 3
    # A tenth of the strongest makes as much of a difference on white as on black.
    added = [opacity[50, x, 0] - opacity[50, x, 2] for x in (50, 150)]
    assert added[0] == pytest.approx(added[1], abs=2) and 15 < added[0] < 40
    assert opacity[150, 50].tolist() == [0, 0, 255]
    # A line around what is strong and negative, and none elsewhere.
    blue = (contours[..., 2] - contours[..., 0]) > 50
    assert blue[113:120, 50].all() and blue[150, 104:111].all()
    assert not blue[:110].any() and not blue[:, 114:].any()
    assert not blue[150, 50]
    with pytest.raises(UnknownNameError, match="overlay"):
        plots.gallery(image, {"eps": relevance}, style="overly")


def test_html_is_escaped_and_has_words_and_numbers():
    figure = plots.heatmap(np.eye(2), name="<script>&")
    page = Page(figure.html())
    (image,) = page.all("img")
    assert image["alt"] == figure.alt and "<script>" in image["alt"]
    assert image["src"].startswith("data:image/png;base64,")
    assert not page.all("script") and "<script>" not in figure.html()
    assert len(page.all("td")) == 4 and len(page.all("th")) == 3 + 2
    assert figure.html() == figure._repr_html_()
    assert not Page(plots.heatmap(np.ones((30, 30))).html()).all("table")
    assert plots.heatmap(np.eye(2)).png() == plots.heatmap(np.eye(2)).png()
