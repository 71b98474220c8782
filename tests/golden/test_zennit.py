"""Every case of the zennit goldens: single layers, whole networks, places inside of them.

Judged in float64 where the reference has a float64 array, and in float32 within ten times the
reference's own float32 noise (with a floor of a few units in the last place).
"""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import Composite
from relprop.rules import (
    AlphaBeta,
    BetaSmooth,
    Deconvnet,
    Epsilon,
    Flat,
    Gamma,
    GuidedBackprop,
    Norm,
    Pass,
    Stabilizer,
    WSquare,
    ZBox,
    ZPlus,
)

from ..uncompiled import uncompiled
from . import torch_layers as tl

DATA = pathlib.Path(__file__).parents[1] / "data"
LAYERS = dict(np.load(DATA / "zennit.npz"))
NETWORKS = dict(np.load(DATA / "zennit_networks.npz"))
FLOOR = 2e-6  # of the largest relevance: float32 sums in another order
EPS = 1e-6  # the stabiliser that zennit uses unless told otherwise


def rule_of(name: str, kind: str = ""):
    zbox = {
        "linear": (LAYERS["rules/zbox_tensor_low_linear"], LAYERS["rules/zbox_tensor_high_linear"]),
        "conv": (LAYERS["rules/zbox_tensor_low_conv"], LAYERS["rules/zbox_tensor_high_conv"]),
    }
    if name == "zbox_tensor":
        return ZBox(*zbox["conv" if "conv" in kind else "linear"], EPS)
    return {
        "epsilon_1e-6": Epsilon(1e-6),
        "epsilon_0.25": Epsilon(0.25),
        "epsilon_0": Epsilon(0.0),
        "epsilon_0.25_zerobias": Epsilon(0.25, bias="ignore"),
        "epsilon_zero_bias": Epsilon(1e-6, bias="ignore"),
        "epsilon_clip_0.1": Epsilon(Stabilizer(0.1, clip=True)),
        "epsilon_normscale_0.1": Epsilon(Stabilizer(0.1, norm_scale=True)),
        "epsilon_normscale_clip_0.1": Epsilon(Stabilizer(0.1, clip=True, norm_scale=True)),
        "zplus": ZPlus(EPS),
        "zplus_zerobias": ZPlus(EPS, bias="ignore"),
        "zplus_stab0.1": ZPlus(0.1),
        "alpha2beta1": AlphaBeta(2, 1, EPS),
        "alphabeta_2_1": AlphaBeta(2, 1, EPS),
        "alpha1beta0": AlphaBeta(1, 0, EPS),
        "alphabeta_1_0": AlphaBeta(1, 0, EPS),
        "alpha2beta1_zerobias": AlphaBeta(2, 1, EPS, bias="ignore"),
        "gamma_0.25": Gamma(0.25, EPS),
        "gamma_0.25_zerobias": Gamma(0.25, EPS, bias="ignore"),
        "gamma_zero_bias": Gamma(0.25, EPS, bias="ignore"),
        "gamma_100": Gamma(100.0, EPS),
        "gamma_0": Gamma(0.0, EPS),
        "wsquare": WSquare(EPS),
        "wsquare_zerobias": WSquare(EPS, bias="ignore"),
        "flat": Flat(EPS),
        "zbox_scalar": ZBox(-2.5, 3.0, EPS),
        "zbox_zerobias": ZBox(-2.5, 3.0, EPS),
        "zbox": ZBox(-3.0, 3.0, EPS),
        "norm": Norm(EPS),
        "norm_stab0.1": Norm(0.1),
        "pass": Pass(),
        "relu_guided": GuidedBackprop(),
        "relu_deconv": Deconvnet(),
        "relu_betasmooth1": BetaSmooth(1.0),
        "relu_betasmooth10": BetaSmooth(10.0),
    }[name]


