"""The zoo: trained weights that do what they claim, and errors that say what to do."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")
pytest.importorskip("safetensors")
Image = pytest.importorskip("PIL.Image")

import safetensors.numpy  # noqa: E402

from relprop import _weights, zoo  # noqa: E402
from relprop.zoo import digits  # noqa: E402

NAMES = ("digits-cnn", "digits-vit")


pytestmark = pytest.mark.frameworks


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[Any, Any, Any]]:
    """Of each model the function, compiled, its parameters and its preprocessing."""
    loaded = {name: zoo.load(name) for name in NAMES}
    return {name: (jax.jit(fn), *rest) for name, (fn, *rest) in loaded.items()}


@pytest.fixture(scope="module")
def data():
    """All digits as images ``[1797, 8, 8, 1]`` and labels, and the indices of the test set."""
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    loaded = load_digits()
    # The split of scripts/train_digits.py, as the metadata of the weights gives it.
    _, test = train_test_split(
        np.arange(1797), test_size=0.25, random_state=0, stratify=loaded.target
    )
    return (loaded.images[..., None] / 16).astype(np.float32), loaded.target, test


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


def test_names():
    assert tuple(zoo.names()) == NAMES


@pytest.mark.parametrize("size", [0, 1, 3])
def test_forward_maps_images_to_logits(name, size, models):
    fn, params, _ = models[name]
    logits = jax.eval_shape(fn, params, jnp.zeros((size, 8, 8, 1)))
    assert logits.shape == (size, 10)
    assert logits.dtype == jnp.float32
    assert len(zoo.classes(name)) == 10


def test_params_are_nested_dicts_of_float32_arrays(name, models):
    _, params, _ = models[name]
    leaves, treedef = jax.tree.flatten(params)
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in leaves)
    assert treedef == jax.tree.structure(_weights._nest(_weights._flatten(params)))
    assert 20_000 < sum(leaf.size for leaf in leaves) < 60_000


def test_params_have_readable_paths(models):
    _, cnn, _ = models["digits-cnn"]
    _, vit, _ = models["digits-vit"]
    assert cnn["conv1"]["kernel"].shape == (3, 3, 1, 32)
    assert vit["block1"]["attention"]["query"]["kernel"].shape == (48, 48)


def test_batch_norm_uses_its_running_statistics(name, models, data):
    fn, params, _ = models[name]
    images = jnp.asarray(data[0][:12])
    together, alone = fn(params, images), fn(params, images[:1])
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-4)


def test_fn_is_pure_and_differentiable(name, models):
    fn, params, _ = models[name]
    before = jax.tree.map(np.array, params)
    gradients = jax.grad(lambda params: fn(params, jnp.full((1, 8, 8, 1), 0.5)).sum())(params)
    assert jax.tree.structure(gradients) == jax.tree.structure(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    jax.tree.map(np.testing.assert_array_equal, before, params)


def test_fn_uses_the_params_it_is_given(name, models):
    fn, params, _ = models[name]
    bias = params["head"]["bias"].at[3].add(1e3)
    changed = params | {"head": params["head"] | {"bias": bias}}
    assert fn(changed, jnp.zeros((1, 8, 8, 1))).argmax() == 3


def test_accuracy_on_the_held_out_images(name, models, data):
    images, labels, test = data
    fn, params, _ = models[name]
    predicted = fn(params, jnp.asarray(images[test])).argmax(-1)
    accuracy = float(np.mean(np.asarray(predicted) == labels[test]))
    assert accuracy > 0.97
    with safetensors.safe_open(digits.weights_file(name), "numpy") as file:
        metadata = file.metadata()
    assert metadata["seed"] == "0"
    # One image of tolerance: another CPU may round a close decision the other way.
    assert float(metadata["test_accuracy"]) == pytest.approx(accuracy, abs=1.5 / len(test))


def test_weights_are_small():
    assert sum(digits.weights_file(name).stat().st_size for name in NAMES) < 1_000_000


def test_samples_are_held_out_and_show_every_digit(data):
    images, labels, test = data
    paths = zoo.samples()
    assert len(paths) == 12
    assert {path.stem.split("_")[1] for path in paths} == set(zoo.classes("digits-cnn"))
    for path in paths:
        _, label, index = path.stem.split("_")
        assert int(index) in test
        assert labels[int(index)] == int(label)
        image = digits.preprocess(Image.open(path))
        assert image.shape == (8, 8, 1)
        assert image.dtype == np.float32
        np.testing.assert_allclose(image, images[int(index)], atol=0.5 / 255 + 1e-6)


def test_samples_are_classified_right(name, models):
    fn, params, preprocess = models[name]
    paths = zoo.samples()
    images = jnp.stack([preprocess(Image.open(path)) for path in paths])
    predicted = [zoo.classes(name)[i] for i in fn(params, images).argmax(-1)]
    right = [p == path.stem.split("_")[1] for p, path in zip(predicted, paths, strict=True)]
    assert sum(right) >= 11


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "P"])
def test_preprocess_takes_other_modes(name, mode):
    low, high = zoo.pixel_range(name)
    for pixel, value in ((0, low), (255, high)):
        image = Image.new("L", (8, 8), pixel).convert(mode)
        np.testing.assert_array_equal(
            digits.preprocess(image), np.full((8, 8, 1), value, np.float32)
        )


def test_preprocess_refuses_other_sizes():
    with pytest.raises(ValueError, match=r"8x8 pixels, but this one is 28x20.*image\.resize"):
        digits.preprocess(Image.new("L", (28, 20)))


@pytest.mark.parametrize("call", [zoo.load, zoo.classes, zoo.pixel_range])
def test_unknown_names_bring_near_matches(call):
    with pytest.raises(ValueError, match=r"'digits-cn'\. Did you mean 'digits-cnn'"):
        call("digits-cn")


def test_underscores_may_stand_for_hyphens(models):
    assert zoo.load("digits_vit")[1].keys() == models["digits-vit"][1].keys()


def test_unfit_weights_are_listed_all_at_once(tmp_path, models):
    _, params, _ = models["digits-cnn"]
    tensors = safetensors.numpy.load_file(digits.weights_file("digits-cnn"))
    del tensors["conv1/kernel"]
    tensors["conv9/kernel"] = np.zeros(3, np.float32)
    tensors["head/bias"] = np.zeros(11, np.float32)
    tensors["norm1/mean"] = tensors["norm1/mean"].astype(np.float16)
    path = tmp_path / "digits_cnn.safetensors"
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(ValueError, match="are not those of the model") as caught:
        _weights.read_weights(path, params)
    message = str(caught.value)
    for fault in (
        "missing: conv1/kernel, float32[3,3,1,32]",
        "surplus: conv9/kernel, float32[3]",
        "misshaped: head/bias, float32[11] instead of float32[10]",
        "misshaped: norm1/mean, float16[32] instead of float32[32]",
        "scripts/train_digits.py",
        str(path),
    ):
        assert fault in message


def test_damaged_weights_are_named(tmp_path):
    path = tmp_path / "digits_cnn.safetensors"
    path.write_bytes(digits.weights_file("digits-cnn").read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        _weights.read_weights(path, {})


def test_without_flax_only_load_fails():
    # In a process of its own: here Flax is imported already.
    code = """
import sys
sys.modules["flax"] = None
from relprop import zoo
assert zoo.names() and zoo.samples() and zoo.classes("digits-cnn")
try:
    zoo.load("digits-cnn")
except ImportError as error:
    assert "pip install relprop[demo]" in str(error), error
else:
    raise AssertionError("zoo.load did not fail")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
