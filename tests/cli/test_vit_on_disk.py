"""`relprop explain --model vit:FOLDER`: a vision transformer of Hugging Face on disk."""

import contextlib
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line is an extra")
pytest.importorskip("safetensors", reason="weights on disk are an extra")

import safetensors.numpy
from PIL import Image
from typer.testing import CliRunner

import relprop
from relprop import cli, zoo
from relprop.cli import attention, vit
from relprop.cli.inputs import load_model, read_images

pytestmark = pytest.mark.frameworks

CONFIG = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "image_size": 16,
    "patch_size": 4,
    "num_channels": 3,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "layer_norm_eps": 1e-3,  # large enough to be noticed
    "id2label": {"0": "tabby, tabby cat", "1": "dog", "2": "[newt]"},
}
PREPROCESSOR = {
    "size": {"height": 16, "width": 16},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.25],
    "resample": 3,
    "rescale_factor": 1 / 255,
}
AFTER_5 = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "layer.0.output.dense": "layer.0.mlp.fc2",
    "layer.1.output.dense": "layer.1.mlp.fc2",
    "vit.encoder.layer": "vit.layers",
}


def tensors(channels=3):
    """Weights by the names that transformers saves."""
    random = np.random.default_rng(0)
    d, hidden, shapes = 12, 20, {}
    for i in range(2):
        at = f"vit.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            shapes[f"{at}.attention.attention.{part}"] = (d, d)
        shapes[f"{at}.attention.output.dense"] = (d, d)
        shapes[f"{at}.intermediate.dense"] = (hidden, d)
        shapes[f"{at}.output.dense"] = (d, hidden)
        shapes[f"{at}.layernorm_before"] = shapes[f"{at}.layernorm_after"] = (d,)
    shapes["vit.layernorm"] = (d,)
    shapes["vit.embeddings.patch_embeddings.projection"] = (d, channels, 4, 4)
    shapes["classifier"] = (3, d)
    found = {
        "vit.embeddings.cls_token": (1, 1, d),
        "vit.embeddings.position_embeddings": (1, 17, d),
    }
    for name, shape in shapes.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {n: 0.4 * random.normal(size=s).astype(np.float32) for n, s in found.items()}


def renamed(weights):
    """The same by the names that modules have since transformers 5."""
    for before, after in AFTER_5.items():
        weights = {name.replace(before, after): array for name, array in weights.items()}
    return weights