FORWARD = {
    "conv": lambda x, p: tl.conv(x, **p, stride=2, padding=1),
    "conv_relu": lambda x, p: tl.conv(x, **p, stride=2, padding=1),
    "conv_groups_dilation": lambda x, p: tl.conv(x, **p, padding=2, dilation=2, groups=2),
    "convtranspose": lambda x, p: tl.conv_transpose(x, **p, stride=2, padding=1),
    "conv1d": lambda x, p: tl.conv(x, **p, padding=1),
    "avgpool_k2": lambda x, p: tl.avg_pool(x, 2),
    "avgpool_k3s2p1": lambda x, p: tl.avg_pool(x, 3, 2, 1),
    "avgpool_flat": lambda x, p: tl.avg_pool(x, 2),
    "adaptiveavgpool_1": lambda x, p: jnp.mean(x, axis=(2, 3), keepdims=True),
    "sum": lambda x, p: jnp.sum(x, axis=-1),
    "relu": lambda x, p: jax.nn.relu(x),
    "gelu": lambda x, p: jax.nn.gelu(x, approximate=False),
}


def layer_cases():
    return sorted(
        {tuple(k.split("/")[1:4]) for k in LAYERS if k.startswith("rules/") and k.count("/") == 4}
    )


@pytest.mark.parametrize(("layer", "rule", "kind"), layer_cases())
def test_single_layer(layer, rule, kind):
    base = f"rules/{layer}"
    expected = LAYERS[f"{base}/{rule}/{kind}/Rin_f64"]
    noise = _distance(LAYERS[f"{base}/{rule}/{kind}/Rin"], expected)

    def run(dtype):
        parameters = {
            k.rsplit(".", 1)[1]: jnp.asarray(LAYERS[k], dtype)
            for k in LAYERS
            if k.startswith(f"{base}/p.")
        }
        forward = FORWARD.get(layer, lambda x, p: tl.linear(x, **p))
        chosen = rule_of(rule, layer)
        structures = ("dense", "convolution", "average", "sum", "activation")
        composite = Composite().at(structure=structures).use(chosen)
        x = jnp.asarray(LAYERS[f"{base}/x"], dtype)
        seed = jnp.asarray(LAYERS[f"{base}/R_{kind}"], dtype)

        @uncompiled
        def explain(x, parameters, seed):
            y, back = relprop.vrp(lambda x: forward(x, parameters), x, rules=composite)
            return y, back(seed)[0]

        y, relevance = explain(x, parameters, seed)
        np.testing.assert_allclose(y, LAYERS[f"{base}/y"], atol=1e-5)
        return np.asarray(relevance)

    # Where the reference divides by an exact zero it has NaN, which spreads; we lose that share.
    defined = np.isfinite(expected)
    assert defined.any() or (layer, rule) == ("linear_zeros", "epsilon_0")
    with jax.enable_x64(True):
        exact = run(jnp.float64)
    assert _distance(exact[defined], expected[defined]) < 1e-12
    assert np.isfinite(exact).all()
    assert _distance(run(jnp.float32)[defined], expected[defined]) < max(10 * noise, FLOOR)


def _distance(a, b):
    finite = np.isfinite(b)
    scale = np.abs(b[finite]).max(initial=0.0)
    difference = np.asarray(a, np.float64)[finite] - b[finite]
    return float(np.abs(difference).max(initial=0.0) / (scale or 1.0))


@pytest.mark.parametrize(
    "variant", ["eps1e-6", "eps0.1", "eps0.1_clip", "eps0.1_norm", "eps0.1_norm_clip"]
)
def test_stabilizer(variant):
    epsilon = float(variant.split("_")[0].removeprefix("eps"))
    stabilizer = Stabilizer(epsilon, clip="clip" in variant, norm_scale="norm" in variant)
    got = stabilizer(jnp.asarray(LAYERS["stabilize/input"]))
    np.testing.assert_allclose(got, LAYERS[f"stabilize/{variant}"], rtol=1e-6)


def test_stabilizer_along_an_axis():
    stabilizer = Stabilizer(0.1, norm_scale=True, axes=(0,))
    got = stabilizer(jnp.asarray(LAYERS["stabilize/input"]))
    np.testing.assert_allclose(got, LAYERS["stabilize/eps0.1_norm_dim0"], rtol=1e-6)


# Whole networks. A batch norm is merged where zennit had its canonizer; else it passes relevance.


def small_cnn(x, sd):
    h = tl.conv(x, *tl.layer(sd, "conv1"), padding=1)
    h = tl.batch_norm(h, sd, "bn1") if "bn1.weight" in sd else h
    h = tl.max_pool(jax.nn.relu(h), 2)
    h = tl.conv(h, *tl.layer(sd, "conv2"))
    h = tl.batch_norm(h, sd, "bn2") if "bn2.weight" in sd else h
    h = tl.avg_pool(jax.nn.relu(h), 2).reshape(x.shape[0], -1)
    return tl.linear(jax.nn.relu(tl.linear(h, *tl.layer(sd, "fc1"))), *tl.layer(sd, "fc2"))


