"""What models are made from, how they are used, and what they say to what they cannot use."""

from __future__ import annotations

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import chefer
from relprop.chefer import weights

VIT = {
    "img_size": 8, "patch_size": 4, "num_classes": 3, "embed_dim": 6, "depth": 2, "num_heads": 2,
    "mlp_ratio": 2.0,
}  # fmt: skip
BERT = {
    "vocab_size": 9, "hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 8, "max_position_embeddings": 5,
}  # fmt: skip
IDS = np.array([[1, 2, 3, 0], [4, 5, 0, 0]])
MASK = (IDS > 0).astype(np.int32)


@pytest.fixture(scope="module")
def vit():
    model = chefer.ViT.init(VIT, jax.random.key(0))
    random = np.random.default_rng(1)
    return jax.tree.map(lambda p: p + 0.3 * random.normal(size=p.shape).astype("float32"), model)


@pytest.fixture(scope="module")
def bert():
    return chefer.Bert.init(BERT, jax.random.key(0))


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(2), (2, 3, 8, 8))


# Use.


def test_models_are_pytrees(vit, images):
    half = jax.tree.map(lambda p: p / 2, vit)
    assert isinstance(half, chefer.ViT) and half.config == vit.config
    slopes = jax.jit(jax.grad(lambda model: jnp.sum(model(images))))(vit)
    assert slopes.params["head.bias"].tolist() == [2.0, 2.0, 2.0]


def test_samples_do_not_know_of_each_other(vit, images):
    # As part of a compiled function, for once.
    explain = jax.jit(lambda m, x, i: chefer.generate_lrp(m, x, index=i))
    together = explain(vit, images, np.array([2, 0]))
    alone = chefer.generate_lrp(vit, images[1:], index=0)
    np.testing.assert_allclose(together[1:], alone, rtol=2e-3, atol=1e-6)
    assert together.shape == (2, 4)
    mixed = chefer.generate_lrp(vit, images, index=np.array([2, 0]), batch="reference")
    assert mixed.shape == (1, 4) and not np.allclose(mixed, together[:1], rtol=1e-2)


def test_relevance_is_found_by_the_transform_itself(vit, images):
    """The preset on the model as any other function: no code of its own goes backwards."""
    rules = relprop.presets.chefer()
    score = lambda x: vit(x)[0, 1]  # noqa: E731
    explain = jax.jit(relprop.relevance(score, rules, places="blocks.1.attn.map"))
    R, inside = explain(images[:1])
    assert R.shape == images[:1].shape
    found = chefer.generate_lrp(vit, images[:1], index=1, method="last_layer")
    map_of_last = jnp.maximum(inside["blocks.1.attn.map"].relevance, 0).mean(1)[:, 0, 1:]
    np.testing.assert_allclose(found, map_of_last, rtol=1e-3, atol=1e-6)


def test_other_sizes_of_images(vit):
    larger = vit.resized((12, 8))
    assert larger.config.grid == (3, 2)
    assert larger(jnp.ones((1, 3, 12, 8))).shape == (1, 3)
    same = vit.resized(8)
    np.testing.assert_allclose(same.params["pos_embed"], vit.params["pos_embed"], atol=1e-6)


def test_without_bias_of_queries_keys_and_values(images):
    model = chefer.ViT.init(VIT | {"qkv_bias": False}, jax.random.key(0))
    assert "blocks.0.attn.qkv.bias" not in model.params
    assert model(images).shape == (2, 3)


# Loading.


def arrays(model):
    return {name: np.asarray(p) for name, p in model.params.items()}


def same(a, b):
    return a.config == b.config and all(np.array_equal(a.params[n], b.params[n]) for n in b.params)


def test_a_safetensors_file(vit, tmp_path):
    from safetensors.numpy import save_file

    save_file(arrays(vit), tmp_path / "weights.safetensors")
    assert same(chefer.ViT.load(tmp_path / "weights.safetensors", VIT), vit)


