"""Every layer of the reference, all 372 recorded cases: as functions of arrays, and as rules."""

from __future__ import annotations

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop.chefer import functional, layers

from ..uncompiled import uncompiled
from . import golden

pytestmark = pytest.mark.usefixtures("by_numpy")


def pool(case):
    given = case["pool"]
    return given["kernel_size"], given.get("stride"), given.get("padding", 0)


def conv(case):
    given = case.get("conv", {})
    return [
        tuple(v) if isinstance(v, list) else v
        for v in (given.get("stride", 1), given.get("padding", 0))
    ]


def averaged(a, case):
    return layers.avg_pool2d(a["R"], a["x"], *pool(case), case["pool"]["count_include_pad"])


def sized(a, case):
    size = case["pool"]["output_size"]
    size = tuple(size) if isinstance(size, list) else size
    return layers.adaptive_avg_pool2d(a["R"], a["x"], size)


def identity(a, case, variant):
    return a["R"]


# From the arrays of a case, what is known about it and the set of rules, to all relevances.
FUNCTIONS = {
    "Linear": lambda a, c, v: layers.linear(a["R"], a["x"], a["p.weight"], c["alpha"], v),
    "Conv2d": lambda a, c, v: layers.conv2d(a["R"], a["x"], a["p.weight"], *conv(c), c["alpha"]),
    "BatchNorm2d": lambda a, c, v: layers.batch_norm(
        a["R"], a["x"], a["p.weight"], a["p.running_var"]
    ),
    "MaxPool2d_k2": lambda a, c, v: layers.max_pool2d(a["R"], a["x"], *pool(c)),
    "MaxPool2d_k3s2p1": lambda a, c, v: layers.max_pool2d(a["R"], a["x"], *pool(c)),
    "AvgPool2d_k2": lambda a, c, v: layers.avg_pool2d(a["R"], a["x"], *pool(c)),
    "AvgPool2d_k3s2p1": lambda a, c, v: averaged(a, c),
    "AvgPool2d_k3s2p1_nopad": lambda a, c, v: averaged(a, c),
    "AdaptiveAvgPool2d_1": lambda a, c, v: sized(a, c),
    "AdaptiveAvgPool2d_23": lambda a, c, v: sized(a, c),
    "Add": lambda a, c, v: layers.add(a["R"], a["x0"], a["x1"], v),
    "Clone": lambda a, c, v: layers.clone([a[k] for k in sorted(a) if k[0] == "R"], a["x"]),
    "Cat": lambda a, c, v: layers.cat(a["R"], [a["x0"], a["x1"], a["x2"]], c["dim"]),
    "IndexSelect": lambda a, c, v: layers.index_select(a["R"], a["x"], c["dim"], c["indices"]),
    "einsum": lambda a, c, v: layers.einsum(a["R"], c["equation"], a["x0"], a["x1"]),
    "MatMul": lambda a, c, v: layers.matmul(a["R"], a["x0"], a["x1"]),
    "Mul": lambda a, c, v: layers.mul(a["R"], a["x0"], a["x1"]),
    "AddEye": lambda a, c, v: layers.add_eye(a["R"], a["x"]),
    **dict.fromkeys(("ReLU", "GELU", "Softmax", "Dropout_eval", "LayerNorm", "Tanh"), identity),
}


def cases():
    """Per class and set of rules, the names of its cases."""
    groups = collections.defaultdict(list)
    for name in golden.text("chefer_layers", "_index"):
        kind, version, *_ = name.split("/")
        if kind != "Sequential":
            groups[kind, version].append(name)
    return groups


@pytest.fixture(scope="module")
def arrays():
    """Per case, its arrays by their names."""
    found = collections.defaultdict(dict)
    names = golden.text("chefer_layers", "_index")
    for key, array in golden.load("chefer_layers").items():
        case, _, name = key.rpartition("/")
        if case in names:
            found[case][name] = array
    return found


def given(arrays, dtype):
    return {
        k: jnp.asarray(v, dtype)
        for k, v in arrays.items()
        if not k.startswith("Rin") and k not in ("alpha", "y")
    }


def expected(arrays):
    names = sorted(k for k in arrays if k.startswith("Rin") and not k.endswith("_f64"))
    return [(arrays[k], arrays[f"{k}_f64"]) for k in names]


def tuples(found):
    return found if isinstance(found, tuple) else (found,)


def computed(explain, names, arrays, dtype):
    """Per case its relevances; what differs in numbers alone is compiled once."""
    compiled = {}
    for name in names:
        case = golden.text("chefer_layers", "_index")[name]
        settings = [case.get(k) for k in ("alpha", "conv", "pool", "dim", "indices", "equation")]
        run = compiled.setdefault(
            str(settings), uncompiled(lambda a, case=case: tuples(explain(a, case)))
        )
        yield name, run(given(arrays[name], dtype))


# The two sets of rules differ in these; the rest need not be seen twice in everything.
DIFFERENT = ("Linear", "Add")
GROUPS = [(bits, group) for bits in (32, 64) for group in cases()]
GROUPS = [(b, g) for b, g in GROUPS if b == 64 or "ours" in g[1] or g[0] in DIFFERENT]


