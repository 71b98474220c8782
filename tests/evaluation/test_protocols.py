"""The protocols of papers, on folders that are made here and models whose truth is exact."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import truth
from relprop.evaluation import protocols
from relprop.truth import _photographs

Image = pytest.importorskip("PIL.Image")
SIDE = 6


def photograph(number, side=SIDE):
    """A red square, to the left for class 0, on noise of blue; and where it is."""
    noise = np.random.default_rng(number).integers(0, 60, (side, side, 3), np.uint8)
    noise[..., 0] = 0
    inside = np.zeros((side, side), bool)
    inside[1:-1, : side // 2 - 1] = True
    inside = inside if number % 2 == 0 else inside[:, ::-1]
    noise[inside] = (255, 0, 0)
    return noise, inside


@pytest.fixture
def folders(tmp_path):
    for number in range(4):
        name = f"n{number % 2}"
        pixels, inside = photograph(number)
        for kind, array in (("images", pixels), ("masks", 255 * inside.astype(np.uint8))):
            (tmp_path / kind / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / kind / name / f"{number}.png")
    return tmp_path


def test_a_folder_of_images(folders):
    data = truth.imagenet(folders / "images", folders / "masks", size=5)
    assert data["x"].shape == data["mask"].shape == (4, 5, 5, 3)
    assert data["target"].tolist() == [0, 0, 1, 1]
    # The middle of an image of 6 by 6 pixels.
    pixels, inside = photograph(0)
    np.testing.assert_allclose(data["x"][0], pixels[:5, :5] / 255, atol=1e-6)
    np.testing.assert_array_equal(data["mask"][0, ..., 0], inside[:5, :5])
    turned = truth.imagenet(
        folders / "images", folders / "masks", size=5, part=slice(1, 3),
        prepare=lambda x: np.moveaxis(x, -1, 0) - 1,
    )  # fmt: skip
    np.testing.assert_allclose(np.moveaxis(turned["x"], 1, -1) + 1, data["x"][1:3], atol=1e-6)
    np.testing.assert_array_equal(turned["mask"][:, 0], data["mask"][1:3, ..., 0])
    assert "mask" not in truth.imagenet(folders / "images", size=5)


def test_larger_images_are_made_smaller_and_cut(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.repeat(np.arange(80, dtype=np.uint8)[:, None], 40, 1)).save(
        tmp_path / "a" / "tall.png"
    )
    (image,) = truth.imagenet(tmp_path, size=7)["x"]
    # 40 pixels become 8, of which the middle 7 are left; of the 16 rows the middle 7.
    np.testing.assert_allclose(255 * image[3, :, 0], 37, atol=2)


def test_what_is_wrong_with_folders(folders, tmp_path):
    with pytest.raises(relprop.InputError, match="There is no folder .*none"):
        truth.imagenet(tmp_path / "none")
    with pytest.raises(relprop.InputError, match="no folder of masks"):
        truth.imagenet(folders / "images", tmp_path / "none")
    with pytest.raises(relprop.InputError, match="at least 1, got 0"):
        truth.imagenet(folders / "images", size=0)
    (folders / "images" / "n0" / "0.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(folders / "masks" / "n1" / "1.png")
    Image.fromarray(np.ones((5, 6), np.uint8)).save(folders / "masks" / "n1" / "3.png")
    with pytest.raises(relprop.InputError, match="3 images .*0.png.*nothing of the obj.*has .6, 5"):
        truth.imagenet(folders / "images", folders / "masks", size=5)
    for mask in (folders / "masks").rglob("*.png"):
        mask.unlink()
    with pytest.raises(relprop.InputError, match="no images .* that have a mask"):
        truth.imagenet(folders / "images", folders / "masks", size=5)
    with pytest.raises(relprop.InputError, match="must leave height and width"):
        _photographs._like(np.zeros((2, 5, 5)), np.zeros((2, 75)))


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "LA", "P", "P from white", "1", "I;16"])
def test_masks_by_their_colour(folders, kind):
    _, inside = photograph(0)
    white = 255 * inside.astype(np.uint8)
    mask = Image.fromarray(white)
    if kind == "P from white":
        mask = Image.fromarray(1 - inside.astype(np.uint8)).convert("P")
        mask.putpalette([255, 255, 255, 0, 0, 0])
    elif kind == "I;16":
        mask = Image.fromarray(white.astype(np.uint16) * 256)
    else:
        mask = mask.convert(kind)
    mask.save(folders / "masks" / "n0" / "0.png")
    first = slice(0, 1)
    data = truth.imagenet(folders / "images", folders / "masks", size=5, part=first)
    np.testing.assert_array_equal(data["mask"][0, ..., 0], inside[:5, :5])


def test_masks_by_their_transparency(folders):
    _, inside = photograph(0)
    pixels = np.full((SIDE, SIDE, 4), 255, np.uint8)
    pixels[..., 3] = 255 * inside
    name = folders / "masks" / "n0" / "0.png"
    Image.fromarray(pixels).save(name)
    with pytest.raises(relprop.InputError, match="transparent elsewhere than it is black"):
        truth.imagenet(folders / "images", folders / "masks", size=5)
    pixels[~inside] = 0  # both are the same mask
    Image.fromarray(pixels).save(name)
    data = truth.imagenet(folders / "images", folders / "masks", size=5, part=slice(0, 1))
    np.testing.assert_array_equal(data["mask"][0, ..., 0], inside[:5, :5])


def test_hidden_names_are_no_classes_and_no_images(folders):
    (folders / "images" / ".ipynb_checkpoints").mkdir()
    (folders / "images" / "n0" / "._0.png").write_bytes(b"of a Mac")
    assert truth.imagenet(folders / "images", size=5)["target"].tolist() == [0, 0, 1, 1]


def test_sixteen_bits_and_cameras_that_were_turned(tmp_path):
    (tmp_path / "a").mkdir()
    grey = np.full((SIDE, SIDE), 0x4000, np.uint16)
    Image.fromarray(grey).save(tmp_path / "a" / "0.png")
    pixels, _ = photograph(0)
    turned = Image.Exif()
    turned[0x0112] = 3  # by half a turn
    Image.fromarray(pixels[::-1, ::-1]).save(tmp_path / "a" / "1.png", exif=turned)
    deep, seen = truth.imagenet(tmp_path, size=5)["x"]
    np.testing.assert_allclose(deep, 0.25, atol=0.01)
    np.testing.assert_allclose(seen, pixels[:5, :5] / 255, atol=1e-6)


def test_images_of_too_many_pixels_are_told(folders, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(relprop.InputError, match="4 images .*has more than 10 pixels"):
        truth.imagenet(folders / "images", size=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prepare": lambda x: None}, "`prepare` must return an array of numbers, got None"),
        ({"prepare": lambda x: x[: 1 + int(x[1, 1, 0])]}, "one shape, but returns .2.* and .1"),
        ({"part": slice(5, 9)}, "takes none of the 4 images"),
        ({"size": 4.5}, "number of pixels"),
    ],
)
def test_what_is_wrong_with_options_of_folders(folders, options, message):
    with pytest.raises(relprop.InputError, match=message):
        truth.imagenet(folders / "images", **{"size": 5, **options})


def scores(x):
    """How much red there is at the left, and at the right; or none."""
    red = x[..., 0]
    return jnp.stack([red[:, :2].sum() - 0.5, red[:, -2:].sum() - 0.5, jnp.zeros(())])


def test_tables_one_and_two(folders):
    data = truth.imagenet(folders / "images", folders / "masks", size=5)
    data["mask"] = data["x"][..., :1] * np.ones(3) > 0.9  # what the model sees of the squares
    methods = {
        "right": relprop.rules.Epsilon(1e-6),
        "wrong": lambda f: lambda x: -relprop.relevance(f, relprop.rules.Epsilon(1e-6))(x),
    }
    metrics = protocols.perturbation(steps=5) | protocols.segmentation()
    table = relprop.evaluate(scores, methods, data, metrics)
    assert (table["right", "negative"] == 1).all() and (table["wrong", "positive"] == 1).all()
    # All of the square goes in the first two of five steps.
    assert (table["right", "positive"] < 0.7).all()
    for name in protocols.segmentation():
        assert table["right", name].mean() > table["wrong", name].mean()
    assert (table["right", "average_precision"] == 1).all()


def test_perturbation_is_the_area_under_the_accuracy():
    """Of three pixels by hand: the first step leaves the class, the second turns it."""
    f = lambda x: jnp.stack([x[..., 0].sum() - 1.5, jnp.zeros(())])  # noqa: E731
    x = np.ones((1, 1, 3, 1), np.float32)
    data = {"x": x, "target": np.array([0])}
    R = np.array([[[3.0], [2.0], [1.0]]], np.float32)
    found = relprop.evaluate(
        f, {"mine": lambda f: lambda x: x * R}, data, protocols.perturbation(steps=3)
    )
    # Kept at 0 and 1/3 removed, lost at 2/3: areas 1 and 1/2 of two halves.
    assert found["mine", "positive"].tolist() == [0.75]
    with pytest.raises(relprop.InputError, match="at least 2, got 1"):
        protocols.perturbation(steps=1)
    with pytest.raises(relprop.InputError, match="need a model with several classes"):
        relprop.evaluate(lambda x: x.sum(), ["epsilon"], x, protocols.perturbation())


@pytest.mark.parametrize("steps", ["a", 2.5])
def test_steps_are_a_number(steps):
    with pytest.raises(relprop.InputError, match="`steps` must be an integer"):
        protocols.perturbation(steps=steps)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (protocols.perturbation(fill="mean", steps=2), "and no name; got 'mean'"),
        (protocols.perturbation(fill=None, steps=2), "must be a number or an array"),
        (protocols.perturbation(channel_axis=7, steps=2), "has no axis 7"),
        (protocols.segmentation(channel_axis=7), "has no axis 7"),
        (protocols.segmentation(channel_axis="last"), "An axis is an integer, got 'last'"),
    ],
)
def test_what_is_wrong_with_options_of_metrics(metrics, message):
    x = np.ones((1, 5, 5, 3), np.float32)
    data = {"x": x, "mask": np.arange(75).reshape(x.shape) < 9}
    with pytest.raises(relprop.InputError, match=message):
        relprop.evaluate(scores, {"mine": lambda f: lambda x: x}, data, metrics)


def rationale(name="q", words=("two", "cats", "sat", "there"), evidence=(1, 1, 0, 0)):
    return truth.Rationale(name, words, np.array(evidence, bool), "two cats")


def test_rationales():
    texts = [rationale("a"), rationale("b"), rationale("none", evidence=(0, 0, 0, 0))]
    R = {"a": [2.0, 1.0, 0.0, -1.0], "b": [0.0, 1.0, 2.0, -1.0]}
    found = protocols.rationales(texts, lambda text: R[text.name])
    assert list(found.names) == ["a", "b"]
    expected = {"top-1": [1, 0], "IoU": [1, 1 / 3], "F1": [1, 0.5], "AUC": [1, 0.5]}
    for name, values in expected.items():
        np.testing.assert_allclose(found.values[name], values)
    assert found.mean("F1")[0] == 0.75 and "F1 0.750 [0.500, 1.000]" in str(found)
    with pytest.raises(relprop.InputError, match="text a: there are 4 words, and .* the shape .5"):
        protocols.rationales(texts, lambda text: np.zeros(5))
    with pytest.raises(relprop.InputError, match="No text is left that has evidence"):
        protocols.rationales(texts[2:], lambda text: R["a"])


def test_tokens_make_words():
    R = np.array([1.0, 2.0, 4.0, 8.0])
    assert protocols.per_word(["Two", "cats"], ["two", " c", "at", "s"], R).tolist() == [1, 14]
    with pytest.raises(relprop.InputError, match="' d' stands where the text has 'cats'"):
        protocols.per_word(["two", "cats"], ["two", " d"], R[:2])
    with pytest.raises(relprop.InputError, match="they end before 'cats'"):
        protocols.per_word(["two", "cats"], ["two"], R[:1])


BYTES = {"é": "Ã©", "–": "âĢĵ", "😀": "ðŁĺĢ"}  # as byte-level tokenizers write them


@pytest.mark.parametrize(
    ("words", "tokens", "R", "wanted"),
    [
        (["Beyoncé", "sang"], ["Bey", "onc", *BYTES["é"], "Ġsang"], [1, 2, 3, 4, 5], [10, 5]),
        (["10–7", "world"], ["10", "âĢ", "ĵ7", " world"], [1, 2, 4, 8], [7, 8]),
        (["so", "😀"], ["so", "Ġ" + BYTES["😀"][:2], BYTES["😀"][2:]], [1, 2, 4], [1, 6]),
        (["a–", "b"], ["▁a", "<0xE2>", "<0x80>", "<0x93>", " b"], [1, 2, 4, 8, 16], [15, 16]),
        (["Ã"], ["Ã", "ĥ"], [1, 2], [3]),  # its bytes, of which the first is written like it
        (["Café", "Zoë’s"], ["cafe", "zoe", "’", "s"], [1, 2, 4, 8], [1, 14]),
        (["cafe\u0301", "x"], ["café", "x"], [1, 2], [1, 2]),
        (["10\u00a0km", "x"], ["10", "\u00a0km", " x"], [1, 2, 4], [3, 4]),
        (["10\u00a0km", "x"], ["10", "km", "x"], [1, 2, 4], [3, 4]),
        (["ﬁne", "…"], ["fi", "ne", "..", "."], [1, 2, 4, 8], [3, 12]),
        (["Straße"], ["STRAS", "SE"], [1, 2], [3]),
        (["é", "é"], ["éé"], [4], [2, 2]),
    ],
)
def test_tokens_spell_words_in_many_ways(words, tokens, R, wanted):
    tokens = [token.replace("▁", " ") for token in tokens]
    np.testing.assert_allclose(protocols.per_word(words, tokens, np.array(R, float)), wanted)


def test_unknown_tokens_have_their_places():
    words, tokens = ["no", "zebra", "here"], ["[CLS]", "no", "[UNK]", "here", "[SEP]"]
    R = np.array([32.0, 1, 2, 4, 64])
    with pytest.raises(relprop.InputError, match="of 'no zebra here': '.UNK.' .* 'zebra.*offsets"):
        protocols.per_word(words, tokens[1:-1], R[1:-1])
    places = [(0, 0), (0, 2), (2, 8), (9, 13), (0, 0)]
    assert protocols.per_word(words, tokens, R, offsets=places).tolist() == [1, 2, 4]
    with pytest.raises(relprop.InputError, match="end before 'here'"):
        protocols.per_word(words, tokens[:3], R[:3], offsets=places[:3])
    for wrong, message in (([(0, 99)], "are not those of"), ([0], "a beginning and an end")):
        with pytest.raises(relprop.InputError, match=message):
            protocols.per_word(words, ["no"], R[:1], offsets=wrong)


def test_tokens_have_one_finite_number_each():
    with pytest.raises(relprop.InputError, match="2 tokens of 'ab', and relevance of the shape .1"):
        protocols.per_word(["ab"], ["a", "b"], np.ones(1))
    with pytest.raises(relprop.InputError, match="NaN or infinite, the first is that of 'b'"):
        protocols.per_word(["ab"], ["a", "b"], np.array([1, np.nan]))


def test_texts_of_a_byte_level_tokenizer():
    tokenizers = pytest.importorskip("tokenizers", reason="comes with transformers")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE({letter: n for n, letter in enumerate(sorted(alphabet))}, [])
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made)
    words = ["Beyoncé", "won", "10–7", "😀"]
    told = tokenizer(" ".join(words), return_offsets_mapping=True)
    tokens = relprop.tokens._text.pieces(tokenizer, told["input_ids"])
    R = np.arange(1.0, len(tokens) + 1)
    spelled = protocols.per_word(words, tokens, R)
    sizes = np.cumsum([0, *(len(word.encode()) for word in words)])
    blank = [token in ("Ġ", " ") for token in tokens]
    letters = R[~np.array(blank)]
    assert spelled.tolist() == [letters[a:b].sum() for a, b in zip(sizes, sizes[1:], strict=False)]
    placed = protocols.per_word(words, tokens, R, offsets=told["offset_mapping"])
    np.testing.assert_allclose(placed, spelled)


def test_texts_that_are_refused_are_named_or_skipped_and_counted():
    texts = [rationale("good"), rationale("bad")]

    def explain(text):
        tokens = ["two", "cats", "sat", "there" if text.name == "good" else "[UNK]"]
        return protocols.per_word(text.words, tokens, np.array([3.0, 2, 1, 0]))

    with pytest.raises(relprop.InputError, match="The text bad: The tokens do not spell"):
        protocols.rationales(texts, explain)
    found = protocols.rationales(texts, explain, on_refused="skip")
    assert list(found.names) == ["good"] and list(found.skipped) == ["bad"]
    assert "(1 text, 1 skipped)" in str(found) and "UNK" in found.skipped["bad"]
    with pytest.raises(relprop.InputError, match="No text is left .* bad was skipped: The tok"):
        protocols.rationales(texts[1:], explain, on_refused="skip")
    with pytest.raises(relprop.InputError, match="`on_refused` must be one of"):
        protocols.rationales(texts, explain, on_refused="maybe")


@pytest.mark.parametrize(
    ("R", "message"),
    [
        ([0, 1, np.nan, 2], "text q: relevance of 1 of 4 words is NaN"),
        (["x"] * 4, "text q: `explain` must return a number"),
        (None, "text q: there are 4 words, and relevance of the shape .."),
    ],
)
def test_relevance_of_words_is_checked(R, message):
    with pytest.raises(relprop.InputError, match=message):
        protocols.rationales([rationale()], lambda text: R)


def test_only_the_order_of_words_counts():
    for R in ([1 + 1e-12, 1, 0, 0], [1e300, 1e299, 0, 0]):
        assert protocols.rationales([rationale()], lambda text, R=R: R).mean("F1")[0] == 1


def test_evidence_is_one_boolean_per_word():
    listed = truth.Rationale("q", ("a", "b"), [True, False], "")
    assert protocols.rationales([listed], lambda text: [1, 0]).mean("top-1")[0] == 1
    with pytest.raises(relprop.InputError, match="q has 4 words, and evidence of the shape .2"):
        protocols.rationales([rationale(evidence=(1, 0))], lambda text: [1, 0])
