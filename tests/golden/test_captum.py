"""The LRP of Captum: every case of its goldens, in float64."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import Composite, presets
from relprop.rules import Epsilon, Pass, Relevance, Reweighted, Rule

from . import torch_layers as tl

pytestmark = pytest.mark.usefixtures("x64")
GOLDEN = dict(np.load(pathlib.Path(__file__).parents[1] / "data" / "captum.npz"))
FUNCTIONS = {"cnn": tl.cnn_with_batch_norm, "mlp": tl.mlp}


def parameters(model: str) -> dict:
    prefix = f"{model}/sd/"
    sd = {k.removeprefix(prefix): v for k, v in GOLDEN.items() if k.startswith(prefix)}
    return {k: jnp.asarray(v, jnp.float64) for k, v in sd.items() if v.dtype.kind == "f"}


def at(where: dict, rule: Rule, rest: Composite) -> Composite:
    return Composite().at(**where).use(rule).then(rest)


def mixed(model: str) -> Composite:
    rest = at({"structure": "dense", "position": 0}, Epsilon(1e-2), presets.captum())
    if model == "mlp":
        return rest
    rest = at({"structure": "convolution", "position": 1}, Reweighted(1.25), rest)
    return at({"structure": "convolution", "position": 0}, Reweighted(1.0, 0.0), rest)


@dataclasses.dataclass(frozen=True)
class GammaOfBatchNorm(Rule):
    """Captum's gamma rule on a batch norm: the mean is scaled by the changed weight as well."""

    name: str

    def propagate(self, site, arriving):
        (relevance,) = arriving
        sd = {
            k.rsplit("/", 1)[1]: v.astype(np.float64) for k, v in GOLDEN.items() if "cnn/sd/" in k
        }
        sd[f"{self.name}.weight"] = sd[f"{self.name}.weight"] * np.where(
            sd[f"{self.name}.weight"] > 0, 1.25, 1.0
        )
        sd = {k: jnp.asarray(v) for k, v in sd.items()}
        (x,) = site.inputs
        z, scale = jax.jvp(lambda x: tl.batch_norm(x, sd, self.name), (x,), (jnp.ones_like(x),))
        z = z + 1e-9 * jnp.where(z < 0, -1.0, 1.0)
        return [Relevance(share=x * scale / z * relevance.total(site.output))]


def gamma_everywhere(model: str) -> Composite:
    rest = presets.captum(Reweighted(1.25))
    for n in (0, 1):
        where = {"structure": "batch_norm", "position": n}
        rest = at(where, GammaOfBatchNorm(f"bn{n + 1}"), rest)
    return rest


SPECS = {
    "default": presets.captum(),
    "epsilon_1e-9_all": presets.captum(Epsilon(1e-9)),
    "epsilon_0.25_lin": presets.captum(Epsilon(0.25)),
    "epsilon_1e-2_lin": presets.captum(Epsilon(1e-2)),
    "gamma_0.25_lin": presets.captum(Reweighted(1.25)),
    "gamma_0.25_lin_zerobias": presets.captum(Reweighted(1.25, bias="ignore")),
    "gamma_1_lin": presets.captum(Reweighted(2.0)),
    "alpha1beta0_lin": presets.captum(Reweighted(1.0, 0.0)),
    "alpha1beta0_lin_zerobias": presets.captum(Reweighted(1.0, 0.0, bias="ignore")),
    "mixed": mixed,
    "epsilon_1e-9_bn_identity": at({"structure": "batch_norm"}, Pass(), presets.captum()),
    "gamma_bn_too": gamma_everywhere,
}
CASES = sorted({tuple(k.split("/")[:3:2]) for k in GOLDEN if "/LRP/" in k})


@pytest.mark.parametrize(("model", "spec"), CASES)
def test_lrp(model, spec):
    rules = SPECS[spec]
    rules = rules(model) if callable(rules) else rules
    sd = parameters(model)
    x = jnp.asarray(GOLDEN[f"{model}/input"], jnp.float64)
    targets = [GOLDEN[f"{model}/target_{tag}"] for tag in ("argmax", "other")]

    @jax.jit
    def explain(x, sd):
        y, back = relprop.vrp(lambda x: FUNCTIONS[model](x, sd), x, rules=rules)
        return y, [back(y * jax.nn.one_hot(target, y.shape[1]))[0] for target in targets]

    logits, found = explain(x, sd)
    np.testing.assert_allclose(logits, GOLDEN[f"{model}/logits"], atol=1e-5)
    for tag, target, relevance in zip(("argmax", "other"), targets, found, strict=True):
        key = f"{model}/LRP/{spec}/{tag}"
        expected, single = GOLDEN[f"{key}_f64"], GOLDEN[key]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(relevance, expected, atol=1e-9 * scale)
        # Their delta is of the run in float32: it is off by as much as the sum of that run.
        delta = logits[jnp.arange(len(x)), target] - relevance.reshape(len(x), -1).sum(1)
        sums = [a.astype(np.float64).reshape(len(x), -1).sum(1) for a in (expected, single)]
        off = np.abs(sums[0] - sums[1]) + 1e-5 * scale
        assert (np.abs(np.asarray(delta) - GOLDEN[f"{key}_delta"]) <= off).all()


def test_every_lrp_array_is_judged():
    read = {
        f"{model}/LRP/{spec}/{tag}{end}"
        for model, spec in CASES
        for tag in ("argmax", "other")
        for end in ("", "_f64", "_delta")
    }
    assert {k for k in GOLDEN if "/LRP/" in k} == read
    assert {spec for _, spec in CASES} == set(SPECS)