def residual(x, sd):
    h = jax.nn.relu(tl.conv(x, *tl.layer(sd, "conv1"), padding=1))
    inner = jax.nn.relu(tl.conv(h, *tl.layer(sd, "conv2"), padding=1))
    h = jax.nn.relu(h + tl.conv(inner, *tl.layer(sd, "conv3"), padding=1))
    return tl.linear(h.reshape(x.shape[0], -1), *tl.layer(sd, "fc"))


def layer_map(*entries) -> Composite:
    """The base that all zennit composites share, below the given entries."""
    composite = Composite()
    for where, rule in entries:
        composite = composite.at(optional=True, **where).use(rule)
    return composite.at(structure=("sum", "average"), optional=True).use(Norm(EPS))


LINEAR = ("dense", "convolution")
PRESETS = {
    "EpsilonPlus": lambda box: relprop.presets.epsilon_plus(EPS),
    "EpsilonPlus_zerobias": lambda box: relprop.presets.epsilon_plus(EPS, bias="ignore"),
    "EpsilonAlpha2Beta1": lambda box: relprop.presets.epsilon_alpha2_beta1(EPS),
    "EpsilonPlusFlat": lambda box: relprop.presets.epsilon_plus_flat(EPS),
    "EpsilonAlpha2Beta1Flat": lambda box: relprop.presets.epsilon_alpha2_beta1_flat(EPS),
    "EpsilonGammaBox": lambda box: relprop.presets.epsilon_gamma_box(*box, EPS),
    "ExcitationBackprop": lambda box: relprop.presets.excitation_backprop(EPS),
    "GuidedBackprop": lambda box: relprop.presets.guided_backprop(),
    "DeconvNet": lambda box: relprop.presets.deconvnet(),
    "BetaSmooth": lambda box: relprop.presets.beta_smooth(),
    "plain_gradient": lambda box: relprop.presets.gradient(),
}
# The second file has the names of the presets.
NAMES = {
    "epsilon_plus": "EpsilonPlus",
    "epsilon_alpha2_beta1": "EpsilonAlpha2Beta1",
    "epsilon_plus_flat": "EpsilonPlusFlat",
    "epsilon_alpha2_beta1_flat": "EpsilonAlpha2Beta1Flat",
    "epsilon_gamma_box": "EpsilonGammaBox",
    "excitation_backprop": "ExcitationBackprop",
    "guided_backprop": "GuidedBackprop",
    "deconvnet": "DeconvNet",
    "beta_smooth": "BetaSmooth",
}


def composite_of(name: str, box, merged: bool) -> Composite:
    """The composite of a name, with or without a canonizer."""
    if name in PRESETS:
        composite = PRESETS[name](box)
    elif name.startswith("all_"):
        composite = layer_map((dict(structure=LINEAR), rule_of(name.removeprefix("all_"))))
    else:
        rule = name.removeprefix("first_")
        first = ZBox(*box, EPS) if rule == "zbox" else rule_of(rule)
        composite = layer_map(
            (dict(structure=LINEAR, position=0), first), (dict(structure=LINEAR), Epsilon(1e-6))
        )
    if merged:
        return composite.canonized("batch_norm")
    return composite.at(structure=("scale", "offset"), optional=True).use(Pass()).canonized()


FUNCTIONS = {"cnn": tl.cnn_with_batch_norm, "mlp": tl.mlp}
BOXES = {"cnn": (LAYERS["cnn/low"], LAYERS["cnn/high"]), "mlp": (-3.0, 3.0)}


def network_cases() -> dict[tuple[str, str, str], list[str]]:
    """The seeds that are stored for each model, canonizer and composite."""
    cases: dict[tuple[str, str, str], list[str]] = {}
    for key in LAYERS:
        model, canon, name, kind, *_ = (*key.split("/"), "", "", "")
        if canon in ("nocanon", "mergebn") and not kind.endswith("_f64"):
            cases.setdefault((model, canon, name), []).append(kind)
    return cases