@pytest.mark.parametrize(("bits", "group"), GROUPS, ids=str)
def test_functions(arrays, group, bits):
    kind, version = group
    variant = "ours" if version.endswith("ours") else "orig"

    def explain(a, case):
        return FUNCTIONS[kind](a, case, variant)

    with jax.enable_x64(bits == 64):
        for name, Rs in computed(explain, cases()[group], arrays, f"float{bits}"):
            for R, (single, double) in zip(Rs, expected(arrays[name]), strict=True):
                assert R.dtype == f"float{bits}"
                limit = 1e-11 if bits == 64 else golden.tolerance(single, double)
                assert golden.error(R, double) <= limit, name


def test_all_cases_are_there(arrays):
    assert len(arrays) == 372
    assert sum(map(len, cases().values())) == 364  # the others are chains of layers: see below


@pytest.mark.parametrize("bits", [32, 64])
def test_safe_divide(bits):
    goldens = golden.load("chefer_layers")
    for version in ("ours", "lrp"):
        with jax.enable_x64(bits == 64):
            suffix = "_f64" if bits == 64 else ""
            a, b = (jnp.asarray(goldens[f"safe_divide/{n}{suffix}"]) for n in "ab")
            out = goldens[f"safe_divide/{version}/out{suffix}"]
            # XLA takes numbers below the normal ones for zero.
            size = np.abs(np.asarray(b))
            normal = (size == 0) | (size >= np.finfo(size.dtype).tiny)
            found, out = layers.safe_divide(a, b)[normal], out[normal]
            np.testing.assert_allclose(found, out, rtol=1e-6 if bits == 32 else 1e-14)


# The same through the transform: the preset's rules on the layers as JAX functions.


def chain(*functions):
    def run(x):
        for function in functions:
            x = function(x)
        return x

    return run


def mlp(a):
    w = [(a[f"p.{i}.weight"], a[f"p.{i}.bias"]) for i in (0, 2, 4, 6)]
    return chain(
        lambda x: functional.linear(x, *w[0]),
        jax.nn.relu,
        lambda x: functional.linear(x, *w[1]),
        functional.gelu,
        lambda x: functional.layer_norm(x, *w[2], 1e-5),
        lambda x: functional.linear(x, *w[3]),
    )


def cnn(a):
    norm = [a[f"p.1.{n}"] for n in ("weight", "bias", "running_mean", "running_var")]
    return chain(
        lambda x: functional.conv2d(x, a["p.0.weight"], a["p.0.bias"], 1, 1),
        lambda x: functional.batch_norm(x, *norm),
        jax.nn.relu,
        lambda x: functional.max_pool2d(x, 2),
        lambda x: functional.conv2d(x, a["p.4.weight"], a["p.4.bias"], 2, 1),
        jax.nn.relu,
        lambda x: functional.adaptive_avg_pool2d(x, 1),
    )


# From the arrays of a case and what is known about it, to the layer as a function.
LAYERS = {
    "Linear": lambda a, c: lambda x: functional.linear(x, a["p.weight"], a.get("p.bias")),
    "Conv2d": lambda a, c: lambda x: functional.conv2d(x, a["p.weight"], a.get("p.bias"), *conv(c)),
    "BatchNorm2d": lambda a, c: (
        lambda x: functional.batch_norm(
            x, a["p.weight"], a["p.bias"], a["p.running_mean"], a["p.running_var"]
        )
    ),
    "MaxPool2d_k3s2p1": lambda a, c: lambda x: functional.max_pool2d(x, *pool(c)),
    "AvgPool2d_k3s2p1_nopad": lambda a, c: lambda x: functional.avg_pool2d(x, *pool(c), False),
    "AdaptiveAvgPool2d_23": lambda a, c: lambda x: functional.adaptive_avg_pool2d(x, (2, 4)),
    "Add": lambda a, c: lambda x, y: x + y,
    "Clone": lambda a, c: functional.clone3 if "R2" in a else functional.clone,
    "MatMul": lambda a, c: jnp.matmul,
    "Mul": lambda a, c: jnp.multiply,
    "einsum": lambda a, c: lambda x, y: functional.einsum(c["equation"], x, y),
    "Sequential": lambda a, c: cnn(a) if "p.1.running_var" in a else mlp(a),
}


@pytest.mark.parametrize(
    ("kind", "variant"),
    [(k, "ours") for k in LAYERS] + [(k, "orig") for k in (*DIFFERENT, "Sequential")],
)
def test_rules(arrays, kind, variant):
    versions = ("ours", "bert_ours") if variant == "ours" else ("lrp", "bert_lrp")
    index = golden.text("chefer_layers", "_index")
    names = [n for n in index if n.split("/")[0] == kind and n.split("/")[1] in versions]
    assert names

    def explain(a, case):
        xs = [a[k] for k in sorted(a) if k[0] == "x"]
        rules = relprop.presets.chefer(variant, float(case["alpha"]))
        y, back = relprop.vrp(LAYERS[kind](a, case), *xs, rules=rules)
        seed = [a[k] for k in sorted(a) if k[0] == "R"]
        return back(tuple(seed) if len(seed) > 1 else jnp.broadcast_to(seed[0], y.shape))

    # The reference gives all relevance to both factors, and its models halve it.
    halves = 2 if kind in ("MatMul", "Mul", "einsum") else 1
    with jax.enable_x64(True):
        for name, Rs in computed(explain, names, arrays, "float64"):
            for R, (_, double) in zip(Rs, expected(arrays[name]), strict=True):
                assert golden.error(halves * R, double) < 1e-11, name