def written(folder, config=CONFIG, weights=None, preprocessor=PREPROCESSOR):
    folder.mkdir(exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    safetensors.numpy.save_file(
        tensors() if weights is None else weights, folder / "model.safetensors"
    )
    return folder


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (30, 44, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def explain(folder, *args):
    out = ["--out", str(folder.parent / "out")]
    return CliRunner().invoke(
        cli.app, ["explain", "--model", f"vit:{folder}", *out, *map(str, args)]
    )


def refused(result, *parts):
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("relprop: ") and "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr
    return result.stderr


# By hand: no part of relprop.chefer


def norm(x, w, name):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    x = (x - mean) / jnp.sqrt(variance + CONFIG["layer_norm_eps"])
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def dense(x, w, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def by_hand(w, image):
    """The logits of one image, h w c."""
    patches = image.reshape(4, 4, 4, 4, 3).transpose(0, 2, 4, 1, 3).reshape(16, 48)
    at = "vit.embeddings.patch_embeddings.projection"
    patches = patches @ w[f"{at}.weight"].reshape(12, 48).T + w[f"{at}.bias"]
    x = jnp.concatenate([w["vit.embeddings.cls_token"][0], patches])
    x = x + w["vit.embeddings.position_embeddings"][0]
    for i in range(2):
        at = f"vit.encoder.layer.{i}"
        y = norm(x, w, f"{at}.layernorm_before")
        parts = [dense(y, w, f"{at}.attention.attention.{n}") for n in ("query", "key", "value")]
        q, k, v = (part.reshape(17, 2, 6).transpose(1, 0, 2) for part in parts)
        a = jax.nn.softmax(q @ k.transpose(0, 2, 1) / np.sqrt(6), -1)
        y = (a @ v).transpose(1, 0, 2).reshape(17, 12)
        x = x + dense(y, w, f"{at}.attention.output.dense")
        y = dense(norm(x, w, f"{at}.layernorm_after"), w, f"{at}.intermediate.dense")
        x = x + dense(jax.nn.gelu(y, approximate=False), w, f"{at}.output.dense")
    return dense(norm(x, w, "vit.layernorm")[0], w, "classifier")


def preprocessed(photo):
    with Image.open(photo) as image:
        pixels = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC), np.float32) / 255
    return (pixels - np.float32(PREPROCESSOR["image_mean"])) / np.float32(PREPROCESSOR["image_std"])


def test_the_names_of_both_layouts(tmp_path):
    assert renamed(tensors()).keys().isdisjoint(n for n in tensors() if "layer." in n)
    before = load_model(f"vit:{written(tmp_path / 'before')}").params
    after = load_model(f"vit:{written(tmp_path / 'after', weights=renamed(tensors()))}").params
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_the_same_as_by_hand(tmp_path, photo):
    folder = written(tmp_path / "vit")
    model = load_model(f"vit:{folder}")
    images = read_images(model, [photo])
    x, w = preprocessed(photo), {name: jnp.asarray(a) for name, a in tensors().items()}
    np.testing.assert_allclose(images.pixels[0], x, rtol=1e-5, atol=1e-5)
    with jax.numpy_rank_promotion("allow"):
        expected = by_hand(w, x)
        np.testing.assert_allclose(
            model.fn(model.params, images.pixels)[0], expected, rtol=1e-4, atol=1e-5
        )
        methods = ("transformer_attribution", "rollout")
        tokens = {
            method: jax.jit(
                relprop.transformer_attribution(lambda x: by_hand(w, x)[1], method=method)
            )(x)
            for method in methods
        }
    job = cli.Job.prepare(model, images, (), 1, methods)
    (found,) = job.run(lambda name: contextlib.nullcontext())[0]
    assert (found.target, found.label) == ("dog", model.labels[int(expected.argmax())])
    for method in methods:
        grid = np.asarray(tokens[method])[1:].reshape(1, 4, 4, 1)  # without the class token
        over = jax.image.resize(jnp.asarray(grid), (1, 16, 16, 1), "bilinear")[0, ..., 0]
        assert np.ptp(over) > 0
        np.testing.assert_allclose(
            found.maps[method], over, rtol=1e-3, atol=1e-4 * float(jnp.abs(over).max())
        )


def test_the_command(tmp_path, photo):
    folder = written(tmp_path / "vit")
    result = explain(folder, "--method", "transformer_attribution", "--target", 0, photo)
    assert result.exit_code == 0, result.output
    assert re.search(r"photo\.png .*tabby, tabby cat +-?\d+\.\d{3} +\d+, \d+ *\n", result.stdout)
    assert "handed out" not in result.stdout  # there is no relevance of pixels
    page = (tmp_path / "out" / "report.html").read_text()
    alt = "Map of photo.png for class tabby, tabby cat by transformer_attribution"
    assert alt in page and "Colours of attention" in page and "against the class" not in page
    assert '<th scope="col">transformer_\u200battribution</th>' in page
    command = f"--model vit:{folder} --method transformer_attribution --target 0"
    assert command in page
    with Image.open(tmp_path / "out" / "montage.png") as image:
        image.load()


def test_relevance_and_a_method_side_by_side(tmp_path, photo):
    folder = written(tmp_path / "vit")
    args = ["--method", "relevance", "--rules", "gradient", "--method", "rollout"]
    result = explain(folder, *args, "--method", "full_lrp", photo)
    assert result.exit_code == 0, result.output
    assert "handed out" in result.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    heads = re.findall(r'<th scope="col">([^<]+)</th>', page.replace("\u200b", ""))
    assert [h for h in heads if "_" in h or h in ("gradient", "rollout")] == [
        "gradient",
        "rollout",
        "full_lrp, gradient",
    ]
    assert "Colours of attention" in page and "against the class" in page


def test_a_bundled_model(tmp_path):
    image = zoo.samples()[3]
    args = ["explain", "--model", "digits-vit", "--method", "attention", "--out", str(tmp_path)]
    result = CliRunner().invoke(cli.app, [*args, str(image)])
    assert result.exit_code == 0, result.output
    model = load_model("digits-vit")
    x = read_images(model, [image]).pixels[0]

    def score(x):
        return model.fn(model.params, x[None])[0, 3]

    tokens = jax.jit(relprop.transformer_attribution(score, method="attention"))(x)
    job = cli.Job.prepare(model, read_images(model, [image]), (), 3, ["attention"])
    assert job.patches == attention.Patches((4, 4), 0)  # it has a class token
    (found,) = job.run(lambda name: contextlib.nullcontext())[0]
    corners = np.asarray(tokens)[1:].reshape(4, 4)[::3, ::3]
    np.testing.assert_allclose(found.maps["attention"][::7, ::7], corners, rtol=1e-4)


def test_a_model_without_attention(tmp_path):
    args = ["explain", "--model", "digits-cnn", "--method", "rollout", "--out", str(tmp_path)]
    result = CliRunner().invoke(cli.app, [*args, str(zoo.samples()[0])])
    refused(result, "rollout does not fit digits-cnn. There is no attention")


def test_tokens_that_are_no_patches():
    assert attention.Patches.of(16, 8, 8) == attention.Patches((4, 4), "mean")
    with pytest.raises(relprop.InputError, match="It has 18 tokens"):
        attention.Patches.of(18, 8, 8)


def test_grey_images_and_half_precision(tmp_path, photo):
    weights = {n: a.astype(np.float16) for n, a in tensors(channels=1).items()}
    folder = written(tmp_path / "vit", {**CONFIG, "num_channels": 1}, weights, {"size": 16})
    model = load_model(f"vit:{folder}")
    assert {p.dtype for p in model.params.values()} == {jnp.dtype("float32")}
    pixels = read_images(model, [photo]).pixels
    assert pixels.shape == (1, 16, 16, 1) and -1 <= pixels.min() < 0 < pixels.max() <= 1
    assert np.isfinite(model.fn(model.params, pixels)).all()


def test_without_a_preprocessor_its_defaults_are_said(tmp_path, photo):
    folder = written(tmp_path / "vit", preprocessor=None)
    result = explain(folder, "--method", "attention", photo)
    assert result.exit_code == 0, result.output
    assert "preprocessor_config.json: images are scaled to 16x16 (bilinear)" in result.stderr
    pixels = read_images(load_model(f"vit:{folder}"), [photo]).pixels[0]
    with Image.open(photo) as image:
        expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)) / 127.5 - 1
    np.testing.assert_allclose(pixels, expected, atol=1e-5)


