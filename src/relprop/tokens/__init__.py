"""Explanations of text: which tokens a language model's prediction comes from.

>>> import jax, jax.numpy as jnp
>>> from relprop import tokens
>>> params = {"table": jnp.eye(4), "head": jnp.arange(16.0).reshape(4, 4)}
>>> model = tokens.LanguageModel(
...     embed=lambda params, ids: params["table"][ids],
...     logits=lambda params, embeds, ids, mask: jnp.cumsum(embeds, 1) @ params["head"],
...     params=params,
... )
>>> result = tokens.explain(model, [3, 1, 2], tokens.NextToken(0))
>>> result.relevance.tolist()
[12.0, 4.0, 8.0]
"""

from relprop.tokens._explain import explain as explain
from relprop.tokens._model import LanguageModel as LanguageModel
from relprop.tokens._result import TokenRelevance as TokenRelevance
from relprop.tokens._targets import AtPosition as AtPosition
from relprop.tokens._targets import ClassTarget as ClassTarget
from relprop.tokens._targets import Continuation as Continuation
from relprop.tokens._targets import NextToken as NextToken
from relprop.tokens._targets import Target as Target
from relprop.tokens._torch import from_pretrained as from_pretrained
from relprop.tokens._torch import from_torch as from_torch

__all__ = [
    "AtPosition",
    "ClassTarget",
    "Continuation",
    "LanguageModel",
    "NextToken",
    "Target",
    "TokenRelevance",
    "explain",
    "from_pretrained",
    "from_torch",
]
