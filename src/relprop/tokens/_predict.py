"""What a language model says to a text, before anything of it is explained."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relprop._errors import InputError
from relprop.tokens._model import LanguageModel
from relprop.tokens._query import query_of
from relprop.tokens._run import logits_at
from relprop.tokens._text import pieces, read


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One of the things that a model could have said.

    Attributes:
        index: of the token or class.
        name: what it is called: the token with its spaces, or the label of the class.
        logit: what the model gives it.
        probability: the softmax of all logits there.
    """

    index: int
    name: str
    logit: float
    probability: float


def predict(model: LanguageModel, text: Any, count: int = 5) -> list[Prediction]:
    r"""The next tokens or classes that a model likes best, the likeliest first.

    .. math:: p_v = \exp z_v / \sum_u \exp z_u

    Args:
        model: as for `explain`.
        text: one text, as for `explain`.
        count: how many, at most.

    Raises:
        InputError: the text cannot be read, or there are several.

    >>> import jax.numpy as jnp
    >>> model = LanguageModel(
    ...     embed=lambda params, ids: params[ids],
    ...     logits=lambda params, embeds, ids, mask: embeds @ params.T,
    ...     params=jnp.array([[1.0, 0.0], [0.0, 2.0]]),
    ... )
    >>> [(p.index, p.logit) for p in predict(model, [0, 1])]
    [(1, 4.0), (0, 0.0)]
    """
    if count < 1:
        raise InputError(f"`count` must be at least 1, got {count}.")
    texts = read(model, text)
    if len(texts.ids) != 1:
        raise InputError(f"There are {len(texts.ids)} texts: give one of them.")
    query = query_of(model, texts, None, None, "buckets")
    logits = logits_at(model, query.ids, query.mask, query.positions[..., 0])
    found = np.asarray(logits, np.float32)[0, 0]
    likely = np.asarray(jax.nn.softmax(jnp.asarray(found)))
    best = [int(i) for i in np.argsort(-found, kind="stable")[:count]]
    names = query.labels or dict(zip(best, pieces(model.tokenizer, best), strict=True))
    return [Prediction(i, names[i], float(found[i]), float(likely[i])) for i in best]
