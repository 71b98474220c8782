"""Unmodified models of Hugging Face: the maps of the reference implementation, and of PyTorch."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop.attribution import transformer_attribution
from relprop.chefer.aggregate import positive_mean, rollout
from tests.attribution.test_streams import Paper

from ..uncompiled import uncompiled

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.usefixtures("by_numpy"),
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

    @uncompiled
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


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch", reason="PyTorch is an extra")
    return pytest.importorskip("transformers", reason="transformers is an extra")


def test_bert_and_the_reference(transformers):
    import torch

    golden = dict(np.load(DATA / "chefer_bert.npz"))
    config = json.loads(str(golden["config"]))
    names = set(transformers.BertConfig().to_dict())
    module = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            **{k: v for k, v in config.items() if k in names and k != "num_labels"},
            num_labels=config["num_labels"],
            attn_implementation="eager",
        )
    ).eval()
    state = {k.removeprefix("sd/"): torch.tensor(v) for k, v in golden.items() if k[:3] == "sd/"}
    state.pop("bert.embeddings.position_ids")
    module.load_state_dict(state)
    fn, params = relprop.interop.from_torch(module)
    ids = golden["input_ids"][0, :5]
    embeddings = jnp.asarray(golden["sd/bert.embeddings.word_embeddings.weight"][ids])[None]
    case = "seq0_nopad/argmax"
    index = int(golden[f"{case}/class_index"])

    def score(x):
        return fn(params, inputs_embeds=x)["logits"][0, index]

    found = transformer_attribution(score, start_layer=1, details=True)(embeddings)
    for i in (1, 2):
        relevance, gradient = found.relevance[i - 1], found.gradient[i - 1]
        assert error(relevance, golden[f"{case}/block{i}/attn_cam_f64"]) < 2e-3
        assert error(gradient, golden[f"{case}/block{i}/attn_grad_f64"]) < 1e-4
    # The reference normalises its maps for BERT, and only there.
    pairs = zip(found.gradient, found.relevance, strict=True)
    joint = rollout([positive_mean(g * r) for g, r in pairs], 0, normalise=True)
    assert error(joint[0, 0, 1:], golden[f"{case}/LRP_s1_f64"][0, 1:]) < 2e-3


def by_torch(attentions, logit):
    """Maps with their gradients, from PyTorch's own backward pass: eq. 5 of the generic method."""
    for attention in attentions:
        attention.retain_grad()
    logit.backward()
    pairs = [(a.detach().double().numpy(), a.grad.double().numpy()) for a in attentions]
    return [Paper.average(a, gradient) for a, gradient in pairs]


def test_both_class_tokens_of_a_deit(transformers):
    import torch

    torch.manual_seed(0)
    config = transformers.DeiTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=16,
        patch_size=8,
        num_labels=3,
        attn_implementation="eager",
    )
    module = transformers.DeiTForImageClassificationWithTeacher(config).eval()
    image = torch.randn(1, 3, 16, 16)
    out = module(image, output_attentions=True)
    first, second = by_torch(out.attentions, out.logits[0, 1])
    expected = (np.eye(6) + second) @ (np.eye(6) + first)
    fn, params = relprop.interop.from_torch(module)

    def score(x):
        return fn(params, x)["logits"][0, 1]

    explain = transformer_attribution(score, method="generic", query=(0, 1))
    assert error(explain(jnp.asarray(image.numpy())), expected[:2].mean(0)) < 1e-4


def test_encoder_and_decoder_of_a_t5(transformers):
    import torch

    torch.manual_seed(0)
    config = transformers.T5Config(
        d_model=16,
        vocab_size=30,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        attn_implementation="eager",
    )
    module = transformers.T5ForConditionalGeneration(config).eval()
    source, target = torch.randn(1, 6, 16), torch.randn(1, 4, 16)
    out = module(inputs_embeds=source, decoder_inputs_embeds=target, output_attentions=True)
    own, cross = out.decoder_attentions, out.cross_attentions
    order = [*out.encoder_attentions, own[0], cross[0], own[1], cross[1]]
    maps = by_torch(order, out.logits[0, -1, 3])
    paper = Paper({"source": 6, "target": 4})
    streams = ["ss", "ss", "tt", "ts", "tt", "ts"]
    names = {"s": "source", "t": "target"}
    for a, (s, q) in zip(maps, streams, strict=True):
        paper.update((a, names[s], names[q]))
    fn, params = relprop.interop.from_torch(module)

    def score(source, target):
        outputs = fn(params, inputs_embeds=source, decoder_inputs_embeds=target)
        return outputs["logits"][0, -1, 3]

    with jax.numpy_rank_promotion("allow"):
        explain = transformer_attribution(score, (0, 1), method="generic", query=-1)
        found = explain(jnp.asarray(source.numpy()), jnp.asarray(target.numpy()))
    for name, tokens in found.items():
        assert error(tokens, paper.R["target", name][-1]) < 1e-4


def test_object_queries_of_a_detr(transformers):
    import torch

    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=4,
        hidden_sizes=[4, 4, 4, 4],
        depths=[1, 1, 1, 1],
        out_features=["stage4"],
        layer_type="basic",
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=16,
        num_queries=5,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        num_labels=3,
        attn_implementation="eager",
    )
    module = transformers.DetrForObjectDetection(config).eval()
    image, mask = torch.randn(1, 3, 64, 96), torch.ones(1, 64, 96, dtype=torch.long)
    out = module(image, pixel_mask=mask, output_attentions=True)
    own, cross = out.decoder_attentions, out.cross_attentions
    order = [*out.encoder_attentions, own[0], cross[0], own[1], cross[1]]
    maps = by_torch(order, out.logits[0, 3, 1])
    paper = Paper({"i": 6, "q": 5})
    for a, (s, q) in zip(maps, ["ii", "qq", "qi", "qq", "qi"], strict=True):
        paper.update((a, s, q))
    fn, params = relprop.interop.from_torch(module)
    mask = jnp.ones((1, 64, 96), int)

    def score(params, image):
        return fn(params, image, pixel_mask=mask)["logits"][0, 3, 1]

    with jax.numpy_rank_promotion("allow"):
        explain = transformer_attribution(
            score, 1, method="generic", query=3, parameters="*query_position_embeddings*"
        )
        found = explain(params, jnp.asarray(image.numpy()))
        with pytest.raises(relprop.InputError, match="come from constants"):
            explain = transformer_attribution(score, 1, method="generic", query=3)
            jax.eval_shape(explain, params, jnp.asarray(image.numpy()))
    assert error(found["image"], paper.R["q", "i"][3]) < 1e-3
    (queries,) = (tokens for name, tokens in found.items() if name != "image")
    assert error(queries, paper.R["q", "q"][3]) < 1e-3
