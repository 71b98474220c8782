"""Which method finds the circuits of compiled programs? A table of AUROC, nodes and edges.

Tracr compiles a program into the weights of a transformer, so that its circuit is known: nodes are
the heads and MLPs that compute something, edges lead to the readers that read a dimension of the
stream that a writer writes. Scores of nodes and edges are means of amounts over pairs of inputs.

    pip install -c constraints.txt -e '.[circuits]'
    python scripts/known_circuits.py --seed 0
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tracr.compiler import compiling, lib
from tracr.rasp import rasp

import relprop
from relprop.patching import auroc, circuit_score, edges, nodes
from relprop.places import Branches, Heads

TOKENS, PAIRS, STEPS = 4, 8, 8
RULES = {
    "RelP": (relprop.presets.relp(), 1),
    "AttnLRP": (relprop.presets.attn_lrp(), 1),
    "CP-LRP": (relprop.presets.cp_lrp(), 1),
    "AtP / EAP": (relprop.rules.Gradient(), 1),
    "EAP-IG": (relprop.rules.Gradient(), STEPS),
}
METHODS = (*RULES, "exact")


def programs() -> Iterator[tuple[str, rasp.SOp, Sequence[Any]]]:
    """Names, programs and vocabularies."""
    letters, tokens, indices = ("a", "b", "c"), rasp.tokens, rasp.indices

    def moved(by: int) -> rasp.SOp:
        selector = rasp.Select(indices, indices, lambda k, q: k == q - by)
        return rasp.Aggregate(selector, tokens, default=None).named(f"moved_{by}")

    def at(position: int) -> rasp.SOp:
        selector = rasp.Select(indices, indices, lambda k, q: k == position)
        return rasp.Aggregate(selector, tokens, default=None).named(f"at_{position}")

    def where(condition: Callable[[Any], Any], values: rasp.SOp, name: str) -> rasp.SOp:
        return rasp.Map(condition, values).named(name)

    def both(f: Callable[[Any, Any], Any], a: rasp.SOp, b: rasp.SOp, name: str) -> rasp.SOp:
        return rasp.SequenceMap(f, a, b).named(name)

    numbers = (0, 1, 2)
    yield "histogram", lib.make_hist(), letters
    yield "fraction of x before", lib.make_frac_prevs(rasp.tokens == "x"), ("x", "y")
    yield "reverse", lib.make_reverse(tokens), letters
    yield "sort, different tokens", lib.make_sort_unique(tokens, tokens), (1, 2, 3, 4, 5)
    yield "sort", lib.make_sort(tokens, tokens, max_seq_len=TOKENS, min_key=1), (1, 2, 3)
    yield "sort by frequency", lib.make_sort_freq(TOKENS), letters
    yield "balance", lib.make_pair_balance(tokens, "(", ")"), ("(", ")")
    yield "balanced", lib.make_shuffle_dyck(["()"]), ("(", ")")
    yield "balanced, two kinds", lib.make_shuffle_dyck(["()", "{}"]), ("(", ")", "{", "}")
    yield "count of a", lib.make_count(tokens, "a"), letters
    yield "count of less frequent", lib.make_count_less_freq(2), letters
    yield "previous token", moved(1), letters
    yield "token two before", moved(2), letters
    yield "first token", at(1), letters
    yield "third token", at(3), letters
    yield "is it a", where(lambda t: t == "a", tokens, "is_a"), letters
    yield "successor", where(lambda t: (t + 1) % 3, tokens, "successor"), numbers
    yield "as the previous", both(lambda a, b: a == b, tokens, moved(1), "same"), letters
    yield "as the first", both(lambda a, b: a == b, tokens, at(1), "as_first"), letters
    yield "sum of two", both(lambda a, b: (a + (b or 0)) % 3, tokens, moved(1), "sum"), numbers
    yield "occurs again", where(lambda n: n > 1, lib.make_hist(), "again"), letters
    yield "larger than the first", both(lambda a, b: a > (b or 0), tokens, at(1), "more"), numbers
    two = both(lambda a, b: f"{a}{b}", moved(1), moved(2), "two")
    yield "two before", two, letters
    three = both(lambda a, b: a == b, moved(2), where(lambda t: t, at(1), "copy"), "three")
    yield "two before as the first", three, letters


def transformer(x: jax.Array, params: Any, heads: int, layers: int) -> jax.Array:
    """What Tracr compiles to, from the embeddings to the end of the stream."""

    def linear(name: str, value: jax.Array) -> jax.Array:
        return value @ params[name]["w"] + params[name]["b"]

    def split(value: jax.Array) -> jax.Array:
        return value.reshape(len(value), heads, -1).swapaxes(0, 1)

    for i in range(layers):
        at = f"transformer/layer_{i}"
        q, k, v = (split(linear(f"{at}/attn/{part}", x)) for part in ("query", "key", "value"))
        maps = jax.nn.softmax(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]), -1)
        mixed = (maps @ v).swapaxes(0, 1).reshape(len(x), -1)
        x = x + linear(f"{at}/attn/linear", mixed)
        hidden = jax.nn.relu(linear(f"{at}/mlp/linear_1", x))
        x = x + linear(f"{at}/mlp/linear_2", hidden)
    return x


def known(params: Any, heads: int, layers: int, out: Sequence[int]) -> tuple[Any, Any]:
    """Which dimensions of the stream each writer writes and each reader reads.

    What the input writes is what differs between tokens: positions are the same in both runs.
    """
    tokens = np.asarray(params["token_embed"]["embeddings"])
    writes = {"input": np.ptp(tokens, axis=0) > 0}
    reads = {"logits": np.isin(np.arange(tokens.shape[1]), out)}
    for i in range(layers):
        weights = {
            name: np.asarray(params[f"transformer/layer_{i}/{name}"]["w"])
            for name in ("attn/query", "attn/key", "attn/value", "attn/linear", "mlp/linear_1",
                         "mlp/linear_2")
        }  # fmt: skip
        ways = (np.split(weights[f"attn/{n}"], heads, 1) for n in ("query", "key", "value"))
        back = np.split(weights["attn/linear"], heads, 0)
        for h, (q, k, v, o) in enumerate(zip(*ways, back, strict=True)):
            compared, copied = q @ k.T != 0, v @ o != 0
            writes[f"a{i}.h{h}"] = copied.any(0)
            reads[f"a{i}.h{h}<v>"] = copied.any(1)
            reads[f"a{i}.h{h}<q>"] = compared.any(1) & copied.any()
            reads[f"a{i}.h{h}<k>"] = compared.any(0) & copied.any()
        reads[f"m{i}"] = (weights["mlp/linear_1"] != 0).any(1)
        writes[f"m{i}"] = (weights["mlp/linear_2"] != 0).any(0)
    return writes, reads


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program as a transformer, with pairs of embeddings."""

    params: Any
    heads: int
    layers: int
    out: list[int]
    clean: np.ndarray
    corrupted: np.ndarray

    @classmethod
    def of(cls, program: rasp.SOp, words: Sequence[Any], rng: np.random.Generator) -> Compiled:
        model = compiling.compile_rasp_to_model(
            program, vocab={*words}, max_seq_len=TOKENS, compiler_bos="BOS"
        )
        config, label = model.model_config, program.label
        out = [
            i for i, name in enumerate(model.residual_labels)
            if name == label or name.startswith(f"{label}:")
        ]  # fmt: skip
        shape = config.num_heads, config.num_layers
        tables = [np.asarray(model.params[f"{of}_embed"]["embeddings"]) for of in ("token", "pos")]
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        run = jax.jit(lambda x: transformer(x, model.params, *shape))
        for _ in range(50 * PAIRS):
            texts = [
                ["BOS", *draw] for draw in (_draw(program, words, rng), _draw(program, words, rng))
            ]
            ids = [model.input_encoder.encode(text) for text in texts]
            a, b = (tables[0][i] + tables[1][: TOKENS + 1] for i in ids)
            ours, theirs = (np.asarray(run(e))[1:, out] for e in (a, b))
            if not pairs:  # The function is that of Tracr.
                expected = model.apply(texts[0]).transformer_output[0][1:, np.array(out)]
                np.testing.assert_allclose(ours, expected, atol=1e-4)
            if np.abs(ours - theirs).max() > 1e-3:
                pairs.append((a, b))
            if len(pairs) == PAIRS:
                break
        assert pairs, f"{label}: all inputs have the same output"
        clean, corrupted = (np.stack(side) for side in zip(*pairs, strict=True))
        return cls(model.params, *shape, out, clean, corrupted)

    def run(self, x: jax.Array) -> jax.Array:
        """What the program computes, at all positions but that of BOS."""
        return transformer(x, self.params, self.heads, self.layers)[1:, np.array(self.out)]

    def scored(self, x: jax.Array, y: jax.Array) -> dict[str, tuple[jax.Array, Any]]:
        """Scores of nodes and edges by method, of one pair."""
        step = self.run(x) - self.run(y)
        # The output on the line from the corrupted (0) to the clean one (1).
        direction = step / jnp.sum(step**2)

        def score(e: jax.Array) -> jax.Array:
            return jnp.sum((self.run(e) - self.run(y)) * direction)

        pair, quiet = ((x,), (y,)), {"on_suspicion": "ignore"}

        def of_nodes(rules: Any, steps: int) -> jax.Array:
            both = (Heads("output"), Branches("mlp"))
            own = nodes(score, *pair, rules, places=both, steps=steps, **quiet)
            heads = [a for name, a in own.items() if name.startswith("attention")]
            mlps = [jnp.sum(a)[None] for name, a in own.items() if name.startswith("mlp")]
            return jnp.concatenate([*(a.reshape(self.heads, -1).sum(1) for a in heads), *mlps])

        def exactly() -> jax.Array:
            axes = 0 if self.heads > 1 else ()  # A single head has no axis.
            heads = nodes(score, *pair, places=Heads("output"), axes=axes, exact=True)
            mlps = nodes(score, *pair, places=Branches("mlp"), axes=(), exact=True)
            return jnp.concatenate([a.reshape(-1) for a in (*heads.values(), *mlps.values())])

        found: dict[str, tuple[jax.Array, Any]] = {}
        for name, (rules, steps) in RULES.items():
            own = edges(score, *pair, rules, steps=steps, **quiet)
            found[name] = of_nodes(rules, steps), own
        exists = np.argwhere(np.asarray(_exists(own)))
        without = np.repeat(np.asarray(_exists(own))[None], len(exists), 0)
        without[range(len(exists)), exists[:, 0], exists[:, 1]] = False
        run = circuit_score(score, *pair)
        lost = run(_exists(own)) - jax.lax.map(run, jnp.asarray(without), batch_size=64)
        exact = jnp.zeros(own.scores.shape).at[exists[:, 0], exists[:, 1]].set(lost)
        found["exact"] = exactly(), dataclasses.replace(own, scores=exact)
        return found


