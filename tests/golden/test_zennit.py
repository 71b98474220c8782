"""Every case of the zennit goldens for the classical rules, single layers and whole networks.

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
    Epsilon,
    Flat,
    Gamma,
    Gradient,
    Norm,
    Pass,
    Stabilizer,
    WSquare,
    ZBox,
    ZPlus,
)

from . import torch_layers as tl

pytestmark = pytest.mark.usefixtures("unoptimised")
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
# Composites of their own in a later capability: rules that replace the gradient of an activation.
LATER = ("relu_guided", "relu_deconv", "relu_betasmooth1", "relu_betasmooth10")


def layer_cases():
    found = sorted(
        {tuple(k.split("/")[1:4]) for k in LAYERS if k.startswith("rules/") and k.count("/") == 4}
    )
    return [case for case in found if case[1] not in LATER]


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

        @jax.jit
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


# Whole networks. zennit's relevance of a batch norm that was not merged is passed unchanged.


def cnn_with_batch_norm(x, sd):
    h = jax.nn.relu(tl.batch_norm(tl.conv(x, *tl.layer(sd, "conv1"), padding=1), sd, "bn1"))
    h = jax.nn.relu(tl.batch_norm(tl.conv(h, *tl.layer(sd, "conv2"), padding=1), sd, "bn2"))
    h = tl.avg_pool(tl.max_pool(h, 2), 2).reshape(x.shape[0], -1)
    return tl.linear(jax.nn.relu(tl.linear(h, *tl.layer(sd, "fc1"))), *tl.layer(sd, "fc2"))


def merged_cnn(x, sd):
    h = jax.nn.relu(tl.conv(x, *tl.layer(sd, "conv1"), padding=1))
    h = jax.nn.relu(tl.conv(h, *tl.layer(sd, "conv2"), padding=1))
    h = tl.avg_pool(tl.max_pool(h, 2), 2).reshape(x.shape[0], -1)
    return tl.linear(jax.nn.relu(tl.linear(h, *tl.layer(sd, "fc1"))), *tl.layer(sd, "fc2"))


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
    composite = composite.at(structure=("sum", "average"), optional=True).use(Norm(EPS))
    return composite.at(structure=("scale", "offset"), optional=True).use(Pass())


LINEAR = ("dense", "convolution")
SEEDED = {"plain_gradient": Gradient()}


def network_rule(name: str):
    if name in SEEDED:
        return SEEDED[name]
    kind, _, rule = name.partition("_")
    if kind == "all":
        return layer_map((dict(structure=LINEAR), rule_of(rule)))
    low_high = {"cnn": (LAYERS["cnn/low"], LAYERS["cnn/high"]), "mlp": (-3.0, 3.0)}
    return lambda model: layer_map(
        (
            dict(structure=LINEAR, position=0),
            ZBox(*low_high[model], EPS) if rule == "zbox" else rule_of(rule),
        ),
        (dict(structure=LINEAR), Epsilon(1e-6)),
    )


PRESETS = {
    "EpsilonPlus": lambda box: relprop.presets.epsilon_plus(EPS),
    "EpsilonAlpha2Beta1": lambda box: relprop.presets.epsilon_alpha2_beta1(EPS),
    "EpsilonPlusFlat": lambda box: relprop.presets.epsilon_plus_flat(EPS),
    "EpsilonAlpha2Beta1Flat": lambda box: relprop.presets.epsilon_alpha2_beta1_flat(EPS),
    "EpsilonGammaBox": lambda box: relprop.presets.epsilon_gamma_box(*box, EPS),
    "epsilon_plus": lambda box: relprop.presets.epsilon_plus(EPS),
    "epsilon_alpha2_beta1": lambda box: relprop.presets.epsilon_alpha2_beta1(EPS),
    "epsilon_plus_flat": lambda box: relprop.presets.epsilon_plus_flat(EPS),
    "epsilon_alpha2_beta1_flat": lambda box: relprop.presets.epsilon_alpha2_beta1_flat(EPS),
    "epsilon_gamma_box": lambda box: relprop.presets.epsilon_gamma_box(*box, EPS),
}


def with_passing_batch_norm(composite: Composite) -> Composite:
    return composite.at(structure=("scale", "offset"), optional=True).use(Pass())


def network_cases():
    for model in ("cnn", "mlp"):
        for key in LAYERS:
            parts = key.split("/")
            if parts[0] != model or len(parts) != 4 or not key.endswith("_f64"):
                continue
            name = parts[2]
            known = name.startswith(("all_", "first_")) or name in PRESETS or name in SEEDED
            if known and parts[1] in ("nocanon", "mergebn"):
                yield key.removesuffix("_f64")


@pytest.mark.parametrize("key", list(network_cases()))
def test_network(key):
    model, canon, name, target = key.split("/")
    expected = LAYERS[f"{key}_f64"]
    noise = _distance(LAYERS[key], expected)
    if name in PRESETS:
        low_high = (LAYERS["cnn/low"], LAYERS["cnn/high"]) if model == "cnn" else (-3.0, 3.0)
        rules = with_passing_batch_norm(PRESETS[name](low_high))
    else:
        rules = network_rule(name)
        rules = rules(model) if callable(rules) else rules
    function = {"cnn": cnn_with_batch_norm, "mlp": tl.mlp}[model]
    weights = f"{model}/sd/"
    if canon == "mergebn":
        function, weights = merged_cnn, "cnn/merged/"

    def run(dtype):
        sd = {k: LAYERS[f"{model}/sd/{k}"] for k in _names(f"{model}/sd/")}
        sd |= {k: LAYERS[weights + k] for k in _names(weights)}
        sd = {k: jnp.asarray(v, dtype) for k, v in sd.items() if np.asarray(v).dtype.kind == "f"}
        x = jnp.asarray(LAYERS[f"{model}/input"], dtype)
        return _explain(function, sd, x, rules, LAYERS[f"{model}/target_{target}"])

    with jax.enable_x64(True):
        # The merged weights were stored in float32.
        tolerance = 1e-4 if canon == "mergebn" else 1e-10
        assert _distance(run(jnp.float64), expected) < tolerance
    if canon != "mergebn":
        assert _distance(run(jnp.float32), expected) < max(10 * noise, FLOOR)


def _names(prefix):
    return [k.removeprefix(prefix) for k in LAYERS if k.startswith(prefix)]


def _explain(function, sd, x, rules, target):
    target = jnp.asarray(np.broadcast_to(np.asarray(target), (len(x),)))

    @jax.jit
    def explain(x, sd, target):
        logits, back = relprop.vrp(lambda x: function(x, sd), x, rules=rules)
        return back(jax.nn.one_hot(target, logits.shape[1], dtype=logits.dtype))[0]

    return np.asarray(explain(x, sd, target))


NETWORK_FUNCTIONS = {"mlp": tl.mlp, "cnn": small_cnn, "cnn_bn": small_cnn, "res": residual}


def rule_cases():
    keys = sorted(k for k in NETWORKS if k.count("/") == 3 and k.endswith("/R"))
    for key in keys:
        _, family, name, _ = key.split("/")
        if family == "rule" or (family in ("composite", "composite_unmerged") and name in PRESETS):
            yield key


@pytest.mark.parametrize("key", list(rule_cases()))
def test_network_of_the_second_file(key):
    model, family, name, _ = key.split("/")
    expected = NETWORKS[key].astype(np.float64)
    if family == "rule":
        rules = layer_map((dict(structure=LINEAR), rule_of(name)))
    else:
        rules = with_passing_batch_norm(PRESETS[name]((-3.0, 3.0)))

    def run(dtype):
        prefix = f"{model}/sd/"
        sd = {
            k.removeprefix(prefix): jnp.asarray(NETWORKS[k], dtype)
            for k in NETWORKS
            if k.startswith(prefix)
        }
        x = jnp.asarray(NETWORKS[f"{model}/x"], dtype)
        return _explain(NETWORK_FUNCTIONS[model], sd, x, rules, NETWORKS[f"{model}/class"])

    with jax.enable_x64(True):
        exact = run(jnp.float64)
    # There is no float64 reference here: its noise is what ours changes from one to the other.
    noise = _distance(run(jnp.float32), exact)
    assert _distance(exact, expected) < max(10 * noise, FLOOR)
