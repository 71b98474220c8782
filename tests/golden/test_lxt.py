"""AttnLRP and CP-LRP of the LXT package, on five families of language models through torchax.

The models are the unmodified classes of transformers; the reference patched them.
"""

from __future__ import annotations

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop

pytestmark = [
    pytest.mark.frameworks,
    # transformers and torchax warn about settings of other models and of torch itself.
    pytest.mark.filterwarnings("ignore"),
]
DATA = pathlib.Path(__file__).parents[1] / "data"
PRESETS = {"attn": relprop.presets.attn_lrp(), "cp": relprop.presets.cp_lrp()}


def language_model(golden, attention="eager"):
    import torch
    import transformers

    kind = getattr(transformers, str(golden["model_class"]))
    config = kind.config_class(**json.loads(str(golden["config"])))
    config._attn_implementation = attention
    module = kind(config).eval()
    state = {k[3:]: torch.tensor(v) for k, v in golden.items() if k.startswith("sd/")}
    module.load_state_dict(state)
    return relprop.interop.from_torch(module)


# One gated and one plain family are enough for the second implementation of attention.
CASES = [(family, "eager") for family in ("llama", "gpt2", "qwen2", "qwen3", "gemma3")]
CASES += [("llama", "sdpa"), ("gpt2", "sdpa")]


@pytest.mark.parametrize("method", ["attn", "cp"])
@pytest.mark.parametrize(("family", "attention"), CASES)
def test_relevance_of_embeddings(family, attention, method):
    golden = dict(np.load(DATA / f"lxt_{method}_{family}.npz"))
    fn, params = language_model(golden, attention)
    embeddings = jnp.asarray(golden["inputs_embeds"])
    target = int(golden["target"])

    def logits(embeddings):
        return fn(params, inputs_embeds=embeddings)["logits"]

    np.testing.assert_allclose(logits(embeddings), golden["logits"], atol=2e-6)
    explain = jax.jit(relprop.relevance(lambda e: logits(e)[0, -1, target], PRESETS[method]))
    expected = golden["relevance_embeds_f64"]
    error = np.abs(np.asarray(explain(embeddings)) - expected).max() / np.abs(expected).max()
    assert error < 5e-6