def _exists(own: Any) -> np.ndarray:
    """Which edges there are, as numbers that are at hand also while a function is traced."""

    def place(name: str) -> float:
        if name in ("input", "logits"):
            return -1.0 if name == "input" else math.inf
        return 2 * int(name.split(".")[0][1:]) + (name[0] == "m")

    return np.array([[place(u) < place(v) for v in own.readers] for u in own.writers])


def _draw(program: rasp.SOp, words: Sequence[Any], rng: np.random.Generator) -> list[Any]:
    different = program.label.startswith("sort_unique")
    return [words[i] for i in rng.choice(len(words), TOKENS, replace=not different)]


def ranked(compiled: Compiled) -> tuple[dict[str, tuple[float, float]], str]:
    """AUROC of nodes and edges by method; how many are known, of how many."""
    found = jax.device_get(jax.jit(jax.vmap(compiled.scored))(compiled.clean, compiled.corrupted))
    writes, reads = known(compiled.params, compiled.heads, compiled.layers, compiled.out)
    own = found["exact"][1]
    exists = _exists(own)
    names = [f"{u}->{v}" for u in own.writers for v in own.readers]
    true = {
        f"{u}->{v}"
        for (i, u), (j, v) in itertools.product(enumerate(own.writers), enumerate(own.readers))
        if exists[i, j] and (writes[u] & reads[v]).any()
    }
    heads = [f"a{i}.h{h}" for i in range(compiled.layers) for h in range(compiled.heads)]
    every = [*heads, *(f"m{i}" for i in range(compiled.layers))]
    used = {name for name in every if writes[name].any()}
    result = {}
    for method, (of_nodes, of_edges) in found.items():
        amounts = dict(zip(every, np.abs(of_nodes).mean(0).tolist(), strict=True))
        flat = np.abs(of_edges.scores).mean(0).ravel()
        strengths = dict(itertools.compress(zip(names, flat.tolist(), strict=True), exists.ravel()))
        result[method] = (
            auroc(amounts, used) if 0 < len(used) < len(every) else float("nan"),
            auroc(strengths, true),
        )
    return result, f"{len(used)} of {len(every)}, {len(true)} of {int(exists.sum())}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="programs whose name contains this")
    options = parser.parse_args()
    # Each program is run once: compiling fast is worth more than running fast.
    jax.config.update("jax_disable_most_optimizations", True)
    print("| program | nodes, edges | " + " | ".join(METHODS) + " |")
    print("|---|---|" + "---|" * len(METHODS))
    rows = []
    for number, (name, program, words) in enumerate(programs()):
        if options.only not in name:
            continue
        rng = np.random.default_rng([options.seed, number])
        result, counts = ranked(Compiled.of(program, words, rng))
        rows.append([result[method] for method in METHODS])
        cells = " | ".join(f"{a:.2f}, {b:.2f}".replace("nan", "-") for a, b in rows[-1])
        print(f"| {name} | {counts} | {cells} |", flush=True)
        jax.clear_caches()
    mean = np.nanmean(np.array(rows), axis=0)
    cells = " | ".join(f"**{a:.3f}, {b:.3f}**" for a, b in mean)
    print(f"| **mean of {len(rows)}** | | {cells} |")


if __name__ == "__main__":
    main()
