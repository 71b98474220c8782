"""The work: one model, its images, several sets of rules or methods."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import relprop
from relprop._errors import InputError, RelpropError
from relprop.attribution import transformer_attribution
from relprop.cli import attention
from relprop.cli.defaults import Default, default
from relprop.cli.inputs import Images, Model, composites, described, value_range
from relprop.composites import Composite
from relprop.plots import Flow
from relprop.report import Balance, Explanation

BATCH = 16  # images at once: more would need more memory
WORKERS = 2  # rules at once: likewise


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """What is to be explained; everything that can be checked beforehand has been.

    Attributes:
        model: the model.
        images: those that it can explain.
        rules: name -> rules.
        scores: of each image, for all classes.
        targets: per image, the class to be explained.
        methods: name of a map -> method of `relprop.transformer_attribution`, and its rules.
        patches: what their maps are of; None if there are none.
    """

    model: Model
    images: Images
    rules: Mapping[str, Composite]
    scores: np.ndarray
    targets: np.ndarray
    methods: Mapping[str, attention.Method] = dataclasses.field(default_factory=dict)
    patches: attention.Patches | None = None

    @classmethod
    def prepare(
        cls,
        model: Model,
        images: Images,
        names: Sequence[str],
        target: int | None = None,
        methods: Sequence[str] = (),
        method_names: Sequence[str] = (),
    ) -> Job:
        """Checks the model, the target, the rules and the methods.

        Args:
            model: the model.
            images: images; those for which the model gives NaN or infinity are left out.
            names: of the rules.
            target: class to be explained; None for the one that the model predicts.
            methods: names of methods of `relprop.transformer_attribution`.
            method_names: of the rules for those that go by rules; by default theirs.

        Raises:
            InputError: the model does not give ``[batch, classes]``, there is no such class, no
                image has finite scores, which names the operation that is to blame, or the model
                has no attention for the methods.
            RelpropError: the rules do not fit the model.
        """
        count = classes_of(model, images.pixels)
        if target is not None and not 0 <= target < count:
            raise InputError(
                f"The model has {count} classes, 0 to {count - 1}: there is no class {target}."
            )
        rules = composites(names, model, images.pixels)
        of_methods = composites(method_names, model, images.pixels)
        for name, composite in (rules | of_methods).items():
            try:
                plan(model, images.pixels[0], composite)
            except RelpropError as error:
                raise type(error)(f"{name} does not fit {model.name}. {error}") from error
        patches = _patches(model, images.pixels[0], methods) if methods else None
        scores = _scores(model, images.pixels)
        targets = scores.argmax(-1) if target is None else np.full(len(scores), target)
        faults = _faults(model, images.pixels, scores, targets)
        if len(faults) == len(scores):
            raise InputError(f"{model.name} cannot explain any image: {faults[0]}")
        kept = [i for i in range(len(scores)) if i not in faults]
        images = images.without(faults)
        maps = attention.with_rules(methods, of_methods)
        return cls(model, images, rules, scores[kept], targets[kept], maps, patches)

    @property
    def steps(self) -> int:
        """How many steps `run` takes."""
        return 2 * len(self.rules) + len(self.methods)

    def run(
        self, step: Callable[[str], AbstractContextManager]
    ) -> tuple[list[Explanation], dict[str, Balance]]:
        """Explains all images by all rules and methods.

        Args:
            step: is given the name of each step, and entered for as long as it lasts.

        Returns:
            One explanation per image, and one balance per rules.
        """

        def by(name: str) -> tuple[np.ndarray, Balance]:
            with step(name):
                relevance = self._relevance(self.rules[name])
            with step(f"{name}, ledger"):
                return relevance, self._balance(self.rules[name], relevance)

        def through(name: str) -> np.ndarray:
            with step(name):
                return self._maps(self.methods[name])

        # XLA compiles on one core, and outside of the interpreter's lock.
        with ThreadPoolExecutor(WORKERS) as pool:
            maps = pool.map(through, self.methods)
            results = dict(zip(self.rules, pool.map(by, self.rules), strict=True))
            of_patches = dict(zip(self.methods, maps, strict=True))
        found = {name: relevance for name, (relevance, _) in results.items()}
        balances = {name: balance for name, (_, balance) in results.items()}
        low, high = value_range(self.model, self.images.pixels)
        shown = (self.images.pixels.astype(np.float32) - low) / ((high - low) or 1.0)
        return [
            Explanation(
                model=self.model.name,
                name=self.images.names[i],
                image=shown[i],
                label=self._label(self.scores[i].argmax()),
                target=self._label(target),
                score=float(self.scores[i, target]),
                rules={
                    name: (relevance[i], self._sums(self.rules[name], i, relevance[i]))
                    for name, relevance in found.items()
                },
                maps={method: of_images[i] for method, of_images in of_patches.items()},
            )
            for i, target in enumerate(self.targets)
        ], balances

    def _relevance(self, composite: Composite) -> np.ndarray:
        explain = relprop.value_and_relevance(score_of(self.model), composite, argnums=1)
        explain = jax.jit(jax.vmap(explain, in_axes=(None, 0, 0)))
        batches = _batches(self.images.pixels, self.targets)
        found = [explain(self.model.params, *batch)[1] for batch in batches]
        return np.concatenate([np.asarray(r) for r in found])[: len(self.targets)]

    def _maps(self, method: attention.Method) -> np.ndarray:
        assert self.patches is not None
        explain = transformer_attribution(
            score_of(self.model),
            argnums=1,
            method=method.name,
            rules=method.rules,
            query=None if method.name == "full_lrp" else self.patches.query,
        )
        explain = jax.jit(jax.vmap(explain, in_axes=(None, 0, 0)))
        batches = _batches(self.images.pixels, self.targets)
        tokens = np.concatenate([np.asarray(explain(self.model.params, *b)) for b in batches])
        size = self.images.pixels.shape[1:3]
        return np.stack([self.patches.map(t, *size) for t in tokens[: len(self.targets)]])

    def _sums(self, composite: Composite, image: int, relevance: np.ndarray) -> dict[str, float]:
        score = float(self.scores[image, self.targets[image]])
        with np.errstate(invalid="ignore"):  # the sum of two infinities may be NaN
            explained = float(relevance.sum(dtype=np.float64))
        return {"handed out": score if composite.seed == "score" else 1.0, "explained": explained}

    def _balance(self, composite: Composite, relevance: np.ndarray) -> Balance:
        # One ledger of the sum over a batch: it compiles each time it is called.
        count, fault, flows = len(self.targets), "", []
        absorbed = dict.fromkeys(("bias", "epsilon", "stopped"), 0.0)
        ledger = relprop.ledger(_total(self.model), composite, argnums=1)
        for start in range(0, count, BATCH):
            part = slice(start, start + BATCH)
            with np.errstate(invalid="ignore"):
                book = ledger(self.model.params, self.images.pixels[part], self.targets[part])
            for name in absorbed:
                absorbed[name] += getattr(book, name)
            fault = fault or str(book.fault or "")
            flows.append(Flow.of(book))
        sums = [self._sums(composite, i, relevance[i]) for i in range(count)]
        return Balance(
            handed_out=sum(s["handed out"] for s in sums),
            explained=sum(s["explained"] for s in sums),
            **absorbed,
            fault=fault,
            # Another seed is handed out per image, and the ledger of a sum has only one.
            flow=functools.reduce(operator.add, flows) if composite.seed == "score" else None,
        )

    def plans(self) -> dict[str, tuple[str, relprop.Inspection]]:
        """Name of the model -> the last of the rules and the plan by them; empty without rules."""
        if not self.rules:
            return {}
        name, composite = list(self.rules.items())[-1]
        return {self.model.name: (name, plan(self.model, self.images.pixels[0], composite))}

    def _label(self, number: int) -> str:
        return self.model.labels[number] if self.model.labels else str(number)


def best_first(
    explanations: Sequence[Explanation], balances: Mapping[str, Balance]
) -> list[Explanation]:
    """The same with the rules in order of how little of the score they lose and make up."""
    order = sorted(balances, key=lambda name: balances[name].unrest)
    return [
        dataclasses.replace(e, rules={name: e.rules[name] for name in order}) for e in explanations
    ]


def plan(model: Model, image: np.ndarray, composite: Composite) -> relprop.Inspection:
    """The plan for an image; nothing is run.

    Raises:
        RelpropError: the rules do not fit the model.
    """
    return relprop.inspect(score_of(model), composite, argnums=1)(model.params, image, 0)


def advised(model: Model, pixels: np.ndarray) -> Default:
    """The rules for a model whose user names none.

    Raises:
        InputError: the model does not give ``[batch, classes]``.
    """
    classes_of(model, pixels)
    return default(score_of(model), model.params, pixels[0], 0, argnums=1)


def _patches(model: Model, image: np.ndarray, methods: Sequence[str]) -> attention.Patches:
    try:
        return attention.found(score_of(model), (model.params, image, 0), model.grid)
    except RelpropError as error:
        raise type(error)(f"{methods[0]} does not fit {model.name}. {error}") from error


def score_of(model: Model) -> Callable[[Any, Any, Any], Any]:
    """The score of a class: of parameters, an image and the number of the class."""

    def score(params, image, target):
        return model.fn(params, image[None])[0, target]

    return score


def _total(model: Model) -> Callable[[Any, Any, Any], Any]:
    def total(params, images, targets):
        scores = model.fn(params, images)
        return jnp.take_along_axis(scores, jnp.asarray(targets)[:, None], axis=1).sum()

    return total


def _scores(model: Model, pixels: np.ndarray) -> np.ndarray:
    compiled = jax.jit(model.fn)
    found = [compiled(model.params, *batch) for batch in _batches(pixels)]
    return np.concatenate([np.asarray(s, np.float32) for s in found])[: len(pixels)]


def classes_of(model: Model, pixels: np.ndarray) -> int:
    """How many classes a model has, of a batch that it takes.

    Raises:
        InputError: it takes none, or does not give ``[batch, classes]``.
    """
    try:
        out = jax.eval_shape(model.fn, model.params, pixels)
    except Exception as error:
        shape = "x".join(map(str, pixels.shape))
        raise InputError(
            f"{model.name} does not take a batch of images {shape}: {described(error)}"
        ) from error
    shape = getattr(out, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != len(pixels):
        found = f"shape {shape}" if shape is not None else type(out).__name__
        raise InputError(
            f"{model.name} must return scores [batch, classes], gave {found} for {len(pixels)} "
            "images."
        )
    return shape[1]


def _faults(
    model: Model, pixels: np.ndarray, scores: np.ndarray, targets: np.ndarray
) -> dict[int, str]:
    """Number of an image whose scores are no numbers -> the reason."""
    # A score of minus infinity is how models rule classes out; fine, unless it is to be explained.
    rows = np.arange(len(scores))
    bad = np.isnan(scores).any(-1) | ~np.isfinite(scores[rows, targets])
    ledger = relprop.ledger(score_of(model), relprop.rules.Zero(), argnums=1)
    faults: dict[int, str] = {}
    for i in np.flatnonzero(bad).tolist():
        # Only once: each ledger compiles anew, and images share what is wrong with a model.
        if not faults:
            fault = ledger(model.params, pixels[i], targets[i]).fault
            faults[i] = f"its scores are NaN or infinite. {fault or ''}".strip()
        else:
            faults[i] = "its scores are NaN or infinite as well"
    return faults


def _batches(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Batches of equal size, for one compilation; the last is filled up with its last entry."""
    count = len(arrays[0])
    size = min(BATCH, count)
    for start in range(0, count, size):
        chosen = np.minimum(np.arange(start, start + size), count - 1)
        yield tuple(array[chosen] for array in arrays)
