"""The vision transformer: every array of the reference, in both precisions."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import chefer
from relprop.chefer.aggregate import min_max, rollout
from relprop.chefer.explain import explain, gradients, over_samples
from relprop.chefer.generate import attribution

from ..uncompiled import uncompiled
from . import golden

FILES = {"ours": "chefer_vit", "orig": "chefer_vit_orig_lrp"}
# One batch: all images with the likeliest class, then all with another one.
SAMPLES = [(tag, i) for tag in ("argmax", "other") for i in range(4)]
PLACES = ("pool", "head", "posadd.*", "blocks.*")

# What the reference calls its results, and how they are had: method, first layer, ablation.
RESULTS = {
    "ta_s0": ("transformer_attribution", 0),
    "ta_s1": ("transformer_attribution", 1),
    "ta_s2": ("transformer_attribution", 2),
    "grad_s0": ("transformer_attribution", 0),
    "rollout_s0": ("rollout", 0),
    "rollout_s1": ("rollout", 1),
    "full": ("full",),
    "last_layer": ("last_layer",),
    "last_layer_abl": ("last_layer", 0, True),
    "last_layer_attn": ("last_layer_attn",),
    "second_layer": ("second_layer",),
    "second_layer_abl": ("second_layer", 0, True),
}
OF_ONE_LAYER = [name for name in RESULTS if "_layer" in name]


def model_of(file, bits):
    arrays = golden.load(file)
    state = {k[3:]: v.astype(f"float{bits}") for k, v in arrays.items() if k.startswith("sd/")}
    return chefer.ViT.from_state_dict(state, golden.text(file, "config"))


@functools.cache
def run_of(variant, bits):
    """All images with both classes, each sample by itself: tag -> what came out."""
    arrays = golden.load(FILES[variant])
    with jax.enable_x64(bits == 64):
        model = model_of(FILES[variant], bits)
        images = jnp.asarray(arrays["images"], f"float{bits}")
        index = jnp.array([int(arrays[f"img{i}/{tag}/class_index"]) for tag, i in SAMPLES])

        @uncompiled
        def compute(model, images, index):
            run = explain(
                model,
                (jnp.concatenate([images, images]),),
                index,
                variant,
                1.0,
                "per_sample",
                PLACES,
            )
            results = {name: attribution(model, run, *how) for name, how in RESULTS.items()}
            return run, results

        run, results = compute(model, images, index)
        return jax.tree.map(np.asarray, (run, results))


def noise_of(variant, name):
    """What the reference is off in single precision at this quantity, over all its cases.

    A single array may be off by much less, by chance: what is divided is small here and there.
    """
    table = golden.text(FILES[variant], "reldiff_f32_f64")
    quantity = name.split("/", 2)[-1]
    block = re.match(r"relprop/block(.)", quantity)
    if block:  # up to its input, which the block before begins with
        before = "full" if block[1] == "0" else f"block{int(block[1]) - 1}/attn_cam"
        return max(table[f"block{block[1]}/attn_cam"], table[before])
    if "posadd" in quantity or "patch_embed" in quantity:
        return table["full"]
    if quantity in ("ta_s0", "grad_s0"):  # one explanation, and one of its names is there
        return table.get("ta_s0", table.get("grad_s0"))
    return table.get(quantity.replace("v_cam", "attn_cam"), 0.0)


def compare(found, name, variant, bits):
    """Whether an array is as near to the golden as it has to be."""
    arrays = golden.load(FILES[variant])
    single, double = arrays[name], arrays.get(f"{name}_f64")
    assert found.dtype == f"float{bits}"
    if bits == 64 and double is not None:
        assert golden.error(found, double) < 1e-10, name
        return
    # Some arrays were recorded in single precision alone.
    double = single if double is None else double
    noise = max(golden.error(single, double), noise_of(variant, name))
    assert golden.error(found, double) < max(10 * noise, 1e-5), name


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("variant", FILES)
def test_logits_and_attention(variant, bits):
    run, _ = run_of(variant, bits)
    arrays = golden.load(FILES[variant])
    assert np.abs(run.logits[:4] - arrays["logits_f64"]).max() < (1e-5 if bits == 32 else 1e-13)
    for i in range(4):
        for block in range(3):
            compare(run.attention[block][i][None], f"img{i}/block{block}/attn", variant, bits)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("variant", FILES)
def test_maps(variant, bits):
    run, _ = run_of(variant, bits)
    for sample, (tag, i) in enumerate(SAMPLES):
        for block in range(3):
            at = f"img{i}/{tag}/block{block}"
            compare(run.attention_gradient[block][sample][None], f"{at}/attn_grad", variant, bits)
            compare(run.attention_relevance[block][sample][None], f"{at}/attn_cam", variant, bits)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("variant", FILES)
def test_explanations(variant, bits):
    _, results = run_of(variant, bits)
    compared = 0
    for sample, (tag, i) in enumerate(SAMPLES):
        for name, result in results.items():
            if f"img{i}/{tag}/{name}" in golden.load(FILES[variant]):
                found = result[sample] if name in OF_ONE_LAYER else result[sample][None]
                compare(found, f"img{i}/{tag}/{name}", variant, bits)
                compared += 1
    assert compared == 8 * (12 if variant == "ours" else 11)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("variant", FILES)
def test_every_layer(variant, bits):
    run, _ = run_of(variant, bits)
    compared = set()
    for sample, (tag, i) in enumerate(SAMPLES):
        if i > 0:  # recorded for one image
            continue
        for place, inside in run.inside.items():
            at = place.replace("blocks.", "block")
            if place.endswith("attn.value"):
                name = f"img0/{tag}/{at.replace('.attn.value', '/v_cam')}"
            else:
                name = f"img0/{tag}/relprop/{at}"
            compare(inside.relevance[sample][None], name, variant, bits)
            compared.add(name)
        name = f"img0/{tag}/relprop/patch_embed"
        compare(run.relevance[0][sample][None], name, variant, bits)
        compared.add(name)
    recorded = {k for k in golden.load(FILES[variant]) if "/relprop/" in k and k[-4:] != "_f64"}
    assert recorded <= compared


# What the reference does to batches: it adds up over all samples, and shows the first.


@functools.cache
def batched_run(variant):
    """A function of the classes, compiled once."""
    model, images = model_of(FILES[variant], 32), golden.load(FILES[variant])["images"]

    @uncompiled
    def compute(model, images, index):
        run = explain(model, (images,), index, variant, 1.0, "reference")
        results = {
            name: attribution(model, run, *(*how, 0, False)[:3], "reference")
            for name, how in RESULTS.items()
        }
        return run, results

    third = compute(model, images, jnp.full(4, 3))
    return {"int3": third, "none": compute(model, images, jnp.argmax(third[0].logits, axis=-1))}


@pytest.mark.parametrize("tag", ["int3", "none"])
@pytest.mark.parametrize("variant", FILES)
def test_batches_of_the_reference(variant, tag):
    run, results = batched_run(variant)[tag]
    compared = 0
    for name in [k for k in golden.load(FILES[variant]) if k.startswith(f"batched/{tag}/")]:
        _, _, quantity = name.split("/", 2)
        if quantity in results:
            found = results[quantity]
        else:
            block, kind = quantity.split("/")
            maps = run.attention_relevance if kind == "attn_cam" else run.attention_gradient
            found = maps[int(block[-1])]
        compare(np.asarray(found), name, variant, 32)
        compared += 1
    assert compared == 17


# The baselines.


@functools.cache
def baselines_of(file, bits):
    arrays = golden.load(file)
    with jax.enable_x64(bits == 64):
        model = model_of(file, bits).for_baselines()
        images = jnp.asarray(arrays["images"], f"float{bits}")
        count = len(images)
        if file == "chefer_vit":
            index = [int(arrays[f"img{i}/{tag}/class_index"]) for tag, i in SAMPLES]
        else:
            best = arrays["pred"].tolist()
            index = best + [(i + 1) % model.classes for i in best]

        @uncompiled
        def compute(model, images, index):
            run = functools.partial(gradients, model)
            both = jnp.concatenate([images, images])
            maps, slopes = over_samples(run, (both,), index, "per_sample")
            cam = min_max(model.gradcam(maps[-1], slopes[-1]), jnp.nan)
            rollouts = [rollout_of([a[:count] for a in maps], model, start) for start in (0, 1)]
            return model(images), maps, slopes[-1], cam, rollouts

        return compute(model, images, jnp.array(index))


def rollout_of(maps, model, start):
    return model.row(rollout([jnp.mean(a, axis=1) for a in maps], start, True), "rollout")


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("file", ["chefer_vit", "chefer_vit_baselines14"])
def test_baselines(file, bits):
    arrays, prefix = golden.load(file), "baselines/" if file == "chefer_vit" else ""
    logits, maps, slopes, cam, rollouts = baselines_of(file, bits)
    count, left = len(logits), {k for k in arrays if k.startswith(("baselines/", f"{prefix}img"))}
    if not prefix:
        left |= {"logits", "batched_rollout_s0"}

    def close(found, name):
        name = prefix + name
        if name not in arrays:
            return
        single, double = arrays[name], arrays.get(f"{name}_f64")
        exact = bits == 64 and double is not None
        double = single if double is None else double
        assert golden.error(found, double) < (1e-10 if exact else golden.tolerance(single, double))
        left.difference_update({name, f"{name}_f64"})

    close(logits, "logits")
    close(rollouts[0], "batched_rollout_s0")
    for i in range(count):
        for start in (0, 1):
            close(rollouts[start][i][None], f"img{i}/rollout_s{start}")
        for block, attention in enumerate(maps):
            close(attention[i][None], f"img{i}/block{block}/attn")
        for sample, tag in ((i, "argmax"), (i + count, "other")):
            close(cam[sample], f"img{i}/{tag}/gradcam")
            close(slopes[sample][None], f"img{i}/{tag}/last_block_attn_grad")
    assert {n for n in left if "class_index" not in n} == set()


# The public functions, on one image; all that they compute has been compared above.


@pytest.fixture(scope="module")
def model():
    return model_of("chefer_vit", 32)


@pytest.fixture(scope="module")
def image():
    return jnp.asarray(golden.load("chefer_vit")["images"][:1])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ta_s1", {"start_layer": 1}),
        ("full", {"method": "full"}),
        ("rollout_s1", {"method": "rollout", "start_layer": 1}),
        ("last_layer_attn", {"method": "last_layer_attn", "batch": "reference"}),
        ("second_layer_abl", {"method": "second_layer", "is_ablation": True}),
    ],
)
def test_generate_lrp(model, image, name, options):
    name = f"img0/argmax/{name}"
    found = np.asarray(chefer.generate_lrp(model, image, **options))
    flat = golden.load("chefer_vit")[name].ndim == 1
    compare(found.reshape(-1) if flat else found, name, "ours", 32)
    if "batch" in options:
        assert found.ndim == 1


def test_generate_lrp_by_the_other_rules(image):
    model = model_of("chefer_vit_orig_lrp", 32)
    found = chefer.generate_lrp(model, image, method="grad", variant="orig")
    compare(np.asarray(found), "img0/index_None/grad_s0", "orig", 32)
    assert chefer.generate_lrp(model, image, variant="orig", quirks=True) is None


def test_in_double_precision_whatever_the_model_has(model, image):
    found = chefer.generate_lrp(model, image, method="rollout", start_layer=0, double=True)
    assert found.dtype == "float32"
    assert golden.error(found, golden.load("chefer_vit")["img0/argmax/rollout_s0_f64"]) < 1e-6
    with pytest.raises(relprop.InputError, match="not for use inside of jax.jit"):
        jax.jit(lambda x: chefer.generate_lrp(model, x, double=True))(image)


def test_generate_rollout(model, image):
    found = chefer.generate_rollout(model, image, start_layer=1)
    assert golden.error(found, golden.load("chefer_vit")["baselines/img0/rollout_s1_f64"]) < 1e-5


def test_generate_gradcam(model):
    arrays = golden.load("chefer_vit")
    images = jnp.asarray(arrays["images"])
    index = jnp.array([int(arrays[f"img{i}/argmax/class_index"]) for i in range(4)])
    faithful = chefer.generate_gradcam(model, images, index=index, quirks=True)
    found = chefer.generate_gradcam(model, images, index=index)
    for i in range(4):
        expected = arrays[f"baselines/img{i}/argmax/gradcam_f64"]
        assert golden.error(faithful[i], expected) < 1e-4
        assert golden.error(found[i], np.nan_to_num(expected)) < 1e-4
    assert np.isnan(faithful[1]).all() and not np.isnan(found).any()
