"""Explains one image at a time with one model; what was compiled is kept for the next."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

import relprop
from relprop import Ledger, presets, report
from relprop._characters import visible
from relprop._errors import InputError, RelpropError
from relprop._transform import repeated_ledger
from relprop.cli.inputs import (
    Model,
    composites,
    opened,
    preprocessed,
    sample_image,
    value_range,
)
from relprop.cli.job import WORKERS, advised, classes_of, score_of
from relprop.composites import Composite
from relprop.places import Input
from relprop.plots import Flow

MOST_RULES = 4  # side by side
_PROGRAMS = 32  # that are kept for a model
#: Models this small run at once either way: nearly all of the time is the compiler's.
_AT_ONCE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_LAYERS = ("dense", "convolution")
_PREDICTED = ("", "predicted")


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """An image as a model sees it, and what is to be explained of it.

    Attributes:
        name: of the image.
        pixels: what the model is given.
        shown: the same, scaled to [0, 1].
        scores: of all classes.
        target: the class to be explained.
    """

    name: str
    pixels: Float[np.ndarray, "h w c"]
    shown: Float[np.ndarray, "h w c"]
    scores: Float[np.ndarray, " classes"]
    target: int


def handed_out(rules: str, score: float) -> float:
    """What relevance begins with: the score, or 1 by rules of derivatives."""
    return 1.0 if presets.by_name(rules).seed == "one" else score


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """One image explained by several rules.

    Attributes:
        seen: the image.
        relevance: by the name of rules, of the pixels.
        layers: by the name of rules, name of a layer -> relevance of what it reads, without
            channels where it has places: ``[h, w]``, ``[tokens]`` or ``[units]``.
        ledgers: by the name of rules; empty until these are asked for.
    """

    seen: Seen
    relevance: Mapping[str, Float[np.ndarray, "h w c"]]
    layers: Mapping[str, Mapping[str, np.ndarray]]
    ledgers: Mapping[str, Ledger] = dataclasses.field(default_factory=dict)


class ImageExplainer:
    """A model with what was compiled for it; several threads may use it at once.

    Args:
        model: as `relprop.cli.inputs.load_model` gives it.
    """

    def __init__(self, model: Model):
        self.model = model
        self._options = _AT_ONCE if model.bundled else None
        self._scores = jax.jit(model.fn)
        self._programs = _Kept(self._compiled)
        self._ledgers = _Kept(self._ledger)

    def read(self, file: Path, name: str) -> Float[np.ndarray, "h w c"]:
        """What the model makes of an image file.

        Raises:
            InputError: it is no image, or has too many pixels; or the model cannot take it.
        """
        try:
            image, _ = opened(file)
            if self.model.bundled:
                with Image.open(sample_image()) as sample:
                    image = image.resize(sample.size, Image.Resampling.BOX)
            return preprocessed(self.model, image)
        except InputError as error:
            raise InputError(f"{visible(name)} {error}.") from error

    def see(self, name: str, pixels: Float[np.ndarray, "h w c"], target: str) -> Seen:
        """An image with its scores and the class that is asked for, by name or number.

        Raises:
            InputError: there is no such class, or the scores are NaN or infinite.
        """
        classes_of(self.model, pixels[None])
        scores = np.asarray(self._scores(self.model.params, pixels[None])[0], np.float32)
        number = int(scores.argmax()) if target in _PREDICTED else self._number(target, len(scores))
        if not np.isfinite(scores[number]) or np.isnan(scores).any():
            raise InputError(f"{self.model.name} gives {visible(name)} scores that are no numbers.")
        low, high = value_range(self.model, pixels[None])
        shown = (pixels.astype(np.float32) - low) / ((high - low) or 1.0)
        return Seen(name, pixels, np.clip(shown, 0.0, 1.0), scores, number)

    def rules(self, pixels: Float[np.ndarray, "h w c"]) -> Sequence[str]:
        """The rules for whoever names none."""
        return advised(self.model, pixels[None]).rules

    def explain(self, seen: Seen, names: Sequence[str]) -> Answer:
        """Relevance of the pixels, and of what each layer reads.

        Raises:
            InputError: no rules were named, or too many.
            RelpropError: rules do not fit the model, or there are none of a name.
        """
        found = dict(self._each(self._relevance, seen, self._composites(seen, names)))
        relevance = {name: pixels for name, (pixels, _) in found.items()}
        return Answer(seen, relevance, {name: layers for name, (_, layers) in found.items()})

    def book(self, answer: Answer) -> Answer:
        """The same with ledgers, which say where the rest of the score went."""
        chosen = self._composites(answer.seen, list(answer.relevance))
        ledgers = dict(self._each(self._booked, answer.seen, chosen))
        return dataclasses.replace(answer, ledgers=ledgers)

    def label(self, number: int) -> str:
        """What a class is called."""
        return self.model.labels[number] if self.model.labels else str(number)

    def explanation(self, answer: Answer) -> report.Explanation:
        """For a report."""
        seen = answer.seen
        score = float(seen.scores[seen.target])
        return report.Explanation(
            model=self.model.name,
            name=visible(seen.name),
            image=seen.shown,
            label=self.label(int(seen.scores.argmax())),
            target=self.label(seen.target),
            score=score,
            rules={
                name: (
                    r,
                    {
                        "handed out": handed_out(name, score),
                        "explained": float(r.sum(dtype=np.float64)),
                    },
                )
                for name, r in answer.relevance.items()
            },
        )

    def balances(self, answer: Answer) -> dict[str, report.Balance]:
        """Where the score went by each of the rules, of those with a ledger."""
        return {
            name: report.Balance(
                handed_out=float(book.seed),
                explained=float(answer.relevance[name].sum(dtype=np.float64)),
                bias=book.bias,
                epsilon=book.epsilon,
                stopped=book.stopped,
                fault=str(book.fault or ""),
                flow=Flow.of(book),
            )
            for name, book in answer.ledgers.items()
        }

    def _number(self, target: str, count: int) -> int:
        if target in self.model.labels:
            return self.model.labels.index(target)
        if not target.isdecimal() or int(target) >= count:
            raise InputError(f"There is no class {target[:80]!r}: there are 0 to {count - 1}.")
        return int(target)

    def _composites(self, seen: Seen, names: Sequence[str]) -> dict[str, Composite]:
        if not 1 <= len(names) <= MOST_RULES:
            raise InputError(f"Choose 1 to {MOST_RULES} rules, not {len(names)}.")
        return composites(names, self.model, seen.pixels[None])

    def _each(
        self,
        function: Callable[[Seen, Composite], Any],
        seen: Seen,
        chosen: Mapping[str, Composite],
    ) -> Iterator[tuple[str, Any]]:
        # XLA compiles on one core, and outside of the interpreter's lock.
        with ThreadPoolExecutor(WORKERS) as pool:
            results = pool.map(functools.partial(function, seen), chosen.values())
            yield from zip(chosen, results, strict=True)

    def _relevance(self, seen: Seen, rules: Composite) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        found, layers = self._programs(rules, seen.pixels.shape)(
            self.model.params, seen.pixels, np.int32(seen.target)
        )
        return np.asarray(found), {name: np.asarray(r) for name, r in layers.items()}

    def _booked(self, seen: Seen, rules: Composite) -> Ledger:
        book = self._ledgers(rules, seen.pixels.shape)
        return book(self.model.params, seen.pixels, np.int32(seen.target))

    def _compiled(self, rules: Composite, shape: tuple[int, ...]) -> Callable[..., Any]:
        score, example = score_of(self.model), np.zeros(shape, np.float32)
        plan = relprop.inspect(score, rules, argnums=1, on_suspicion="ignore")
        operations = plan(self.model.params, example, np.int32(0))
        weights = {o.path: None for o in operations if o.structure in _LAYERS and o.path}
        places = [Input(path=path) for path in weights]

        def explain(params: Any, image: Any, target: Any) -> tuple[Any, dict[str, Any]]:
            transform = functools.partial(
                relprop.relevance, score, rules, argnums=1, on_suspicion="ignore"
            )
            if not places:
                return transform()(params, image, target), {}
            found, inside = transform(places=places)(params, image, target)
            layers = {name: inside[name].relevance for name in weights if name in inside}
            return found, {n: r.sum(-1)[0] if r.ndim > 2 else r[0] for n, r in layers.items()}

        compiled = jax.jit(explain, compiler_options=self._options)
        try:
            jax.eval_shape(compiled, self.model.params, example, np.int32(0))
        except RelpropError:  # a layer inside of what counts as one operation
            places.clear()
            compiled = jax.jit(explain, compiler_options=self._options)
        return compiled

    def _ledger(self, rules: Composite, shape: tuple[int, ...]) -> Callable[..., Ledger]:
        example = (self.model.params, np.zeros(shape, np.float32), np.int32(0))
        return repeated_ledger(score_of(self.model), rules, example, 1, self._options)


class _Kept:
    """A function whose last results are kept, for several threads."""

    def __init__(self, function: Callable[..., Any]):
        self._function, self._lock = functools.lru_cache(_PROGRAMS)(function), threading.Lock()

    def __call__(self, *args: Any) -> Any:
        with self._lock:
            return self._function(*args)
