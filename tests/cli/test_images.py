"""Images of all modes of Pillow: scaled to 8 bits or refused, never clipped."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line is an extra")

from PIL import Image, ImageChops

import relprop
from relprop.cli.inputs import Model, load_model, read_images
from relprop.zoo import digits

pytestmark = pytest.mark.frameworks

RAMP = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)


def preprocess(image):
    return np.asarray(image.convert("RGB"), np.float32) / 255


ANY = Model("any", lambda params, images: images, (), preprocess, bundled=False)


def read(path, model=ANY):
    return read_images(model, [path]).pixels[0]


def saved(folder, image, name="a.tiff", **options):
    image.save(folder / name, **options)
    return folder / name


def ramp(dtype):
    return Image.fromarray(np.rint(RAMP * np.iinfo(dtype).max).astype(dtype))


def transparent(mode="RGBA", alpha=100):
    image = ramp(np.uint8).convert("RGB")
    image.putalpha(Image.new("L", image.size, alpha))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (ramp(np.uint16), "a.png"),
        (ramp(np.uint16), "a.tiff"),
        (ramp(np.uint8), "a.png"),
        (Image.fromarray(RAMP), "a.tiff"),
        (ramp(np.uint8).convert("RGB"), "a.png"),
        (ramp(np.uint8).convert("P"), "a.png"),
        (ramp(np.uint8).convert("CMYK"), "a.tiff"),
        # Not YCbCr in TIFF: Pillow 12 cannot read what it writes, and what is compressed is RGB.
        (ramp(np.uint8).convert("LAB"), "a.tiff"),
        (transparent("RGBA", 255), "a.png"),
        (transparent("LA", 255), "a.png"),
    ],
    ids=lambda x: getattr(x, "mode", x),
)
def test_scaled_by_the_range_of_the_format(tmp_path, image, name):
    found = read(saved(tmp_path, image, name))
    np.testing.assert_allclose(found, np.broadcast_to(RAMP[..., None], (8, 8, 3)), atol=2 / 255)
    assert len(np.unique(found)) > 50


def test_a_mode_that_only_old_pillow_gives_to_png():
    image = Image.fromarray(np.rint(RAMP * 65535).astype(np.int32))
    image.format = "PNG"
    np.testing.assert_allclose(digits.preprocess(image)[..., 0], RAMP, atol=1 / 255)


def test_black_and_white(tmp_path):
    image = Image.fromarray(RAMP > 0.5)
    assert image.mode == "1"
    np.testing.assert_array_equal(read(saved(tmp_path, image, "a.png"))[..., 1], RAMP > 0.5)


def test_the_models_of_ours_scale_too(tmp_path):
    model = load_model("digits-cnn")
    np.testing.assert_allclose(
        read(saved(tmp_path, ramp(np.uint16), "a.png"), model)[..., 0], RAMP, atol=1 / 255
    )
    np.testing.assert_allclose(digits.preprocess(Image.fromarray(RAMP))[..., 0], RAMP, atol=1 / 255)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.fromarray(255 * RAMP), "has floating point numbers from 0 to 255"),
        (Image.fromarray(RAMP - 0.5), "has floating point numbers from -0.5 to 0.5"),
        (Image.fromarray(np.where(RAMP > 0.9, np.nan, RAMP)), "has NaN or infinity in 7 of its 64"),
        (Image.fromarray(np.where(RAMP > 0.9, np.inf, RAMP)), "has NaN or infinity in 7 of its 64"),
        (
            Image.fromarray((RAMP * 2**20).astype(np.int32)),
            "has integers of 32 bits from 0 to 1048576",
        ),
        (
            Image.fromarray((RAMP * 255).astype(np.int32)),
            "has integers of 32 bits from 0 to 255: what is black",
        ),
        (transparent("RGBA"), "is transparent in 100% of its pixels"),
        (transparent("LA"), "is transparent in 100% of its pixels"),
    ],
)
def test_refused(tmp_path, image, reason):
    path = saved(tmp_path, image)
    with pytest.raises(relprop.InputError, match=f"a.tiff: {reason}"):
        read(path)
    with pytest.raises(relprop.InputError, match=reason):
        digits.preprocess(image)


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_transparent_colours_of_a_palette(tmp_path, name):
    path = saved(tmp_path, ramp(np.uint8).convert("P"), name, transparency=0)
    with pytest.raises(relprop.InputError, match="is transparent in "):
        read(path)


def test_a_transparent_colour(tmp_path):
    path = saved(tmp_path, ramp(np.uint8).convert("RGB"), "a.png", transparency=(0, 0, 0))
    with pytest.raises(relprop.InputError, match="is transparent in 2% of its pixels"):
        read(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(tmp_path, dtype, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, ramp(dtype), "a.png", exif=exif)
    turned = [
        RAMP,
        RAMP[:, ::-1],
        RAMP[::-1, ::-1],
        RAMP[::-1],
        RAMP.T,
        RAMP.T[:, ::-1],
        RAMP.T[::-1, ::-1],
        RAMP.T[::-1],
    ]
    np.testing.assert_allclose(read(path)[..., 0], turned[orientation - 1], atol=1 / 255)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tiff", "a.gif", "a.bmp"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7])
def test_cut_files(tmp_path, name, kept):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), name)
    held = path.read_bytes()
    path.write_bytes(held[: int(kept * len(held))])
    with pytest.raises(relprop.InputError, match=f"{name}: (cannot be read|is not an image)"):
        read(path)


@pytest.mark.parametrize("factor", [0.4, 0.9])
def test_too_many_pixels(tmp_path, monkeypatch, factor):
    path = saved(tmp_path, ramp(np.uint8), "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(64 * factor))
    with pytest.raises(relprop.InputError, match=r"a\.png: has too many pixels, more than "):
        read(path)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.tiff", "a.webp"])
def test_the_frame_of_an_animation_is_named(tmp_path, name):
    first = ramp(np.uint8).convert("RGB")
    others = [ImageChops.invert(first), first.transpose(Image.Transpose.ROTATE_90)]
    options = {"lossless": True} if name == "a.webp" else {}
    path = saved(tmp_path, first, name, save_all=True, append_images=others, **options)
    found = read_images(ANY, [path])
    assert found.names == (f"{name}, frame 1 of 3",)
    np.testing.assert_allclose(found.pixels[0, ..., 0], RAMP, atol=2 / 255)


def test_what_can_be_read_is_kept(tmp_path):
    good = saved(tmp_path, ramp(np.uint16), "good.png")
    bad = saved(tmp_path, Image.fromarray(255 * RAMP), "bad.tiff")
    found = read_images(ANY, [pathlib.Path(bad), good])
    assert found.names == ("good.png",) and [*found.left_out] == ["bad.tiff"]
