"""Features put into functions: values stay, relevance of features is that of their products."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import edits
from relprop.places import Errors, Output
from relprop.rules import Gradient, Zero

DRAW = np.random.default_rng(0)


def array(*shape):
    return jnp.asarray(DRAW.standard_normal(shape), jnp.float32)


W, UP, DOWN, ENC, DEC, X = (array(*s) for s in ((4, 4), (4, 6), (6, 4), (4, 9), (9, 4), (3, 4)))


def encode(v):
    return jax.nn.relu(v @ ENC)


def decode(a):
    return a @ DEC


def model(x):
    hidden = relprop.named(x @ W, "hidden")
    return (jnp.tanh(hidden) @ UP).sum()


def rest(hidden):
    return (jnp.tanh(hidden) @ UP).sum()


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


SPLICED = relprop.splice(model, "hidden", encode, decode)


def test_values_do_not_change():
    close(SPLICED(X), model(X))
    close(jax.jit(jax.vmap(SPLICED))(jnp.stack([X, 2 * X])), [model(X), model(2 * X)])
    close(relprop.values_at(SPLICED, "hidden features")(X)["hidden features"], encode(X @ W))


def test_coefficients_of_features_are_derivatives_along_their_directions():
    places = ["hidden features", Errors()]
    explain = jax.jit(relprop.relevance(SPLICED, Gradient(), places=places))
    R, inside = explain(X)
    slope = jax.grad(rest)(X @ W)
    close(inside["hidden features"].coefficient, slope @ DEC.T)
    close(inside["hidden error"].coefficient, slope)
    # Through features alone: what they leave over is a constant.
    through = jax.grad(lambda x: rest(decode(encode(x @ W)) + error(X)))(X)
    close(R, through)


def error(x):
    return x @ W - decode(encode(x @ W))


def test_features_and_error_have_what_arrives():
    rules = relprop.presets.attn_lrp()
    _, inside = jax.jit(relprop.relevance(SPLICED, rules, places=["hidden *", Errors()]))(X)
    _, plain = jax.jit(relprop.relevance(model, rules, places="hidden"))(X)
    parts = inside["hidden features"].relevance.sum() + inside["hidden error"].relevance.sum()
    close(parts, plain["hidden"].relevance.sum(), 1e-4)
    close(inside["hidden error"].value, error(X))


def test_features_are_edited_while_the_error_stays():
    without = relprop.intervene(SPLICED, {"hidden features": edits.at(np.s_[:, 3], 0.0)})
    close(without(X), rest(decode(encode(X @ W).at[:, 3].set(0)) + error(X)))
    exact = relprop.patching.nodes(
        SPLICED, (X,), (0.5 * X,), places="hidden features", exact=True, axes=()
    )["hidden features"]
    close(exact, rest(decode(encode(X @ W / 2)) + error(X)) - model(X))


def stack(x, params):
    def layer(x, p):
        return x + relprop.named(jax.nn.relu(relprop.named(x, "read") @ p["up"]) @ p["down"],
                                 "written"), None  # fmt: skip

    return jax.lax.scan(layer, x, params)[0].sum()


PARAMS = {"up": jnp.stack([UP, -UP]) / 3, "down": jnp.stack([DOWN, DOWN / 2]) / 3}


def test_a_transcoder_in_a_loop():
    spliced = jax.jit(relprop.splice(stack, "read", encode, decode, into="written"))
    close(spliced(X, PARAMS), stack(X, PARAMS))
    values = relprop.values_at(spliced, "read features")(X, PARAMS)["read features"]
    reads = relprop.values_at(stack, "read")(X, PARAMS)["read"]
    close(values, encode(reads))
    _, inside = relprop.relevance(spliced, Gradient(), places=["read features"],
                                  on_suspicion="ignore")(X, PARAMS)  # fmt: skip
    close(inside["read features"].coefficient[1], jnp.ones((3, 4)) @ DEC.T)


def test_several_places_have_features_of_their_own():
    def f(x, params):
        for w in params:
            x = jnp.tanh(x @ w)
        return x.sum()

    spliced = relprop.splice(f, Output(structure="dense"), encode, decode)
    names = {*relprop.values_at(spliced, "* features")(X, [W, W.T])}
    assert names == {"params/0 features", "params/1 features"}
    close(spliced(X, [W, W.T]), f(X, [W, W.T]))


def test_bad_input():
    wrong = relprop.InputError
    for bad, words in (
        (lambda a: a @ DEC[:, :3], r"shape \(3, 3\)"),
        (lambda a: jnp.full((3, 4), jnp.nan), "is NaN where"),
    ):
        with pytest.raises(wrong, match=words):
            relprop.splice(model, "hidden", encode, bad)(X)
    with pytest.raises(relprop.NothingMatchedError, match="nowhere"):
        relprop.splice(model, "nowhere", encode, decode)(X)
    with pytest.raises(wrong, match="comes after"):
        relprop.splice(stack, "written", encode, decode, into="read")(X, PARAMS)
    with pytest.raises(wrong, match="1 value"):
        relprop.splice(lambda x: model(stack(x, PARAMS) * x), "hidden", encode, decode,
                       into="read")(X)  # fmt: skip


# Files of SAELens.


def saved(folder, config, **arrays):
    from safetensors.flax import save_file

    weights = {"W_enc": ENC, "b_enc": array(9), "W_dec": DEC, "b_dec": array(4)} | arrays
    save_file({n: a for n, a in weights.items() if a is not None},
              folder / "sae_weights.safetensors")  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))
    return {name: None if a is None else np.asarray(a, float) for name, a in weights.items()}


@pytest.mark.frameworks
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk"])
def test_features_of_saelens(tmp_path, architecture):
    pytest.importorskip("safetensors", reason="files of SAELens need safetensors")
    config = {"architecture": architecture, "apply_b_dec_to_input": architecture == "standard"}
    if architecture == "topk":
        config |= {"activation_fn": "topk", "activation_fn_kwargs": {"k": 2}}
    threshold = {"threshold": jnp.abs(array(9))} if architecture == "jumprelu" else {}
    w = saved(tmp_path, config, **threshold)
    ours, back = relprop.interop.from_saelens(tmp_path)
    v = np.asarray(X, float)
    before = (v - w["b_dec"] * config["apply_b_dec_to_input"]) @ w["W_enc"] + w["b_enc"]
    a = np.maximum(before, 0)
    if architecture == "jumprelu":
        a = np.where(before > w["threshold"], a, 0)
    if architecture == "topk":
        a = np.where(before >= np.sort(before, 1)[:, -2:-1], a, 0)
    close(ours(X), a, 1e-4)
    close(back(ours(X)), a @ w["W_dec"] + w["b_dec"], 1e-4)
    _, inside = relprop.relevance(relprop.splice(model, "hidden", ours, back), Zero(),
                                  places=["hidden features", Errors()])(X)  # fmt: skip
    assert inside["hidden features"].coefficient.shape == (3, 9)


@pytest.mark.frameworks
def test_damaged_files_of_saelens(tmp_path):
    pytest.importorskip("safetensors", reason="files of SAELens need safetensors")

    def refused(words, config, **arrays):
        saved(tmp_path, config, **arrays)
        with pytest.raises(relprop.InputError, match=words):
            relprop.interop.from_saelens(tmp_path)

    with pytest.raises(relprop.InputError, match=r"no cfg.json and no sae_weights"):
        relprop.interop.from_saelens(tmp_path)
    refused("'gated'", {"architecture": "gated"})
    refused("normalize_activations is 'layer_norm'", {"normalize_activations": "layer_norm"})
    refused("has no W_dec", {}, W_dec=None)
    refused("has no threshold", {"architecture": "jumprelu"})
    refused(r"b_enc \(4,\) instead of \(9,\)", {}, b_enc=array(4))
    refused("W_enc is not finite", {}, W_enc=ENC.at[0, 0].set(jnp.nan))
    refused("number k", {"activation_fn": "topk"})
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(relprop.InputError, match="no JSON"):
        relprop.interop.from_saelens(tmp_path)
    saved(tmp_path, {})
    (tmp_path / "sae_weights.safetensors").write_bytes(b"short")
    with pytest.raises(relprop.InputError, match="damaged"):
        relprop.interop.from_saelens(tmp_path)
