"""Explains one text at a time with one language model."""

from __future__ import annotations

import collections
import dataclasses
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

import relprop
from relprop import presets, tokens
from relprop._errors import InputError, RelpropError
from relprop.places import AttentionMaps
from relprop.rules import Epsilon
from relprop.tokens._run import shape_of_logits
from relprop.tokens._text import encoded, read

MOST_CHARACTERS = 20_000
MOST_TOKENS = 512
MOST_CONTINUED = 12
MOST_DRAWN = 48  # tokens of a map: more could not be read
_NUMBERED = re.compile(r"^((?:.*/)?[^/\d]*)(\d+)(?:/|$)")


@dataclasses.dataclass(frozen=True, eq=False)
class TextAnswer:
    """A text, what the model says to it, and where that came from.

    Attributes:
        text: what was typed.
        rules: the name of the rules.
        predictions: the likeliest first.
        pieces: tokens of the text and of its continuation.
        ids: of these.
        length: how many of them are the text's own.
        results: number of a token, or -1 for the class -> what it came from.
        chosen: which of them is shown.
    """

    text: str
    rules: str
    predictions: Sequence[tokens.Prediction]
    pieces: Sequence[str]
    ids: Int[np.ndarray, " t"]
    length: int
    results: Mapping[int, tokens.TokenRelevance]
    chosen: int

    @property
    def result(self) -> tokens.TokenRelevance:
        """What is shown."""
        return self.results[self.chosen]


@dataclasses.dataclass(frozen=True, eq=False)
class Depth:
    """Relevance inside of the model, for one prediction.

    Attributes:
        words: the tokens.
        layers: name of a layer -> relevance of each token in it; empty where none have numbers.
        heads: of attention, ``[layers, heads]``: the sum of the relevance of each map.
        maps: the relevance of the maps, ``[layers, heads, tokens, tokens]``.
    """

    words: Sequence[str]
    layers: Mapping[str, Float[np.ndarray, " t"]]
    heads: Float[np.ndarray, "layers heads"] | None
    maps: Float[np.ndarray, "layers heads t t"] | None