def test_the_middle_of_the_image(tmp_path, photo):
    preprocessor = {
        "size": {"shortest_edge": 20},
        "do_center_crop": True,
        "crop_size": 16,
        "do_normalize": False,
    }
    folder = written(tmp_path / "vit", preprocessor=preprocessor)
    pixels = read_images(load_model(f"vit:{folder}"), [photo]).pixels[0]
    with Image.open(photo) as image:  # 44 x 30
        whole = np.asarray(image.resize((29, 20), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(pixels, whole[2:18, 6:22], atol=1e-6)


def test_pytorch_is_not_imported(tmp_path):
    name = f"vit:{written(tmp_path / 'vit')}"
    code = "import sys; sys.modules |= {'torch': None, 'transformers': None}\n"
    code += f"from relprop.cli.inputs import load_model; print(load_model({name!r}).labels[1])"
    path = [str(Path(cli.__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.stdout == "dog\n", result.stderr


def test_a_model_that_averages_over_tokens():
    def score(params, image, target):
        tokens = image.reshape(4, 2, 4, 2, 1).transpose(0, 2, 1, 3, 4).reshape(16, 4)
        attention = jax.nn.softmax(tokens @ params @ tokens.T, axis=-1)
        return (attention @ tokens).mean(0)[target]

    random = np.random.default_rng(0)
    args = (random.normal(size=(4, 4)), random.normal(size=(8, 8, 1)), 0)
    assert attention.found(score, args, None) == attention.Patches((4, 4), "mean")


def test_shards(tmp_path):
    folder = written(tmp_path / "vit")
    (folder / "model.safetensors").unlink()
    items = list(tensors().items())
    for number, part in enumerate((items[:9], items[9:]), start=1):
        file = folder / f"model-0000{number}-of-00002.safetensors"
        safetensors.numpy.save_file(dict(part), file)
    whole = load_model(f"vit:{written(tmp_path / 'whole')}").params
    parts = load_model(f"vit:{folder}").params
    assert parts.keys() == whole.keys()
    for name in whole:
        np.testing.assert_array_equal(parts[name], whole[name])


# What does not work


def test_unknown_method(tmp_path, photo):
    message = "Unknown method 'roll_out'. Did you mean 'rollout'"
    refused(explain(tmp_path / "nowhere", "--method", "roll_out", photo), message, "relevance")


def test_rules_without_relevance(tmp_path, photo):
    args = ["--method", "rollout", "--rules", "epsilon", photo]
    message = "--rules make no difference to --method rollout, only to relevance"
    refused(explain(written(tmp_path / "vit"), *args), message)


def test_no_folder(tmp_path, photo):
    refused(explain(tmp_path / "nowhere", photo), f"There is no folder {tmp_path / 'nowhere'}")
    refused(explain(photo, photo), f"There is no folder {photo}")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_and_damaged_files(tmp_path, photo, name):
    folder = written(tmp_path / "vit")
    (folder / name).write_text("{")
    refused(explain(folder, photo), str(folder / name))
    (folder / name).unlink()
    refused(explain(folder, photo), f"There is no {folder / name}: the folder holds ")


def test_all_that_is_wrong_with_the_tensors(tmp_path, photo):
    weights = tensors()
    del weights["vit.encoder.layer.1.attention.attention.key.bias"]
    weights["vit.extra"] = np.zeros(3, np.float32)
    weights["classifier.bias"] = np.zeros(4, np.float32)
    weights["vit.pooler.dense.bias"] = np.zeros(12, np.float32)  # a classifier does not use it
    message = refused(
        explain(written(tmp_path / "vit", weights=weights), photo),
        "3 tensor(s) do not fit",
        "missing: vit.encoder.layer.1.attention.attention.key.bias (12,)",
        "not expected: vit.extra (3,)",
        "wrong shape: classifier.bias (4,), expected (3,)",
    )
    assert "pooler" not in message


def test_weights_for_other_channels(tmp_path, photo):
    message = "projection.weight (12, 1, 4, 4), expected (12, 3, 4, 4)"
    refused(explain(written(tmp_path / "vit", weights=tensors(channels=1)), photo), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_channels": 4}, "num_channels 4"),
        ({"hidden_act": "gelu_new"}, "hidden_act 'gelu_new'; only the exact 'gelu'"),
        ({"model_type": "swin"}, "model_type 'swin'; only 'vit'"),
        ({"num_attention_heads": 5}, "embed_dim=12 is not divisible by num_heads=5"),
        ({"id2label": {"1": "cat", "2": "dog"}}, "must number the classes from 0 to 1, got 1, 2"),
        ({"id2label": ["cat", "dog"]}, "config.json"),
        ({"id2label": None, "num_labels": 0}, "classes 0: these must be numbers from 1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0: these must be numbers from 1"),
        ({"num_attention_heads": 0}, "num_attention_heads 0"),
        ({"patch_size": [0, 4]}, "patch_size [0, 4]"),
        ({"hidden_size": "12"}, "hidden_size '12'"),
        ({"num_channels": [3]}, "config.json has an entry of the wrong kind"),
    ],
)
def test_configurations(tmp_path, photo, changes, message):
    refused(explain(written(tmp_path / "vit", {**CONFIG, **changes}), photo), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_mean": [0.5, 0.5]}, "image_mean [0.5, 0.5], 2 numbers, but the model takes 3"),
        ({"size": {"longest_edge": 9}}, "shortest_edge; got {'longest_edge': 9}"),
        ({"size": 20}, "photo.png: preprocessor_config.json makes it 20x20, but the model takes"),
        ({"do_center_crop": True}, "photo.png: preprocessor_config.json cuts 224x224 out of 16x16"),
        ({"resample": 17}, "photo.png: preprocess failed: ValueError: 17"),
    ],
)
def test_preprocessors(tmp_path, photo, changes, message):
    folder = written(tmp_path / "vit", preprocessor={**PREPROCESSOR, **changes})
    refused(explain(folder, "--method", "attention", photo), message)


# Code


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("config.json", {"auto_map": {"AutoModelForImageClassification": "modeling_trap.Model"}}),
        ("config.json", {"_attn_implementation": "kernels-community/x"}),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "modeling_trap.Model"}}),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "modeling_trap.Model"}}),
    ],
)
def test_code_that_a_folder_brings(tmp_path, photo, file, entries):
    folder = written(tmp_path / "vit")
    marker = tmp_path / "marker"
    (folder / "modeling_trap.py").write_text(f"open({str(marker)!r}, 'w')\nclass Model: pass\n")
    given = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(given | entries))
    refused(explain(folder, photo), "brings its own code", f"{file}: {[*entries][0]}")
    assert not marker.exists()


