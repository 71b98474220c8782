"""Networks in ONNX that packages of PyPI bring: skipped where a package is not installed.

``pip install --no-deps rapidocr-onnxruntime==1.4.4 nudenet==3.4.2 silero-vad==6.2.3``, and
``magika==1.0.3``.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

import relprop
from relprop import tokens

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is an extra")
pytestmark = pytest.mark.frameworks
WAVE = {"input": (1, 576), "state": (2, 1, 128), "sr": np.array(16000)}
MODELS = {
    "letters, where": ("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", (1, 3, 32, 64)),
    "letters, which": ("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", (1, 3, 48, 64)),
    "letters, up or down": (
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        (1, 3, 48, 192),
    ),
    "persons": ("nudenet/320n.onnx", (1, 3, 64, 64)),
    "voice": ("silero_vad/data/silero_vad.onnx", WAVE),
    "voice, of one rate": ("silero_vad/data/silero_vad_16k_op15.onnx", WAVE),
}


def file(path):
    """Where a file of a package is; the package itself is not run."""
    package, _, rest = path.partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return pathlib.Path(found.submodule_search_locations[0]) / rest


def drawn(inputs):
    """Numbers for each input that is said by its shape; the first is explained."""
    rng = np.random.default_rng(0)
    shapes = inputs if isinstance(inputs, dict) else {"": inputs}
    return [
        0.3 * rng.normal(size=given).astype(np.float32) if isinstance(given, tuple) else given
        for given in shapes.values()
    ]


@pytest.mark.parametrize("name", MODELS)
def test_values_gradients_and_relevance(name):
    path, inputs = MODELS[name]
    path = file(path)
    x, *others = drawn(inputs)
    fn, params = relprop.interop.from_onnx(path)

    def score(x):
        return jax.tree.leaves(fn(params, x, *others))[0].ravel()[0]

    @jax.jit
    def compute(x):
        return (
            fn(params, x, *others),
            jax.grad(score)(x),
            relprop.relevance(score, relprop.presets.gradient())(x),
            relprop.relevance(score, relprop.presets.epsilon_plus(), on_suspicion="ignore")(x),
        )

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        outputs, gradient, same, relevance = compute(x)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    expected = session.run(None, dict(zip(names, [x, *others], strict=True)))
    for found, wanted in zip(jax.tree.leaves(outputs), expected, strict=True):
        scale = max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(found, wanted, atol=1e-4 * scale)
    np.testing.assert_allclose(same, gradient, atol=1e-4 * float(np.abs(gradient).max()))
    assert np.isfinite(relevance).all() and np.any(relevance)


def test_the_bytes_of_a_file():
    """Bytes are whole numbers: their embeddings are explained, as those of tokens are."""
    folder = file("magika/models/standard_v3_3")
    path = folder / "model.onnx"
    source = pathlib.Path(__file__).read_bytes()
    ids = np.frombuffer(source[:1024] + source[-1024:], np.uint8).astype(np.int32)[None]
    fn, params = relprop.interop.from_onnx(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"bytes": ids})
    np.testing.assert_allclose(fn(params, ids), expected, atol=1e-4)

    labels = json.loads((folder / "config.min.json").read_text())["target_labels_space"]
    model = tokens.from_function(fn, params, labels=labels)
    target = tokens.ClassTarget("python")
    result = tokens.explain(model, ids[0], target)
    assert labels[int(expected.argmax())] == "python"
    np.testing.assert_allclose(result.score, expected.max(), atol=1e-4)
    assert result.relevance.shape == (2048,) and np.isfinite(result.relevance).all()
    assert np.any(result.relevance)

    embeds, mask = jax.jit(model.embed)(model.params, ids), np.ones(ids.shape, bool)
    chosen = labels.index("python")
    slope = jax.jit(
        jax.grad(lambda x: model.logits(model.params, x, jax.numpy.asarray(ids), mask)[0, chosen])
    )(embeds)
    same = tokens.explain(
        model, ids[0], target, rules=relprop.presets.gradient(), per_dimension=True
    )
    scale = float(np.abs(slope).max())
    np.testing.assert_allclose(same.per_dimension, slope[0], atol=1e-4 * scale)