def parameters(data, prefix: str, dtype):
    named = {k.removeprefix(prefix): v for k, v in data.items() if k.startswith(prefix)}
    return {k: jnp.asarray(v, dtype) for k, v in named.items() if v.dtype.kind == "f"}


@pytest.mark.parametrize("case", network_cases(), ids="/".join)
def test_network(case):
    model, canon, name = case
    kinds = network_cases()[case]
    rules = composite_of(name, BOXES[model], canon == "mergebn")

    def run(dtype):
        sd = parameters(LAYERS, f"{model}/sd/", dtype)
        x = jnp.asarray(LAYERS[f"{model}/input"], dtype)

        @uncompiled
        def explain(x, sd):
            logits, back = relprop.vrp(lambda x: FUNCTIONS[model](x, sd), x, rules=rules)
            found = {}
            for kind in kinds:
                target = np.broadcast_to(LAYERS[f"{model}/target_{kind.split('_')[0]}"], len(x))
                seed = jax.nn.one_hot(target, logits.shape[1], dtype=logits.dtype)
                found[kind] = back(seed * logits if kind.endswith("logit_init") else seed)[0]
            return found

        return {kind: np.asarray(found) for kind, found in explain(x, sd).items()}

    with jax.enable_x64(True):
        exact = run(jnp.float64)
    # Each rule once: presets and first layers consist of the same.
    once = canon == "nocanon" and name.startswith("all_")
    single = run(jnp.float32) if once else {}
    for kind in kinds:
        key = f"{model}/{canon}/{name}/{kind}"
        expected = LAYERS.get(f"{key}_f64")
        if expected is None:
            assert _distance(exact[kind], LAYERS[key]) < 1e-6  # stored in float32 alone
            continue
        assert _distance(exact[kind], expected) < 1e-10
        if single:
            noise = _distance(LAYERS[key], expected)
            assert _distance(single[kind], expected) < max(10 * noise, FLOOR)


def test_the_merged_weights_are_those_of_the_reference(x64):
    """A merged layer is, in the reference, a convolution with the stored weights."""
    sd = parameters(LAYERS, "cnn/sd/", jnp.float64)
    merged = parameters(LAYERS, "cnn/merged/", jnp.float64)
    x = jnp.asarray(LAYERS["cnn/input"], jnp.float64)
    for n in (1, 2):
        conv = tl.conv(x, *tl.layer(sd, f"conv{n}"), padding=1)
        expected = tl.conv(x, *tl.layer(merged, f"conv{n}"), padding=1)
        np.testing.assert_allclose(tl.batch_norm(conv, sd, f"bn{n}"), expected, atol=1e-5)
        x = jax.nn.relu(expected)
    logits = tl.cnn_with_batch_norm(jnp.asarray(LAYERS["cnn/input"], jnp.float64), sd)
    np.testing.assert_allclose(logits, merged["logits"], atol=1e-5)
    np.testing.assert_allclose(logits, LAYERS["cnn/logits_f64"], rtol=1e-12)


# Inside: the relevance at the outputs of modules.


def named_cnn(x, sd):
    """The network with a name for the output of each module."""
    for n in (1, 2):
        x = relprop.named(tl.conv(x, *tl.layer(sd, f"conv{n}"), padding=1), f"conv{n}")
        x = relprop.named(tl.batch_norm(x, sd, f"bn{n}"), f"bn{n}")
        x = relprop.named(jax.nn.relu(x), f"relu{n}")
    x = relprop.named(tl.max_pool(x, 2), "maxpool")
    x = relprop.named(tl.avg_pool(x, 2), "avgpool")
    x = relprop.named(x.reshape(x.shape[0], -1), "flatten")
    x = relprop.named(tl.linear(x, *tl.layer(sd, "fc1")), "fc1")
    x = relprop.named(jax.nn.relu(x), "relu3")
    return relprop.named(tl.linear(x, *tl.layer(sd, "fc2")), "fc2")


def inside_cases() -> list[str]:
    return sorted({k.split("/")[2] for k in LAYERS if k.startswith("cnn/intermediate/")})