class TextExplainer:
    """A language model with a tokenizer; several threads may use it, one after another.

    Args:
        name: what the user calls it.
        model: the model.
        example: a text to begin with.

    Raises:
        InputError: it has no tokenizer.
    """

    def __init__(self, name: str, model: tokens.LanguageModel, example: str = ""):
        if model.tokenizer is None:
            raise InputError(f"There is no tokenizer.json in {name}, which the text needs.")
        self.name, self.model, self.example = name, model, example
        self._lock = threading.Lock()  # for one text at a time is in memory
        self.is_classifier = len(shape_of_logits(model, 1, 4)) == 2

    def explain(self, text: str, rules: str, contrast: str = "", continued: int = 3) -> TextAnswer:
        """What the model says to a text, and where that came from.

        Args:
            text: what was typed.
            rules: the name of rules.
            contrast: another token or class, whose logit is subtracted; empty for none.
            continued: how many tokens the model goes on with, if it does.

        Raises:
            InputError: the text is too long, or empty; or as for `relprop.tokens.explain`.
        """
        composite = presets.by_name(rules)
        ids = self._read(text)
        with self._lock:
            likely = tokens.predict(self.model, ids)
            other = _as_number(contrast)
            if self.is_classifier:
                found = self._relevance(ids, tokens.ClassTarget(), composite, other)
                return TextAnswer(
                    text, rules, likely, found.tokens, found.ids, len(ids), {-1: found}, -1
                )
            count = max(1, min(int(continued), MOST_CONTINUED))
            target = tokens.Continuation(length=count)
            rows = self._relevance(ids, target, composite, None)
            results = {len(ids) + k: row for k, row in enumerate(rows)}
            if other is not None:
                first = tokens.NextToken(int(rows.target[0]))
                results[len(ids)] = self._relevance(ids, first, composite, other)
        return TextAnswer(text, rules, likely, rows.tokens, rows.ids, len(ids), results, len(ids))

    def choose(self, answer: TextAnswer, token: int, contrast: str = "") -> TextAnswer:
        """The same, showing what another token came from: one of the text or its continuation.

        Raises:
            InputError: nothing comes before the token, or the model says nothing of tokens.
        """
        if self.is_classifier:
            raise InputError("This model tells classes of texts: its tokens are not predicted.")
        if not self._first(answer.ids) <= token < len(answer.pieces):
            raise InputError("Nothing comes before this token: choose a later one.")
        if token in answer.results and not contrast:
            return dataclasses.replace(answer, chosen=token)
        ids = answer.ids
        composite = presets.by_name(answer.rules)
        target = tokens.NextToken(int(ids[token]))
        with self._lock:
            found = self._relevance(ids[:token], target, composite, _as_number(contrast))
        return dataclasses.replace(answer, results={**answer.results, token: found}, chosen=token)

    def look_inside(self, answer: TextAnswer) -> Depth:
        """Layers and heads, for what is shown.

        Raises:
            InputError: the model has neither layers with numbers nor attention.
        """
        token = answer.chosen
        ids = answer.ids[: answer.length if token < 0 else token]
        composite = presets.by_name(answer.rules)
        target = (
            tokens.ClassTarget(int(answer.result.target))
            if token < 0
            else tokens.NextToken(int(answer.ids[token]))
        )
        with self._lock:
            layers = self._numbered(ids)
            places = [AttentionMaps(), *([layers] if layers else [])]
            try:
                found = self._relevance(ids, target, composite, None, places)
            except RelpropError:  # it may have no attention
                if not layers:
                    raise
                found = self._relevance(ids, target, composite, None, [layers])
        count = len(ids)
        inside = {name: np.asarray(part.relevance) for name, part in found.inside.items()}
        maps = [r for name, r in inside.items() if name.startswith("attention ")]
        # What can be drawn, and no more, is kept for each visitor.
        part = slice(max(0, count - MOST_DRAWN), count)
        sums = [r.reshape(-1, *r.shape[-2:])[:, :count, :count].sum((1, 2)) for r in maps]
        maps = [r.reshape(-1, *r.shape[-2:])[:, part, part].copy() for r in maps]
        equal = len({m.shape for m in maps}) == 1
        of_layers = {n: r for n, r in inside.items() if not n.startswith("attention ")}
        return Depth(
            found.tokens,
            {n: r.reshape(-1, *r.shape[-2:]).sum((0, -1))[:count] for n, r in of_layers.items()},
            np.stack(sums) if equal else None,
            np.stack(maps) if equal else None,
        )

    def _first(self, ids: np.ndarray) -> int:
        """The first token that the model could have predicted."""
        if self.model.start is None:
            return 1
        return int(np.argmax(ids == self.model.start)) + 1

    def _read(self, text: str) -> np.ndarray:
        if not text.strip():
            raise InputError("There is no text: type one.")
        if len(text) > MOST_CHARACTERS:
            raise InputError(
                f"The text has {len(text):,} characters; the page takes {MOST_CHARACTERS:,}. "
                "For longer ones use relprop.tokens.explain."
            )
        ids = encoded(self.model.tokenizer, text, special=True)
        if len(ids) > MOST_TOKENS:
            raise InputError(
                f"The text has {len(ids):,} tokens; the page takes {MOST_TOKENS}. For longer ones "
                "use relprop.tokens.explain."
            )
        # With an encoder, the mark behind the source is one of them.
        return read(self.model, ids, np.ones(len(ids), bool)).ids[0]

    def _relevance(
        self, ids: Any, target: Any, rules: Any, contrast: Any, places: Any = ()
    ) -> tokens.TokenRelevance:
        return tokens.explain(
            self.model,
            [int(i) for i in ids],
            target,
            contrast=contrast,
            rules=rules,
            places=places,
            mask=[1] * len(ids),
            lengths="buckets",
            on_suspicion="ignore",
        )

    def _numbered(self, ids: Any) -> str:
        """The layers, as a glob of scopes that end in a number; empty where there are none."""
        texts = read(self.model, [int(i) for i in ids], [1] * len(ids))
        params, model = self.model.params, self.model
        mask = jnp.ones(texts.ids.shape, bool)
        embeds = model.embed(params, jnp.asarray(texts.ids, jnp.int32))

        def score(x: Any) -> Any:
            return model.logits(params, x, jnp.asarray(texts.ids, jnp.int32), mask).sum()

        plan = relprop.inspect(score, Epsilon(1e-6), on_suspicion="ignore", on_missing="gradient")
        stems: dict[str, set[str]] = collections.defaultdict(set)
        for operation in plan(embeds):
            if match := _NUMBERED.match(operation.scope):
                stems[match[1]].add(match[2])
        most = max(stems, key=lambda stem: (len(stems[stem]), -stem.count("/")), default="")
        return f"{most}*" if most else ""


def _as_number(contrast: str) -> int | str | None:
    """A token or class as it was typed; one that was chosen among predictions has its number."""
    if not contrast:
        return None
    match = re.search(r"\((\d+)\)$", contrast.strip())
    return int(match[1]) if match else contrast
