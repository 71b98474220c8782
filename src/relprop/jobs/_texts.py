"""Texts of a dataset, explained with a language model, and what a store holds of one of them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from relprop import presets
from relprop._errors import InputError
from relprop.jobs._explained import Explained
from relprop.jobs._job import explain
from relprop.tokens import ClassTarget, LanguageModel, NextToken, Target, TokenRelevance
from relprop.tokens._compute import scores_at
from relprop.tokens._lengths import buckets, paddable
from relprop.tokens._query import query_of
from relprop.tokens._run import shape_of_logits
from relprop.tokens._text import pieces, read, term_name

#: What the description of a store of texts has under this name.
TEXTS = "texts"
_LONGEST = 2**20  # tokens, where a model has no last position


def explain_texts(
    model: LanguageModel,
    texts: Any,
    out: str | Path,
    target: Target | None = None,
    batch_size: int = 16,
    *,
    contrast: Any = None,
    rules: Any = None,
    description: Mapping[str, Any] | None = None,
    **options: Any,
) -> Explained:
    r"""Explains each text of a dataset, and keeps the relevance of its tokens in a store on disk.

    .. math:: R^{(n)}_t = \sum_d R^{(n)}_{td}

    as `relprop.tokens.explain` does for a few, and as `explain` does it for a dataset: what was
    ended goes on, and a text that cannot be explained is recorded with its error. Texts are padded
    to a few lengths, so that those share programs, if the model can take padding.

    Args:
        model: of tokens.
        texts: strings, or arrays of token ids; any source that `explain` takes.
        out: a folder or URL, as for `explain`.
        target: `NextToken` or `ClassTarget` of one token or class for all; by default what the
            model predicts.
        batch_size: how many texts of a length are explained at once.
        contrast: a second token or class, whose logit is subtracted.
        rules: as for `explain`; by default `relprop.presets.attn_lrp`.
        description: as for `explain`.
        **options: of `explain`: `progress`, `on_missing`, `on_suspicion`, `batches_per_chunk`.

    Returns:
        What `relprop.load` returns for the store: `relevance` has one number per token, and `aux`
        the ids and the explained `target`. `text_of` makes a `relprop.tokens.TokenRelevance` of
        one.

    Raises:
        InputError: the target does not fit the model, or is not one for all.
        JobError: as for `explain`.

    >>> import tempfile
    >>> model = LanguageModel(
    ...     embed=lambda params, ids: params[ids],
    ...     logits=lambda params, embeds, ids, mask: jnp.cumsum(embeds, 1) @ params.T,
    ...     params=jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]),
    ... )
    >>> texts = [np.array([0, 1, 2]), np.array([2, 2])]
    >>> out = tempfile.mkdtemp()
    >>> found = explain_texts(model, texts, out, NextToken(1), contrast=0, progress=False)
    >>> found.relevance[0].tolist(), text_of(found, 1).line()
    ([-1.0, 4.0, 1.0], 'tokens +2 absorbed +0 = score 2')
    """
    chosen, other, labels = _terms(model, target, contrast)
    per_token = len(shape_of_logits(model, 1, 4)) == 3

    def embed(params: Any, sample: Any) -> dict[str, Any]:
        return {"embeds": model.embed(params, sample["ids"][None])[0], "ids": sample["ids"]}

    def score(params: Any, sample: Any, mask: Any) -> Any:
        last = jnp.sum(mask) - 1 if per_token else jnp.zeros((), jnp.int32)
        args = (sample["embeds"][None], sample["ids"][None], mask[None], last[None])
        row = scores_at(model, params, *args)[0]
        term = jnp.argmax(row) if chosen is None else jnp.asarray(chosen)
        value = row[term] if other is None else row[term] - row[other]
        return value, {"target": term.astype(jnp.int32), "ids": sample["ids"]}

    def unpadded(params: Any, sample: Any) -> Any:
        return score(params, sample, jnp.ones(sample["ids"].shape, bool))

    def check(aux: Any) -> None:
        if other is not None and int(aux["target"]) == other:
            raise InputError(
                f"The contrast must differ from the target, but both are {other}: the model "
                "predicts it"
            )

    about = {"labels": labels, "contrast": other, "start": model.start}
    return explain(
        score if _pads(model) else unpadded,
        presets.attn_lrp() if rules is None else rules,
        texts,
        out,
        batch_size,
        params=model.params,
        has_aux=True,
        prepare=functools.partial(_prepared, model),
        embed=embed,
        keep=_per_token,
        lengths=_lengths(model),
        check=check,
        description={**(description or {}), TEXTS: about},
        **options,
    )


def _prepared(model: LanguageModel, text: Any) -> dict[str, np.ndarray]:
    """The ids of a text, or of ids as they are."""
    if isinstance(text, str):
        return {"ids": read(model, text).ids[0].astype(np.int32)}
    ids = np.asarray(text)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not ids.size:
        raise InputError(f"is no text and no token ids [tokens], but {ids.dtype}{ids.shape}")
    return {"ids": read(model, ids, np.ones(ids.shape, bool)).ids[0].astype(np.int32)}


def is_of_texts(found: Explained) -> bool:
    """Whether `explain_texts` has made a store."""
    return TEXTS in found.header["description"]


def text_of(found: Explained, number: int, tokenizer: Any = None) -> TokenRelevance:
    """What a store of `explain_texts` holds of one text.

    Args:
        found: the store.
        number: of the text; negative from the end.
        tokenizer: that of the model; without it tokens are shown as their ids.

    Raises:
        InputError: the store is not of texts; the text was not explained, or could not be.
    """
    if not is_of_texts(found):
        raise InputError(f"The store {found.place} is not one of `explain_texts`.")
    relevance = np.asarray(found.relevance[number])
    number %= len(found)
    if number in found.errors:
        raise InputError(f"Text {number} has no relevance: {found.errors[number]}.")
    ids = np.asarray(found.aux["ids"][number])[: len(relevance)].astype(np.int64)
    target = int(found.aux["target"][number])
    about = found.header["description"][TEXTS]
    labels, contrast = about["labels"], about["contrast"]
    everywhere = np.ones(ids.shape, bool)
    return TokenRelevance(
        relevance=relevance,
        score=np.asarray(found.score[number]),
        target=np.asarray(target),
        contrast=None if contrast is None else np.asarray(contrast),
        ids=ids,
        mask=everywhere,
        shown=everywhere,
        per_dimension=None,
        inside=None,
        tokens=pieces(tokenizer, ids, about["start"]),
        target_names=term_name(tokenizer, labels, [target]),
        contrast_names=() if contrast is None else term_name(tokenizer, labels, [contrast]),
    )


def _per_token(relevance: Any) -> Any:
    return relevance["embeds"].sum(-1)


def _terms(
    model: LanguageModel, target: Target | None, contrast: Any
) -> tuple[int | None, int | None, Sequence[str] | None]:
    """The explained token or class, None for the predicted one; its contrast; names of classes."""
    if target is None:
        target = NextToken() if len(shape_of_logits(model, 1, 4)) == 3 else ClassTarget()
    if not isinstance(target, NextToken | ClassTarget):
        raise InputError(
            f"A store has one score per text: of NextToken or ClassTarget, got {target!r}."
        )
    if isinstance(target, NextToken) and target.position != -1:
        raise InputError("The texts of a store are explained at their ends, without a position.")
    field = "token" if isinstance(target, NextToken) else "index"
    # Any text will do to find out what is meant, and whether it fits the model.
    probe = read(model, np.ones((1, 4), np.int64), np.ones((1, 4), bool))

    def number(name: Any) -> tuple[int, Sequence[str] | None]:
        if name is not None and not isinstance(name, int | str | np.integer):
            raise InputError(f"A store has one target and one contrast for all, got {name!r}.")
        query = query_of(model, probe, dataclasses.replace(target, **{field: name}), None, "exact")
        return int(query.targets[0, 0, 0]), query.labels

    named = getattr(target, field)
    found, labels = number(named)
    other = None if contrast is None else number(contrast)[0]
    if named is not None and found == other:
        raise InputError(f"The contrast must differ from the target, but both are {found}.")
    return (None if named is None else found), other, labels


def _pads(model: LanguageModel) -> bool:
    """Whether the model takes texts with padding at their end."""
    return paddable(model, np.ones((1, 4), np.int32), np.array([4]), _lengths(model)[0])


def _lengths(model: LanguageModel) -> Sequence[int]:
    """What texts are padded to: few lengths, those that padding must not cross among them."""
    halves = 1 if model.start is None else 2  # a source and a prefix, of so many positions each
    most = halves * model.positions if model.positions else _LONGEST
    few = itertools.takewhile(lambda length: length < most, buckets())
    bounds = [bound for bound in model.bounds if bound < most]
    return sorted({*few, *bounds, most})
