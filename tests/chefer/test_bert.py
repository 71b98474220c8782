"""BERT: every array of the reference, in both precisions."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relprop import chefer
from relprop.chefer.aggregate import min_max, rollout
from relprop.chefer.explain import explain
from relprop.chefer.generate import attribution

from ..uncompiled import uncompiled
from . import golden

FILES = {"ours": "chefer_bert", "orig": "chefer_bert_orig_lrp"}
PADDED, CUT = ("seq0_pad", "seq1_pad", "seq2_pad"), ("seq0_nopad", "seq1_nopad")
TAGS = ("argmax", "other")
PLACES = ("layer.*", "pooler", "classifier")
RESULTS = {
    "LRP_s0": ("transformer_attribution", 0),
    "LRP_s1": ("transformer_attribution", 1),
    "LRP_s2": ("transformer_attribution", 2),
    "LRP_last_layer": ("last_layer",),
    "full_lrp": ("full",),
    "attn_last_layer": ("last_layer_attn",),
}
# What the reference calls the relevance inside a layer, and where that is here. It has the
# products' relevance before it is halved, and the keys transposed.
INSIDE = {
    "": lambda at, inside: inside[at],
    ".attention": lambda at, inside: inside[at],
    ".output.0": lambda at, inside: inside[f"{at}.output.0"],
    ".output.1": lambda at, inside: inside[f"{at}.output.1"],
    ".intermediate": lambda at, inside: inside[f"{at}.intermediate"],
    ".attention.self": lambda at, inside: inside[f"{at}.attention.self"],
    ".attention.self.add.0": lambda at, inside: inside[f"{at}.attention.scores"],
    ".attention.self.add.1": lambda at, inside: inside[f"{at}.mask"],
    ".attention.self.matmul1.0": lambda at, inside: inside[f"{at}.attention.query"] * 2,
    ".attention.self.matmul1.1": lambda at, inside: (
        inside[f"{at}.attention.key"].transpose(0, 2, 1) * 2
    ),
}


def model_of(variant, bits):
    arrays = golden.load(FILES[variant])
    state = {
        k[3:]: v if "position_ids" in k else v.astype(f"float{bits}")
        for k, v in arrays.items()
        if k.startswith("sd/")
    }
    return chefer.Bert.from_state_dict(state, golden.text(FILES[variant], "config"))


def results_of(model, run, index, batch):
    found = {n: attribution(model, run, *(*how, 0, False)[:3], batch) for n, how in RESULTS.items()}
    count = 1 if batch == "reference" else None
    cam = model.gradcam(run.attention[-1][:count], run.attention_gradient[-1][:count])
    found["attn_gradcam"] = model.shown(min_max(cam, jnp.nan))
    for start in (0, 1):
        means = [jnp.mean(a, axis=1) for a in run.attention]
        found[f"rollout_s{start}"] = model.row(rollout(means, start, True), "rollout")
    return found


@functools.cache
def runs_of(variant, bits):
    """Each case with both classes by itself: (case, tag) -> a run and its explanations."""
    arrays = golden.load(FILES[variant])
    found = {}
    with jax.enable_x64(bits == 64):
        model = model_of(variant, bits)

        @uncompiled
        def compute(model, inputs, index):
            run = explain(model, inputs, index, variant, 1.0, "per_sample", PLACES)
            return run, results_of(model, run, index, "per_sample")

        # The padded texts are a batch; of the others each has a length of its own, and is left
        # to double precision.
        for batch in (PADDED, *((case,) for case in CUT if bits == 64)):
            cases = [(case, tag) for tag in TAGS for case in batch]
            ids, mask = (
                np.concatenate([arrays[f"{case}/{n}"] for case, _ in cases])
                for n in ("input_ids", "attention_mask")
            )
            index = jnp.array([int(arrays[f"{case}/{tag}/class_index"]) for case, tag in cases])
            out = jax.tree.map(np.asarray, compute(model, model.arguments(ids, mask), index))
            for i, case in enumerate(cases):
                found[case] = jax.tree.map(lambda a, i=i: a[i], out)
    return found


def noise_of(variant, name):
    """What the reference is off in single precision at this quantity, over all its cases."""
    table = golden.text(FILES[variant], "reldiff_f32_f64")
    quantity = name.split("/", 2)[-1]
    layer = re.match(r"relprop/layer(.)", quantity)
    if layer:  # up to its input, which the layer before begins with
        before = "full_lrp" if layer[1] == "0" else f"block{int(layer[1]) - 1}/attn_cam"
        return max(table[f"block{layer[1]}/attn_cam"], table[before])
    return table.get(quantity, 0.0)


def compare(found, name, variant, bits):
    arrays = golden.load(FILES[variant])
    single, double = arrays[name], arrays.get(f"{name}_f64")
    assert found.dtype == f"float{bits}"
    if bits == 64 and double is not None:
        assert golden.error(found, double) < 1e-10, name
        return
    # Batches were recorded in single precision alone.
    double = single if double is None else double
    noise = max(golden.error(single, double), noise_of(variant, name))
    assert golden.error(found, double) < max(10 * noise, 1e-5), name


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("variant", FILES)
def test_logits_and_attention(variant, bits):
    arrays = golden.load(FILES[variant])
    for (case, _), (run, _) in runs_of(variant, bits).items():
        off = np.abs(run.logits - arrays[f"{case}/logits_f64"][0]).max()
        assert off < (1e-5 if bits == 32 else 1e-13)
        for i, attention in enumerate(run.attention):
            compare(attention[None], f"{case}/block{i}/attn", variant, bits)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("variant", FILES)
def test_maps_and_explanations(variant, bits):
    arrays = golden.load(FILES[variant])
    for (case, tag), (run, results) in runs_of(variant, bits).items():
        for i in range(3):
            at = f"{case}/{tag}/block{i}"
            compare(run.attention_gradient[i][None], f"{at}/attn_grad", variant, bits)
            compare(run.attention_relevance[i][None], f"{at}/attn_cam", variant, bits)
        for name, result in results.items():
            # Some know no class.
            where = f"{case}/{tag}/{name}" if f"{case}/{tag}/{name}" in arrays else f"{case}/{name}"
            compare(result[None], where, variant, bits)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("variant", FILES)
def test_every_layer(variant, bits):
    recorded = [
        k for k in golden.load(FILES[variant]) if "/relprop/" in k and not k.endswith("_f64")
    ]
    assert len(recorded) == 2 * 32
    for name in recorded:
        case, tag, _, module = name.split("/")
        run, _ = runs_of(variant, bits)[case, tag]
        inside = {place: found.relevance for place, found in run.inside.items()}
        layer = re.fullmatch(r"layer(.)(.*)", module)
        if layer:
            found = INSIDE[layer[2]](f"layer.{layer[1]}", inside)
        else:
            found = inside[module]
        compare(found[None], name, variant, bits)


# What the reference does to batches: it adds up over all samples, and shows the first.


@functools.cache
def batched_runs(variant):
    arrays, model = golden.load(FILES[variant]), model_of(variant, 32)
    inputs = model.arguments(arrays["input_ids"], arrays["attention_mask"])

    @uncompiled
    def compute(model, inputs, index):
        run = explain(model, inputs, index, variant, 1.0, "reference")
        return run, results_of(model, run, index, "reference")

    one = compute(model, inputs, jnp.full(3, 1))
    return {"int1": one, "none": compute(model, inputs, jnp.argmax(one[0].logits, axis=-1))}


@pytest.mark.parametrize("tag", ["int1", "none"])
@pytest.mark.parametrize("variant", FILES)
def test_batches_of_the_reference(variant, tag):
    run, results = batched_runs(variant)[tag]
    arrays = golden.load(FILES[variant])
    names = [k for k in arrays if k.startswith(f"batched/{tag}/")]
    assert len(names) == 6
    for name in names:
        quantity = name.split("/", 2)[-1]
        block = re.match(r"block(.)", quantity)
        found = run.attention_relevance[int(block[1])] if block else results[quantity]
        compare(np.asarray(found), name, variant, 32)
    compare(np.asarray(results["rollout_s0"]), "batched/rollout_s0", variant, 32)
    assert np.abs(run.logits - arrays["batched/logits"]).max() < 1e-5


# The public functions, on one text; all that they compute has been compared above.


@pytest.fixture(scope="module")
def model():
    return model_of("ours", 32)


@pytest.fixture(scope="module")
def text():
    arrays = golden.load(FILES["ours"])
    return arrays["seq1_pad/input_ids"], arrays["seq1_pad/attention_mask"]


def test_generate_lrp(model, text):
    # Without a first layer it is the last one of those that there are.
    compare(np.asarray(chefer.generate_lrp(model, *text)), "seq1_pad/argmax/LRP_s2", "ours", 32)


def test_generate_lrp_full(model, text):
    found = chefer.generate_lrp(model, *text, method="full")
    compare(np.asarray(found), "seq1_pad/argmax/full_lrp", "ours", 32)


def test_generate_rollout(model, text):
    found = chefer.generate_rollout(model, *text)
    compare(np.asarray(found), "seq1_pad/rollout_s0", "ours", 32)


def test_generate_gradcam(model, text):
    found = chefer.generate_gradcam(model, *text, batch="reference")
    compare(np.asarray(found), "seq1_pad/argmax/attn_gradcam", "ours", 32)


def test_without_a_mask_all_tokens_are_seen(model):
    arrays = golden.load(FILES["ours"])
    logits = model(arrays["seq0_nopad/input_ids"])
    assert golden.error(logits, arrays["seq0_nopad/logits_f64"]) < 1e-5