def test_a_folder(bert, tmp_path):
    from safetensors.numpy import save_file

    tensors = sorted(arrays(bert).items())
    save_file(dict(tensors[:10]), tmp_path / "model-00001-of-00002.safetensors")
    save_file(dict(tensors[10:]), tmp_path / "model-00002-of-00002.safetensors")
    config = BERT | {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert same(chefer.Bert.load(tmp_path), bert)


@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_a_checkpoint_of_pytorch(vit, tmp_path, key):
    torch = pytest.importorskip("torch", reason="reads a checkpoint of PyTorch")
    tensors = {name: torch.tensor(p) for name, p in arrays(vit).items()}
    torch.save(tensors if key is None else {key: tensors, "epoch": 3}, tmp_path / "vit.pth")
    assert same(chefer.ViT.load(tmp_path / "vit.pth", VIT), vit)


def test_tensors_of_pytorch(vit):
    torch = pytest.importorskip("torch", reason="takes tensors of PyTorch")
    tensors = {name: torch.tensor(p) for name, p in arrays(vit).items()}
    assert same(chefer.ViT.from_state_dict(tensors, VIT), vit)
    tensors = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    assert chefer.ViT.from_state_dict(tensors, VIT).params["head.weight"].dtype == "float32"


def test_all_that_does_not_fit_is_told_at_once(vit):
    state = arrays(vit)
    del state["head.bias"]
    state["dist_token"] = np.zeros((1, 1, 6), "float32")
    state["norm.weight"] = np.zeros(7, "float32")
    with pytest.raises(relprop.InputError) as error:
        chefer.ViT.from_state_dict(state, VIT)
    assert str(error.value).splitlines() == [
        "3 tensor(s) do not fit the configuration of this ViT:",
        "  missing: head.bias (3,)",
        "  not expected: dist_token (1, 1, 6)",
        "  wrong shape: norm.weight (7,), expected (6,)",
    ]


def test_buffers_are_not_in_the_way(bert):
    state = arrays(bert) | {"bert.embeddings.position_ids": np.arange(5)[None]}
    assert same(chefer.Bert.from_state_dict(state, BERT), bert)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nothing.safetensors", "There is no file or folder"),
        ("", "holds neither .*; it has readme.txt"),
        ("readme.txt", "There is no .*config.json: give the configuration"),
    ],
)
def test_files_that_are_not_there(tmp_path, path, says):
    (tmp_path / "readme.txt").write_text("nothing here")
    config = None if path == "readme.txt" else VIT
    with pytest.raises(relprop.InputError, match=says):
        chefer.ViT.load(tmp_path / path, config)


def test_a_checkpoint_without_tensors(tmp_path):
    torch = pytest.importorskip("torch", reason="reads a checkpoint of PyTorch")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(relprop.InputError, match="holds a list, and no state dict"):
        weights.read(tmp_path / "list.pth")


class Trap:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.mark.parametrize("name", ["vit.pth", "pytorch_model.bin", "model.safetensors"])
def test_code_in_files_of_weights_is_not_run(vit, tmp_path, name):
    torch = pytest.importorskip("torch", reason="reads a checkpoint of PyTorch")
    marker, path = tmp_path / "marker", tmp_path / "held"
    path.mkdir()
    for save in (
        lambda trap: (path / name).write_bytes(pickle.dumps(trap)),
        lambda trap: torch.save({"head.bias": trap}, path / name),
    ):
        save(Trap(str(marker)))
        for given in [path / name] if name == "vit.pth" else [path, path / name]:
            with pytest.raises(relprop.InputError, match="damaged"):
                chefer.ViT.load(given, VIT)
        assert not marker.exists()


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_damaged_configuration(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(relprop.InputError, match=r"config\.json (is no JSON|must hold an object)"):
        chefer.Bert.load(tmp_path)


def test_a_configuration_with_code(bert, tmp_path):
    from safetensors.numpy import save_file

    save_file(arrays(bert), tmp_path / "model.safetensors")
    config = BERT | {"auto_map": {"AutoModel": "modeling_trap.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        relprop.InputError, match=r"brings its own code.*\n *config\.json: auto_map"
    ):
        chefer.Bert.load(tmp_path)


# Inputs that cannot be explained.


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((1, 1, 8, 8), "The images have 1 channels, but the model takes 3: got"),
        ((1, 8, 8, 3), "The images have 8 channels"),
        ((3, 8, 8), r"Images must be an array \(n, 3, 8, 8\), got \(3, 8, 8\)"),
        ((1, 3, 12, 8), r"12 x 8, but the position embedding is for 8 x 8.*resized\(\(12, 8\)\)"),
    ],
)
def test_images(vit, shape, says):
    with pytest.raises(relprop.InputError, match=says):
        chefer.generate_lrp(vit, jnp.zeros(shape))
    with pytest.raises(relprop.InputError, match=says):
        vit(jnp.zeros(shape))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"index": 3}, "There is no class 3: the model has the classes 0 to 2"),
        ({"index": -1}, "There is no class -1"),
        ({"index": np.array([0, 7])}, "There is no class 7"),
        ({"index": np.array([0, 1, 2])}, r"one for each of 2 sample\(s\), got int32\[3\]"),
        ({"index": 0.5}, "index must be one class"),
        ({"start_layer": 2}, "start_layer=2, but the model has the layers 0 to 1"),
        ({"start_layer": -1}, "start_layer=-1"),
        ({"variant": "lrp"}, "variant must be 'ours' or 'orig', got 'lrp'"),
        ({"batch": "all"}, "batch must be 'per_sample' or 'reference', got 'all'"),
    ],
)
def test_options(vit, images, options, says):
    with pytest.raises(relprop.InputError, match=says):
        chefer.generate_lrp(vit, images, **options)


