"""AttnLRP and CP-LRP of the LXT package, on six families of language models through torchax.

The models are the unmodified classes of transformers; the reference patched them.
"""

from __future__ import annotations

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop

from ..uncompiled import evaluated

pytestmark = [
    pytest.mark.frameworks,
    # transformers and torchax warn about settings of other models and of torch itself.
    pytest.mark.filterwarnings("ignore"),
]
DATA = pathlib.Path(__file__).parents[1] / "data"
PRESETS = {
    "attn": relprop.presets.attn_lrp(),
    "cp": relprop.presets.cp_lrp(),
    "efficient_attnLRP": relprop.presets.attn_lrp(),
    "efficient_cp_LRP": relprop.presets.cp_lrp(),
}
# Where each family keeps its layers, as from_torch names scopes.
LAYERS = {"gpt2": "transformer/h/*", "bert": "bert/encoder/layer/*"}


def language_model(golden, attention="eager"):
    state = {k[3:]: v for k, v in golden.items() if k.startswith("sd/")}
    kind, config = str(golden["model_class"]), json.loads(str(golden["config"]))
    return transformers_model(kind, config, state, attention)


def transformers_model(kind, config, state, attention):
    import torch
    import transformers

    kind = getattr(transformers, kind)
    config = kind.config_class(**config)
    config._attn_implementation = attention
    module = kind(config).eval()
    module.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    return relprop.interop.from_torch(module)


def close(found, expected):
    error = np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()
    assert error < 5e-6


# One gated and one plain family are enough for the second implementation of attention.
CASES = [(family, "eager") for family in ("llama", "gpt2", "qwen2", "qwen3", "gemma3")]
CASES += [("llama", "sdpa"), ("gpt2", "sdpa")]


@pytest.mark.parametrize("method", ["attn", "cp"])
@pytest.mark.parametrize(("family", "attention"), CASES)
def test_embeddings_and_layers(family, attention, method):
    golden = dict(np.load(DATA / f"lxt_{method}_{family}.npz"))
    fn, params = language_model(golden, attention)
    target = int(golden["target"])

    def score(embeddings):
        logits = fn(params, inputs_embeds=embeddings)["logits"]
        return logits[0, -1, target], logits

    places = LAYERS.get(family, "model/layers/*")
    explain = relprop.value_and_relevance(score, PRESETS[method], has_aux=True, places=places)
    (_, logits), (R, inside) = evaluated(explain, (jnp.asarray(golden["inputs_embeds"]),))
    close(logits, golden["logits"])
    close(R, golden["relevance_embeds_f64"])
    layers = sorted(inside)
    assert layers == [places.replace("*", str(i)) for i in range(len(layers))]
    for i, layer in enumerate(layers):
        close(inside[layer].relevance, golden[f"relevance_layer_out_f64/{i}"])


# lxt.npz: other sequences, positions, masks and targets, for whole batches of settings.


@functools.cache
def models():
    return dict(np.load(DATA / "lxt_models.npz"))


def settings():
    for key in models():
        family, *rest = key.split("/")
        if len(rest) == 5 and rest[0] in PRESETS and rest[-1] == "class_index":
            yield (family, *rest[:-1])


@pytest.fixture(scope="module")
def explainers():
    """Models are made and compiled once for all cases of a setting."""

    @functools.cache
    def explainer(family, method, attention):
        golden = models()
        meta = json.loads(str(golden[f"{family}/{method}/_meta"]))
        prefix = f"{family}/sd/"
        state = {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}
        config = {k: v for k, v in meta["config"].items() if not k.startswith("_")}
        fn, params = transformers_model(meta["model"], config, state, attention)

        def score(embeddings, mask, position, target):
            given = {} if mask is None else {"attention_mask": mask}
            logits = fn(params, inputs_embeds=embeddings, **given)["logits"]
            at = logits[0] if family == "bert" else logits[0, position]
            return at[target], logits

        explain = relprop.value_and_relevance(
            score, PRESETS[method], has_aux=True, places=LAYERS.get(family, "model/layers/*")
        )
        return jax.jit(explain)

    return explainer


@pytest.mark.parametrize(("family", "method", "attention", "case", "target"), [*settings()])
def test_all_settings(explainers, family, method, attention, case, target):
    golden = models()
    given = {k: golden.get(f"{family}/{case}/{k}") for k in ("embeds", "attention_mask")}
    run = f"{family}/{method}/{attention}/{case}"
    expected = f"{run}/{target}"
    (_, logits), (R, inside) = explainers(family, method, attention)(
        given["embeds"],
        given["attention_mask"],
        golden[f"{run}/position"],
        golden[f"{expected}/class_index"],
    )
    close(logits, golden[f"{run}/logits"].reshape(logits.shape))
    close(R, golden[f"{expected}/relevance_in64"])
    close(jnp.sum(R, -1), golden[f"{expected}/relevance_tokens"])
    assert len(inside) == 2
    if attention == "eager":  # Only there the reference has recorded its layers.
        for i, layer in enumerate(sorted(inside)):
            close(inside[layer].relevance, golden[f"{expected}/layer{i}_relevance"])
