"""ONNX models as JAX functions: values as onnxruntime has them, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import relprop
from relprop.interop import from_onnx
from relprop.rules import Epsilon, Gradient

pytestmark = pytest.mark.frameworks

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def model(nodes, inputs, outputs, weights=None, opset=17):
    """A model of nodes, whose inputs are named by the arrays that they get."""
    weights = weights or {}

    def typed(name, array):
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        return helper.make_tensor_value_info(name, kind, list(array.shape))

    graph = helper.make_graph(
        nodes,
        "model",
        [typed(name, array) for name, array in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("my.domain", 1)]
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=opsets, ir_version=8)
    )


def reference(proto, inputs):
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)


def one(kind, inputs, weights=None, opset=17, count=1, **attributes):
    """A model of one node: its inputs, its weights, and its outputs."""
    names = [name if name else "" for name in (*inputs, *(weights or {}))]
    outputs = [f"y{i}" for i in range(count)]
    node = helper.make_node(kind, names, outputs, **attributes)
    weights = {k: v for k, v in (weights or {}).items() if v is not None}
    return model([node], inputs, outputs, weights, opset), inputs


IMAGE = {"x": draw(1, 4, 7, 6)}


def ints(*numbers):
    return np.asarray(numbers, np.int64)


CASES = {
    "conv": one("Conv", IMAGE, {"w": draw(6, 2, 3, 3), "b": draw(6)}, group=2, pads=[1, 0, 2, 1]),
    "conv-same": one("Conv", IMAGE, {"w": draw(3, 4, 3, 2)}, auto_pad="SAME_LOWER", strides=[2, 2]),
    "conv-transpose": one(
        "ConvTranspose",
        IMAGE,
        {"w": draw(4, 3, 3, 2), "b": draw(6)},
        group=2,
        strides=[2, 3],
        pads=[1, 0, 0, 1],
        output_padding=[1, 0],
        dilations=[2, 1],
    ),
    "conv-transpose-shape": one(
        "ConvTranspose", IMAGE, {"w": draw(4, 2, 3, 3)}, output_shape=[14, 12], strides=[2, 2]
    ),
    "max-pool": one("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1),
    "max-pool-dilated": one("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 3]),
    "average-pool": one(
        "AveragePool", IMAGE, kernel_shape=[3, 2], pads=[1, 1, 1, 0], strides=[2, 2]
    ),
    "average-pool-with-padding": one(
        "AveragePool", IMAGE, kernel_shape=[3, 2], pads=[1, 1, 1, 0], count_include_pad=1
    ),
    "global-max-pool": one("GlobalMaxPool", IMAGE),
    "global-average-pool": one("GlobalAveragePool", IMAGE),
    "batch-norm": one(
        "BatchNormalization",
        {"x": draw(3, 4)},
        {"s": draw(4), "b": draw(4), "m": draw(4), "v": draw(4) ** 2},
    ),
    "instance-norm": one("InstanceNormalization", IMAGE, {"s": draw(4), "b": draw(4)}),
    "layer-norm": one("LayerNormalization", IMAGE, {"s": draw(6), "b": draw(6)}),
    "group-norm": one(
        "GroupNormalization", IMAGE, {"s": draw(4), "b": draw(4)}, opset=21, num_groups=2
    ),
    "softmax": one("Softmax", IMAGE, axis=1),
    "softmax-until-12": one("Softmax", IMAGE, opset=11, axis=2),
    "gemm": one(
        "Gemm", {"x": draw(3, 2)}, {"w": draw(4, 3), "c": draw(4)}, transA=1, transB=1, beta=0.5
    ),
    "matmul": one("MatMul", {"x": draw(2, 3, 4)}, {"w": draw(4, 2)}),
    "einsum": one("Einsum", {"x": draw(2, 3)}, {"w": draw(3, 4)}, equation="ab,bc->ca"),
    "clip": one("Clip", IMAGE, {"l": np.float32(-0.2), "h": np.float32(0.3)}),
    "clip-until-10": one("Clip", IMAGE, opset=10, min=-0.1),
    "hard-sigmoid": one("HardSigmoid", IMAGE, alpha=0.3),
    "prelu": one("PRelu", IMAGE, {"a": draw(4, 1, 1)}),
    "pow": one("Pow", IMAGE, {"p": np.float32(2.0)}),
    "reduce": one("ReduceMean", IMAGE, axes=[1, 3]),
    "reduce-of-18": one("ReduceMax", IMAGE, {"a": ints(1)}, opset=18, keepdims=0),
    "top-k": one("TopK", IMAGE, {"k": ints(2)}, count=2, axis=1, largest=0),
    "cumsum": one("CumSum", IMAGE, {"a": np.int64(2)}, exclusive=1, reverse=1),
    "argmax": one("ArgMax", IMAGE, axis=2),
    "slice": one(
        "Slice", IMAGE, {"s": ints(-1, 1), "e": ints(-99, 2**62), "a": ints(1, 2), "d": ints(-2, 2)}
    ),
    "slice-until-9": one("Slice", IMAGE, opset=9, starts=[1], ends=[3], axes=[2]),
    "split": one("Split", IMAGE, {"n": ints(1, 3)}, count=2, axis=1),
    "split-in-parts": one("Split", IMAGE, opset=18, count=3, axis=2, num_outputs=3),
    "gather": one("Gather", IMAGE, {"i": ints(1, -1)}, axis=1),
    "gather-elements": one("GatherElements", IMAGE, {"i": ints(0, 1).reshape(1, 2, 1, 1)}, axis=1),
    "gather-nd": one("GatherND", IMAGE, {"i": np.asarray([[[0, 1]]], np.int64)}, batch_dims=1),
    "scatter-nd": one(
        "ScatterND", {"x": draw(4, 2)}, {"i": ints(1, 3).reshape(2, 1), "u": draw(2, 2)}
    ),
    "scatter-elements": one(
        "ScatterElements",
        {"x": draw(3, 2)},
        {"i": ints(0, 0).reshape(1, 2), "u": draw(1, 2)},
        reduction="add",
        opset=18,
    ),
    "pad": one("Pad", IMAGE, {"p": ints(0, 1, -1, 2, 0, 0, 1, 0), "v": np.float32(0.5)}),
    "pad-reflect": one("Pad", IMAGE, {"p": ints(0, 0, 1, 2, 0, 0, 1, 0)}, mode="reflect"),
    "expand": one("Expand", {"x": draw(3, 1)}, {"to": ints(2, 1, 4)}),
    "tile": one("Tile", {"x": draw(3, 1)}, {"n": ints(2, 2)}),
    "depth-to-space": one("DepthToSpace", IMAGE, blocksize=2, mode="CRD"),
    "space-to-depth": one("SpaceToDepth", {"x": draw(1, 2, 4, 6)}, blocksize=2),
    "trilu": one("Trilu", {"x": draw(3, 4)}, {"k": np.int64(1)}, upper=0),
    "nearest": one(
        "Resize", IMAGE, {"": None, "s": np.asarray([1, 1, 2, 1.5], np.float32)}, mode="nearest"
    ),
    "linear": one(
        "Resize", IMAGE, {"": None, "s": np.asarray([1, 1, 2, 1.5], np.float32)}, mode="linear"
    ),
    "cubic": one(
        "Resize",
        IMAGE,
        {"": None, "s": np.asarray([1, 1, 2, 1.5], np.float32)},
        mode="cubic",
        coordinate_transformation_mode="align_corners",
    ),
    "upsample": one("Upsample", IMAGE, {"s": np.asarray([1, 1, 2, 2], np.float32)}, opset=9),
    "lstm": one(
        "LSTM",
        {"x": draw(5, 2, 3)},
        {"w": draw(2, 16, 3), "r": draw(2, 16, 4), "b": draw(2, 32)},
        count=3,
        hidden_size=4,
        direction="bidirectional",
    ),
    "gru": one(
        "GRU",
        {"x": draw(5, 2, 3)},
        {"w": draw(1, 12, 3), "r": draw(1, 12, 4), "b": draw(1, 24)},
        count=2,
        hidden_size=4,
        linear_before_reset=1,
        direction="reverse",
    ),
    "rnn": one(
        "RNN",
        {"x": draw(5, 2, 3)},
        {"w": draw(1, 4, 3), "r": draw(1, 4, 4)},
        count=2,
        hidden_size=4,
    ),
    "quantised": one("QuantizeLinear", IMAGE, {"s": np.float32(0.1), "z": np.int8(3)}),
    "dequantised": one(
        "DequantizeLinear",
        {"x": RNG.integers(-9, 9, (2, 3)).astype(np.int8)},
        {"s": np.abs(draw(3)), "z": np.asarray([1, 0, 2], np.int8)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_is_what_onnxruntime_computes(name):
    proto, inputs = CASES[name]
    fn, params = from_onnx(proto, check=False)
    found = fn(params, *(jnp.asarray(x) for x in inputs.values()))
    found = found if isinstance(found, tuple) else (found,)
    for one, other in zip(found, reference(proto, inputs), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def network():
    """Attention pooling of an image, with the arithmetic of shapes that exporters write."""
    weights = {
        "kernel": draw(6, 3, 3, 3),
        "bias": draw(6),
        "scale": np.float32(0.5),
        "first": ints(0),
        "second": ints(1),
        "rest": ints(-1),
        "head": draw(6, 4),
    }
    then, other = (
        helper.make_graph(
            [helper.make_node(kind, ["pooled"], [f"{kind}_out"])],
            kind,
            [],
            [onnx.ValueInfoProto(name=f"{kind}_out")],
        )
        for kind in ("Tanh", "Relu")
    )
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["c"], name="/stem/Conv"),
        helper.make_node("Relu", ["c"], ["r"], name="/stem/Relu"),
        helper.make_node("Shape", ["r"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Gather", ["shape", "second"], ["channels"]),
        helper.make_node("Concat", ["batch", "channels", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["r", "to"], ["flat"]),
        helper.make_node("Mul", ["flat", "scale"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["map"], axis=-1),
        helper.make_node("Mul", ["map", "flat"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "rest"], ["pooled"], keepdims=0),
        helper.make_node("Equal", ["rate", "rest"], ["which"]),
        helper.make_node("If", ["which"], ["squashed"], then_branch=then, else_branch=other),
        helper.make_node("MatMul", ["squashed", "head"], ["y"], name="/head/MatMul"),
    ]
    inputs = {"x": draw(2, 3, 6, 6), "rate": ints(-1)}
    return model(nodes, inputs, ["y"], weights), inputs


@pytest.fixture(scope="module")
def converted():
    proto, inputs = network()
    return (*from_onnx(proto), proto, inputs)


def test_a_network_is_what_onnxruntime_computes_at_every_size(converted, tmp_path):
    fn, params, proto, inputs = converted
    assert sorted(params) == ["bias", "head", "kernel"], "settings and numbers are no weights"
    (expected,) = reference(proto, inputs)
    np.testing.assert_allclose(fn(params, *inputs.values()), expected, rtol=1e-4, atol=1e-6)
    onnx.save(proto, tmp_path / "model.onnx")
    for given in (tmp_path / "model.onnx", str(tmp_path / "model.onnx"), proto.SerializeToString()):
        again, own = from_onnx(given)
        np.testing.assert_allclose(again(own, **inputs), expected, rtol=1e-4, atol=1e-6)
    other = {"x": inputs["x"], "rate": ints(7)}
    np.testing.assert_allclose(
        jax.jit(lambda p, x: fn(p, x, 7))(params, inputs["x"]),
        reference(proto, other)[0],
        atol=1e-5,
    )


def test_relevance_gradients_paths_and_scopes(converted):
    fn, params, proto, inputs = converted

    def score(params, x):
        return fn(params, x, rate=-1)[0, 1]

    x = jnp.asarray(inputs["x"])
    found = relprop.relevance(score, Gradient(), (0, 1))(params, x)
    for a, b in zip(
        jax.tree.leaves(found), jax.tree.leaves(jax.grad(score, (0, 1))(params, x)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    # The derivative is that of onnxruntime, by differences.
    step = 1e-2 * draw(*x.shape)
    ends = [reference(proto, {**inputs, "x": inputs["x"] + s})[0][0, 1] for s in (step, -step)]
    np.testing.assert_allclose(np.sum(found[1] * step), (ends[0] - ends[1]) / 2, rtol=2e-2)
    plan = relprop.inspect(score, Epsilon(), 1)(params, x)
    layers = {op.path: op.scope for op in plan if op.structure in ("convolution", "dense")}
    assert layers == {"params/kernel": "stem/Conv", "params/head": "head/MatMul"}
    assert any(op.structure == "softmax" for op in plan)
    y, R = relprop.value_and_relevance(score, Epsilon(1e-9), 1)(params, x)
    assert R.shape == x.shape and np.isfinite(R).all()


def test_all_that_cannot_be_run_is_listed_at_once():
    nodes = [
        helper.make_node("NonMaxSuppression", ["x", "x"], ["a"]),
        helper.make_node("Fancy", ["a"], ["b"], domain="my.domain", name="last"),
    ]
    proto = model(nodes, {"x": draw(1, 2, 4)}, ["b"])
    with pytest.raises(relprop.InputError) as caught:
        from_onnx(proto)
    message = str(caught.value)
    assert "2 operator(s)" in message and "NonMaxSuppression: 1" in message
    assert "my.domain.Fancy: 1, the first is 'last'" in message and "operators=" in message
    own = {"NonMaxSuppression": lambda a, b: a + b, "my.domain.Fancy": jnp.tanh}
    fn, params = from_onnx(proto, operators=own, check=False)
    np.testing.assert_allclose(fn(params, jnp.ones((1, 2, 4))), np.tanh(2.0), rtol=1e-6)


def test_inputs_and_parameters_are_checked(converted):
    fn, params, _, inputs = converted
    for args, kwargs in (((), {}), ((1, 2, 3), {}), ((inputs["x"],), {"x": 1}), ((), {"z": 1})):
        with pytest.raises(relprop.InputError, match="'x', 'rate'"):
            fn(params, *args, **kwargs)
    with pytest.raises(relprop.InputError, match="lacks 'head'"):
        fn({k: v for k, v in params.items() if k != "head"}, *inputs.values())
    with pytest.raises(relprop.InputError, match="The branch"):
        jax.jit(fn)(params, *inputs.values())
    with pytest.raises(relprop.InputError, match="no file"):
        from_onnx("nowhere.onnx")
    with pytest.raises(relprop.InputError, match="got int"):
        from_onnx(3)  # type: ignore[arg-type]


def test_another_function_is_refused_at_the_first_call_with_numbers():
    proto, inputs = CASES["gemm"]
    fn, params = from_onnx(proto, operators={"Gemm": lambda a, b, c, **how: (b @ a).T + c})
    with pytest.raises(relprop.ForwardError, match="onnxruntime"):
        fn(params, *inputs.values())
    fn, params = from_onnx(proto, operators={"Gemm": lambda a, b, c, **how: (b @ a).T}, check=False)
    assert fn(params, *inputs.values()).shape == (2, 4)


def test_a_shape_that_depends_on_what_is_explained_is_refused():
    proto, inputs = one("Expand", {"x": draw(1), "to": ints(3)})
    fn, params = from_onnx(proto)
    assert fn(params, inputs["x"], ints(3)).shape == (3,)
    with pytest.raises(relprop.InputError, match="The shape depends on"):
        fn(params, inputs["x"], jnp.array([3]))
