"""An unmodified ViT of Hugging Face gives the maps of the reference implementation."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop.attribution import transformer_attribution

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.usefixtures("unoptimised"),
    # transformers and torchax warn about settings of other models and of torch itself.
    pytest.mark.filterwarnings("ignore"),
]
DATA = pathlib.Path(__file__).parents[1] / "data"
LAYERS = {
    "attention.o_proj": "attn.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(DATA / "chefer_vit.npz"))


@pytest.fixture(scope="module")
def model(golden):
    """The weights of the reference, which has timm's names, in transformers' ViT."""
    torch = pytest.importorskip("torch", reason="PyTorch is an extra")
    transformers = pytest.importorskip("transformers", reason="transformers is an extra")
    config = json.loads(str(golden["config"]))
    width = config["embed_dim"]
    module = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=width,
            num_hidden_layers=config["depth"],
            num_attention_heads=config["num_heads"],
            intermediate_size=int(config["mlp_ratio"] * width),
            image_size=config["img_size"],
            patch_size=config["patch_size"],
            num_labels=config["num_classes"],
            layer_norm_eps=1e-6,
            attn_implementation="eager",
        )
    ).eval()
    module.vit.layernorm.eps = 1e-5  # the reference's last norm differs from the others

    given = {k.removeprefix("sd/"): torch.tensor(v) for k, v in golden.items() if k[:3] == "sd/"}
    state = {
        "vit.embeddings.cls_token": given["cls_token"],
        "vit.embeddings.position_embeddings": given["pos_embed"],
    }
    for kind in ("weight", "bias"):
        projection = "vit.embeddings.patch_embeddings.projection"
        state[f"{projection}.{kind}"] = given[f"patch_embed.proj.{kind}"]
        state[f"vit.layernorm.{kind}"] = given[f"norm.{kind}"]
        state[f"classifier.{kind}"] = given[f"head.{kind}"]
        for i in range(config["depth"]):
            parts = given[f"blocks.{i}.attn.qkv.{kind}"].split(width)
            for name, part in zip("qkv", parts, strict=True):
                state[f"vit.layers.{i}.attention.{name}_proj.{kind}"] = part
            for ours, theirs in LAYERS.items():
                state[f"vit.layers.{i}.{ours}.{kind}"] = given[f"blocks.{i}.{theirs}.{kind}"]
    module.load_state_dict(state)
    return relprop.interop.from_torch(module)


def error(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("image", [0, 1])
def test_the_maps_of_the_reference(golden, model, image):
    fn, params = model

    @jax.jit
    def explain(x, index):
        def score(x):
            return fn(params, x)["logits"][0, index]

        return transformer_attribution(score, details=True)(x)

    x = jnp.asarray(golden["images"][image : image + 1])
    for which in ("argmax", "other"):
        case = f"img{image}/{which}"
        found = explain(x, golden[f"{case}/class_index"])
        # The reference's own float32 differs from its float64 by up to 1e-2 in these arrays.
        assert error(found.joint[:, 0, 1:], golden[f"{case}/ta_s0_f64"]) < 1e-3
        for i, (relevance, gradient) in enumerate(
            zip(found.relevance, found.gradient, strict=True)
        ):
            assert error(relevance, golden[f"{case}/block{i}/attn_cam_f64"]) < 2e-3
            assert error(gradient, golden[f"{case}/block{i}/attn_grad_f64"]) < 2e-5
