"""Colours of known values, and the scale that they come from."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

pytest.importorskip("matplotlib")

from relprop import InputError, UnknownNameError
from relprop._colours import MAPS, ink
from relprop.plots import _pixels, _scale, colormap

pytestmark = pytest.mark.frameworks
REAL = st.floats(-1e30, 1e30, allow_subnormal=True)
ARRAYS = hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=4), elements=REAL)

#: By the names of their colours.
NEUTRAL = {"bwr": (255, 255, 255), "seismic": (255, 255, 255), "coldnhot": (0, 0, 0)}
ENDS = {
    "bwr": ((0, 0, 255), (255, 0, 0)),
    "seismic": ((0, 0, 76), (128, 0, 0)),
    "coldnhot": ((255, 255, 255), (255, 255, 255)),
}
HALF = {"bwr": (255, 128, 128), "seismic": (255, 0, 0), "coldnhot": (255, 128, 0)}


@pytest.mark.parametrize("name", MAPS)
def test_colours_of_known_values(name):
    shown = colormap(name)(np.array([0.0, 0.5, 1.0]), bytes=True)[:, :3].tolist()
    assert [tuple(c) for c in shown] == [ENDS[name][0], NEUTRAL[name], ENDS[name][1]]
    np.testing.assert_allclose(colormap(name)(0.75, bytes=True)[:3], HALF[name], atol=3)
    levels = MAPS[name].levels()
    assert len(levels) % 2 == 1 and tuple(levels[len(levels) // 2].tolist()) == NEUTRAL[name]
    assert (levels == NEUTRAL[name]).all(-1).sum() == 1  # nothing but zero looks like zero
    bad = colormap(name)(np.nan, bytes=True)[:3]
    assert np.abs(levels.astype(int) - bad).sum(-1).min() > 60


@pytest.mark.parametrize("name", ["bwr", "seismic"])
def test_equals_the_map_of_matplotlib(name):
    import matplotlib

    ours, theirs = colormap(name), matplotlib.colormaps[name]
    x = np.linspace(0, 1, 41)
    np.testing.assert_allclose(ours(x), theirs(x), atol=0.02)


def test_overlays_are_clear_at_zero_only():
    table = _pixels.overlay_colormap()(np.linspace(0, 1, 255))
    assert (table[:, 3] == 0).sum() == 1 and table[127, 3] == 0
    assert table[0, 3] == table[-1, 3] > 0.85


@given(ARRAYS, st.floats(0.01, 1.0))
def test_strength(values, quantile):
    end = _scale.limit(values, quantile)
    found = _scale.strength(values, end)
    assert (np.abs(found) <= 1).all()
    assert (found[values == 0] == 0).all()
    np.testing.assert_array_equal(_scale.strength(-values, end), -found)
    if end:
        inside = np.abs(values) <= end
        np.testing.assert_allclose(found[inside] * end, values[inside], atol=1e-12 * end)
        assert inside.mean() >= quantile - 1 / values.size
    if quantile == 1 and values.any():
        assert np.abs(found).max() == 1


@given(ARRAYS)
def test_sums_over_channels_conserve_relevance(values):
    if values.ndim < 3:
        values = values.reshape(*values.shape, *[1] * (3 - values.ndim))
    last = _scale.reduced(values, "last")
    first = _scale.reduced(np.moveaxis(values, -1, -3), "first")
    np.testing.assert_array_equal(last, first)
    np.testing.assert_allclose(last.sum(), values.sum(), atol=1e-9 * np.abs(values).sum())
    absolute = _scale.reduced(values, "last", "absolute")
    largest = _scale.reduced(values, "last", "largest")
    assert (absolute >= np.abs(largest)).all() and np.isin(largest, values).all()


def test_what_is_no_picture_is_refused_by_its_shape():
    for values, channels, words in (
        (np.ones(3), None, r"\(3,\)"),
        (np.ones((2, 2)), "last", r"\(2, 2\)"),
        (np.ones((0, 2)), None, r"\(0, 2\)"),
        (np.ones((2, 2), complex), None, "complex"),
        (["a"], None, "real numbers"),
        (np.ones((2, 2, 2)), "middle", "'middle'"),
    ):
        with pytest.raises(InputError, match=words):
            _scale.reduced(values, channels)
    with pytest.raises(InputError, match=r"\(2, 3, 4\).*channels='last'"):
        _scale.single(np.ones((2, 3, 4)), None)
    with pytest.raises(UnknownNameError, match="absolute"):
        _scale.reduced(np.ones((2, 2, 2)), "last", "absolut")
    with pytest.raises(UnknownNameError, match="seismic"):
        colormap("seismik")
    with pytest.raises(InputError, match="quantile"):
        _scale.limit(np.ones(2), 0.0)


def test_text_can_be_read_on_every_level():
    for name in MAPS:
        for level in MAPS[name].levels().tolist():
            assert _contrast(level, ink(tuple(level))) >= 4.5


def _contrast(a, b):
    """WCAG 2.1, relative luminance and contrast ratio."""

    def luminance(colour):
        parts = [c / 255 for c in colour]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)