@pytest.mark.parametrize("case", inside_cases())
def test_inside(case, x64):
    name, canon = case.split("_")
    prefix = f"cnn/intermediate/{case}/R_at_output_of_"
    expected = {k.removeprefix(prefix): LAYERS[k] for k in LAYERS if k.startswith(prefix)}
    sd = parameters(LAYERS, "cnn/sd/", jnp.float64)
    x = jnp.asarray(LAYERS["cnn/input"], jnp.float64)
    rules = composite_of(name, BOXES["cnn"], canon == "mergebn")
    # What is merged has one output. In the reference its batch norm is an identity afterwards.
    one = {"conv1": "bn1", "conv2": "bn2"} if canon == "mergebn" else {}
    places = sorted({one.get(module, module) for module in expected})

    @uncompiled
    def explain(x, sd):
        explained = relprop.vrp(lambda x: named_cnn(x, sd), x, rules=rules, places=places)
        seed = jax.nn.one_hot(LAYERS["cnn/target_argmax"], explained[0].shape[1])
        return explained[1](seed)[1]

    inside = explain(x, sd)
    for module, relevance in expected.items():
        assert _distance(inside[one.get(module, module)].relevance, relevance) < 1e-5, module
    if one:
        with pytest.raises(relprop.InputError, match="inside of convolution"):
            relprop.vrp(lambda x: named_cnn(x, sd), x, rules=rules, places="conv1")


# The second file, zennit 0.5.1.

SECOND = {"mlp": tl.mlp, "cnn": small_cnn, "cnn_bn": small_cnn, "res": residual}


def second_cases() -> list[str]:
    return sorted(k.removesuffix("_f64") for k in NETWORKS if k.endswith("_f64"))


@pytest.mark.parametrize("key", second_cases())
def test_network_of_the_second_file(key, x64):
    model, family, name, _ = key.split("/")
    if family == "rule":
        rules = layer_map((dict(structure=LINEAR), rule_of(name)))
    else:
        rules = composite_of(NAMES[name], (-3.0, 3.0), family == "composite_merged")
    sd = parameters(NETWORKS, f"{model}/sd/", jnp.float64)
    x = jnp.asarray(NETWORKS[f"{model}/x"], jnp.float64)

    @uncompiled
    def explain(x, sd):
        logits, back = relprop.vrp(lambda x: SECOND[model](x, sd), x, rules=rules)
        target = np.broadcast_to(NETWORKS[f"{model}/class"], len(x))
        return logits, back(jax.nn.one_hot(target, logits.shape[1], dtype=logits.dtype))[0]

    logits, found = explain(x, sd)
    np.testing.assert_allclose(logits, NETWORKS[f"{model}/logits"], rtol=1e-4, atol=1e-5)
    # That release merges with the root of the variance alone, without the epsilon of 1e-5.
    tolerance = 2e-5 if family == "composite_merged" else 1e-10
    assert _distance(np.asarray(found), NETWORKS[f"{key}_f64"]) < tolerance
    assert _distance(NETWORKS[key], NETWORKS[f"{key}_f64"]) < 1e-3


def test_every_array_is_judged():
    """What the cases above read, by their keys; nothing in the files is left out."""
    expected = set()
    for layer, rule, kind in layer_cases():
        base = f"rules/{layer}"
        expected |= {f"{base}/{rule}/{kind}/Rin", f"{base}/{rule}/{kind}/Rin_f64"}
        expected |= {f"{base}/x", f"{base}/y", f"{base}/R_{kind}"}
        expected |= {k for k in LAYERS if k.startswith(f"{base}/p.")}
    for case, kinds in network_cases().items():
        expected |= {"/".join((*case, kind + end)) for kind in kinds for end in ("", "_f64")}
    for case in inside_cases():
        expected |= {k for k in LAYERS if k.startswith(f"cnn/intermediate/{case}/R_at_output_of_")}
    for model in FUNCTIONS:
        own = ("input", "logits", "logits_f64", "target_argmax", "target_other")
        expected |= {f"{model}/{name}" for name in own} | {"cnn/low", "cnn/high"}
        expected |= {k for k in LAYERS if k.startswith((f"{model}/sd/", "cnn/merged/"))}
    expected |= {k for k in LAYERS if k.startswith(("stabilize/", "rules/zbox_tensor_", "_"))}
    assert set(LAYERS) - expected == set()

    second = {key + end for key in second_cases() for end in ("", "_f64")}
    for model in SECOND:
        second |= {f"{model}/{name}" for name in ("x", "class", "logits")}
        second |= {k for k in NETWORKS if k.startswith(f"{model}/sd/")}
    assert set(NETWORKS) - second == {"_readme"}