def test_methods(vit, images):
    with pytest.raises(relprop.UnknownNameError, match="Did you mean 'rollout'"):
        chefer.generate_lrp(vit, images, method="rolout")


def test_a_model_with_one_layer(bert):
    with pytest.raises(relprop.InputError, match="one layer, and no second one"):
        chefer.generate_lrp(bert, IDS, MASK, method="second_layer")


def test_models_without_attention():
    model = chefer.VGG.init({"features": (2,), "pool": 1, "hidden": ()}, jax.random.key(0))
    for explain in (chefer.generate_lrp, chefer.generate_rollout, chefer.generate_gradcam):
        with pytest.raises(relprop.InputError, match="A VGG has no attention"):
            explain(model, jnp.zeros((1, 3, 8, 8)))
    with pytest.raises(relprop.InputError, match=r"an array \(n, 3, height, width\)"):
        model(jnp.zeros((1, 4, 8, 8)))


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ((IDS.astype(float), MASK), "Token ids must be an array of integers"),
        ((IDS[0], MASK[0]), "Token ids must be an array of integers"),
        ((np.full((1, 6), 1),), "The text has 6 tokens, the model 5 positions"),
        ((IDS, MASK[:, :2]), r"attention_mask must have the shape of the token ids, \(2, 4\), got"),
        ((IDS + 6, MASK), "Token ids must be from 0 to 8, and are from 6 to 11"),
        ((IDS, MASK, MASK + 1), "Token types must be from 0 to 1"),
        ((IDS, MASK * [[1], [0]]), r"The mask hides every token of sample\(s\) \[1\]"),
    ],
)
def test_texts(bert, inputs, says):
    with pytest.raises(relprop.InputError, match=says):
        chefer.generate_lrp(bert, *inputs)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: chefer.ViTConfig.of({"dim": 6}), "A ViT has no 'dim' in its configuration"),
        (lambda: chefer.ViTConfig(embed_dim=6, num_heads=4), "not divisible by num_heads=4"),
        (
            lambda: chefer.BertConfig.of({"hidden_act": "swish"}),
            "hidden_act 'swish': this must be",
        ),
        (lambda: chefer.BertConfig(hidden_size=7), "not divisible by num_attention_heads=12"),
        (lambda: chefer.BertConfig.of({"model_type": "roberta"}), "model_type='roberta'"),
        (lambda: chefer.VGG.init({"depth": 16}, jax.random.key(0)), "A VGG has no 'depth'"),
    ],
)
def test_configurations(make, says):
    with pytest.raises(relprop.InputError, match=says):
        make()


def test_configurations_as_hugging_face_has_them():
    labels = {"id2label": {"0": "no", "1": "maybe", "2": "yes"}, "dropout": 0.1}
    assert chefer.BertConfig.of(BERT | labels).num_labels == 3


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_numbers_of_numpy_in_a_configuration(kind):
    least = np.finfo(kind).min
    assert chefer.BertConfig(mask_value=least).mask_value == least
    with pytest.raises(relprop.InputError, match="mask_value"):
        chefer.BertConfig(mask_value=kind("nan"))


def test_presets_by_name():
    preset = relprop.presets.by_name("chefer", variant="orig", alpha=2.0)
    assert preset.name == "chefer_orig" and "chefer2021" in preset.bibtex()
    with pytest.raises(ValueError, match="variant must be 'ours' or 'orig', got 'theirs'"):
        relprop.presets.chefer("theirs")