class Trap:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "model.safetensors"])
def test_pickles(tmp_path, photo, name):
    folder, marker = written(tmp_path / "vit"), tmp_path / "marker"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Trap(str(marker))))
    refused(explain(folder, photo), name, "safetensors")
    assert not marker.exists()


def test_transformers_gives_the_same_logits(tmp_path, photo):
    reason = "transformers with PyTorch is an extra"
    pytest.importorskip("torch", reason=reason)
    transformers = pytest.importorskip("transformers", reason=reason)
    import torch

    config = transformers.ViTConfig(**CONFIG)
    module = transformers.ViTForImageClassification(config).eval()
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    module.save_pretrained(tmp_path / "vit")
    processor = getattr(transformers, "ViTImageProcessorPil", transformers.ViTImageProcessor)
    processor = processor(**PREPROCESSOR)
    processor.save_pretrained(tmp_path / "vit")
    with Image.open(photo) as image, torch.no_grad():
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        expected = module(pixels).logits.numpy()
    model = load_model(f"vit:{tmp_path / 'vit'}")
    images = read_images(model, [Path(photo)]).pixels
    np.testing.assert_allclose(np.moveaxis(images, -1, 1), pixels, atol=1e-5)
    np.testing.assert_allclose(model.fn(model.params, images), expected, rtol=1e-4, atol=1e-5)


def test_defaults_are_those_of_transformers():
    transformers = pytest.importorskip("transformers", reason="transformers is an extra")
    theirs = transformers.ViTConfig()
    for name, value in vit.CONFIG.items():
        assert getattr(theirs, name) == value, name
    processor = getattr(transformers, "ViTImageProcessorPil", transformers.ViTImageProcessor)()
    for name, value in vit.PREPROCESSOR.items():
        if name not in ("image_mean", "image_std", "do_center_crop", "crop_size"):
            assert getattr(processor, name) == value, name
    assert {*processor.image_mean, *processor.image_std} == {0.5}
