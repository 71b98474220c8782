"""Relevance of images and text in one result."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import tokens
from relprop.tokens import NextToken

KEYS = jax.random.split(jax.random.key(0), 3)
TABLE, LOOK = jax.random.normal(KEYS[0], (6, 4)), jax.random.normal(KEYS[1], (12, 4))
PIXELS = jax.random.normal(KEYS[2], (1, 3, 4, 6))
IDS = [[1, 5, 5, 5, 5, 5, 5, 2, 3]]


def logits(params, embeds, ids, mask, images):
    """Features of patches of 2 x 2 pixels in the places of token 5, then a causal mean."""
    patches = images["pixel_values"].reshape(3, 2, 2, 3, 2).transpose(1, 3, 0, 2, 4).reshape(6, 12)
    seen = jnp.zeros((9, 4)).at[1:7].set(jnp.tanh(patches @ params["look"]))
    x = jnp.where((ids == 5)[0, :, None], seen, embeds[0])
    return (jnp.tril(jnp.ones((9, 9))) @ x @ params["table"].T)[None]


MODEL = tokens.ImageTextModel(
    embed=lambda params, ids: params["table"][ids],
    logits=logits,
    patch=2,
    params={"table": TABLE, "look": LOOK},
    image_id=5,
    vocabulary=6,
)
INPUTS = {"input_ids": IDS, "pixel_values": PIXELS}


def test_patches_and_tokens_add_up_to_the_score():
    result = tokens.explain_images(MODEL, INPUTS, NextToken(2), contrast=4)
    score = (MODEL.logits(MODEL.params, TABLE[jnp.array(IDS)], jnp.array(IDS), None, INPUTS))[0, -1]
    np.testing.assert_allclose(result.text.score, score[2] - score[4], rtol=1e-5)
    assert [p.shape for p in result.patches] == [(2, 3)]
    np.testing.assert_allclose(sum(result.shares), result.text.score, rtol=1e-4)
    np.testing.assert_allclose(result.patches[0].sum(), result.shares[1], rtol=1e-4)
    own = np.asarray(TABLE[jnp.array(IDS[0])] @ (TABLE[2] - TABLE[4]))
    np.testing.assert_allclose(result.text.relevance[[0, 7, 8]], own[[0, 7, 8]], rtol=1e-4)
    assert not result.text.relevance[1:7].any(), "the image stands there"


def test_the_predicted_token_at_a_position():
    found = tokens.explain_images(MODEL, INPUTS, NextToken(position=7))
    want = MODEL.logits(MODEL.params, TABLE[jnp.array(IDS)], jnp.array(IDS), None, INPUTS)[0, 7]
    assert found.text.target == int(jnp.argmax(want))
    assert found.text.relevance[8] == 0


def test_one_page_of_one_scale(tmp_path):
    Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    result = tokens.explain_images(MODEL, INPUTS, NextToken(2))
    page = result.html(tmp_path / "page.html", pictures=[Image.new("RGB", (6, 4))])
    assert page.count("<td ") == 6 and "data:image/png;base64" in page
    assert (tmp_path / "page.html").read_text() == page
    (grid, text) = result._parts()
    assert grid.scale == text.scale
    assert "image 0" in str(result) and len(text.parts) == 3
    assert "<table" in result._repr_html_()


def test_flattened_patches_in_groups():
    """As Qwen-VL reads them: groups of 2 x 2 patches, one after another."""
    rows, columns = 4, 6
    numbers = np.arange(rows * columns).reshape(rows // 2, 2, columns // 2, 2)
    flat = jnp.asarray(numbers.transpose(0, 2, 1, 3).reshape(-1, 1), jnp.float32) + 1

    def total(params, embeds, ids, mask, images):
        return (embeds.sum() + images["pixel_values"].sum()) * jnp.ones((1, 2, 3))

    model = tokens.ImageTextModel(
        lambda params, ids: jnp.ones((1, 2, 2)), total, patch=1, merged=2, vocabulary=3
    )
    inputs = {"input_ids": [0, 1], "pixel_values": flat, "image_grid_thw": [[1, rows, columns]]}
    (patches,) = tokens.explain_images(model, inputs, NextToken(1)).patches
    np.testing.assert_allclose(patches, np.arange(24).reshape(rows, columns) + 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "target", "message"),
    [
        ({"input_ids": IDS}, None, "pixel_values"),
        ({**INPUTS, "attention_mask": [[2] + [1] * 8]}, None, "must be 1 at tokens"),
        ({**INPUTS, "attention_mask": [[1] * 8]}, None, "of the shape of the ids, .1, 9."),
        ({**INPUTS, "input_ids": [[1, 9, 2]]}, None, "from 0 to 5"),
        (INPUTS, NextToken(2, position=9), "position 9"),
        (INPUTS, NextToken(2, position=1.5), "position 1.5"),
        (INPUTS, NextToken(2, position=[0]), "position .0. is none"),
        (INPUTS, NextToken(99), "6 outputs, 0 to 5; the target names .99."),
        (INPUTS, NextToken(-99), "the target names .-99."),
        (INPUTS, tokens.ClassTarget(1), "a `NextToken` is explained"),
        ({**INPUTS, "pixel_values": PIXELS.at[0, 0].set(jnp.nan)}, None, "NaN .* 24 of its 72"),
        ({**INPUTS, "pixel_values": PIXELS[0, 0]}, None, "not known without `image_grid_thw`"),
        ({**INPUTS, "pixel_values": PIXELS[0, 0, 0]}, None, "makes no patches of 2"),
        ({**INPUTS, "pixel_values": PIXELS[..., :1]}, None, "makes no patches of 2"),
        (
            {**INPUTS, "pixel_values": PIXELS[0, 0], "image_grid_thw": [[1, 2, 3]]},
            None,
            "4 patches in all; got ..1, 2, 3",
        ),
    ],
)
def test_refused(inputs, target, message):
    with pytest.raises(relprop.InputError, match=message):
        tokens.explain_images(MODEL, inputs, target)


@pytest.mark.parametrize(
    ("contrast", "message"), [(99, "the contrast names .99."), (2, "both are 2")]
)
def test_refused_contrasts(contrast, message):
    with pytest.raises(relprop.InputError, match=message):
        tokens.explain_images(MODEL, INPUTS, NextToken(2), contrast=contrast)


def test_refused_patches_and_positions_without_logits():
    with pytest.raises(relprop.InputError, match="patches of 0"):
        tokens.explain_images(dataclasses.replace(MODEL, patch=0), INPUTS)
    last = dataclasses.replace(MODEL, logits=lambda *args: logits(*args)[:, -1:])
    with pytest.raises(relprop.InputError, match="There are 1 tokens; the position 3"):
        tokens.explain_images(last, INPUTS, NextToken(2, position=3))


def test_positions_of_numpy():
    found, same = (
        tokens.explain_images(MODEL, INPUTS, NextToken(2, position=p)) for p in (np.int64(7), 7)
    )
    assert found.text.score == same.text.score


def of_each_image(params, embeds, ids, mask, images):
    """One patch of 2 x 2 pixels for each token 5, then a causal mean."""
    pixels = images["pixel_values"]
    seen = jnp.tanh(pixels.reshape(-1, 12) @ params["look"])
    number = jnp.cumsum(ids[0] == 5) - 1
    x = jnp.where((ids == 5)[0, :, None], seen[jnp.clip(number, 0)], embeds[0])
    length = ids.shape[1]
    bias = images["bias"] if "bias" in images else 0.0
    return (jnp.tril(jnp.ones((length, length))) @ x @ params["table"].T)[None] + bias


SEVERAL = dataclasses.replace(MODEL, logits=of_each_image)
THREE = jax.random.normal(KEYS[2], (3, 3, 2, 2))
BATCH = {
    "input_ids": [[1, 5, 5, 2], [0, 5, 2, 3]],  # the second with padding at its start
    "attention_mask": [[1, 1, 1, 1], [0, 1, 1, 1]],
    "pixel_values": THREE,
}


def test_several_texts_with_several_images():
    results = tokens.explain_images(SEVERAL, BATCH, NextToken([2, None]), contrast=[4, 0])
    alone = [
        tokens.explain_images(SEVERAL, inputs, target, contrast=contrast)
        for inputs, target, contrast in (
            ({"input_ids": [[1, 5, 5, 2]], "pixel_values": THREE[:2]}, NextToken(2), 4),
            ({"input_ids": [[5, 2, 3]], "pixel_values": THREE[2:]}, NextToken(), 0),
        )
    ]
    for found, one in zip(results, alone, strict=True):
        np.testing.assert_allclose(found.text.relevance, one.text.relevance, atol=1e-5)
        np.testing.assert_allclose(found.pixels, one.pixels, atol=1e-5)
        assert found.text.target == one.text.target
        assert len(found.patches) == len(one.patches) == len(one.pixels)


def test_images_of_zeros_are_left_out():
    """As processors pad a batch: ``[texts, images, channels, height, width]``."""
    model = dataclasses.replace(SEVERAL, leaves_out_empty=True)
    pixels = np.zeros((2, 2, 3, 2, 2), np.float32)
    pixels[0], pixels[1, 0] = THREE[:2], THREE[2]
    inputs = {**BATCH, "pixel_values": pixels, "bias": np.zeros((2, 1, 1))}
    results = tokens.explain_images(model, inputs, NextToken(2))
    flat = tokens.explain_images(SEVERAL, BATCH, NextToken(2))
    for found, one in zip(results, flat, strict=True):
        np.testing.assert_allclose(found.text.relevance, one.text.relevance, atol=1e-5)
        assert found.pixels.shape == (1, 2, 3, 2, 2)
        np.testing.assert_allclose(found.pixels[0, : len(one.pixels)], one.pixels, atol=1e-5)
    assert [len(found.patches) for found in results] == [2, 1]
    assert not results[1].pixels[0, 1].any()
    with pytest.raises(relprop.InputError, match="no image but empty ones"):
        tokens.explain_images(model, {**inputs, "pixel_values": 0 * pixels}, NextToken(2))


def test_flattened_patches_of_several_texts():
    def total(params, embeds, ids, mask, images):
        return (embeds.sum() + images["pixel_values"].sum()) * jnp.ones((1, ids.shape[1], 6))

    model = dataclasses.replace(SEVERAL, logits=total, patch=1, merged=2)
    inputs = {
        **BATCH,
        "pixel_values": np.arange(16.0, dtype=np.float32).reshape(16, 1),
        "image_grid_thw": [[1, 2, 2], [1, 2, 2], [1, 2, 4]],
        "input_ids": [[1, 5, 5, 2], [0, 5, 5, 3]],
    }
    first, second = tokens.explain_images(model, inputs, NextToken(1))
    assert [p.shape for p in first.patches] == [(2, 2), (2, 2)]
    np.testing.assert_allclose(first.pixels.ravel(), np.arange(8), rtol=1e-5)
    np.testing.assert_allclose(second.pixels.ravel(), np.arange(8, 16), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_ids": [[1, 5, 5, 2], [5, 2]]}, "Have the processor pad the texts"),
        ({"input_ids": [[1, 5, 5, 5], [0, 1, 2, 3]]}, "each text must have images"),
        ({"input_ids": [[1, 5, 5, 5], [0, 5, 2, 3]]}, "4 tokens stand for 3 images"),
        ({"attention_mask": [[1] * 4, [0] * 4]}, "with a token in each text"),
        ({"pixel_values": np.ones((3, 1, 3, 2, 2))}, "2 texts have 2 rows of it"),
        ({"sizes": np.ones((5, 2))}, "`sizes` .* neither to 2 texts nor"),
    ],
)
def test_refused_batches(changes, message):
    with pytest.raises(relprop.InputError, match=message):
        tokens.explain_images(SEVERAL, {**BATCH, **changes}, NextToken(2))


def test_one_target_for_each_text():
    with pytest.raises(relprop.InputError, match="one token for all, or one per sample: 2, got 3"):
        tokens.explain_images(SEVERAL, BATCH, NextToken([1, 2, 3]))


@pytest.mark.frameworks
@pytest.mark.filterwarnings("ignore")
def test_llava_has_the_gradient_of_torch():
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch.manual_seed(0)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            **size, num_hidden_layers=1, image_size=8, patch_size=4
        ),
        text_config=transformers.LlamaConfig(**size, num_hidden_layers=1, vocab_size=20),
        image_token_id=19,
        vision_feature_layer=-1,
    )
    module = transformers.LlavaForConditionalGeneration(config).eval()
    pixels = torch.randn(1, 3, 8, 8, requires_grad=True)
    ids = torch.tensor([[1, 19, 19, 19, 19, 5, 6]])
    model = tokens.from_image_text(module)
    result = tokens.explain_images(
        model,
        {"input_ids": ids, "pixel_values": pixels.detach()},
        NextToken(3),
        rules=relprop.presets.gradient(),
    )
    logit = module(input_ids=ids, pixel_values=pixels).logits[0, -1, 3]
    logit.backward()
    np.testing.assert_allclose(result.text.score, logit.item(), atol=1e-6)
    np.testing.assert_allclose(result.pixels, pixels.grad.numpy(), rtol=0, atol=1e-6)
    assert result.patches[0].shape == (2, 2)
    assert result.text.shown.tolist() == [True] + [False] * 4 + [True, True]


@pytest.mark.frameworks
@pytest.mark.filterwarnings("ignore")
def test_smolvlm_leaves_out_an_empty_image():
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch.manual_seed(0)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    config = transformers.SmolVLMConfig(
        vision_config={**size, "num_hidden_layers": 1, "image_size": 8, "patch_size": 2},
        text_config={**size, "model_type": "llama", "num_hidden_layers": 1, "vocab_size": 20},
        image_token_id=19,
        scale_factor=2,
        pad_token_id=0,
    )
    module = transformers.SmolVLMForConditionalGeneration(config).eval()
    pixels = torch.randn(1, 2, 3, 8, 8)
    pixels[0, 1] = 0
    inputs = {"input_ids": torch.tensor([[1, *[19] * 4, 5, 7]]), "pixel_values": pixels}
    model = tokens.from_image_text(module)
    result = tokens.explain_images(model, inputs, NextToken(3), rules=relprop.presets.gradient())
    pixels.requires_grad_(True)
    logit = module(**inputs).logits[0, -1, 3]
    (gradient,) = torch.autograd.grad(logit, pixels)
    np.testing.assert_allclose(result.text.score, logit.item(), atol=1e-6)
    np.testing.assert_allclose(result.pixels, gradient.numpy(), rtol=0, atol=1e-6)
    assert np.any(result.pixels) and len(result.patches) == 1
