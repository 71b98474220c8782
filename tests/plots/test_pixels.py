"""Colours over an image, as arrays."""

import re

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from relprop.plots import _pixels

pytestmark = pytest.mark.frameworks


def test_overlay():
    relevance = np.array([[[3.0, 1.0], [-2.0, 0.0]], [[1.0, -1.0], [np.inf, -1.0]]])
    (strong, weak), (none, broken) = _pixels.overlay(_pixels.normalised(relevance)).astype(int)
    np.testing.assert_allclose(_pixels.normalised(relevance), [[1, -0.5], [0, -0.25]])
    assert strong[0] > 200 and strong[2] < 50 and strong[3] > 200  # red
    assert weak[2] > 200 and weak[0] < 100 and 0 < weak[3] < strong[3]  # blue
    assert none[3] == 0 and 0 < broken[3] < weak[3]
    assert not _pixels.overlay(np.zeros((2, 2)))[..., 3].any()


def test_overlay_is_symmetric():
    values = np.linspace(0.05, 1, 20)[None]
    both = _pixels.overlay(np.concatenate([values, -values])).astype(int)
    np.testing.assert_array_equal(both[0, :, 3], both[1, :, 3])
    np.testing.assert_allclose(both[0, :, 0], both[1, :, 2], atol=1)
    assert (np.diff(both[0, :, 3]) > 0).all()


def test_picture_shows_the_image_where_there_is_no_relevance():
    image = np.array([[0.0, 1.0], [0.5, 1.0]])
    shown = np.asarray(_pixels.picture(image, np.array([[0, 0], [0, 1.0]]), "overlay")).astype(int)
    assert (shown[0, 0] < shown[1, 0]).all() and (shown[1, 0] < shown[0, 1]).all()
    assert shown[1, 1, 0] > shown[1, 1, 2]
    colour = _pixels.plain(np.array([[[1.0, 0.0, 0.0]]]))
    assert colour.getpixel((0, 0)) == (255, 0, 0)


def test_colours_of_a_map():
    values = np.array([[2.0, 3.0, 4.0, np.nan]])
    clear, weak, strong, broken = _pixels.map_overlay(values)[0].astype(int)
    assert clear[3] == broken[3] == 0 < weak[3] < strong[3]
    assert strong[0] > strong[2] and weak[:3].sum() > strong[:3].sum()  # no blue, and darker
    np.testing.assert_array_equal(
        _pixels.map_overlay(10 * values - 7), [[clear, weak, strong, broken]]
    )
    assert not _pixels.map_overlay(np.full((2, 2), 3.0))[..., 3].any()
    assert not _pixels.map_overlay(np.full((2, 2), np.nan))[..., 3].any()
    assert len(set(_pixels.map_scale())) > 15


def test_enlarged():
    np.testing.assert_allclose(
        _pixels.enlarged(np.array([[0.0, 4.0], [8.0, 12.0]]), 4, 4)[:, :2],
        [[0, 1], [2, 3], [6, 7], [8, 9]],
    )


def test_scale():
    colours = _pixels.scale()
    red, _, blue = map(int, re.findall(r"\d+", colours[-1]))
    assert red > 200 > blue and len(set(re.findall(r"\d+", colours[len(colours) // 2]))) == 1
